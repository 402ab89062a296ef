"""VGG: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015.

Nothing but 3x3 convolutions of stride 1 and 2x2 max-pooling, and three fully connected layers: two such
convolutions see 5x5 pixels, three 7x7, with fewer weights and more nonlinearities than one large kernel
(arXiv:1409.1556). Modules bear the names of torchvision's, so that its state dicts load as they are.
"""

from typing import Literal

from torch import Tensor, nn

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.nets._forms import Stem, choose_stem
from lightning_optreg.nets.network import Network

__all__ = ["VGG"]

# Table 1 of the paper, columns A, B, D, E: convolutions in each of the five stages.
CONVOLUTIONS = {
    11: [1, 1, 2, 2, 2],
    13: [2, 2, 2, 2, 2],
    16: [2, 2, 3, 3, 3],
    19: [2, 2, 4, 4, 4],
}
WIDTHS = [1, 2, 4, 8, 8]  # of the stages, in units of the first


class VGG(Network):
    """VGG-11, 13, 16 or 19: five stages of 3x3 convolutions, each followed by 2x2 max-pooling.

    For images of ImageNet's size come two hidden layers of 4096 units with dropout, then the scores; images
    of another size are averaged to 7x7 places before them, as torchvision does. For small images the stages
    are the same, and one linear layer with dropout before it takes the average over all places: the form of
    github.com/kuangliu/pytorch-cifar (with batch normalisation, without dropout). Pooling then rounds sizes
    up, so that 28x28 becomes 14, 7, 4, 2, 1, and 32x32 what it would be anyway.

    The paper trained VGG-11 from normal weights of variance 0.01 and the deeper networks from its layers; its
    authors found later that `glorot` uniform weights (Glorot and Bengio 2010) make that unnecessary. With
    them the variance of the signal halves in each layer before a ReLU; `he` keeps it, and is the default
    because it also trains in fewer epochs than the paper's: N(0, 2 / fan_out) in convolutions
    (He et al. 2015, arXiv:1502.01852) and N(0, 0.01^2) in linear layers, torchvision's choice; the only
    linear layer of the small form N(0, 1 / fan_in). Biases start at zero.

    Args:
        num_classes: Number of classes K, at least 2. Default: 1000.
        input_shape: Channels, height and width (C, H, W) of one image. The network takes images of any size,
            at least 32x32 with the ImageNet head; H and W matter to `stem` only. Default: (3, 224, 224).
        depth: Number of weighted layers: 11, 13, 16 or 19 (the paper's A, B, D and E). Default: 16.
        width: Channels of the first stage, at least 1; the stages have 1, 2, 4, 8 and 8 times as many.
            Default: 64.
        hidden: Units of each of the two hidden layers, at least 1. Default: 4096.
        batch_norm: Whether batch normalisation stands between each convolution and its ReLU (Ioffe and
            Szegedy 2015, arXiv:1502.03167), as in torchvision's `vgg16_bn`; the paper has none.
            Default: False.
        dropout: Probability p to drop an input of the second and third linear layer, or, for small images,
            of the only one; in [0, 1). Default: 0.5.
        init: `he` or `glorot`, as above. Default: he.
        stem: `imagenet`, the paper's network; `small`, that for small images; `auto`, `small` if the smaller
            of H and W is below 96. Here they differ at the network's end; the option has the same
            name in all networks. Default: auto.

    Raises:
        ValueError: If a number is out of range or an option is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import VGG
        >>> with torch.device("meta"):
        ...     net = VGG(depth=16)
        >>> sum(p.numel() for p in net.parameters())
        138357544
        >>> net = VGG(10, (1, 28, 28), depth=11, width=8, batch_norm=True)
        >>> net(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 1000,
        input_shape: tuple[int, int, int] = (3, 224, 224),
        *,
        depth: int = 16,
        width: int = 64,
        hidden: int = 4096,
        batch_norm: bool = False,
        dropout: float = 0.5,
        init: Literal["he", "glorot"] = "he",
        stem: Stem = "auto",
    ) -> None:
        super().__init__(num_classes, input_shape)
        check_choice("VGG", (*CONVOLUTIONS,), depth=depth)
        check_range("VGG", ">= 1", width=width, hidden=hidden)
        check_range("VGG", "[0, 1)", dropout=dropout)
        check_choice("VGG", ("he", "glorot"), init=init)
        stem = choose_stem("VGG", stem, input_shape)
        self.places = 1 if stem == "small" else 7  # rows and columns of the last map

        self.features = _stages(
            input_shape[0], depth, width, batch_norm=batch_norm, ceil_mode=stem == "small"
        )
        self.avgpool = nn.AdaptiveAvgPool2d(self.places)
        channels = WIDTHS[-1] * width
        self.classifier = (
            nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
            if stem == "small"
            else nn.Sequential(
                nn.Linear(channels * self.places**2, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(dropout),
                nn.Linear(hidden, num_classes),
            )
        )

        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                if init == "glorot":
                    nn.init.xavier_uniform_(layer.weight)
                elif isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.normal_(layer.weight, std=channels**-0.5 if stem == "small" else 0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to scores (N, K); the comments' sizes are those of a 224x224 image."""
        x = self.features(x)  # (N, 3, 224, 224) -> (N, 512, 7, 7)
        if x.shape[-2:] != (self.places, self.places):  # averaging would only copy them
            x = self.avgpool(x)
        scores: Tensor = self.classifier(x.flatten(1))  # -> (N, 4096) -> (N, 4096) -> (N, K)
        return scores


def _stages(channels: int, depth: int, width: int, *, batch_norm: bool, ceil_mode: bool) -> nn.Sequential:
    """The convolutional part: (N, channels, H, W) -> (N, 8 * width, H / 32, W / 32)."""
    layers = nn.Sequential()
    for convolutions, factor in zip(CONVOLUTIONS[depth], WIDTHS, strict=True):
        for _ in range(convolutions):
            # With a bias before batch normalisation too, where it is idle: torchvision's weights have it.
            layers.append(nn.Conv2d(channels, factor * width, 3, padding=1))
            channels = factor * width
            if batch_norm:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.MaxPool2d(2, ceil_mode=ceil_mode))
    return layers
