"""How does a page look in a real browser?  Headless Chromium, where it is installed."""

import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
FLAGS = (
    "--headless",
    "--allow-file-access-from-files",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--virtual-time-budget=5000",
)
NARROWEST = 500


def browser() -> str:
    """The command of the browser; the test is skipped where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser to look at pages with: none of {', '.join(NAMES)} is installed")
    return found


def dom(page: Path, home: Path, width: int = 1280) -> str:
    """The page after its scripts have run, without any network: no address but the file's answers."""
    return _run(page, home, width, "--dump-dom")


def screenshot(page: Path, home: Path, width: int, height: int) -> np.ndarray:
    """Its pixels, shape [height, width, 3], in [0, 1]."""
    target = home / f"{page.stem}-{width}.png"
    _run(_framed(page, home, width, height), home, max(width, NARROWEST), f"--screenshot={target}", height)
    return matplotlib.image.imread(target)[:, :width, :3]


def overflow(page: Path, home: Path, width: int) -> int:
    """By how many pixels the page is wider than the window: 0 for one that needs no scrolling sideways."""
    script = "<script>addEventListener('load', () => setTimeout(() => parent.postMessage("
    script += "document.documentElement.scrollWidth - window.innerWidth, '*'), 1500))</script></body>"
    probe = home / f"{page.stem}-probe.html"
    probe.write_text(page.read_text().replace("</body>", script))
    text = dom(_framed(probe, home, width, 2000), home)
    return int(text.split("<title>")[1].split("</title>")[0])


def _framed(page: Path, home: Path, width: int, height: int) -> Path:
    """A page that shows another one at a width: windows of the browser itself are never narrower than 500 pixels."""
    frame = f'<iframe src="{page.resolve().as_uri()}" style="border:0;width:{width}px;height:{height}px"></iframe>'
    script = "<script>addEventListener('message', (event) => { document.title = event.data })</script>"
    path = home / f"{page.stem}-frame.html"
    path.write_text(f'<title>no answer</title>{script}<body style="margin:0">{frame}</body>')
    return path


def _run(page: Path, home: Path, width: int, action: str, height: int = 1200) -> str:
    offline = ("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={home / 'profile'}")
    command = [browser(), *FLAGS, *offline, f"--window-size={width},{height}", action, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
