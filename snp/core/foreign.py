"""Is the code of other packages still the same?  A hash of the files that classes and methods are written in."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["code_of"]

# What a package of networks or this one computes is told by its version, which run.json notes.
_LIBRARIES = frozenset({"snp", "torch", "torchvision", "timm", "transformers", "diffusers"})


def code_of(modules: Iterable[str]) -> tuple[str, ...]:
    """One hash for every module of Python that is somebody's own, in the order of their names; often none.

    What these modules import beside does not count.

    Args:
        modules: names, as in ``__module__`` of a class; those that are not imported, or have no file, are left out.
    """
    own = sorted({name for name in modules if name.partition(".")[0] not in _LIBRARIES})
    files = [getattr(sys.modules.get(name), "__file__", None) for name in own]
    return tuple(
        hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] for file in files if file and Path(file).is_file()
    )
