"""How does a pruned network leave Python?  ``python -m snp.export RUN_DIR``: ONNX, ``torch.export``, and int8.

Needs the optional packages of ``pip install 'snp[export]'``.
"""

from snp.export.programs import export_onnx, export_program, require_packages
from snp.export.quantise import quantise

__all__ = ["export_onnx", "export_program", "quantise", "require_packages"]
