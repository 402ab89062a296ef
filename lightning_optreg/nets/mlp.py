"""The multilayer perceptron: linear layers with a nonlinearity between them, as in s = W2 max(0, W1 x).

Initialisation: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", 2015 (arXiv:1502.01852), for the hidden
layers.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from lightning_optreg._checks import check_range
from lightning_optreg._nearest import nearest
from lightning_optreg.layers import DropConnect
from lightning_optreg.nets.network import Network

__all__ = ["ACTIVATIONS", "MLP"]

# The element-wise nonlinearities of torch.nn that can be built without arguments.
# fmt: off
ACTIVATIONS = (
    "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid",
    "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink",
    "Softsign", "Tanh", "Tanhshrink",
)
# fmt: on


class MLP(Network):
    """A fully connected network: hidden layers h = phi(Wh + b), then scores Wh + b, regularized if wanted.

    Weights of the hidden layers start as N(0, 2 / fan_in) (He), those of the output layer, which no
    nonlinearity follows, as N(0, 1 / fan_in); biases start at zero.

    Args:
        num_classes: Number of classes K, at least 2. Default: 10.
        input_shape: Channels, height and width (C, H, W) of one image. Default: (1, 28, 28).
        hidden: Number of units of each hidden layer, each at least 1; an empty list leaves a linear
            classifier. Default: 256, 128.
        activation: Name of an element-wise nonlinearity phi of `torch.nn` that needs no argument, such as
            ReLU, Tanh, Sigmoid, LeakyReLU, ELU, GELU, SiLU. Default: ReLU.
        dropout: Probability in [0, 1) that a hidden unit is set to zero in training. Default: 0.
        drop_connect: Probability in [0, 1) that a weight or bias of a hidden layer but the first is set to
            zero in training, see `DropConnect`. The first layer stands in for the feature extractor that Wan
            et al. leave alone. Default: 0.
        batch_norm: Whether Wh is normalised over the batch before phi, as by Ioffe and Szegedy 2015
            (arXiv:1502.03167); b is then that of the normalisation. Default: False.

    Raises:
        ValueError: If a number is out of range, torch.nn has no such activation, or drop_connect has no
            layer to work on or comes with batch_norm.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import MLP
        >>> net = MLP(num_classes=10, input_shape=(1, 28, 28), hidden=[100], activation="Tanh", dropout=0.5)
        >>> [type(layer).__name__ for layer in net.layers]
        ['Linear', 'Tanh', 'Dropout', 'Linear']
        >>> net(torch.randn(4, 1, 28, 28)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        hidden: Sequence[int] = (256, 128),
        activation: str = "ReLU",
        dropout: float = 0.0,
        drop_connect: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_classes, input_shape)
        if hidden and not min(hidden) >= 1:
            raise ValueError(f"MLP: hidden must be numbers of units >= 1, got {list(hidden)}")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"MLP: activation must be an element-wise nonlinearity of torch.nn, got {activation!r}"
                f"{nearest(activation, ACTIVATIONS, few=len(ACTIVATIONS))}"
            )
        check_range("MLP", "[0, 1)", dropout=dropout, drop_connect=drop_connect)
        if drop_connect > 0.0 and (len(hidden) < 2 or batch_norm):
            raise ValueError(
                "MLP: drop_connect must be 0 with batch_norm or fewer than two hidden layers, got "
                f"{drop_connect}"
            )

        widths = [math.prod(input_shape), *hidden]
        self.layers = nn.Sequential()
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            phi = getattr(nn, activation)()
            if drop_connect > 0.0 and index > 0:
                inference: Literal["relu", "sampling"] = "relu" if activation == "ReLU" else "sampling"
                linear: nn.Linear = DropConnect(
                    fan_in, fan_out, p=drop_connect, activation=phi, inference=inference
                )
                parts: list[nn.Module] = [linear]
            else:
                linear = nn.Linear(fan_in, fan_out, bias=not batch_norm)
                parts = [linear, nn.BatchNorm1d(fan_out), phi] if batch_norm else [linear, phi]
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
            self.layers.extend(parts)
            if dropout > 0.0:
                self.layers.append(nn.Dropout(dropout))
        output = nn.Linear(widths[-1], num_classes)
        nn.init.kaiming_normal_(output.weight, nonlinearity="linear")
        nn.init.zeros_(output.bias)
        self.layers.append(output)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K)."""
        self.check_images(x)
        scores: Tensor = self.layers(x.flatten(1))  # (N, C, H, W) -> (N, CHW) -> (N, K)
        return scores
