"""LeNet-5: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.

Two convolutions with subsampling, then three fully connected layers. The layers bear the paper's names. By
default C3 is connected to all maps of S2, subsampling has no trainable coefficients and the output layer is
linear, as is usual today; the options choose between today's and the historical units.
"""

from typing import Literal

from torch import Tensor, nn

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.nets.lenet5_units import C3_TABLE, CodeDistance, ScaledTanh, Subsampling, TableConv2d
from lightning_optreg.nets.network import Network

__all__ = ["LeNet5", "ScaledTanh"]


class LeNet5(Network):
    """LeNet-5: conv 6@5x5, pool, conv 16@5x5, pool, 120 units, 84 units, K scores.

    The network of 1998 is `LeNet5(activation="tanh", pool="trainable", c3="table", output="rbf",
    init="uniform")`. On 28x28 images it has the paper's 60,000 parameters: C1 156, S2 12, C3 1,516, S4 32,
    C5 48,120, F6 10,164; the output layer's codes are fixed (see `lenet5_units` for these units).

    Weights start as N(0, 2 / fan_in) before a ReLU (He 2015) and as N(0, 1 / fan_in) before the scaled tanh
    (LeCun et al., "Efficient BackProp", 1998) and in the output layer; biases start at zero.

    Args:
        num_classes: Number of classes K, at least 2. Default: 10.
        input_shape: Channels, height and width (C, H, W) of one image. Default: (1, 28, 28).
        activation: `relu`, or the historical `tanh`, 1.7159 tanh(2x / 3). Default: relu.
        pool: What 2x2 subsampling with stride 2 takes: the `max`, the `average`, or, as in the paper, the
            sum times a `trainable` coefficient of the map plus a bias; only then is the result squashed too.
            Default: max.
        padding: Rows and columns of zeros around the image, at least 0. With 2 a 28x28 image is treated as
            the paper's 32x32; use 0 for images that have their margin. Default: 2.
        c3: Whether a map of C3 sees all maps of S2, `full`, or those of the paper's `table` I. Default: full.
        output: `linear`, or the paper's `rbf`: minus the squared distances of F6's 84 states to fixed codes
            of +-1, whose cross entropy is the paper's criterion. Default: linear.
        init: `normal` weights as above, or the paper's `uniform` ones on +-2.4 / fan_in (appendix A, and
            for each trainable coefficient of a sum of four). Default: normal.

    Shape:
        images (N, C, H, W) -> scores (N, K). The size of C5's input follows from the image; H and W must be
        at least 16 - 2 * padding.

    Raises:
        ValueError: If a number is out of range, an option is unknown or the image is too small.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import LeNet5
        >>> net = LeNet5()
        >>> sum(p.numel() for p in net.parameters())
        61706
        >>> net(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        activation: Literal["relu", "tanh"] = "relu",
        pool: Literal["max", "average", "trainable"] = "max",
        padding: int = 2,
        c3: Literal["full", "table"] = "full",
        output: Literal["linear", "rbf"] = "linear",
        init: Literal["normal", "uniform"] = "normal",
    ) -> None:
        super().__init__(num_classes, input_shape)
        check_choice("LeNet5", ("relu", "tanh"), activation=activation)
        check_choice("LeNet5", ("max", "average", "trainable"), pool=pool)
        check_choice("LeNet5", ("full", "table"), c3=c3)
        check_choice("LeNet5", ("linear", "rbf"), output=output)
        check_choice("LeNet5", ("normal", "uniform"), init=init)
        check_range("LeNet5", ">= 0", padding=padding)
        channels, height, width = input_shape
        smallest = 16 - 2 * padding  # S4 is then 1x1
        if not min(height, width) >= smallest:
            raise ValueError(
                f"LeNet5: with padding {padding}, height and width must be >= {smallest}, "
                f"got {height}x{width}"
            )
        rows, columns = (_s4_size(size, padding) for size in (height, width))

        self.c1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.s2 = _pool(pool, 6, activation)
        self.c3 = nn.Conv2d(6, 16, 5) if c3 == "full" else TableConv2d(6, C3_TABLE, 5)
        self.s4 = _pool(pool, 16, activation)
        self.c5 = nn.Linear(16 * rows * columns, 120)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, num_classes) if output == "linear" else CodeDistance(84, num_classes)
        # One module: it has no state, and the order of pool and ReLU or in-place ReLU made no measurable
        # difference to a training step (ratios 0.98 to 1.03).
        self.activation = _activation(activation)

        gain: Literal["relu", "linear"] = "relu" if activation == "relu" else "linear"
        for layer in (self.c1, self.c3, self.c5, self.f6, self.output):
            if not isinstance(layer, CodeDistance):
                _initialise(layer, "linear" if layer is self.output else gain, init)
        if init == "uniform":
            for sums in self.modules():
                if isinstance(sums, Subsampling):
                    nn.init.uniform_(sums.weight, -2.4 / 4, 2.4 / 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K); the sizes in the comments are those of a 28x28 image."""
        self.check_images(x)
        x = self.s2(self.activation(self.c1(x)))  # (N, C, 28, 28) -> (N, 6, 28, 28) -> (N, 6, 14, 14)
        x = self.s4(self.activation(self.c3(x)))  # -> (N, 16, 10, 10) -> (N, 16, 5, 5)
        x = self.activation(self.c5(x.flatten(1)))  # -> (N, 400) -> (N, 120)
        x = self.activation(self.f6(x))  # -> (N, 84)
        scores: Tensor = self.output(x)  # -> (N, K)
        return scores


def _activation(kind: Literal["relu", "tanh"]) -> nn.Module:
    return nn.ReLU() if kind == "relu" else ScaledTanh()


def _pool(
    kind: Literal["max", "average", "trainable"], maps: int, activation: Literal["relu", "tanh"]
) -> nn.Module:
    if kind == "trainable":
        return nn.Sequential(Subsampling(maps), _activation(activation))
    return nn.MaxPool2d(2) if kind == "max" else nn.AvgPool2d(2)


def _initialise(
    layer: nn.Module, gain: Literal["relu", "linear"], init: Literal["normal", "uniform"]
) -> None:
    """Draw the weights, those of C3's table map by map, because their fan-in differs; biases are zero."""
    weight, bias = layer.parameters()
    nn.init.zeros_(bias)
    for weights in layer.weights_of_maps() if isinstance(layer, TableConv2d) else [weight]:
        if init == "normal":
            nn.init.kaiming_normal_(weights, nonlinearity=gain)
        else:
            bound = 2.4 / weights[0].numel()
            nn.init.uniform_(weights, -bound, bound)


def _s4_size(size: int, padding: int) -> int:
    """Rows (or columns) of S4: each convolution takes 4 off, each subsampling halves."""
    return ((size + 2 * padding - 4) // 2 - 4) // 2
