"""Which slices of which tensors belong to a unit, so that they stand or fall together?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Count", "Reading", "Slice", "UnitGroup", "module_of"]


# Products of PyTorch with the stacked weights of experts ask for rows of whole 16 bytes: 8 numbers of half precision.
EXPERT_STEP = 8


def module_of(tensor_name: str) -> str:
    """Name of the module that owns a parameter or buffer: ``layer1.0.conv1.weight`` -> ``layer1.0.conv1``."""
    return tensor_name.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class Slice:
    """What each unit of a group owns of one tensor.

    Attributes:
        tensor: state-dict name.
        dim: dimension along which units lie.
        index: indices along ``dim``, shape [U, m], int64: row u belongs to unit u.
        num_blocks: along the second dimension of a grouped convolution's kernel the number of its groups: indices run
            over all its inputs, or all outputs of a transposed one (:mod:`snp.graph.grouped_kernels`). 1 otherwise.
    """

    tensor: str
    dim: int
    index: Tensor
    num_blocks: int = 1

    @property
    def width(self) -> int:
        """Number of indices m that each unit owns."""
        return self.index.shape[1]

    def is_in(self, members: Iterable[Slice]) -> bool:
        """Does one of these own an index of this slice?"""
        return any(
            (member.tensor, member.dim) == (self.tensor, self.dim) and bool(torch.isin(member.index, self.index).any())
            for member in members
        )

    def to_json(self) -> dict[str, Any]:
        """Readable form; regular index patterns are written as start, stride and width."""
        plain: dict[str, Any] = {"tensor": self.tensor, "dim": self.dim}
        if self.num_blocks > 1:
            plain["num_blocks"] = self.num_blocks
        start, width = int(self.index[0, 0]), self.width
        stride = int(self.index[1, 0]) - start if len(self.index) > 1 else width
        regular = _regular(start, stride, width, len(self.index))
        if torch.equal(regular, self.index):
            return plain | {"start": start, "stride": stride, "width": width}
        return plain | {"index": self.index.tolist()}

    @staticmethod
    def from_json(plain: dict[str, Any], num_units: int) -> Slice:
        """Inverse of :meth:`to_json`."""
        if "index" in plain:
            index = torch.tensor(plain["index"], dtype=torch.int64)
        else:
            index = _regular(plain["start"], plain["stride"], plain["width"], num_units)
        return Slice(plain["tensor"], plain["dim"], index, plain.get("num_blocks", 1))


def _regular(start: int, stride: int, width: int, num_units: int) -> Tensor:
    return start + stride * torch.arange(num_units)[:, None] + torch.arange(width)


@dataclass(frozen=True)
class Reading:
    """How an operator reads activations by a weight.

    Attributes:
        module: whose code does it.
        input_dim: dimension of the weight along which inputs lie; outputs lie along the other one of the first two.
        channel_dim: dimension of the activations along which the units lie that are read.
        output_channel_dim: dimension of the result along which outputs lie.
        output_padding: of a transposed convolution.
        is_einsum: over a single input `einsum` multiplies, which no counter takes for a product.
        takes_offset: a constant can be added to what it gives (:mod:`snp.graph.offsets`).
    """

    module: str
    input_dim: int = 1
    channel_dim: int = 1
    output_channel_dim: int = 1
    output_padding: tuple[int, ...] = ()
    is_einsum: bool = False
    takes_offset: bool = field(default=False, compare=False)

    @property
    def output_dim(self) -> int:
        """Dimension of the weight along which outputs lie."""
        return 1 - self.input_dim


@dataclass(frozen=True)
class Count:
    """A number of units that a module keeps for itself.

    An entry of a list of sizes at which its code splits tensors, or a number that stands alone.

    Attributes:
        module: state-dict name.
        attribute: a list or tuple of integers, or an integer.
        position: of the entry in it; None for an integer.
        width: how much of the entry each unit accounts for.
    """

    module: str
    attribute: str
    position: int | None
    width: int


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """Units that share producers and consumers: one cut decides how many of them stay.

    Attributes:
        name: module name of the first producer (with a suffix where that is taken).
        num_units: U.
        producers: rows of weights that compute the units (convolutions, linear layers, embeddings).
        consumers: columns of weights that read the units.
        others: everything else a unit owns: biases, normalisation parameters and statistics, layer scales, tokens.
        is_stream: the units are a sum of several layers' outputs (a residual stream).
        num_partitions: P. Units lie partition-major, unit u in partition u // (U / P), and every partition keeps the
            same number of units (not the same units): the groups of a grouped convolution, the heads of an attention
            layer. 1 where any units may stay.
        kind: which structure the units are: ``conv`` (channels of convolutions), ``ffn`` (units of linear layers),
            in attention layers ``vo``, ``qk``, ``dims`` (both, of equal sizes) and ``heads``, and ``width`` (directions
            of a residual stream in front of norms).
        counts: numbers in modules that fall with the units.
        twins: groups of one name here keep equally many units each: the experts of a layer. Empty for all others.
    """

    name: str
    num_units: int
    producers: tuple[Slice, ...]
    consumers: tuple[Slice, ...]
    others: tuple[Slice, ...]
    is_stream: bool = False
    num_partitions: int = 1
    kind: str = "ffn"
    counts: tuple[Count, ...] = ()
    twins: str = ""

    def __post_init__(self) -> None:
        if self.num_partitions < 1 or self.num_units % self.num_partitions:
            raise ValueError(
                f"the {self.num_units} units of {self.name} do not divide into {self.num_partitions} partitions"
            )

    @property
    def step(self) -> int:
        """Only multiples of so many units can stay, and all of them."""
        return EXPERT_STEP if self.twins else self.num_partitions

    @property
    def num_fixed(self) -> int:
        """Units in front of these that stay whatever is cut: of a stream in front of LayerNorm the first one."""
        return int(self.producers[0].index.min()) if self.kind == "width" else 0

    @property
    def units_per_partition(self) -> int:
        """U / P."""
        return self.num_units // self.num_partitions

    def is_even(self, kept: Tensor) -> bool:
        """Does every partition keep the same number of these units, at least one?"""
        counts = torch.bincount(kept.cpu() // self.units_per_partition, minlength=self.num_partitions)
        return bool((counts == counts[0]).all()) and int(counts[0]) > 0

    @property
    def is_multiplied(self) -> bool:
        """Do units meet each other, in products (queries and keys) or norms, so that masks zero their rows?"""
        return self.kind in ("qk", "dims", "width")

    @property
    def members(self) -> tuple[Slice, ...]:
        """All slices of the group."""
        return self.producers + self.consumers + self.others
