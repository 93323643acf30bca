"""How does an ONNX network compute in whole numbers of 8 bits?  Static quantisation after training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from snp.core.values import path_of
from snp.export.programs import quiet, require_packages

__all__ = ["quantise"]


def quantise(source: Path | str, target: Path | str, batches: Iterable[Tensor]) -> None:
    """Write the int8 form of an ONNX network: weights per output channel, activations by ranges that samples show.

    Post-training static quantisation of ONNX Runtime in the QDQ form: activations are unsigned, weights signed with
    one bit less, because processors without VNNI instructions add products of 8 bits up in 16 and would overflow.

    Args:
        source: from :func:`snp.export.export_onnx`.
        target: the file to write.
        batches: calibration inputs, float32 tensors [N, ...], at least one.

    Raises:
        ValueError: packages are missing, or there are no batches.
    """
    require_packages()
    source, target = Path(path_of(source, "source")), Path(path_of(target, "target"))
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reader = _Reader(batches, _input_name(source))
    if reader.is_empty:
        raise ValueError("batches is empty: give calibration inputs for the ranges of activations")
    with quiet(), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Folds normalisation into convolutions, so that there is one range per layer.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _input_name(path: Path) -> str:
    import onnx

    return str(onnx.load(str(path), load_external_data=False).graph.input[0].name)


class _Reader:
    """Batches one by one, as ONNX Runtime asks for them."""

    def __init__(self, batches: Iterable[Tensor], name: str) -> None:
        self._batches: Iterator[Tensor] = iter(batches)
        self._name = name
        self._next = next(self._batches, None)

    @property
    def is_empty(self) -> bool:
        return self._next is None

    def get_next(self) -> dict[str, Any] | None:
        if self._next is None:
            return None
        batch, self._next = self._next, next(self._batches, None)
        return {self._name: batch.numpy()}
