"""What does the exported graph look like to an operator's rule?  Parameters, shapes and the labels so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from snp.graph.labels import LabelSpace, compact
from snp.graph.norm_reads import NormReads
from snp.graph.offsets import takes_offset
from snp.graph.streams import Streams
from snp.graph.traced import Call, Parameter, Split, Turned, module_running
from snp.graph.units import Reading

__all__ = ["Rule", "Tracer"]

Rule = Callable[["Tracer", fx.Node, list[Any]], Any]


class Tracer:
    """State of one analysis.

    Attributes:
        num_samples: size of the example batch.
        labels: the label space.
        dims: labels of (tensor, dim) for tensors whose rows and columns are read by a rule of their own.
        elements: labels of every element of tensors that meet activations element by element.
        positions: multiply-accumulates per weight element of the whole batch, for every weight read.
        aliases: every name of a module -> the first one.
        readings: how each of them is read.
        buffers, depthwise, spatial: those of them that are buffers, pass units on, see several positions at once.
        readers: names of the weights that read activations, in execution order.
        blocks: (weight, dim) of a grouped convolution along which indices run over all groups -> their number.
        even: (labels, number of equal parts, what for): each part must lose as many of these units as the others.
        chunks, splits: labels of parts of tensors divided into a number of parts; tensors divided into given sizes.
        sizes: (module, attribute, labels): numbers of units that modules keep.
        convolutions, embeddings: names of the weights of convolutions, and of those that are looked up.
        streams: which sums are residual streams.
        products: multiply-accumulates of the whole example batch in products of units, labels, and if alone.
        fixed_macs: those in products that no cut changes.
        given, is_given: nodes that depend on the network's inputs; is the one that runs one of them?
        alone, alone_macs: the parts of ``positions`` and ``fixed_macs`` of nodes that depend on no input.
        structures: what may be cut in attention, of ``vo``, ``qk`` and ``heads``.
        equal_sizes, whole_heads: queries, keys and values keep the same dimensions; heads are the units.
        calls, scores: attention calls in execution order; labels of attention scores -> their call.
        constants: nodes of tensors that the code holds -> their values.
        norms: units that met norms in the form of :mod:`snp.graph.stream_norms`, and what reads behind these.
        tables, turned: labels of rotary embeddings' sines and cosines, and of what is multiplied with them.
    """

    def __init__(
        self,
        num_samples: int,
        structures: frozenset[str] = frozenset(),
        *,
        equal_sizes: bool = False,
        whole_heads: bool = False,
    ) -> None:
        self.num_samples, self.structures = num_samples, structures
        self.equal_sizes, self.whole_heads = equal_sizes, whole_heads
        self.labels = LabelSpace()
        self.dims: dict[tuple[str, int], Tensor] = {}
        self.elements: dict[str, Tensor] = {}
        self.positions, self.readings = dict[str, int](), dict[str, Reading]()
        self.readers, self.aliases = list[str](), dict[str, str]()
        self.embeddings, self.buffers, self.convolutions = set[str](), set[str](), set[str]()
        self.depthwise, self.spatial = set[str](), set[str]()
        self.blocks: dict[tuple[str, int], int] = {}
        self.even: list[tuple[Tensor, int, str]] = []
        self.chunks, self.splits, self.sizes = list[list[Tensor]](), list[Split](), list[tuple[str, str, Tensor]]()
        self.calls, self.scores, self.products = list[Call](), dict[int, Call](), list[tuple[int, Tensor, bool]]()
        self.tables, self.turned, self.constants = set[int](), list[Tensor](), dict[fx.Node, Tensor]()
        self.streams, self.norms, self.fixed_macs = Streams(), NormReads(), 0
        self.given, self.is_given, self.alone, self.alone_macs = set[fx.Node](), True, dict[str, int](), 0

    def again(self) -> None:
        """Forget what was counted, not what was tied: the graph is about to be run once more."""
        parts = (self.even, self.chunks, self.splits, self.sizes, self.products)
        for found in (*parts, self.positions, self.alone, self.scores, self.readers, self.calls, self.given):
            found.clear()
        self.fixed_macs = self.alone_macs = 0

    def spend(self, num_macs: int) -> None:
        """Note what the node that runs costs, whatever is cut."""
        self.fixed_macs += num_macs
        self.alone_macs += 0 if self.is_given else num_macs

    def along(self, parameter: Parameter, dim: int, num_blocks: int = 1) -> Tensor:
        """Labels of the indices of one dimension, shape [size * blocks], the same at every request."""
        if (key := (parameter.name, dim)) not in self.dims:
            self.dims[key] = self.labels.new(parameter.shape[dim] * num_blocks)
        return self.dims[key]

    def shadow(self, value: Any) -> Tensor | None:
        """Labels of an argument: activations as they are, parameters element by element, None for scalars."""
        if isinstance(value, Parameter):
            return self._elements_of(value)
        if isinstance(value, Turned):
            elements = self._elements_of(value.parameter)
            return None if elements is None else value.elements(elements)
        return value if isinstance(value, Tensor) and value.ndim > 0 else None

    def _elements_of(self, parameter: Parameter) -> Tensor | None:
        size = torch.Size(parameter.shape).numel()
        if size <= 1:
            return None
        if parameter.name not in self.elements:
            self.elements[parameter.name] = self.labels.new(size).reshape(parameter.shape)
        return self.elements[parameter.name]

    def per_index(self, shadow: Tensor, dim: int) -> Tensor:
        """Labels along one dimension after tying all positions of the others, shape [size of dim]."""
        (small,) = compact(shadow)
        rows = small.movedim(dim, 0).reshape(small.shape[dim], -1).expand(shadow.shape[dim], -1)
        first = rows.gather(1, self.labels.is_blank(rows).int().argmin(dim=1, keepdim=True))
        self.labels.tie(first.expand_as(rows), rows)
        return first[:, 0]

    def freeze_inputs(self, args: list[Any], reason: str) -> None:
        """Freeze every tensor among the arguments, nested lists included."""
        for value in args:
            if isinstance(value, (list, tuple)):
                self.freeze_inputs(list(value), reason)
            elif isinstance(value, Turned):
                self.freeze_inputs([value.parameter], reason)
            elif isinstance(value, Parameter):
                for (name, _), labels in list(self.dims.items()):
                    if name == value.name:
                        self.labels.freeze(labels, reason)
                shadow = self._elements_of(value)
                if shadow is not None:
                    self.labels.freeze(shadow, reason)
            elif isinstance(value, Tensor):
                self.labels.freeze(value, reason)

    def constant_like(self, node: fx.Node, reason: str) -> Any:
        """Frozen labels in the shape of a node's result (a list of them for several results)."""
        return self._constant(node.meta.get("val"), reason)

    def _constant(self, value: Any, reason: str) -> Any:
        if isinstance(value, Tensor):
            return self.labels.constant(tuple(value.shape), reason)
        if isinstance(value, (list, tuple)):
            return [self._constant(entry, reason) for entry in value]
        return None

    def read(
        self,
        weight: Parameter,
        node: fx.Node,
        positions: int,
        *,
        input_dim: int = 1,
        channel_dims: tuple[int, int] = (1, 1),
        is_convolution: bool = False,
        output_padding: tuple[int, ...] = (),
    ) -> None:
        """Note that a weight reads activations.

        Args:
            weight: that is read.
            node: the operator.
            positions: multiply-accumulates per weight element of the whole batch.
            input_dim: of the weight, along which inputs lie.
            channel_dims: dimensions of the operator's inputs and outputs along which units lie.
            is_convolution: the units are channels.
            output_padding: of a transposed one.
        """
        self.positions[weight.name] = self.positions.get(weight.name, 0) + positions
        if not self.is_given:
            self.alone[weight.name] = self.alone.get(weight.name, 0) + positions
        if weight.name not in self.readers:
            self.readers.append(weight.name)
        is_spatial = torch.Size(weight.shape[2:]).numel() > 1
        kinds = (self.convolutions, is_convolution), (self.spatial, is_spatial), (self.buffers, weight.is_buffer)
        for kind in (kind for kind, holds in kinds if holds):
            kind.add(weight.name)
        self.norms.read(weight.name, node)
        module = self.aliases.get((running := module_running(node)) or "", running)
        is_einsum, affine = "einsum" in str(node.target), takes_offset(node)
        reading = Reading(module or "", input_dim, *channel_dims, output_padding, is_einsum, affine)
        first = self.readings.setdefault(weight.name, reading)
        if module is None or first != reading:  # measured at one place, read at another
            for dim in {input_dim, first.input_dim}:
                labels = self.along(weight, dim, self.blocks.get((weight.name, dim), 1))
                self.labels.freeze(labels, f"{weight.name} is read in several ways")
