"""Loss surfaces of two variables, to watch optimizers on.

Each is a pure function of tensors x and y of any shape, with a start for runs on it and with its minima in
closed form, or to the last digit where they are roots of a polynomial.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SURFACES", "Surface"]


@dataclass(frozen=True)
class Surface:
    """A loss surface f(x, y).

    Args:
        name: Its name on the command line.
        function: f, of two tensors of one shape; values have that shape.
        formula: f in TeX, for the figure's title.
        start: (x, y) where a run starts.
        window: (x from, x to, y from, y to), the part that a figure shows.
        minima: The global minima, all of value 0. Empty: f is not bounded from below.
        saddle_points: Saddle points to mark.

    Example:
        >>> surface = SURFACES["beale"]
        >>> surface.function(torch.tensor(3.0), torch.tensor(0.5))
        tensor(0.)
        >>> surface.minima
        ((3.0, 0.5),)
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    formula: str
    start: tuple[float, float]
    window: tuple[float, float, float, float]
    minima: tuple[tuple[float, float], ...] = ()
    saddle_points: tuple[tuple[float, float], ...] = ()

    @property
    def title(self) -> str:
        """The name as a title: `Beale`."""
        return self.name.capitalize()


def beale(x: Tensor, y: Tensor) -> Tensor:
    """Beale (1958): a curved valley between steep walls; minimum at (3, 1/2)."""
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    """Rosenbrock (1960): a flat bent valley, quick to find and slow to follow; minimum at (1, 1)."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def saddle(x: Tensor, y: Tensor) -> Tensor:
    """Hyperbolic paraboloid: up along x, down along y; the gradient is zero at the saddle point (0, 0)."""
    return x**2 - y**2


def ravine(x: Tensor, y: Tensor) -> Tensor:
    """Ellipses, steeper across than along: a quadratic with eigenvalues 1/10 and 2; minimum at (0, 0)."""
    return x**2 / 20 + y**2


def himmelblau(x: Tensor, y: Tensor) -> Tensor:
    """Himmelblau (1972): four equal minima around one hill; the start decides which of them is found."""
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def rastrigin(x: Tensor, y: Tensor) -> Tensor:
    """Rastrigin (1974): a bowl with a local minimum near each pair of integers; global minimum at (0, 0)."""
    return 20 + x**2 - 10 * torch.cos(2 * math.pi * x) + y**2 - 10 * torch.cos(2 * math.pi * y)


_ALL = (
    Surface(
        "beale",
        beale,
        r"(1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2",
        start=(1.0, 1.5),
        window=(-1.0, 4.0, -1.75, 2.25),
        minima=((3.0, 0.5),),
    ),
    Surface(
        "rosenbrock",
        rosenbrock,
        r"(1 - x)^2 + 100\,(y - x^2)^2",
        start=(-1.2, 1.0),
        window=(-2.0, 2.0, -1.0, 3.0),
        minima=((1.0, 1.0),),
    ),
    Surface(
        "saddle",
        saddle,
        r"x^2 - y^2",
        start=(1.5, -0.001),
        window=(-2.0, 2.0, -2.0, 2.0),
        saddle_points=((0.0, 0.0),),
    ),
    Surface(
        "ravine",
        ravine,
        r"x^2/20 + y^2",
        start=(-8.0, 2.5),
        window=(-10.0, 4.0, -4.0, 4.0),
        minima=((0.0, 0.0),),
    ),
    Surface(
        "himmelblau",
        himmelblau,
        r"(x^2 + y - 11)^2 + (x + y^2 - 7)^2",
        start=(-0.5, -0.8),
        window=(-5.0, 5.0, -5.0, 5.0),
        minima=(
            (3.0, 2.0),
            (-2.805118086952745, 3.131312518250573),
            (-3.779310253377747, -3.283185991286170),
            (3.584428340330492, -1.848126526964404),
        ),
    ),
    Surface(
        "rastrigin",
        rastrigin,
        r"20 + x^2 - 10\cos 2\pi x + y^2 - 10\cos 2\pi y",
        start=(-2.0, 3.5),
        window=(-4.5, 4.5, -4.5, 4.5),
        minima=((0.0, 0.0),),
    ),
)

SURFACES: dict[str, Surface] = {surface.name: surface for surface in _ALL}
"""The surfaces by name."""
