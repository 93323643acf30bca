"""Which layers does a cut make smaller, and how is one of them run alone at another size?"""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snp.graph.batches import Batch
from snp.graph.units import module_of
from snp.surgery.module_sizes import refresh

__all__ = ["Layer", "called_layers", "device_name"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer as it is called in the network: its module, one of its inputs, and how often it is called."""

    module: nn.Module
    inputs: Tensor
    num_calls: int

    def resized(self, rows: int, columns: int) -> Callable[[], Tensor]:
        """A call of the layer with the first rows and columns of its weight, in the memory format that it has.

        Args:
            rows: sizes of the weight's first dimension, at most what it has.
            columns: of its second one.
        """
        module = copy.deepcopy(self.module)
        weight: Any = module.weight
        module.weight = nn.Parameter(weight.detach()[:rows, :columns].clone(), requires_grad=False)
        if isinstance(getattr(module, "bias", None), Tensor):
            module.bias = nn.Parameter(module.bias.detach()[:rows].clone(), requires_grad=False)  # type: ignore[operator]
        refresh(module)
        dim, width = (-1, module.in_features) if isinstance(module, nn.Linear) else (1, module.in_channels)
        return partial(module, self.inputs.narrow(dim, 0, int(width)).clone())  # type: ignore[arg-type]

    def of(self, num_samples: float, device: torch.device | str, precision: torch.dtype) -> Layer:
        """The same layer on another device, in another precision, with so many times the samples.

        Args:
            num_samples: beside those that its inputs have, above 0; at least one is taken.
            device: where it is run.
            precision: of weights and inputs.
        """
        count = max(1, round(num_samples * len(self.inputs)))
        inputs = self.inputs[torch.arange(count, device=self.inputs.device) % len(self.inputs)]
        module = copy.deepcopy(self.module).to(device, precision)
        return replace(self, module=module, inputs=inputs.to(device, precision))


def called_layers(model: nn.Module, inputs: Batch, weights: Iterable[str]) -> dict[str, Layer]:
    """The layers that own weights, with the inputs that they get; others than convolutions and linear ones rest."""
    seen: dict[str, list[Tensor]] = {}
    with torch.inference_mode(), ExitStack() as hooks:
        for name in weights:
            module = model.get_submodule(module_of(name))
            if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and name.endswith(".weight"):

                def note(_: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                    seen.setdefault(name, []).append(args[0])

                hooks.enter_context(module.register_forward_pre_hook(note))
        inputs.call(model)
    return {name: Layer(model.get_submodule(module_of(name)), found[0], len(found)) for name, found in seen.items()}


def device_name(device: torch.device | str) -> str:
    """What measured times belong to: the kind of GPU, or of processor with the instructions that PyTorch uses."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {_processor()} {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    named = next((line.partition(":")[2] for line in lines if line.startswith("model name")), "")
    return " ".join(named.split()) or platform.processor() or platform.machine()
