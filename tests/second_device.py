"""How is a second device had on a machine without one?  Tensors on the CPU that say they are elsewhere.

Inside `with second_device():` a tensor that was moved to `SECOND` says `device == SECOND`, and an operator that gets
tensors of both devices raises what CUDA raises. Everything else is computed by the CPU as ever, so that numbers can be
compared to the last bit. Copies between devices, scalars (tensors without dimensions) and indices of the CPU are let
through, as CUDA does.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

SECOND = torch.device("cuda:0")
_CROSSING = ("aten.copy_", "aten._to_copy", "aten.set_")
_INDEXING = ("aten.index.", "aten.index_put", "aten._index_put")
_HOST_ONLY = {Tensor.numpy, Tensor.__array__}


class _Places:
    """Which storages lie on the second device; held weakly, so that no address is taken for another's."""

    def __init__(self) -> None:
        self._second: dict[int, StorageWeakRef] = {}
        self._sizes: dict[int, int] = {}
        self.watches = False
        self.peak = 0
        self.inside = False  # of a function of tensors on the second device, which creates its own beside them

    def forget(self, tensor: Tensor) -> Tensor:
        self._second.pop(tensor.untyped_storage()._cdata, None)
        return tensor

    def is_second(self, tensor: Tensor) -> bool:
        if isinstance(tensor, FakeTensor) or tensor.device.type != "cpu" or tensor.layout != torch.strided:
            return False
        found = self._second.get(tensor.untyped_storage()._cdata)
        return found is not None and not found.expired()

    def put(self, value: Any) -> Any:
        for tensor in _tensors(value):
            if not isinstance(tensor, FakeTensor) and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                if storage._cdata not in self._second or self._second[storage._cdata].expired():
                    self._second[storage._cdata] = StorageWeakRef(storage)
                    self._sizes[storage._cdata] = storage.nbytes()
        if self.watches and self.num_bytes > self.peak:
            gc.collect()  # what nobody refers to any more is not there, whenever Python finds that out
            self.peak = max(self.peak, self.num_bytes)
        return value

    @property
    def num_bytes(self) -> int:
        """What lies on the second device."""
        self._second = {key: storage for key, storage in self._second.items() if not storage.expired()}
        return sum(self._sizes[key] for key in self._second)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


class _Operators(TorchDispatchMode):
    """Refuses operators over both devices; what is computed from the second lies there."""

    def __init__(self, places: _Places) -> None:
        super().__init__()
        self._places = places

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), str(func)
        given = _tensors((args, kwargs))
        is_meta = any(isinstance(tensor, FakeTensor) or tensor.device.type == "meta" for tensor in given)
        if is_meta or detect_fake_mode() is not None:
            return func(*args, **kwargs)
        if _is_second(kwargs.get("device")):
            return self._places.put(func(*args, **{**kwargs, "device": "cpu"}))
        second = [tensor for tensor in given if self._places.is_second(tensor)]
        if not second:
            found = func(*args, **kwargs)
            return self._places.put(found) if self._places.inside and not given else found
        if name.startswith(_CROSSING):
            # Written over, a tensor stays where it is; a copy is put elsewhere by who asked for it.
            return self._places.put(func(*args, **kwargs)) if self._places.is_second(args[0]) else func(*args, **kwargs)
        strangers = [tensor for tensor in given if tensor.ndim and not self._places.is_second(tensor)]
        if strangers and not (name.startswith(_INDEXING) and self._places.is_second(args[0])):
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {SECOND} and cpu in {name}")
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' in {name}")
        return self._places.put(func(*args, **kwargs))


