"""In which directions can a layer of many outputs put anything out?  Its fit is the same there, and far smaller.

The head of a language model makes thousands of outputs of a few hundred inputs: targets lie in the span of its columns,
and so does the best fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from snp.fit.rows import Rows
from snp.measure.reader import Reader

__all__ = ["in_span", "span_of"]


def span_of(weight_OC: Tensor, reader: Reader) -> Tensor | None:
    """Orthonormal directions of all that a layer without a bias can put out, shape [O, C], float64.

    None for layers of fewer outputs, which are fitted as they are.
    """
    return torch.linalg.qr(weight_OC.flatten(1).double()).Q if reader.is_wide else None


def in_span(parts: Iterable[Rows], span_OC: Tensor) -> Iterable[Rows]:
    """The same rows, with targets along these directions."""
    for rows in parts:
        yield replace(rows, target=rows.target @ span_OC.to(rows.target))
