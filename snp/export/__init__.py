"""How does a pruned network leave Python?  ``python -m snp.export RUN_DIR``: ONNX, ``torch.export``, and int8.

Needs the optional packages of ``pip install 'snp[export]'``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snp.export.int8 import quantise
    from snp.export.programs import export_onnx, export_program, require_packages

__all__ = ["export_onnx", "export_program", "quantise", "require_packages"]


def __getattr__(name: str) -> Any:
    """Fetched when first asked for, so that a command line answers without the seconds that torch takes."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("snp.export.int8" if name == "quantise" else "snp.export.programs"), name)
