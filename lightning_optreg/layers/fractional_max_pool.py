"""Fractional max-pooling: pooling by a factor between 1 and 2, with windows whose places are random.

Graham, "Fractional max-pooling", 2014 (arXiv:1412.6071). N_in rows become N_out with 1 < N_in / N_out < 2:
the edges a_0 < a_1 < ... of the windows lie one or two rows apart, in an order that is drawn again for each
forward pass, for rows and columns independently.
"""

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_optreg._checks import check_choice, check_range
from lightning_optreg.layers.noise import NoiseLayer

__all__ = ["FractionalMaxPool", "pool_windows", "random_edges"]

Regions = Literal["random", "pseudorandom", "fixed"]
Windows = Literal["overlapping", "disjoint", "2x2", "3x3"]


def random_edges(total: int, count: int, regions: Regions, device: torch.device) -> Tensor:
    """Edges a_0 = 0 < a_1 < ... < a_count = total that lie 1 or 2 apart.

    `random`: ones and twos in an order drawn from all their orders. `pseudorandom`: evenly spread, a_i =
    ceil(alpha (i + u)) - ceil(alpha u) with alpha = total / count and u ~ U(0, 1). `fixed`: with u = 1/2.

    Args:
        total: The last edge, between `count` and twice `count`.
        count: Number of steps, at least 0.
        regions: See above.
        device: Where the edges are drawn.

    Returns:
        Edges (count + 1,), int64.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.fractional_max_pool import random_edges
        >>> random_edges(7, 5, "fixed", torch.device("cpu"))
        tensor([0, 2, 3, 4, 6, 7])
    """
    if count == 0:
        return torch.zeros(1, dtype=torch.int64, device=device)
    if regions == "random":
        steps = 1 + (torch.randperm(count, device=device) < total - count).long()
        return F.pad(steps.cumsum(0), (1, 0))
    # In integers: alpha (i + u) = (total i + total u) / count, and of total u only its ceiling matters.
    if regions == "pseudorandom":
        shift = torch.randint(1, total + 1, (), device=device)
    else:
        shift = torch.full((), (total + 1) // 2, device=device)
    edges = (torch.arange(count + 1, device=device) * total + shift + count - 1) // count
    return edges - edges[0]


def pool_windows(
    x: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], width: int
) -> Tensor:
    """The maximum of x over windows that are the same for all images and channels.

    Args:
        x: Activations (N, C, H, W).
        rows: First and last row of each window, both (H',), at most `width` rows apart from before the first
            to the last.
        columns: First and last column of each window, both (W',).
        width: Number of rows or columns of the largest window.

    Returns:
        Maxima (N, C, H', W').

    Example:
        >>> import torch
        >>> from lightning_optreg.layers.fractional_max_pool import pool_windows
        >>> x = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> windows = torch.tensor([0, 1]), torch.tensor([0, 2])  # row 0; rows 1 and 2
        >>> pool_windows(x, windows, windows, 2)
        tensor([[[[0., 2.],
                  [6., 8.]]]])
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        along_rows = functools.reduce(torch.maximum, _entries(x, 2, *rows, width))
        return functools.reduce(torch.maximum, _entries(along_rows, 3, *columns, width))
    # Where the maxima are, first along rows, then along columns; then one gather, through which gradients
    # flow back. Forward and backward take 0.8 times as long as torch's kernel does on a CPU
    # (scripts/bench/layers.py); differentiating torch.maximum took three times as long.
    with torch.no_grad():
        along_rows, row = _maximum_and_place(_entries(x.detach(), 2, *rows, width))
        _, column = _maximum_and_place(_entries(along_rows, 3, *columns, width))
        column = columns[0] + column  # (N, C, H', W')
        row = rows[0][:, None] + row.gather(3, column)
        place = row * x.shape[3] + column
    return x.flatten(2).gather(2, place.flatten(2)).reshape(place.shape)


def _entries(x: Tensor, dim: int, first: Tensor, last: Tensor, width: int) -> list[Tensor]:
    """The first entry of all windows, the second, and so on; a short window has its last more than once."""
    return [x.index_select(dim, torch.minimum(first + step, last)) for step in range(width)]


def _maximum_and_place(entries: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The largest entry of each window, and how far behind the first it is (uint8)."""
    best = entries[0]
    place = torch.zeros_like(best, dtype=torch.uint8)
    for step, other in enumerate(entries[1:], start=1):
        better = (other > best) | other.isnan()  # as in torch's pooling, NaN is larger than any number
        best = torch.maximum(best, other)
        place = torch.maximum(place, step * better.to(torch.uint8))
    return best, place


