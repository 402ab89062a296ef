"""What AlexNet and ZFNet share: pooling with normalisation, fully connected layers, and how weights start."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.layers import LocalResponseNorm
from lightning_optreg.nets._sizes import map_size
from lightning_optreg.nets.network import Network

__all__ = ["FiveConvolutions", "Init", "NormOrder", "pool_and_norm"]

NormOrder = Literal["pool_norm", "norm_pool"]
Init = Literal["auto", "normal", "he"]


def pool_and_norm(number: int, order: NormOrder, *, ceil_mode: bool) -> dict[str, nn.Module]:
    """Overlapping 3x3 max-pooling and local response normalisation, in one order or the other.

    Args:
        number: Ends their names: pool1 and norm1.
        order: Which comes first.
        ceil_mode: Whether pooling rounds sizes up.

    Returns:
        The two by name.
    """
    pool: dict[str, nn.Module] = {f"pool{number}": nn.MaxPool2d(3, stride=2, ceil_mode=ceil_mode)}
    norm: dict[str, nn.Module] = {f"norm{number}": LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0)}
    return pool | norm if order == "pool_norm" else norm | pool


class FiveConvolutions(Network):
    """A network whose `features` are five convolutions, with FC6, FC7 and FC8 after them.

    A subclass builds `features` in its `__init__`, between the calls of `check_options` and `add_classifier`.

    Args:
        num_classes: Number of classes K, at least 2.
        input_shape: Channels, height and width (C, H, W) of one image, each at least 1.
    """

    features: nn.Sequential
    classifier: nn.Sequential

    def check_options(self, channels: Sequence[int], hidden: int, dropout: float, init: Init) -> None:
        """Refuse options that are out of range.

        Args:
            channels: Channels of the five convolutions.
            hidden: Units of FC6 and FC7.
            dropout: Probability to drop an input of FC7 and FC8.
            init: How weights start.

        Raises:
            ValueError: If a number is out of range or `init` is unknown.
        """
        name = type(self).__name__
        if len(channels) != 5 or not min(channels) >= 1:
            raise ValueError(f"{name}: channels must be five numbers >= 1, got {channels}")
        check_range(name, ">= 1", hidden=hidden)
        check_range(name, "[0, 1)", dropout=dropout)
        check_choice(name, ("auto", "normal", "he"), init=init)

    def add_classifier(self, maps: int, hidden: int, dropout: float, stem: str) -> None:
        """Add FC6, FC7 and FC8, with ReLU and dropout after the first two.

        Args:
            maps: Channels of the last convolution.
            hidden: Units of FC6 and FC7.
            dropout: Probability to drop an input of FC7 and FC8.
            stem: The stem of `features`, for the message.

        Raises:
            ValueError: If nothing of an image is left for FC6.
        """
        height, width = self.input_shape[1:]
        rows, columns = map_size(self.features, (height, width))
        if not min(rows, columns) >= 1:
            raise ValueError(
                f"{type(self).__name__}: images of {height}x{width} are too small for stem {stem!r}: "
                "nothing is left after POOL3"
            )
        self.classifier = nn.Sequential(
            OrderedDict[str, nn.Module](
                fc6=nn.Linear(maps * rows * columns, hidden),
                relu6=nn.ReLU(inplace=True),
                drop6=nn.Dropout(dropout),
                fc7=nn.Linear(hidden, hidden),
                relu7=nn.ReLU(inplace=True),
                drop7=nn.Dropout(dropout),
                fc8=nn.Linear(hidden, self.num_classes),
            )
        )

    def initialise(self, init: Init, stem: str, one_bias: Sequence[str] = ()) -> None:
        """Draw the weights.

        Args:
            init: `normal`, N(0, 0.01^2); `he`, N(0, 2 / fan_in), in FC8 N(0, 1 / fan_in); `auto`, `he` with
                the small stem and `normal` with the other.
            stem: The stem of `features`.
            one_bias: Layers whose biases start at 1 if `init` is normal; all others start at 0.
        """
        if init == "auto":
            init = "he" if stem == "small" else "normal"
        for name, layer in self.named_modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            if init == "he":
                gain: Literal["linear", "relu"] = "linear" if name.endswith("fc8") else "relu"
                nn.init.kaiming_normal_(layer.weight, nonlinearity=gain)
            else:
                nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, 1.0 if init == "normal" and name in one_bias else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K)."""
        self.check_images(x)
        scores: Tensor = self.classifier(self.features(x).flatten(1))
        return scores
