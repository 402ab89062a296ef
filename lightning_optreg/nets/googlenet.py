"""GoogLeNet: Szegedy et al., "Going deeper with convolutions", 2015 (arXiv:1409.4842).

Nine inception modules, which look at each place with 1x1, 3x3 and 5x5 kernels and a max-pooling at once, and
no fully connected layers but the classifier. 1x1 convolutions make the large kernels' inputs narrow. In
training two auxiliary heads bring gradients to the middle of the network.
"""

from torch import Tensor, nn

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.layers import LocalResponseNorm
from lightning_optreg.nets._forms import Stem, choose_stem
from lightning_optreg.nets._inception import AuxiliaryHead, ConvReLU, Form, Inception
from lightning_optreg.nets._sizes import map_size
from lightning_optreg.nets.network import Network

__all__ = ["GoogLeNet"]

# Table 1 of the paper. Each module: channels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class GoogLeNet(Network):
    """GoogLeNet (Inception v1): a stem, nine inception modules, average pooling, one linear layer.

    In training, with auxiliary heads, it returns the tuple (scores, scores of the head at 4a, scores of that
    at 4d), all (N, K); the paper adds their losses with weight 0.3, as `ImageClassifier` does with
    `aux_weight`. In evaluation it returns the scores alone.

    Parameters, weights and biases, for 1,000 classes:

        form         without heads   of this the classifier   with the two heads
        paper        6,998,552       1,025,000                13,378,280
        batch_norm   7,005,832       1,025,000                13,385,816
        torchvision  6,624,904       1,025,000                13,004,888

    Stem and modules of the paper's form have 5,973,552, which the lecture rounds to 5 million.

    Small images have no 7x7 stem with stride 2: one 3x3 convolution to 192 channels comes before 3a, and the
    poolings before 4a and 5a remain, so that 32x32 becomes 16 and 8, and 28x28 becomes 14 and 7: the form of
    github.com/kuangliu/pytorch-cifar, which has batch normalisation (`form="batch_norm"`), two 3x3 kernels in
    the place of a 5x5 one and neither heads nor dropout.

    The paper does not state the initialisation. Here convolutions and hidden layers start as N(0, 2 / fan_in)
    (He et al. 2015, arXiv:1502.01852), because the network then trains without batch normalisation too, and
    the linear layers that give scores as N(0, 1 / fan_in); biases start at 0.

    Args:
        num_classes: Number of classes K, at least 2. Default: 1000.
        input_shape: Channels, height and width (C, H, W) of one image. In evaluation and without heads the
            network takes images of any size; the heads' fully connected layers fix it.
            Default: (3, 224, 224).
        form: `paper`, 5x5 kernels, and local response normalisation before the second and after the third
            convolution; `batch_norm`, batch normalisation after every convolution instead (Ioffe and Szegedy
            2015, arXiv:1502.03167); `torchvision`, the network whose weights torchvision has: batch
            normalisation, 3x3 kernels in the place of 5x5 ones (its issue 906), 2x2 pooling before 5a, and
            heads that average over 4x4 places. Default: paper.
        aux: Whether there are auxiliary heads. Default: True.
        width: Factor of all channels, more than 0; numbers are rounded, at least to 1. Default: 1.0.
        aux_hidden: Units of the heads' hidden layer, at least 1. Default: 1024.
        dropout: Probability p to drop an input of the linear layer, in [0, 1). Default: 0.4.
        aux_dropout: The same in the heads. Default: 0.7.
        stem: `imagenet`, the paper's; `small`, that for small images; `auto`, `small` if the smaller of H and
            W is below 96. Default: auto.

    Shape:
        images (N, C, H, W) -> scores (N, K), or three of them.

    Raises:
        ValueError: If a number is out of range, an option is unknown or the image is too small for the
            heads.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import GoogLeNet
        >>> with torch.device("meta"):
        ...     net = GoogLeNet()
        >>> heads = [*net.aux1.parameters(), *net.aux2.parameters()]
        >>> sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in heads)
        6998552
        >>> net = GoogLeNet(10, (1, 28, 28), width=0.1, aux_hidden=16)
        >>> [scores.shape for scores in net(torch.randn(2, 1, 28, 28))]
        [torch.Size([2, 10]), torch.Size([2, 10]), torch.Size([2, 10])]
        >>> net.eval()(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 1000,
        input_shape: tuple[int, int, int] = (3, 224, 224),
        *,
        form: Form = "paper",
        aux: bool = True,
        width: float = 1.0,
        aux_hidden: int = 1024,
        dropout: float = 0.4,
        aux_dropout: float = 0.7,
        stem: Stem = "auto",
    ) -> None:
        super().__init__(num_classes, input_shape)
        check_choice("GoogLeNet", ("paper", "batch_norm", "torchvision"), form=form)
        check_range("GoogLeNet", "(0, inf)", width=width)
        check_range("GoogLeNet", ">= 1", aux_hidden=aux_hidden)
        check_range("GoogLeNet", "[0, 1)", dropout=dropout, aux_dropout=aux_dropout)
        stem = choose_stem("GoogLeNet", stem, input_shape)
        small = stem == "small"

        def scaled(count: int) -> int:
            return max(1, round(count * width))

        norm = form != "paper"
        channels = scaled(192)
        # Modules bear the names of torchvision's.
        if small:
            self.conv1 = ConvReLU(input_shape[0], channels, 3, batch_norm=norm)
            names = ["conv1"]
        else:
            self.conv1 = ConvReLU(input_shape[0], scaled(64), 7, stride=2, batch_norm=norm)
            self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            self.conv2 = ConvReLU(scaled(64), scaled(64), 1, batch_norm=norm)
            self.conv3 = ConvReLU(scaled(64), channels, 3, batch_norm=norm)
            names = ["conv1", "maxpool1", "conv2", "conv3"]
        if form == "paper" and not small:
            self.norm1 = LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0)
            names.insert(2, "norm1")
        if form == "paper":
            self.norm2 = LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0)
            names.append("norm2")
        if not small:
            self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            names.append("maxpool2")
        self.stem_names = names
        inception: dict[str, Inception] = {}
        for name, counts in MODULES.items():
            inception[name] = Inception(channels, [scaled(count) for count in counts], form)
            channels = inception[name].out_channels
        self.inception3a, self.inception3b = inception["3a"], inception["3b"]
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a, self.inception4b = inception["4a"], inception["4b"]
        self.inception4c, self.inception4d = inception["4c"], inception["4d"]
        self.inception4e = inception["4e"]
        self.maxpool4 = nn.MaxPool2d(2 if form == "torchvision" else 3, stride=2, ceil_mode=True)
        self.inception5a, self.inception5b = inception["5a"], inception["5b"]
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        size = self._map_size(*self.stem_names, "maxpool3")
        if not min(map_size([self.maxpool4], size)) >= 1:
            raise ValueError(
                f"GoogLeNet: images of {input_shape[1]}x{input_shape[2]} are too small for stem "
                f"{stem!r}: nothing is left after the last pooling"
            )
        self.aux1 = self.aux2 = None
        if aux:
            if form != "torchvision" and not min(size) >= 5:
                raise ValueError(
                    f"GoogLeNet: images of {input_shape[1]}x{input_shape[2]} are too small for the auxiliary "
                    f"heads, which need maps of 5x5, got {size[0]}x{size[1]}; give aux=False"
                )
            self.aux1, self.aux2 = (
                AuxiliaryHead(maps, size, scaled(128), aux_hidden, num_classes, aux_dropout, form)
                for maps in (inception["4a"].out_channels, inception["4d"].out_channels)
            )

        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for head in (self.aux1, self.aux2):
            if head is not None:
                nn.init.kaiming_normal_(head.fc2.weight, nonlinearity="linear")
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="linear")

    def _map_size(self, *names: str) -> tuple[int, int]:
        """Height and width of the maps after the modules of these names."""
        layers = [layer for name in names for layer in self.get_submodule(name).modules()]
        height, width = self.input_shape[1:]
        return map_size(layers, (height, width))

    def forward(  # type: ignore[override]  # a tuple where the networks without heads give one tensor
        self, x: Tensor
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Map images (N, C, H, W) to scores; the comments' sizes are those of a 224x224 image."""
        if self.training and self.aux1 is not None:
            self.check_images(x)
        for name in self.stem_names:
            x = self.get_submodule(name)(x)  # (N, 3, 224, 224) -> (N, 192, 28, 28)
        x = self.maxpool3(self.inception3b(self.inception3a(x)))  # -> (N, 480, 14, 14)
        x = at_4a = self.inception4a(x)  # -> (N, 512, 14, 14)
        x = at_4d = self.inception4d(self.inception4c(self.inception4b(x)))  # -> (N, 528, 14, 14)
        x = self.maxpool4(self.inception4e(x))  # -> (N, 832, 7, 7)
        x = self.avgpool(self.inception5b(self.inception5a(x)))  # -> (N, 1024, 1, 1)
        scores: Tensor = self.fc(self.dropout(x.flatten(1)))  # -> (N, K)
        if self.training and self.aux1 is not None and self.aux2 is not None:
            return scores, self.aux1(at_4a), self.aux2(at_4d)
        return scores
