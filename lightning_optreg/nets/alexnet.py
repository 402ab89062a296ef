"""AlexNet: five convolutions and three fully connected layers, the network that won the challenge of 2012.

Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012. The
convolutions have ReLU, three of them are followed by overlapping max-pooling and two by local response
normalisation, then come two hidden layers with dropout. Layers bear the names of the lecture's list: CONV1 is
`features.conv1`. This is not torchvision's `alexnet`, which is the network of "One weird trick for
parallelizing convolutional neural networks" (Krizhevsky 2014): fewer channels, no normalisation.
"""

from collections import OrderedDict
from typing import Literal

from torch import nn

from lightning_optreg._checks import check_choice
from lightning_optreg.nets._five_convolutions import FiveConvolutions, Init, NormOrder, pool_and_norm
from lightning_optreg.nets._forms import Stem, choose_stem

__all__ = ["AlexNet"]

ONE_BIAS = ("features.conv2", "features.conv4", "features.conv5", "classifier.fc6", "classifier.fc7")


class AlexNet(FiveConvolutions):
    """AlexNet in one tower or two: five convolutions and three fully connected layers.

    For a 227x227 image the lecture lists, as height x width x channels:

        CONV1 96 11x11, stride 4, pad 0   55x55x96
        POOL1 3x3, stride 2               27x27x96
        NORM1                             27x27x96
        CONV2 256 5x5, pad 2              27x27x256
        POOL2 3x3, stride 2               13x13x256
        NORM2                             13x13x256
        CONV3 384 3x3, pad 1              13x13x384
        CONV4 384 3x3, pad 1              13x13x384
        CONV5 256 3x3, pad 1              13x13x256
        POOL3 3x3, stride 2               6x6x256
        FC6, FC7                          4096
        FC8                               1000

    That is the default, with a ReLU after each layer but the last. The paper differs in two points:
    normalisation comes before pooling (`order="norm_pool"`), and channels are divided between two GPUs that
    see each other's only in CONV3 (`groups=2`: CONV2, CONV4 and CONV5 in two groups). One tower has
    62,378,344 parameters, two 60,965,224. The paper speaks of 224x224 images, but 55 places need 227 pixels.

    Small images have the same layers but a stem that keeps their size: CONV1 is 5x5 with stride 1 and
    padding 2, as in the author's networks for CIFAR-10 (code.google.com/p/cuda-convnet), and pooling rounds
    sizes up: 32 becomes 16, 8, 4, and 28 becomes 14, 7, 3. The rest is as above; this small form is ours.

    The paper's weights start as N(0, 0.01^2), biases at 1 in CONV2, CONV4, CONV5, FC6 and FC7, which gives
    their ReLUs positive inputs at first, and at 0 elsewhere (section 5). That is for layers as wide as the
    paper's and for pixels of 0 to 255. In narrower layers, or with pixels on [0, 1], the signal all but
    vanishes before the last layer, and learning begins late or never: `init="he"` keeps it.

    Args:
        num_classes: Number of classes K, at least 2. Default: 1000.
        input_shape: Channels, height and width (C, H, W) of one image. Default: (3, 227, 227).
        groups: 1 for one tower, 2 for the paper's two; channels must be even then. Default: 1.
        order: `pool_norm`, the lecture's, or `norm_pool`, the paper's order of POOL1 and NORM1, POOL2 and
            NORM2. Default: pool_norm.
        channels: Channels of the five convolutions, each at least 1. Default: (96, 256, 384, 384, 256).
        hidden: Units of FC6 and of FC7, at least 1. Default: 4096.
        dropout: Probability p to drop an input of FC7 and of FC8, in [0, 1). Default: 0.5.
        init: `normal`, the paper's weights N(0, 0.01^2) and biases; `he`, N(0, 2 / fan_in) (He et al. 2015,
            arXiv:1502.01852) with biases at 0; `auto`, `normal` with the ImageNet stem, `he` with the small
            one. Default: auto.
        stem: `imagenet`, the list above; `small`, that for small images; `auto`, `small` if the smaller of H
            and W is below 96. Default: auto.

    Shape:
        images (N, C, H, W) -> scores (N, K). The size of FC6's input follows from `input_shape`.

    Raises:
        ValueError: If a number is out of range, an option is unknown or the image is too small.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import AlexNet
        >>> with torch.device("meta"):
        ...     one, two = AlexNet(), AlexNet(groups=2)
        >>> [sum(p.numel() for p in net.parameters()) for net in (one, two)]
        [62378344, 60965224]
        >>> net = AlexNet(10, (1, 28, 28), channels=(8, 16, 16, 16, 8), hidden=32)
        >>> net(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 1000,
        input_shape: tuple[int, int, int] = (3, 227, 227),
        *,
        groups: Literal[1, 2] = 1,
        order: NormOrder = "pool_norm",
        channels: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256),
        hidden: int = 4096,
        dropout: float = 0.5,
        init: Init = "auto",
        stem: Stem = "auto",
    ) -> None:
        super().__init__(num_classes, input_shape)
        check_choice("AlexNet", (1, 2), groups=groups)
        check_choice("AlexNet", ("pool_norm", "norm_pool"), order=order)
        self.check_options(channels, hidden, dropout, init)
        if groups == 2 and any(count % 2 for count in channels):
            raise ValueError(f"AlexNet: with two groups, channels must be even, got {channels}")
        stem = choose_stem("AlexNet", stem, input_shape)
        small = stem == "small"

        c1, c2, c3, c4, c5 = channels
        first = (
            nn.Conv2d(input_shape[0], c1, 5, padding=2)
            if small
            else nn.Conv2d(input_shape[0], c1, 11, stride=4)
        )
        self.features = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=first,
                relu1=nn.ReLU(inplace=True),
                **pool_and_norm(1, order, ceil_mode=small),
                conv2=nn.Conv2d(c1, c2, 5, padding=2, groups=groups),
                relu2=nn.ReLU(inplace=True),
                **pool_and_norm(2, order, ceil_mode=small),
                conv3=nn.Conv2d(c2, c3, 3, padding=1),
                relu3=nn.ReLU(inplace=True),
                conv4=nn.Conv2d(c3, c4, 3, padding=1, groups=groups),
                relu4=nn.ReLU(inplace=True),
                conv5=nn.Conv2d(c4, c5, 3, padding=1, groups=groups),
                relu5=nn.ReLU(inplace=True),
                pool3=nn.MaxPool2d(3, stride=2, ceil_mode=small),
            )
        )
        self.add_classifier(c5, hidden, dropout, stem)
        self.initialise(init, stem, one_bias=ONE_BIAS)
