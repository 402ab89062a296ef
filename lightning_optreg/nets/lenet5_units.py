"""The units of LeNet-5 that are no longer in use: LeCun, Bottou, Bengio, Haffner 1998, section II.B.

Its squashing function, subsampling with a trainable coefficient, a convolution that sees only some of the
maps before it, and an output layer that measures distances to fixed codes.
"""

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_optreg._checks import check_range

__all__ = ["C3_TABLE", "CodeDistance", "ScaledTanh", "Subsampling", "TableConv2d"]

# Table I of the paper: the maps of S2 that each map of C3 is connected to.
C3_TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


class ScaledTanh(nn.Module):
    """The squashing function 1.7159 tanh(2x / 3) of LeCun et al. 1998, which maps 1 to 1 and -1 to -1.

    Shape:
        any -> the same.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets.lenet5 import ScaledTanh
        >>> ScaledTanh()(torch.tensor([-1.0, 0.0, 1.0])).round(decimals=3)
        tensor([-1.,  0.,  1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Squash every element."""
        return 1.7159 * torch.tanh(x * (2 / 3))


class Subsampling(nn.Module):
    """Subsampling of S2 and S4: w_c times the sum of each 2x2 square of map c, plus b_c.

    The squares do not overlap; a last odd row or column is left out. Coefficients start at 1/4, which makes
    it the average, biases at 0.

    Args:
        maps: Number C of maps, at least 1.

    Shape:
        (N, C, H, W) -> (N, C, H // 2, W // 2).

    Raises:
        ValueError: If the number is out of range.

    Example:
        >>> import torch
        >>> from lightning_optreg.nets.lenet5_units import Subsampling
        >>> Subsampling(1)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
        tensor([[[[2.5000]]]], grad_fn=<AddBackward0>)
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        check_range("Subsampling", ">= 1", maps=maps)
        self.weight = nn.Parameter(torch.full((maps,), 0.25))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: Tensor) -> Tensor:
        """Subsample maps (N, C, H, W)."""
        sums = 4 * F.avg_pool2d(x, 2)  # no divisor_override=1: the ONNX exporter drops it without a word
        return sums * self.weight[:, None, None] + self.bias[:, None, None]


class TableConv2d(nn.Module):
    """A convolution each of whose output maps sees only the input maps that a table lists for it.

    Only the listed kernels exist: C3 of LeNet-5 has 60 of them, with 16 biases 1,516 parameters. To
    convolve, they are copied into a full kernel that is zero elsewhere; a single grouped convolution cannot
    express such a table.

    Args:
        in_channels: Number of input maps, at least 1.
        table: For each output map the numbers of its input maps, from 0; none twice.
        kernel_size: Height and width of a kernel in pixels, at least 1.

    Shape:
        (N, in_channels, H, W) -> (N, len(table), H - kernel_size + 1, W - kernel_size + 1).

    Raises:
        ValueError: If a number is out of range, or an output map has no or repeated inputs.

    Example:
        >>> from lightning_optreg.nets.lenet5_units import C3_TABLE, TableConv2d
        >>> sum(p.numel() for p in TableConv2d(6, C3_TABLE, 5).parameters())
        1516
    """

    positions: Tensor

    def __init__(self, in_channels: int, table: Sequence[Sequence[int]], kernel_size: int) -> None:
        super().__init__()
        if not min(in_channels, kernel_size, len(table)) >= 1:
            raise ValueError(
                "TableConv2d: in_channels, kernel_size and the table's length must be >= 1, got "
                f"{in_channels}, {kernel_size} and {len(table)}"
            )
        for row in table:
            if not row or len(set(row)) < len(row) or not 0 <= min(row) <= max(row) < in_channels:
                raise ValueError(
                    f"TableConv2d: each row of the table must be different numbers in [0, {in_channels}), "
                    f"got {tuple(row)}"
                )
        self.in_channels, self.kernel_size = in_channels, kernel_size
        self.table = tuple(tuple(row) for row in table)
        kernels = [(to, source) for to, row in enumerate(self.table) for source in row]
        self.weight = nn.Parameter(torch.zeros(len(kernels), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(len(table)))
        # Where each kernel is in the full one. It follows from the table: nothing to save.
        positions = torch.tensor([to * in_channels + source for to, source in kernels])
        self.register_buffer("positions", positions, persistent=False)

    def weights_of_maps(self) -> list[Tensor]:
        """The kernels of each output map, (1, inputs, kernel_size, kernel_size) each, to be initialised."""
        sizes = [len(row) for row in self.table]
        return [kernels[None] for kernels in torch.split(self.weight.detach(), sizes)]

    def full_weight(self) -> Tensor:
        """The kernel (maps, in_channels, kernel_size, kernel_size), zero where the table lists nothing."""
        k = self.kernel_size
        full = self.weight.new_zeros(len(self.table) * self.in_channels, k, k)
        return full.index_copy(0, self.positions, self.weight).view(-1, self.in_channels, k, k)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve maps (N, in_channels, H, W)."""
        return F.conv2d(x, self.full_weight(), self.bias)


class CodeDistance(nn.Module):
    """Radial basis function units: score k is minus the squared distance to the fixed code of class k.

        y_k = sum over j of (x_j - c_kj)^2,    score k = -y_k,    c_kj = +-1.

    With scores of this sign, cross entropy is the paper's criterion (equation 9, maximum a posteriori)
    without its constant for a class of rubbish: y of the true class + log of the sum over k of exp(-y_k).

    The paper takes drawings of the characters on 7x12 pixels as codes, and mentions codes "chosen at random
    with equal probabilities for -1 and +1". The latter are taken here, always the same ones, because they
    serve any classes. They have no gradients; another (K, features) tensor may be assigned to `codes`.

    Args:
        features: Number of inputs, at least 1; 84 in LeNet-5.
        num_classes: Number of classes K, at least 2 and at most 2^features.

    Shape:
        (N, features) -> (N, K).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from lightning_optreg.nets.lenet5_units import CodeDistance
        >>> output = CodeDistance(84, 10)
        >>> -output(output.codes[:2])[:, :2]  # the two differ in 43 places, each by 2
        tensor([[  0., 172.],
                [172.,   0.]])
    """

    codes: Tensor

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        check_range("CodeDistance", ">= 1", features=features)
        if not 2 <= num_classes <= 2**features:
            raise ValueError(
                f"CodeDistance: num_classes must be in [2, 2^features = {2**features}], got {num_classes}"
            )
        # A generator of its own: the codes are the same in every run, and torch's draws stay as they are.
        draw = random.Random(1998)
        codes: dict[tuple[int, ...], None] = {}
        while len(codes) < num_classes:  # no two alike
            codes[tuple(draw.choice((-1, 1)) for _ in range(features))] = None
        self.register_buffer("codes", torch.tensor(list(codes), dtype=torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        """Map states (N, features) to scores (N, K)."""
        # Differences, not |x|^2 - 2xc + |c|^2: in few bits that loses what tells classes apart.
        return -(x[:, None] - self.codes).square().sum(dim=2)
