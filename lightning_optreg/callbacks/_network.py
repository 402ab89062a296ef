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
        name: The network's name in it, such as `net` or `model.backbone`. None: `net` or `model`, or the only
            child that has parameters, or the LightningModule itself if it has a `forward` of its own.
        owner: Name of the class that asks, for the error.

    Returns:
        The network.

    Raises:
        MisconfigurationException: If there is no such module, or None does not tell.

    Example:
        >>> find_network(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), None, "NoiseMarginalization")
        Linear(in_features=2, out_features=3, bias=True)
    """
    children = dict(module.named_children())
    if name is not None:
        found: nn.Module | None = dict(module.named_modules()).get(name)
        if found is None or name == "":
            raise MisconfigurationException(
                f"{owner}: net={name!r} is no module of {type(module).__name__}, whose children are "
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
            f"parameters: say by net=... which is the network, out of {', '.join(children) or 'none'}"
        )
    return module


def makes_layers_later(pl_module: LightningModule) -> bool:
    """Tell whether a module may have other layers after the callbacks' `setup` than in it.

    Lightning calls its `setup` and `configure_model` after theirs.
    """
    return is_overridden("configure_model", pl_module) or is_overridden("setup", pl_module)
