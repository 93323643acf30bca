"""Which weights of one layer give the dense network's outputs on the inputs that are really there?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from snp.core.reconstruct import fold
from snp.fit.behind_layer import Tail
from snp.fit.reads import Read, own_name
from snp.fit.rectified import fitted_behind_rectifier
from snp.fit.regression import LeastSquares, fitted, ridges_of
from snp.fit.rows import Rows
from snp.fit.spans import in_span, span_of
from snp.fit.two_networks import TwoNetworks
from snp.graph.offsets import mean_behind
from snp.measure.readers import Block, Reader
from snp.settings import FitSettings

__all__ = ["LayerFit"]


@dataclass(frozen=True, eq=False)
class LayerFit:
    """One layer that is about to be computed.

    Attributes:
        networks: the two networks; the layer's inputs are computed in both.
        node: the layer's convolution or product.
        read: what it reads and adds.
        reader: how its inputs become samples.
        kept: Gram columns that stay, shape [K].
        start: gives the weight of dense shape that fits of tokens decay to; None for the dense one.
    """

    networks: TwoNetworks
    node: fx.Node
    read: Read
    reader: Reader
    kept: Tensor
    start: Callable[[str], Tensor] | None = None

    @property
    def reads_tokens(self) -> bool:
        """Are its inputs vectors of several tokens per sample?"""
        return self.reader.reads_tokens and self.read.source.meta["val"].ndim > 2

    def _bias_value(self, batch: int) -> Tensor | None:
        """The bias, which may be computed on the way, as the changed network adds it."""
        name = self.networks.name_of(self.read.bias)
        if name is not None:
            return self.networks.tensors[name]
        return None if self.read.bias is None else self.networks.current[self.read.bias][batch]

    def outputs(self, tail: Tail | None, settings: FitSettings) -> bool:
        """Fit the dense network's outputs, with what a residual stream behind the layer is missing added to them.

        Returns whether the samples are too few to determine the fit beyond doubt.
        """
        networks, dense = self.networks, self._rows
        span = span_of(self._rows, self.reader) if tail is None and self.read.bias is None else None
        bias_name, mean_name = own_name(networks, self.read.bias), own_name(networks, mean_behind(self.node))
        affine = settings.intercept and (bias_name is not None or mean_name is not None)
        folded, shifts, is_scarce = [], [], False
        for number, (rows, block) in enumerate(self._blocks()):
            problem = self._problem(rows[:, block.kept], tail, number, block, settings, affine, span)
            weight, shift = self._solution(problem, tail, number, block)
            weight = weight if span is None else span.to(weight) @ weight
            folded.append(torch.zeros_like(rows).index_copy(1, block.kept.to(rows.device), weight.to(rows)))
            shifts.append(shift)
            is_scarce |= problem.is_scarce
        shift = torch.cat(shifts)
        self._change(torch.cat(folded).reshape(dense.shape))
        if affine and bias_name is not None:
            networks.change(bias_name, networks.tensors[bias_name] + shift.to(dense))
        elif affine and mean_name is not None:
            networks.change(mean_name, networks.tensors[mean_name] - shift.to(dense))
        return is_scarce

    @property
    def _rows(self) -> Tensor:
        """The weight with outputs as rows, shape [O, C / B, ...]."""
        return self.reader.rows(self.networks.tensors[self.read.weight])

    @property
    def _starts(self) -> Tensor:
        """Rows that the fit decays to, shape of :attr:`_rows`."""
        if self.start is None or not self.reads_tokens:
            return self._rows
        return self.reader.rows(self.start(self.read.weight)).to(self._rows)

    def _change(self, rows: Tensor) -> None:
        self.networks.change(self.read.weight, self.reader.from_rows(rows))

    def _blocks(self) -> Iterable[tuple[Tensor, Block]]:
        """The weight's rows [O / B, columns of the block] block by block; a plain layer is one block."""
        dense, num_blocks = self._starts, self.reader.num_blocks
        return zip(dense.reshape(len(dense), -1).chunk(num_blocks), self.reader.blocks(self.kept), strict=True)

    def _own(self, values: Tensor, number: int, dim: int) -> Tensor:
        """The channels of one block."""
        return values.chunk(self.reader.num_blocks, dim)[number]

    def _problem(
        self,
        weight: Tensor,
        tail: Tail | None,
        number: int,
        block: Block,
        settings: FitSettings,
        affine: bool,
        span: Tensor | None,
    ) -> LeastSquares:
        """Of one block, from its weight [O / B, K]."""
        ridges, rows = ridges_of(settings.ridge, of_tokens=self.reads_tokens), self._output_rows(tail, number, block)
        if span is not None:
            weight, rows = span.T.to(weight) @ weight, in_span(rows, span)
        return fitted(weight, rows, ridges, affine, self.networks.sums)

    def _solution(self, problem: LeastSquares, tail: Tail | None, number: int, block: Block) -> tuple[Tensor, Tensor]:
        """Weight [O / B, K] and offset of one block."""
        if tail is None or not tail.rectifies:
            return problem.solution()
        scale = tail.scale.chunk(self.reader.num_blocks)[number]

        def some(part: int, num_parts: int) -> Iterable[Rows]:
            return self._output_rows(tail, number, block, part, num_parts)

        return fitted_behind_rectifier(problem, some, scale, (tail.low, tail.high), self.networks.sums)

    def _output_rows(
        self, tail: Tail | None, number: int, block: Block, part: int = 0, num_parts: int = 1
    ) -> Iterable[Rows]:
        """Rows of every batch, or of one part of the batches where there are enough of them."""
        current, outputs = self.networks.current[self.read.source], self.networks.dense_values(self.node)
        num_parts = num_parts if len(current) >= num_parts else 1
        for batch in range(part % num_parts, len(current), num_parts):
            inputs, dense = current[batch], outputs[batch]
            wanted, rectified, scale = dense, None, self._scale(tail, inputs, dense, batch)
            if tail is not None:
                wanted = dense + tail.missing(self.networks, batch)
                if tail.rectifies:
                    at_rectifier = tail.dense(self.networks, dense, batch)
                    rectified = block.reader.outputs(self._own(at_rectifier, number, self.reader.output_dim))
            bias = self._bias_value(batch)
            if bias is not None:
                wanted = wanted - _along(bias, wanted, self.reader.output_dim)
            samples = block.reader.samples(self._own(inputs, number, self.reader.channel_dim))[:, block.kept]
            targets = block.reader.outputs(self._own(wanted, number, self.reader.output_dim))
            yield self._without_padding(replace(Rows.of(samples, targets, rectified, batch), scale=scale), inputs)

    def _scale(self, tail: Tail | None, inputs: Tensor, dense: Tensor, batch: int) -> Tensor | None:
        """Factors by what the dense network has behind the layer: of the sum, where it is added to a stream."""
        if tail is not None and tail.rectifies:
            return None
        dense = dense if tail is None else tail.dense(self.networks, dense, batch)
        scale = self.reader.token_scale(dense, self._counted(inputs, batch))
        return None if scale is None else scale.reshape(-1)

    def inputs(self, settings: FitSettings) -> bool:
        """Rebuild the layer's inputs instead, one transfer for all positions of a kernel; as :meth:`outputs`."""
        dense, folded, ridges, is_scarce = self._rows, [], ridges_of(settings.ridge, of_tokens=False), False
        for number, (rows, block) in enumerate(self._blocks()):
            selector = torch.eye(block.reader.num_columns, dtype=torch.float64, device=self.kept.device)
            rows_of = self._input_rows(number, block)
            problem = fitted(selector[:, block.kept], rows_of, ridges, False, self.networks.sums)
            transfer, _ = problem.solution()
            is_scarce |= problem.is_scarce
            folded.append(fold(rows, transfer, block.kept))
        self._change(torch.cat(folded).reshape(dense.shape))
        return is_scarce

    def _input_rows(self, number: int, block: Block) -> Iterable[Rows]:
        current, dense = self.networks.current[self.read.source], self.networks.dense[self.read.source]
        for batch, (inputs, wanted) in enumerate(zip(current, dense, strict=True)):
            samples = block.reader.samples(self._own(inputs, number, self.reader.channel_dim))[:, block.kept]
            targets = block.reader.samples(self._own(wanted, number, self.reader.channel_dim))
            yield self._without_padding(Rows.of(samples, targets, batch=batch), inputs)

    def _without_padding(self, rows: Rows, inputs: Tensor) -> Rows:
        """Padded tokens are no samples."""
        counted = self._counted(inputs, rows.batch)
        if counted is None:
            return rows
        counted = counted.reshape(-1)
        dense, scale = (None if part is None else part[counted] for part in (rows.dense, rows.scale))
        return replace(rows, inputs=rows.inputs[counted], target=rows.target[counted], dense=dense, scale=scale)

    def _counted(self, inputs: Tensor, batch: int) -> Tensor | None:
        """Which tokens of a batch are no padding, shape of the inputs without channels."""
        counted = self.networks.counted(batch, inputs) if self.reader.reads_tokens else None
        return None if counted is None else counted.reshape(inputs.shape[:-1])


def _along(bias: Tensor, values: Tensor, dim: int) -> Tensor:
    return bias.reshape([-1 if index == dim % values.ndim else 1 for index in range(values.ndim)])
