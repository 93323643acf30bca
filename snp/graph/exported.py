"""What does a network compute, node by node, and which of its tensors does each placeholder stand for?"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from snp.graph.batches import Batch
from snp.graph.program import program_of

__all__ = [
    "Exported",
    "export",
    "footprint",
    "is_inplace",
    "is_view",
    "num_bytes",
    "run_on",
    "tensors_of",
]


@dataclass(frozen=True, eq=False)
class Exported:
    """A network as a graph of operators.

    Attributes:
        graph: from ``torch.export``; no operator writes into memory that is read under another name.
        names: placeholder -> parameter or buffer; a tied tensor has one name, the one ``named_parameters`` gives.
        tensors: name -> parameter or buffer, detached.
        inputs: placeholder -> position among the leaves of the batch.
        constants: placeholder or attribute -> value.
        outputs: how the graph's outputs are put together; None where some are buffers that the network writes to.
    """

    graph: fx.Graph
    names: dict[str, str]
    tensors: dict[str, Tensor]
    inputs: dict[str, int]
    constants: dict[str, Any]
    outputs: pytree.TreeSpec | None


def export(model: nn.Module, batch: Batch) -> Exported:
    """Export a network in evaluation mode for batches of one size."""
    program = program_of(model, batch)
    if any(_writes_into_view(node) for node in program.graph.nodes):
        # The functional form of every operator: x[:, 0] = 0 becomes a new x.
        program = program.run_decompositions({})
    signature = program.graph_signature
    tied = _first_names(model)
    placeholders = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = {
        name: program.constants[target] for name, target in signature.inputs_to_lifted_tensor_constants.items()
    }
    for node in program.graph.nodes:
        if node.op == "get_attr":
            constants[node.name] = operator.attrgetter(str(node.target))(program.graph_module)
    specs = [spec for spec in signature.input_specs if spec.kind is torch.export.graph_signature.InputKind.USER_INPUT]
    inputs = {spec.arg.name: position for position, spec in enumerate(specs)}
    names = {name: tied[target] for name, target in placeholders.items()}
    of_users = all(spec.kind is torch.export.graph_signature.OutputKind.USER_OUTPUT for spec in signature.output_specs)
    outputs = program.call_spec.out_spec if of_users else None
    return Exported(program.graph, names, tensors_of(model), inputs, constants, outputs)


def run_on(exported: Exported, device: torch.device) -> Exported:
    """The program of a network in main memory, with what it makes by itself (positions, masks) on another device.

    Args:
        exported: its graph is changed in place; what is noted of its values still says main memory.
        device: where its inputs and tensors will be.
    """

    def there(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    inner = [value for value in exported.constants.values() if isinstance(value, fx.GraphModule)]  # as below no_grad
    modules = [module for value in inner for module in value.modules() if isinstance(module, fx.GraphModule)]
    for graph in (exported.graph, *(module.graph for module in modules)):
        for node in graph.nodes:
            node.args = fx.node.map_aggregate(node.args, there)
            node.kwargs = fx.node.map_aggregate(node.kwargs, there)
    for module in modules:
        module.recompile()
    constants = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in exported.constants.items()}
    return replace(exported, constants=constants)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter or buffer, detached, each under its first name."""
    first, tensors = _first_names(model), dict[str, Tensor]()
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        tensors.setdefault(first[name], tensor.detach())
    return tensors


def _first_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> its first one."""
    first: dict[int, str] = {}
    listed = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return {name: first.setdefault(id(tensor), name) for name, tensor in listed}


def is_inplace(node: fx.Node) -> bool:
    """Does the operator write over its first argument?"""
    arguments = _schema_arguments(node)
    return bool(arguments) and arguments[0].alias_info is not None and arguments[0].alias_info.is_write


def _schema_arguments(node: fx.Node) -> list[Any]:
    return list(node.target._schema.arguments) if isinstance(node.target, torch._ops.OpOverload) else []


def is_view(node: fx.Node) -> bool:
    """May the result share memory with the first argument, unchanged?"""
    if node.target is operator.getitem:
        return True
    arguments = _schema_arguments(node)
    return bool(arguments) and arguments[0].alias_info is not None and not arguments[0].alias_info.is_write


def _writes_into_view(node: fx.Node) -> bool:
    """Does the node write into memory that others read by the name of a view, or of what it is a view of?"""
    if not is_inplace(node):
        return False
    root = node.args[0]
    while isinstance(root, fx.Node) and root.op == "call_function" and is_view(root):
        root = root.args[0]
    family, waiting, readers = 0, [root], 0
    while waiting:
        member = waiting.pop()
        if not isinstance(member, fx.Node):
            return True
        family += 1
        views = [user for user in member.users if user.op == "call_function" and is_view(user)]
        readers += len(member.users) - len(views)
        waiting += views
    return family > 1 and readers > 1


def footprint(graph: fx.Graph, end: fx.Node | None = None) -> int:
    """Bytes of the values that are alive at once at most, for one batch of the exported size and one network.

    Values without memory of their own count as if they had some.

    Args:
        graph: of the network.
        end: the last node that is computed; None for all of them.
    """
    uses = {node: len(node.users) for node in graph.nodes}
    alive = most = 0
    for node in graph.nodes:
        alive += num_bytes(node)
        most = max(most, alive)
        for argument in node.all_input_nodes:
            uses[argument] -= 1
            if uses[argument] == 0:
                alive -= num_bytes(argument)
        if node is end:
            break
    return most


def num_bytes(node: fx.Node) -> int:
    """Bytes of a node's values, for one batch of the exported size; a view counts as if it had memory of its own."""
    if node.op != "call_function":
        return 0
    values = pytree.tree_leaves(node.meta.get("val"))
    return sum(math.prod(v.shape) * v.element_size() for v in values if isinstance(v, Tensor))
