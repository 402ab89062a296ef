"""Vector fields in the plane for the transport equation: given ones, and that of a small trained network."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_optreg._checks import check_range
from lightning_optreg.analysis.transport import TransportProblem

__all__ = ["TRANSPORTS", "PointResNet", "train_point_resnet", "two_spirals"]


def _step(x: Tensor) -> Tensor:
    """softmax(W_fc x) of the second of two classes, with W_fc x = (-10 x_1, 10 x_1)."""
    return torch.sigmoid(20 * x[..., 0])


def _rotation(x: Tensor, t: float) -> Tensor:
    return math.pi / 2 * torch.stack([-x[..., 1], x[..., 0]], dim=-1)


def _shear(x: Tensor, t: float) -> Tensor:
    return torch.stack([torch.sin(math.pi * x[..., 1]), torch.zeros_like(x[..., 1])], dim=-1)


def _swirl(x: Tensor, t: float) -> Tensor:
    speed = 2 * math.pi * (-x.square().sum(-1, keepdim=True)).exp()
    return speed * torch.stack([-x[..., 1], x[..., 0]], dim=-1)


_F = r"f(x) = 1/(1 + e^{-20 x_1})"
TRANSPORTS = {
    problem.name: problem
    for problem in (
        TransportProblem("rotation", _rotation, _step, 1, rf"F(x) = \pi/2\,(-x_2, x_1),\ {_F}"),
        TransportProblem("shear", _shear, _step, 1, rf"F(x) = (\sin \pi x_2, 0),\ {_F}"),
        TransportProblem("swirl", _swirl, _step, 1, rf"F(x) = 2\pi\, e^{{-|x|^2}} (-x_2, x_1),\ {_F}"),
        TransportProblem("contraction", lambda x, t: -x, _step, 1, rf"F(x) = -x,\ {_F}"),
    )
}
"""Given fields by their names; f is a softmax over two classes, a smooth step along x_1."""


class PointResNet(nn.Module):
    """A residual network on points of the plane: x_{l+1} = x_l + dt F(x_l, W_l), scores W_fc x_L.

    F(x, W_l) = V_l tanh(U_l x + b_l) and dt = 1 / depth; W_fc has no bias, as in the lecture. The hyperbolic
    tangent keeps F smooth and bounded. Weights are float64, and are taken in the type of the points.

    Args:
        depth: Number of residual blocks L, at least 1. Default: 10.
        width: Hidden units of a block, at least 1. Default: 16.
        seed: Seed of the initial weights. Default: 0.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> net = PointResNet(depth=3)
        >>> net(torch.zeros(5, 2, dtype=torch.float64)).shape
        torch.Size([5, 2])
        >>> net.problem().pieces
        3
    """

    def __init__(self, depth: int = 10, width: int = 16, seed: int = 0) -> None:
        check_range("PointResNet", ">= 1", depth=depth, width=width)
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, std: float = 1.0) -> nn.Parameter:
            values = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return nn.Parameter(std * values)

        self.inner = normal(depth, width, 2)  # U: bends of the tanh across the data, which are of order 1
        self.bias = normal(depth, width)
        self.outer = normal(depth, 2, width, std=0.5 / math.sqrt(width))  # V: F starts as a small one
        # W_fc: steep beside the data, so that f hardly blurs the classes and short paths suffice.
        self.classifier = nn.Parameter(torch.tensor([[-4.0, 0.0], [4.0, 0.0]], dtype=torch.float64))

    @property
    def depth(self) -> int:
        """The number of residual blocks L."""
        return len(self.inner)

    def residual(self, x: Tensor, layer: int) -> Tensor:
        """F(x, W_l), the residual over dt.

        Args:
            x: Points (..., 2).
            layer: l, from 0.
        """
        inner, bias, outer = (w[layer].to(x.dtype) for w in (self.inner, self.bias, self.outer))
        return torch.tanh(x @ inner.T + bias) @ outer.T

    def forward(self, x: Tensor) -> Tensor:
        """Map points (..., 2) to scores (..., 2)."""
        for layer in range(self.depth):
            x = x + self.residual(x, layer) / self.depth
        return x @ self.classifier.T.to(x.dtype)

    def problem(self) -> TransportProblem:
        """Return its F, piecewise constant in t, and f, the probability of the second class."""

        def terminal(x: Tensor) -> Tensor:
            return (x @ self.classifier.T.to(x.dtype)).softmax(-1)[..., 1]

        def field(x: Tensor, t: float) -> Tensor:
            return self.residual(x, int(t * self.depth))

        return TransportProblem("trained", field, terminal, self.depth)


def two_spirals(
    count: int = 400, *, turns: float = 0.9, noise: float = 0.03, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw points of two classes on two spirals that wind around each other.

    Class k is at the angle 2 pi turns r + k pi and the radius 1.2 r, 0.1 <= r <= 1, plus normal noise.

    Args:
        count: Number of points, at least 2; half of them of each class. Default: 400.
        turns: How often a spiral winds around, > 0. Default: 0.9.
        noise: Standard deviation of the noise, >= 0. Default: 0.03.
        seed: Seed of the points. Default: 0.

    Returns:
        Points (count, 2) in float64 and labels 0 and 1, (count,).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> points, labels = two_spirals(4, noise=0.0)
        >>> points.shape, labels
        (torch.Size([4, 2]), tensor([0, 1, 0, 1]))
    """
    check_range("two_spirals", ">= 2", count=count)
    check_range("two_spirals", "(0, inf)", turns=turns)
    check_range("two_spirals", "[0, inf)", noise=noise)
    generator = torch.Generator().manual_seed(seed)
    # The square root: as many points on each part of a spiral, whose length grows with r.
    r = 0.1 + 0.9 * torch.rand(count, generator=generator, dtype=torch.float64).sqrt()
    labels = torch.arange(count) % 2
    angle = 2 * math.pi * turns * r + math.pi * labels
    points = 1.2 * r[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return points + noise * torch.randn(points.shape, generator=generator, dtype=torch.float64), labels


def train_point_resnet(
    points: Tensor,
    labels: Tensor,
    *,
    depth: int = 10,
    width: int = 16,
    steps: int = 300,
    lr: float = 0.02,
    energy: float = 0.02,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PointResNet:
    """Train a small residual network on points, by Adam on all of them at once.

    The loss is the cross-entropy plus energy * mean_i int_0^1 |F(x_i(t), t)|^2 dt. The kinetic energy
    (Finlay, Jacobsen, Nurbekyan, Oberman 2020, "How to train your neural ODE", arXiv:2002.02798) keeps the
    paths short, and F smooth enough for the network's few Euler steps to follow its differential equation.

    Args:
        points: Points (n, 2) in float64; the network is trained on their device.
        labels: 0 or 1, (n,).
        depth: Number of residual blocks. Default: 10.
        width: Hidden units of a block. Default: 16.
        steps: Number of steps, at least 2. Default: 300.
        lr: Largest learning rate, of one cosine cycle, > 0. Default: 0.02.
        energy: Weight of the kinetic energy, >= 0. Default: 0.02.
        seed: Seed of the initial weights. Default: 0.
        progress: Called with the number of steps done and of all.

    Returns:
        The trained network, which takes no more gradients.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> points = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
        >>> net = train_point_resnet(points, torch.tensor([1, 0]), depth=2, steps=60)
        >>> net(points).argmax(1)
        tensor([1, 0])
    """
    check_range("train_point_resnet", ">= 2", steps=steps)
    check_range("train_point_resnet", "(0, inf)", lr=lr)
    check_range("train_point_resnet", "[0, inf)", energy=energy)
    net = PointResNet(depth, width, seed).to(points.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for step in range(steps):
        x, squares = points, points.new_zeros(())
        for layer in range(depth):
            velocity = net.residual(x, layer)
            squares = squares + velocity.square().sum(1).mean()
            x = x + velocity / depth
        loss = cross_entropy(x @ net.classifier.T, labels) + energy * squares / depth
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        progress(step + 1, steps)
    return net.requires_grad_(False)
