"""How does a page look in a real browser?  Headless Chromium, where it is installed."""

import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=4000")


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
    _run(page, home, width, f"--screenshot={target}", height)
    return matplotlib.image.imread(target)[..., :3]


def _run(page: Path, home: Path, width: int, action: str, height: int = 1200) -> str:
    offline = ("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={home / 'profile'}")
    command = [browser(), *FLAGS, *offline, f"--window-size={width},{height}", action, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def overflow(page: Path, home: Path, width: int) -> int:
    """By how many pixels the page is wider than the window: 0 for one that needs no scrolling sideways."""
    text = page.read_text()
    script = "<script>document.title = document.documentElement.scrollWidth - window.innerWidth</script></body>"
    probe = home / f"{page.stem}-probe.html"
    probe.write_text(text.replace("</body>", script))
    return int(dom(probe, home, width).split("<title>")[1].split("</title>")[0])
