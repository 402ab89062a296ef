"""The noise layers of a network: this package's, torch's and torchvision's.

`lightning_optreg.layers` does not import this module, since torchvision takes a second to import.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torchvision import ops

from lightning_optreg.layers.noise import NoiseLayer

__all__ = ["noise_layers"]

# Layers of torch and torchvision that draw random numbers in training mode. FractionalMaxPool always does.
FOREIGN_NOISE = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
    ops.StochasticDepth,
    ops.DropBlock2d,
    ops.DropBlock3d,
)


def noise_layers(network: nn.Module, layers: Sequence[str] | None) -> list[nn.Module]:
    """Find the layers that draw random numbers in training.

    Args:
        network: Any module.
        layers: Class names (`Dropout`), or names of modules in the network with `*` and `?`
            (`features.*`). None: all noise layers that are known: this package's, torch's `nn.Dropout` and
            its kind and `nn.FractionalMaxPool2d`, torchvision's `StochasticDepth` and `DropBlock2d`.

    Returns:
        The layers in the network's order.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.5))
        >>> noise_layers(network, ["2"])
        [Dropout(p=0.5, inplace=False)]
    """
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, (NoiseLayer, *FOREIGN_NOISE))
        and (
            layers is None
            or any(pattern == type(module).__name__ or fnmatchcase(name, pattern) for pattern in layers)
        )
    ]
