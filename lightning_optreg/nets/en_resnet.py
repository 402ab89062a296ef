"""EnResNet: an ensemble of residual networks with noise after each block, trained together.

Wang, Yuan, Shi, Osher, "ResNets ensemble via the Feynman-Kac formalism to improve natural and robust
accuracies", 2019 (arXiv:1811.10745). A residual network is a step-by-step solution of a transport equation;
noise in each step adds diffusion, which smooths the decision boundary, and the solution of the equation is
then a mean over noisy paths: here, over the members' noisy forward passes.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.layers import GaussianNoise
from lightning_optreg.layers.averages import Average, average_outputs
from lightning_optreg.nets._forms import cifar_blocks
from lightning_optreg.nets._preactivation_blocks import PreactBasicBlock
from lightning_optreg.nets._residual_blocks import ResidualBlock
from lightning_optreg.nets.network import Network
from lightning_optreg.nets.residual_network import ResidualNetwork

__all__ = ["EnResNet", "NoisyBlock"]

Std = Literal["image", "batch"]


class EnResNet(Network):
    """The mean score of noisy pre-activation ResNets: f(x) = 1/n (f_1(x) + ... + f_n(x)).

    Each member is a CIFAR ResNet of depth 6n + 2 whose blocks end with y + c std(y) N(0, I); all are
    trained with one loss on the mean score. As in the authors' code (github.com/BaoWangMath/EnResNet), the
    mean is that of scores; the theory's is that of probabilities (`average`). As there, the stem has no
    batch normalisation, shortcuts that change the shape are 1x1 convolutions of relu(BN(x)), and the noise
    stays on at test. Unlike there, the standard deviation is taken over each image: over the whole batch,
    as theirs, an image's score depends on the other images.

    Weights are initialised as in `ResidualNetwork`, differently in each member.

    Args:
        num_classes: Number of classes K, at least 2. Default: 10.
        input_shape: Channels, height and width (C, H, W) of one image. The network takes images of any size;
            only C matters. Default: (1, 28, 28).
        depth: Number of weighted layers of a member, 6n + 2 with n >= 1. Default: 20.
        members: Number n of members, at least 1; the paper takes 1, 2 and 5. Default: 2.
        noise: Noise coefficient c, at least 0; with 0 there is no noise. Default: 0.1.
        std: What the standard deviation is taken over: the activations of an `image`, or of the `batch` as in
            the authors' code. Default: image.
        noise_at_test: Whether the noise is on in evaluation too, so that two evaluations differ. Default:
            True, as in the authors' code.
        width: Channels of the first stage, at least 1. Default: 16.
        average: What is averaged over the members: `outputs`, their scores, or `probabilities`, which gives
            log(1/n sum over i of softmax(f_i)); see `average_outputs`. The attribute may be changed after
            training. Default: outputs.

    Raises:
        ValueError: If a number is out of range or an option is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets import EnResNet
        >>> net = EnResNet(input_shape=(3, 32, 32), depth=20, members=2)
        >>> sum(p.numel() for p in net.parameters())
        544564
        >>> net(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: tuple[int, int, int] = (1, 28, 28),
        *,
        depth: int = 20,
        members: int = 2,
        noise: float = 0.1,
        std: Std = "image",
        noise_at_test: bool = True,
        width: int = 16,
        average: Average = "outputs",
    ) -> None:
        super().__init__(num_classes, input_shape)
        blocks = cifar_blocks("EnResNet", depth, 6, 2, "8, 14, 20, 32")
        check_range("EnResNet", ">= 1", members=members, width=width)
        check_range("EnResNet", "[0, inf)", noise=noise)
        check_choice("EnResNet", ("image", "batch"), std=std)
        check_choice("EnResNet", ("outputs", "probabilities"), average=average)
        self.average = average

        def make_block(
            in_channels: int, out_channels: int, *, stage: int, stride: int, first: bool
        ) -> ResidualBlock:
            block = NoisyBlock(in_channels, out_channels, stride=stride, noise=noise, std=std)
            block.noise.sampling = noise_at_test
            return block

        self.members = nn.ModuleList(
            ResidualNetwork(
                num_classes,
                input_shape,
                stem="small",
                stem_channels=width,
                blocks=blocks,
                channels=[width, 2 * width, 4 * width],
                make_block=make_block,
                stem_norm=False,
                final_norm=True,
                zero_init_residual=False,
            )
            for _ in range(members)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to mean scores (N, K)."""
        # A loop. Forward + backward of 2 or 3 members of depth 20 (batch 128, 32x32, one CPU thread) take
        # 1.04 to 1.08 times as long with grouped convolutions (1.1 with 2 threads) and 1.6 to 1.8
        # times as long (1.5 to 2.4) with stack_module_state and vmap: scripts/bench/en_resnet.py.
        if self.average == "probabilities":
            return average_outputs(torch.stack([member(x) for member in self.members]), "probabilities")
        first, *others = self.members
        scores: Tensor = first(x)
        for member in others:
            scores = scores + member(x)
        return scores / len(self.members)


class NoisyBlock(PreactBasicBlock):
    """A pre-activation block and noise after it: y = F(x) + shortcut(x), then y + c std(y) N(0, I).

    Args:
        in_channels: Channels of x, at least 1.
        out_channels: Channels of the output, at least 1.
        stride: Stride of the first convolution, 1 or 2. Default: 1.
        noise: Noise coefficient c, at least 0. Default: 0.1.
        std: `image` or `batch`, see `EnResNet`. Default: image.

    Raises:
        ValueError: If a number is out of range or an option is unknown.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets.en_resnet import NoisyBlock
        >>> NoisyBlock(16, 32, stride=2)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, noise: float = 0.1, std: Std = "image"
    ) -> None:
        super().__init__(in_channels, out_channels, stride=stride, shortcut="B")
        self.noise = GaussianNoise(noise, relative_to=std)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        y: Tensor = self.noise(super().forward(x))
        return y
