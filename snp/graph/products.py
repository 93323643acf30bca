"""What do matrix products do to units?  With a parameter they are linear layers; of two activations, attention.

All other products freeze what enters them and are counted as a cost that no cut changes.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from snp.graph.attention import attend, attention_macs, multiply, tie_biases
from snp.graph.counting import macs_of_operator
from snp.graph.layers import linear, matrix
from snp.graph.operators import constant_along, rule, unknown
from snp.graph.pointwise import tied, without_broadcast_over_units
from snp.graph.traced import HEAD_DIMENSION, Parameter
from snp.graph.tracer import Tracer

__all__: list[str] = []


@rule("scaled_dot_product_attention")
def _attention(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    query, key, value, mask = [*(tracer.shadow(arg) if isinstance(arg, Parameter) else arg for arg in args), None][:4]
    if tracer.structures or tracer.whole_heads:
        labels = attend(tracer, node, query, key, value, mask, bool(node.kwargs.get("enable_gqa", False)))
        if labels is not None:
            return labels
    tracer.freeze_inputs(args, HEAD_DIMENSION)
    tracer.spend(attention_macs(args))
    return tracer.constant_like(node, HEAD_DIMENSION)


@rule("matmul", "mm", "bmm", takes_turned=True)
def _product(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    left, right = args
    if isinstance(left, Tensor) and (found := matrix(right)) is not None:
        return linear(tracer, node, left, found[0], input_dim=int(found[1]), channel_dim=-1)
    if isinstance(right, Tensor) and right.ndim > 1 and (found := matrix(left)) is not None:
        return linear(tracer, node, right, found[0], input_dim=1 - int(found[1]), channel_dim=-2)
    if tracer.structures or tracer.whole_heads:
        labels = multiply(tracer, node, left, right)
        if labels is not None:
            return labels
    if isinstance(left, Tensor) and isinstance(right, Tensor) and right.ndim == left.ndim > 1 == right.shape[-1]:
        # A matrix of units times a vector, as states that are read out: what the vector holds stays whole.
        letters = string.ascii_lowercase[: left.ndim]
        labels = _weighed(tracer, node, [left, right[..., 0]], [letters, letters[:-2] + letters[-1]], letters[:-1])
        if labels is not None:
            return labels[..., None]
    return unknown(tracer, node, args, f"the product {node.target}")


def _weighed(tracer: Tracer, node: fx.Node, operands: list[Any], names: list[str], result: str) -> Tensor | None:
    """Labels of two activations that meet at every index of one of them, summed over indices along which no unit lies.

    None where each has indices of its own, as in a matrix product, where units are summed, or an index comes twice.
    """
    whole = max(names, key=len)
    if not all(
        isinstance(part, Tensor) and set(name) <= set(whole) for part, name in zip(operands, names, strict=True)
    ):
        return None
    if any(len(set(name)) < len(name) for name in [*names, result]):
        return None
    order = result + "".join(letter for letter in whole if letter not in result)
    shadows = []
    for part, name in zip(operands, names, strict=True):
        inner = part.permute([name.index(letter) for letter in order if letter in name])
        shadows.append(inner[tuple(slice(None) if letter in name else None for letter in order)])
    shape = tuple(torch.broadcast_shapes(*(shadow.shape for shadow in shadows)))
    kept, summed = without_broadcast_over_units(tracer, shadows, shape), range(len(result), len(order))
    if any(not constant_along(tracer, shadow, dim) for shadow in kept for dim in summed):
        return None
    labels = tied(tracer, kept, shape)
    for _ in summed:
        labels = labels[..., 0]
    tracer.products.append((macs_of_operator(node), labels.reshape(-1), not tracer.is_given))
    return labels


@rule("addmm", takes_turned=True)
def _affine(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """A summand, then the two factors, as in the Conv1D layers of GPT-2."""
    bias, left, found = args[0], args[1], matrix(args[2])
    scales = [node.kwargs.get(name, 1) for name in ("beta", "alpha")]
    fits = isinstance(left, Tensor) and found is not None and scales == [1, 1]
    if fits and found is not None and isinstance(bias, Parameter) and bias.ndim == 1:
        return linear(tracer, node, left, found[0], bias, input_dim=int(found[1]), channel_dim=-1)
    return unknown(tracer, node, args, f"the product {node.target}")


@rule("baddbmm")
def _scores_and_biases(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    """A summand, then queries and keys, as in BLOOM."""
    biases, left, right = args[:3]
    if (tracer.structures or tracer.whole_heads) and isinstance(biases, Tensor):
        labels = multiply(tracer, node, left, right)
        if labels is not None and biases.shape[0] in (1, labels.shape[0]):
            tie_biases(tracer, labels, biases)
            return labels
    return unknown(tracer, node, args, f"the product {node.target}")


@rule("addbmm", "mv", "addmv", "dot", "inner", "outer", "tensordot", "bilinear")
def _other_product(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    return unknown(tracer, node, args, f"the product {node.target}")


@dataclass(frozen=True)
class _Indices:
    """A product over named indices of activations and a matrix of parameters: one index is summed, one comes new."""

    activations: str
    weight: str
    result: str

    @property
    def summed(self) -> str:
        """Letters that activations and weight have in common, and the result has not."""
        return "".join(letter for letter in self.weight if letter in self.activations and letter not in self.result)

    @property
    def new(self) -> str:
        """Letters that weight and result have in common, and the activations have not."""
        return "".join(letter for letter in self.weight if letter in self.result and letter not in self.activations)

    @property
    def is_linear(self) -> bool:
        """Is it a linear layer, all other indices in their order?"""
        if len(self.weight) != 2 or len(self.summed) != 1 or len(self.new) != 1:
            return False
        distinct = all(len(set(part)) == len(part) for part in (self.activations, self.weight, self.result))
        return distinct and self.activations.replace(self.summed, "") == self.result.replace(self.new, "")


@rule("einsum", takes_turned=True)
def _einsum(tracer: Tracer, node: fx.Node, args: list[Any]) -> Any:
    equation, operands = str(args[0]).replace(" ", ""), args[1]
    inputs, arrow, result = equation.partition("->")
    names = inputs.split(",")
    if len(operands) == 2 and arrow and "." not in equation:
        for number, (weight, shadow) in enumerate([(operands[1], operands[0]), (operands[0], operands[1])]):
            found = matrix(weight)
            if found is None or not isinstance(shadow, Tensor):
                continue
            letters = names[1 - number][::-1] if found[1] else names[1 - number]
            indices = _Indices(names[number], letters, result)
            if indices.is_linear:
                return linear(
                    tracer,
                    node,
                    shadow,
                    found[0],
                    input_dim=indices.weight.index(indices.summed),
                    channel_dim=indices.activations.index(indices.summed),
                    output_channel_dim=result.index(indices.new),
                )
        labels = _weighed(tracer, node, operands, names, result)
        if labels is not None:
            return labels
    return unknown(tracer, node, [operands], f"the product {node.target}")
