"""A device that computes on the CPU and is as strict as a GPU: it shows where a program waits for it.

Tensors of `cpu:1` are wrappers around ordinary ones. torch takes the name for a device of its own, passes it
to every operation that makes or moves a tensor, and computes gradients there; on the CPU the number has no
other meaning. So a run with `FakeDevice.strategy()` has its weights, batches and losses on `cpu:1`, all
operations go through `FakeDevice`, and:

- reading a value of the device (`item`, `if loss > 1`, `x[mask]`, `.cpu()`) raises `WaitedError` while it
  watches, and so does a copy to the device, unless it is `non_blocking`, as with
  `torch.cuda.set_sync_debug_mode("error")`;
- an operation on tensors of both devices raises an error, as on a GPU: only numbers, tensors without
  dimensions, may come from the CPU.

What is read from ordinary tensors, such as a scheduler's or a random number of the CPU, is free. Unseen are
what the C code of an operation does on a real GPU, beyond the operations that are listed here, and what a
program does only where `device.type` is not "cpu".
"""

from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["DEVICE", "FakeDevice", "WaitedError", "needs_fake_device"]

DEVICE = torch.device("cpu", 1)

_READ = {
    "aten::_linalg_check_errors",
    "aten::_local_scalar_dense",
    "aten::_unique2",
    "aten::allclose",
    "aten::bincount",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::unique_dim",
}
"""Operations whose result, or its size, is a value of the device."""
_INDEX = {"aten::_index_put_impl_", "aten::index", "aten::index_put", "aten::index_put_"}
_WHOLE = {"aten::cat", "aten::stack"}
"""Operations that take no number of the CPU either."""


class WaitedError(AssertionError):
    """A step waited for the device."""


class There(Tensor):
    """A tensor of the fake device."""

    values: Tensor
    """The same tensor on the CPU."""

    @staticmethod
    def __new__(cls, values: Tensor) -> "There":
        return Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"There({tuple(self.shape)}, {self.dtype})"  # without values, which would have to be read

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy = There(self.values.clone())
        is_parameter = isinstance(self, nn.Parameter)
        memo[id(self)] = (
            nn.Parameter(copy, self.requires_grad)
            if is_parameter
            else copy.requires_grad_(self.requires_grad)
        )
        return memo[id(self)]

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"can't convert a tensor of {DEVICE} to numpy")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with (
            torch._C.DisableTorchFunctionSubclass()
        ):  # it would make results of the CPU tensors of this class
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function}: a tensor of the fake device is used outside of FakeDevice")


class FakeDevice(TorchDispatchMode):
    """While it is entered, `cpu:1` is a device of its own.

    Attributes:
        watching: Whether waiting raises `WaitedError`.
        copies: Names of the operations that copied to the device while it was watching.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watching = False
        self.copies: list[str] = []
        self._made = _Made(self)

    @staticmethod
    def strategy() -> SingleDeviceStrategy:
        """One process on the fake device."""
        return SingleDeviceStrategy(DEVICE)

    def __enter__(self) -> "FakeDevice":
        _swap(True)
        self._made.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._made.__exit__(*error)
        _swap(False)
        torch.__future__.set_overwrite_module_params_on_conversion(False)

    def waits(self, what: str) -> None:
        """Say that the program waits for the device."""
        if self.watching:
            self.watching = False  # the run ends, and may read what it has
            _swap(False)  # its graph may hold the parameters
            raise WaitedError(f"{what} waits for the device")

    def copied(self, what: str, *, non_blocking: bool) -> None:
        """Say that something is copied to the device."""
        if self.watching:
            self.copies.append(what)
        if not non_blocking:
            self.waits(f"{what}, a copy to the device,")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.name().split(".")[0]
        tensors = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        there = {id(each.values): each for each in tensors if isinstance(each, There)}
        to = kwargs.get("device")
        self._check(name, args, kwargs, tensors, to)
        args, kwargs = pytree.tree_map_only(There, lambda each: each.values, (args, kwargs))
        if to == DEVICE:
            kwargs["device"] = torch.device("cpu")
        result = function(*args, **kwargs)
        moves_here = to is not None and to != DEVICE
        if (not there and to != DEVICE) or moves_here:
            # torch returns what is already on its device, and both are on the CPU
            return result
        if name == "aten::copy_" and not isinstance(tensors[0], There):
            return tensors[0]

        def wrapped(tensor: Tensor) -> Tensor:
            return there[id(tensor)] if id(tensor) in there else There(tensor)

        return pytree.tree_map_only(Tensor, wrapped, result)

    def _check(self, name: str, args: Any, kwargs: Any, tensors: list[Tensor], to: Any) -> None:
        here = [each for each in tensors if not isinstance(each, There)]
        there = [each for each in tensors if isinstance(each, There)]
        if name in ("aten::_to_copy", "aten::copy_"):
            non_blocking = bool(kwargs.get("non_blocking") or (name == "aten::copy_" and args[2:] == (True,)))
            source = tensors[-1]
            target = to if name == "aten::_to_copy" else tensors[0].device
            if isinstance(source, There) and target is not None and target != DEVICE and not non_blocking:
                self.waits(f"{name} to the CPU")
            if not isinstance(source, There) and target == DEVICE:
                self.copied(name, non_blocking=non_blocking)
            return
        if not there:
            return
        if name in _READ or (name == "aten::repeat_interleave" and kwargs.get("output_size") is None):
            self.waits(name)
        if name in _INDEX:
            self._check_index(name, args)
            return
        if any(each.ndim > 0 or name in _WHOLE for each in here):
            shapes = ", ".join(f"{tuple(each.shape)} of {each.device}" for each in tensors)
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, got {shapes}")

    def _check_index(self, name: str, args: Any) -> None:
        indices = [each for each in args[1] if each is not None]
        if any(not isinstance(each, There) for each in indices):
            self.copied(f"{name} by an index of the CPU", non_blocking=False)
        # A number is put by masked_fill; all else has to know how many places there are.
        fills = len(args) > 2 and len(indices) == 1 and args[2].numel() == 1
        if not fills and any(each.dtype in (torch.bool, torch.uint8) for each in indices):
            self.waits(f"{name} by a mask")


def _swap(swap: bool) -> None:
    """Say whether a parameter that moves stays the same object; either way, its class changes."""
    torch.__future__.set_swap_module_params_on_conversion(swap)
    torch.__future__.set_overwrite_module_params_on_conversion(not swap)


class _Made(TorchFunctionMode):
    """Sees tensors that are made of Python's numbers for the device, which torch copies unseen."""

    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        names = {torch.tensor: "torch.tensor", torch.as_tensor: "torch.as_tensor"}
        if function is Tensor.new_tensor and isinstance(args[0], There):
            kwargs.setdefault("device", DEVICE)
            kwargs.setdefault("dtype", args[0].dtype)
            function, args = torch.tensor, args[1:]
        if function in names and not isinstance(args[0], Tensor) and _is_there(kwargs.get("device")):
            self._device.copied(names[function], non_blocking=False)
            return There(torch.tensor(*args, **{**kwargs, "device": "cpu"}))
        return function(*args, **kwargs)


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device) == DEVICE


needs_fake_device = pytest.mark.skipif(
    torch.__version__ < torch.torch_version.TorchVersion("2.14"),
    reason="the fake device relies on how torch 2.14 treats devices of the CPU",
)
