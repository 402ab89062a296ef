"""Where the network is within a LightningModule, for callbacks that call it or look into it."""

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

__all__ = ["find_network", "makes_layers_later"]


def find_network(module: nn.Module, name: str | None, owner: str) -> nn.Module:
    """Find the network within a LightningModule.

    Args:
        module: The LightningModule.
        name: The network's name in it, such as `net` or `model.backbone`, or `self`, the LightningModule
            itself. None: `net` or `model`, or the only child with parameters, or the LightningModule itself
            if it has its own `forward`.
        owner: Name of the calling class, for the error.

    Returns:
        The network.

    Raises:
        MisconfigurationException: If there is no such module, or name is None and it is ambiguous.

    Example:
        >>> find_network(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), None, "NoiseMarginalization")
        Linear(in_features=2, out_features=3, bias=True)
    """
    children = dict(module.named_children())
    if name == "self":
        return module
    if name is not None:
        found: nn.Module | None = dict(module.named_modules()).get(name)
        if found is None or name == "":
            raise MisconfigurationException(
                f"{owner}: net={name!r} is not a module of {type(module).__name__}, whose children are "
                f"{', '.join(children) or 'none'}"
            )
        return found
    named: nn.Module | None = children.get("net", children.get("model"))
    if named is not None:
        return named
    learned: list[nn.Module] = [c for c in children.values() if any(True for _ in c.parameters())]
    if len(learned) == 1:
        return learned[0]
    if type(module).forward is LightningModule.forward:
        raise MisconfigurationException(
            f"{owner}: {type(module).__name__} has no `net` or `model` and {len(learned)} children with "
            f"parameters; pass net=<name of the network>, one of {', '.join(children) or 'none'}"
        )
    return module


def makes_layers_later(pl_module: LightningModule) -> bool:
    """Return whether a module may still create layers after the callbacks' `setup`.

    Lightning calls its `setup` and `configure_model` after theirs.
    """
    return is_overridden("configure_model", pl_module) or is_overridden("setup", pl_module)