class FractionalMaxPool(NoiseLayer):
    """Max-pooling by a factor `ratio` between 1 and 2 over windows that are drawn again in each forward pass.

    With edges a_0, ..., a_n one or two rows apart (and b for columns), window i is, as in the paper,

        overlapping:  rows a_{i-1} to a_i, two or three rows, one of them shared with the next window
        disjoint:     rows a_{i-1} to a_i - 1, one or two rows

    or, with `2x2` and `3x3`, the two or three rows from an edge on: these are the windows of
    `torch.nn.FractionalMaxPool2d`, whose kernel then serves if the regions are pseudo-random. Unlike there,
    one draw serves all images and channels, as in the paper, and evaluation need not be random. The disjoint
    windows cover all rows; read literally, the paper's formula leaves out the last.

    The paper found random, overlapping windows best. Its prediction is the mean over several forward passes
    of the network: switch `sampling` on for them.

    On a GPU, torch adds the gradients of windows that overlap in any order, so that runs repeat up to
    rounding; `Trainer(deterministic=True)` makes them repeat to the bit.

    Args:
        ratio: N_in / N_out, in [1, 2], such as 2^(1/2) or 2^(1/3). With 1 the layer is the identity and draws
            nothing. N_out is N_in / ratio rounded down, or the nearest number for which there are such edges.
        regions: `random` or `pseudorandom`: whether the steps of one and two are in any order or evenly
            spread, see `random_edges`. Default: random.
        windows: `overlapping`, `disjoint`, `2x2` or `3x3`. Default: overlapping.
        at_test: `fixed`, evenly spread edges without randomness; `average`, the mean of the layer's output
            over `samples` draws; `random`, one draw, as in torch. Default: fixed.
        samples: Number of draws of `average`, at least 1; the cost is that many times as high. Default: 10.

    Shape:
        (N, C, H, W) -> (N, C, H / ratio, W / ratio), see `ratio`.

    Raises:
        ValueError: If a number is out of range or an option is unknown; in `forward`, if H or W is
            smaller than a window.

    Example:
        >>> import torch
        >>> from lightning_optreg.layers import FractionalMaxPool
        >>> pool = FractionalMaxPool(2**0.5)
        >>> pool(torch.randn(2, 3, 36, 36)).shape
        torch.Size([2, 3, 25, 25])
    """

    def __init__(
        self,
        ratio: float,
        *,
        regions: Literal["random", "pseudorandom"] = "random",
        windows: Windows = "overlapping",
        at_test: Literal["fixed", "average", "random"] = "fixed",
        samples: int = 10,
    ) -> None:
        super().__init__()
        check_range("FractionalMaxPool", "[1, 2]", ratio=ratio)
        check_choice("FractionalMaxPool", ("random", "pseudorandom"), regions=regions)
        check_choice("FractionalMaxPool", ("overlapping", "disjoint", "2x2", "3x3"), windows=windows)
        check_choice("FractionalMaxPool", ("fixed", "average", "random"), at_test=at_test)
        check_range("FractionalMaxPool", ">= 1", samples=samples)
        self.ratio = ratio
        self.regions: Regions = regions
        self.windows: Windows = windows
        self.at_test = at_test
        self.samples = samples

    def forward(self, x: Tensor) -> Tensor:
        """Pool activations (N, C, H, W)."""
        if self.ratio == 1.0:
            return x
        if self.noisy or self.at_test == "random":
            return self._pool(x, self.regions)
        if self.at_test == "fixed":
            return self._pool(x, "fixed")
        total = self._pool(x, self.regions)
        for _ in range(self.samples - 1):
            total = total + self._pool(x, self.regions)
        return total / self.samples

    def output_size(self, size: int) -> int:
        """How many of `size` rows or columns are left.

        Args:
            size: N_in, at least the width of a window: 2 or, with windows of `3x3`, 3 (1 if `disjoint`).

        Returns:
            N_out.

        Raises:
            ValueError: If `size` is too small.
        """
        return self._steps(size)[1] + self._fixed_width

    @property
    def _fixed_width(self) -> bool:
        """Whether windows start at every edge, the last included."""
        return self.windows in ("2x2", "3x3")

    def _steps(self, size: int) -> tuple[int, int]:
        """The last edge and the number of steps up to it."""
        total = size - {"overlapping": 1, "disjoint": 0, "2x2": 2, "3x3": 3}[self.windows]
        if not total >= (0 if self._fixed_width else 1):
            raise ValueError(
                f"FractionalMaxPool: activations of height or width {size} are too small for windows"
                f" {self.windows!r}"
            )
        # 33 / 1.1 is 30, but 29.999... in floating point
        wanted = math.floor(size / self.ratio + 1e-6) - self._fixed_width
        return total, min(max(wanted, (total + 1) // 2), total)

    def _pool(self, x: Tensor, regions: Regions) -> Tensor:
        if self._fixed_width and regions != "random":
            return self._pool_by_torch(x, regions)
        rows, columns = (self._draw(size, regions, x.device) for size in x.shape[2:])
        return pool_windows(x, rows, columns, 2 if self.windows in ("disjoint", "2x2") else 3)

    def _draw(self, size: int, regions: Regions, device: torch.device) -> tuple[Tensor, Tensor]:
        """First and last entry of each window."""
        edges = random_edges(*self._steps(size), regions, device)
        if self._fixed_width:
            return edges, edges + (1 if self.windows == "2x2" else 2)
        return edges[:-1], edges[1:] - (1 if self.windows == "disjoint" else 0)

    def _pool_by_torch(self, x: Tensor, regions: Regions) -> Tensor:
        sizes = [self.output_size(size) for size in x.shape[2:]]
        # Torch's u, for columns and rows; it would draw others for each image and channel.
        u = torch.full((2,), 0.5, device=x.device) if regions == "fixed" else torch.rand(2, device=x.device)
        u = u.to(x.dtype).expand(*x.shape[:2], 2)
        y: Tensor = F.fractional_max_pool2d(x, int(self.windows[0]), sizes, None, False, u)
        return y

    def extra_repr(self) -> str:
        """The settings, for print(net)."""
        return (
            f"ratio={self.ratio:.6g}, regions={self.regions}, windows={self.windows}, at_test={self.at_test}"
        )
