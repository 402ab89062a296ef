"""The one table of layers that the contract tests go through. A new layer is tested by adding a row."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_optreg import layers

SHAPE = (6, 8, 10)  # of an image: channels, height, width


@dataclass(frozen=True)
class Layer:
    """How the contract tests build a layer for images of `SHAPE`.

    Attributes:
        build: Makes the layer at a setting at which it does something.
        neutral: Makes it at its trivial setting. None: it has none.
        plain: What the layer at its trivial setting has to equal, given it and its input.
        draws_in_training: Whether it draws random numbers in training.
        draws_at_test: Whether it draws random numbers in evaluation.
        ranks_differ: Why several processes end with other weights than one does. None: they do not.
    """

    build: Callable[[], nn.Module]
    neutral: Callable[[], nn.Module] | None = None
    plain: Callable[[nn.Module, Tensor], Tensor] = lambda layer, x: x
    draws_in_training: bool = True
    draws_at_test: bool = False
    ranks_differ: str | None = "it draws from each process's own generator"


def branch() -> nn.Module:
    return nn.Conv2d(6, 6, 3, padding=1)


def linear_relu(layer: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.linear(x, layer.weight, layer.bias).relu()


def residual(layer: nn.Module, x: Tensor) -> Tensor:
    return x + layer.branch(x)


LAYERS: dict[str, Layer] = {
    "BatchNorm": Layer(
        lambda: layers.BatchNorm(6),
        draws_in_training=False,
        ranks_differ="it takes its statistics from the rows of one process",
    ),
    "DropConnect": Layer(
        lambda: layers.DropConnect(10, 4),
        neutral=lambda: layers.DropConnect(10, 4, p=0.0),
        plain=linear_relu,
        draws_at_test=True,
    ),
    "DropConnect-relu": Layer(lambda: layers.DropConnect(10, 4, inference="relu")),
    "Dropout": Layer(lambda: layers.Dropout(), neutral=lambda: layers.Dropout(0.0)),
    "Dropout-vanilla": Layer(
        lambda: layers.Dropout(0.3, form="vanilla"), neutral=lambda: layers.Dropout(0.0, form="vanilla")
    ),
    "FractionalMaxPool": Layer(
        lambda: layers.FractionalMaxPool(1.5), neutral=lambda: layers.FractionalMaxPool(1.0)
    ),
    "FractionalMaxPool-torch": Layer(
        lambda: layers.FractionalMaxPool(1.5, regions="pseudorandom", windows="2x2", at_test="average"),
        draws_at_test=True,
    ),
    "GaussianNoise": Layer(lambda: layers.GaussianNoise(0.5), neutral=lambda: layers.GaussianNoise(0.0)),
    "GaussianNoise-batch": Layer(lambda: layers.GaussianNoise(0.5, relative_to="batch")),
    "GaussianNoise-image": Layer(
        lambda: layers.GaussianNoise(0.5, relative_to="image"),
        neutral=lambda: layers.GaussianNoise(0.0, relative_to="image"),
    ),
    "LocalResponseNorm": Layer(
        lambda: layers.LocalResponseNorm(alpha=0.1),
        neutral=lambda: layers.LocalResponseNorm(alpha=0.0, k=1.0),
        draws_in_training=False,
        ranks_differ=None,
    ),
    "StochasticDepth": Layer(
        lambda: layers.StochasticDepth(0.5), neutral=lambda: layers.StochasticDepth(1.0)
    ),
    "StochasticDepth-sample": Layer(
        lambda: layers.StochasticDepth(0.5, mode="sample"),
        neutral=lambda: layers.StochasticDepth(1.0, mode="sample"),
    ),
    "StochasticResidual": Layer(
        lambda: layers.StochasticResidual(branch(), 0.5),
        neutral=lambda: layers.StochasticResidual(branch(), 1.0),
        plain=residual,
    ),
    "WhitenedConv2d": Layer(lambda: layers.WhitenedConv2d(6), draws_in_training=False, ranks_differ=None),
}