class _Functions(TorchFunctionMode):
    """Moves between the devices, creation on the second, and what a tensor says of itself."""

    def __init__(self, places: _Places) -> None:
        super().__init__()
        self._places = places
        self._special: dict[Any, Callable[..., Any]] = {
            Tensor.device.__get__: self._device,  # type: ignore[attr-defined]
            Tensor.is_cuda.__get__: lambda tensor: self._device(tensor).type == "cuda",  # type: ignore[attr-defined]
            Tensor.to: self._to,
            Tensor.cpu: lambda tensor, **_: self._moved(tensor, torch.device("cpu")),
            Tensor.cuda: lambda tensor, *_, **__: self._moved(tensor, SECOND),
            Tensor.__deepcopy__: self._deep_copy,
            Tensor.register_hook: lambda tensor, hook: Tensor.register_hook(tensor, self.under(hook)),
        }

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        is_exported = any(isinstance(value, FakeTensor) for value in _tensors((args, kwargs)))
        if is_exported or (detect_fake_mode() is not None and func not in self._special):
            return func(*args, **kwargs)  # exported tensors know their device by themselves
        if func in self._special:
            return self._special[func](*args, **kwargs)
        if func in _HOST_ONLY and self._places.is_second(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if _is_second(kwargs.get("device")):
            return self._places.put(func(*args, **{**kwargs, "device": "cpu"}))
        before = self._places.inside
        self._places.inside = any(map(self._places.is_second, _tensors((args, kwargs))))
        try:
            return func(*args, **kwargs)
        finally:
            self._places.inside = before

    def under(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What autograd calls on its way back, where PyTorch forgets such modes."""

        def run(*args: Any, **kwargs: Any) -> Any:
            is_seen = self in _get_current_function_mode_stack()
            with nullcontext() if is_seen else self:
                return function(*args, **kwargs)

        return run

    def _device(self, tensor: Tensor) -> torch.device:
        real: torch.device = Tensor.device.__get__(tensor)  # type: ignore[attr-defined]
        return SECOND if real.type == "cpu" and self._places.is_second(tensor) else real

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        target: torch.device | None = None
        rest = []
        for value in (*args, *([kwargs.pop("device")] if kwargs.get("device") is not None else [])):
            if isinstance(value, Tensor):
                target = self._device(value)
                rest.append(value.dtype)
            elif isinstance(value, str | torch.device):
                target = torch.device(value)
            else:
                rest.append(value)
        kwargs.pop("device", None)
        converted = Tensor.to(tensor, *[value for value in rest if isinstance(value, torch.dtype)], **kwargs)
        return converted if target is None else self._moved(converted, target)

    def _moved(self, tensor: Tensor, target: torch.device) -> Tensor:
        if target.type == self._device(tensor).type:
            return tensor
        assert target.type in ("cpu", SECOND.type), target
        copy = torch.empty_like(tensor).copy_(tensor) if not tensor.requires_grad else tensor.clone()
        return self._places.put(copy) if target.type == SECOND.type else self._places.forget(copy)

    def _deep_copy(self, tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        copied = Tensor.__deepcopy__(tensor, memo)
        return self._places.put(copied) if self._places.is_second(tensor) else copied


def _is_second(device: Any) -> bool:
    return isinstance(device, str | torch.device) and torch.device(device).type == SECOND.type


@contextmanager
def second_device(*, watches: bool = False) -> Iterator[_Places]:
    """Let `SECOND` be a device inside this block, whose largest number of bytes is noted where that is asked for."""
    places = _Places()
    places.watches = watches
    if watches:
        gc.freeze()  # what is there by now need not be looked through
    functions = _Functions(places)

    def run_again(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
        return checkpoint(functions.under(function), *args, **keywords)

    with (
        patch("torch.cuda.synchronize"),
        patch("torch.cuda.get_device_name", return_value="second"),
        # The generator of the second device is that of the CPU.
        patch("torch.cuda.get_rng_state", lambda *_: torch.get_rng_state()),
        patch("torch.cuda.set_rng_state"),
        patch("torch.cuda.mem_get_info", return_value=(2**40, 2**40)),
        patch("torch.cuda.memory_reserved", return_value=0),
        patch("torch.cuda.memory_allocated", return_value=0),
        _Operators(places),
        functions,
        patch("snp.measure.checkpointed.checkpoint", run_again),
    ):
        yield places


class _Second(Accelerator):
    """The second device, for Lightning."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [SECOND]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "second"

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}


def trainer(**keywords: Any) -> Trainer:
    """What `conf/trainer/gpu.yaml` makes, on the second device."""
    keywords |= {"accelerator": _Second(), "strategy": SingleDeviceStrategy(device=SECOND)}
    return Trainer(**keywords)
