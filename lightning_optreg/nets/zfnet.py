"""ZFNet: Zeiler and Fergus, "Visualizing and understanding convolutional networks", 2014 (arXiv:1311.2901).

AlexNet with a first layer that looks more closely: pictures of its filters showed that 11x11 kernels with
stride 4 caught only high and low frequencies and aliased, so they became 7x7 with stride 2.
"""

from collections import OrderedDict

from torch import nn

from lightning_optreg.nets._five_convolutions import FiveConvolutions, Init, pool_and_norm
from lightning_optreg.nets._forms import Stem, choose_stem

__all__ = ["ZFNet"]


class ZFNet(FiveConvolutions):
    """ZFNet: AlexNet with a 7x7 first convolution of stride 2 and a 5x5 second one of stride 2.

    For a 224x224 image, as height x width x channels:

        CONV1 96 7x7, stride 2, pad 1     110x110x96
        POOL1 3x3, stride 2, NORM1        55x55x96
        CONV2 256 5x5, stride 2, pad 0    26x26x256
        POOL2 3x3, stride 2, NORM2        13x13x256
        CONV3 384 3x3, pad 1              13x13x384
        CONV4 384 3x3, pad 1              13x13x384
        CONV5 256 3x3, pad 1              13x13x256
        POOL3 3x3, stride 2               6x6x256
        FC6, FC7                          4096
        FC8                               1000

    The sizes are those of the paper's figure 3; it names neither paddings nor the constants of its contrast
    normalisation across maps. CONV1's padding and pooling that rounds sizes up are what those sizes need; the
    normalisation is AlexNet's. There are 62,357,608 parameters. The lecture's wider network of the 2013
    challenge has `channels=(96, 256, 512, 1024, 512)`.

    Small images have the same layers but a stem that keeps their size: CONV1 is 3x3 and CONV2 5x5, both with
    stride 1 and as much padding as that takes: 32 becomes 16, 8, 4, and 28 becomes 14, 7, 3. This small form
    is ours.

    The paper's weights start as N(0, 0.01^2), biases at 0 (its section 3 sets weights to 0.01, where some
    spread must be meant). That is for layers as wide as the paper's and pixels of 0 to 255; see `AlexNet`.

    Args:
        num_classes: Number of classes K, at least 2. Default: 1000.
        input_shape: Channels, height and width (C, H, W) of one image. Default: (3, 224, 224).
        channels: Channels of the five convolutions, each at least 1. Default: (96, 256, 384, 384, 256).
        hidden: Units of FC6 and of FC7, at least 1. Default: 4096.
        dropout: Probability p to drop an input of FC7 and of FC8, in [0, 1). Default: 0.5.
        init: `normal`, the paper's weights; `he`, N(0, 2 / fan_in) (He et al. 2015, arXiv:1502.01852);
            `auto`, `normal` with the ImageNet stem, `he` with the small one. Default: auto.
        stem: `imagenet`, the list above; `small`, that for small images; `auto`, `small` if the smaller of H
            and W is below 96. Default: auto.

    Shape:
        images (N, C, H, W) -> scores (N, K). The size of FC6's input follows from `input_shape`.

    Raises:
        ValueError: If a number is out of range, an option is unknown or the image is too small.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import ZFNet
        >>> with torch.device("meta"):
        ...     net = ZFNet()
        >>> sum(p.numel() for p in net.parameters())
        62357608
        >>> net = ZFNet(10, (1, 28, 28), channels=(8, 16, 16, 16, 8), hidden=32)
        >>> net(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 1000,
        input_shape: tuple[int, int, int] = (3, 224, 224),
        *,
        channels: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256),
        hidden: int = 4096,
        dropout: float = 0.5,
        init: Init = "auto",
        stem: Stem = "auto",
    ) -> None:
        super().__init__(num_classes, input_shape)
        self.check_options(channels, hidden, dropout, init)
        stem = choose_stem("ZFNet", stem, input_shape)

        c1, c2, c3, c4, c5 = channels
        first, second = (
            (nn.Conv2d(input_shape[0], c1, 3, padding=1), nn.Conv2d(c1, c2, 5, padding=2))
            if stem == "small"
            else (nn.Conv2d(input_shape[0], c1, 7, stride=2, padding=1), nn.Conv2d(c1, c2, 5, stride=2))
        )
        self.features = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=first,
                relu1=nn.ReLU(inplace=True),
                **pool_and_norm(1, "pool_norm", ceil_mode=True),
                conv2=second,
                relu2=nn.ReLU(inplace=True),
                **pool_and_norm(2, "pool_norm", ceil_mode=True),
                conv3=nn.Conv2d(c2, c3, 3, padding=1),
                relu3=nn.ReLU(inplace=True),
                conv4=nn.Conv2d(c3, c4, 3, padding=1),
                relu4=nn.ReLU(inplace=True),
                conv5=nn.Conv2d(c4, c5, 3, padding=1),
                relu5=nn.ReLU(inplace=True),
                pool3=nn.MaxPool2d(3, stride=2, ceil_mode=True),
            )
        )
        self.add_classifier(c5, hidden, dropout, stem)
        self.initialise(init, stem)
