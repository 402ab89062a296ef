"""The states of a process's global random generators, as plain types for a checkpoint.

Lightning's checkpoints have no generator states, so after a resume dropout and noise differ from those of an
uninterrupted run. `torch.load(weights_only=True)` refuses NumPy arrays and `torch.Generator`s, so the states
are kept as tensors, numbers and tuples.
"""

import random
from typing import Any

import numpy as np
import torch

__all__ = ["collect_random_state", "restore_random_state"]


def collect_random_state(device: torch.device) -> dict[str, Any]:
    """Read the global generators of Python, NumPy, torch on the CPU and torch on `device`.

    Args:
        device: The device this process trains on; nothing is added for the CPU.

    Returns:
        Plain types only: tuples, numbers, strings and uint8 tensors.

    Example:
        >>> state = collect_random_state(torch.device("cpu"))
        >>> first = torch.rand(3)
        >>> restore_random_state(state, torch.device("cpu"))
        >>> torch.equal(first, torch.rand(3))
        True
    """
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # the tuple form
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
    }
    if device.type not in ("cpu", "meta"):
        state[device.type] = torch.get_device_module(device).get_rng_state(device).cpu()
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set the global generators to the state from `collect_random_state`.

    Args:
        state: Result of `collect_random_state`, in this or an earlier process.
        device: The device this process trains on. The state of another kind of device is ignored, as its
            generators draw different numbers.
    """
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if device.type in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state[device.type].cpu(), device)
