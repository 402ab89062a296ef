"""Learning rates as torch's optimizers take them: numbers, or tensors with one element.

A tensor lets a schedule change the rate without a compiled step, or a CUDA graph of it, being made again. So
it stays the same tensor for the whole of a run, and it is never read back to the host where it lies on a
device.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = [
    "add_missing",
    "add_products_",
    "add_quotients_",
    "add_scaled_",
    "check_rate",
    "own_settings",
    "rate_of",
    "set_rate",
]

_Tensors = list[Tensor] | tuple[Tensor, ...]  # as torch's multi-tensor operations take and return them


def check_rate(name: str, rate: Any) -> None:
    """Refuse a learning rate that is a tensor of several numbers, before it is compared with a range.

    Args:
        name: The optimizer's, for the message.
        rate: What was given.

    Raises:
        ValueError: If it is a tensor with more or fewer elements than one.
    """
    if isinstance(rate, Tensor) and rate.numel() != 1:
        raise ValueError(f"{name}: Tensor lr must be 1-element, got {rate.numel()}")


def add_missing(optimizer: Optimizer, *, but: str | None = None) -> None:
    """Add the settings that a loaded state lacks, as a checkpoint of a plainer class does.

    Args:
        optimizer: The optimizer, whose defaults are used.
        but: A default to leave out.
    """
    for group in optimizer.param_groups:
        for setting, value in optimizer.defaults.items():
            if setting == but:
                continue
            group.setdefault(setting, value.detach().clone() if isinstance(value, Tensor) else value)


def own_settings(name: str, group: dict[str, Any]) -> None:
    """Check the tensors among a group's settings, and copy its learning rate.

    Schedules write into a tensor, and groups that share a default share its tensor: it is copied, so that
    they write neither into each other's nor into that of the caller. Other settings that are tensors become
    numbers.

    Args:
        name: The optimizer's, for messages.
        group: The group, changed in place.

    Raises:
        ValueError: If a tensor does not have one element, or one other than the learning rate requires a
            gradient.
    """
    for setting, value in group.items():
        if setting in ("params", "param_names"):
            continue
        if isinstance(value, (tuple, list)):
            kind = tuple if isinstance(value, tuple) else list
            group[setting] = kind(_number(name, setting, x) for x in value)
        elif setting != "lr":
            group[setting] = _number(name, setting, value)
        elif isinstance(value, Tensor):
            check_rate(name, value)
            # A step that is differentiated may be differentiated with respect to the rate as well.
            group["lr"] = value.clone() if group.get("differentiable") else value.detach().clone()


def _number(name: str, setting: str, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.numel() != 1:
        raise ValueError(f"{name}: Tensor {setting} must be 1-element, got {value.numel()}")
    if value.requires_grad:
        raise ValueError(f"{name}: {setting} must be a number or a Tensor that asks for no gradient")
    return value.item()


def rate_of(group: dict[str, Any]) -> float | Tensor:
    """Return a group's learning rate: a number unless that would wait for a device, then a tensor ().

    Args:
        group: An optimizer's parameter group.

    Example:
        >>> rate_of({"lr": torch.tensor([0.5])})
        0.5
    """
    rate = group["lr"]
    if not isinstance(rate, Tensor):
        return float(rate)
    if rate.device.type == "cpu" and not rate.requires_grad and not torch.compiler.is_compiling():
        return float(rate)
    return rate.reshape(())


def set_rate(group: dict[str, Any], rate: float | Tensor) -> None:
    """Set a group's learning rate; one that is a tensor stays that tensor.

    Args:
        group: An optimizer's parameter group.
        rate: The new rate.

    Example:
        >>> group = {"lr": torch.tensor(0.5)}
        >>> set_rate(group, 0.25)
        >>> group["lr"]
        tensor(0.2500)
    """
    if isinstance(group["lr"], Tensor):
        with torch.no_grad():
            group["lr"].fill_(rate.reshape(()) if isinstance(rate, Tensor) else rate)
    else:
        group["lr"] = rate


def add_scaled_(targets: _Tensors, directions: _Tensors, factor: float | Tensor) -> None:
    """Add factor * directions to the targets, in place.

    Args:
        targets: Tensors of one device and type.
        directions: Tensors of the same shapes.
        factor: A number or a tensor ().
    """
    if isinstance(factor, Tensor):
        scaled = torch._foreach_mul(directions, factor.to(targets[0].device))
        torch._foreach_add_(targets, scaled)
    else:
        torch._foreach_add_(targets, directions, alpha=factor)


def add_quotients_(
    targets: _Tensors, numerators: _Tensors, divisors: _Tensors, factor: float | Tensor
) -> None:
    """Add factor * numerators / divisors to the targets, in place.

    Args:
        targets: Tensors of one device and type.
        numerators: Tensors of the same shapes.
        divisors: Tensors of the same shapes.
        factor: A number or a tensor ().
    """
    if isinstance(factor, Tensor):
        quotients = torch._foreach_div(numerators, divisors)
        torch._foreach_mul_(quotients, factor.to(targets[0].device))
        torch._foreach_add_(targets, quotients)
    else:
        torch._foreach_addcdiv_(targets, numerators, divisors, value=factor)


def add_products_(targets: _Tensors, factors: _Tensors, others: _Tensors, factor: float | Tensor) -> None:
    """Add factor * factors * others to the targets, in place.

    Args:
        targets: Tensors of one device and type.
        factors: Tensors of the same shapes.
        others: Tensors of the same shapes.
        factor: A number or a tensor ().
    """
    if isinstance(factor, Tensor):
        add_scaled_(targets, torch._foreach_mul(factors, others), factor)
    else:
        torch._foreach_addcmul_(targets, factors, others, value=factor)
