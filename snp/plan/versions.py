"""Which libraries made a plan?"""

from __future__ import annotations

import importlib.metadata

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Library name -> version, of those that are installed."""
    found = {}
    for name in ("snp", "torch", "timm", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
