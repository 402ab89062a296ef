"""Which function draws the picture of which card."""

from collections.abc import Callable

from matplotlib.figure import Figure

Drawing = Callable[[], Figure]
PICTURES: dict[str, Drawing] = {}


def picture(function: Drawing) -> Drawing:
    """Mark a function as what draws the picture of its name."""
    if function.__name__ in PICTURES:
        raise ValueError(f"two functions draw {function.__name__}")
    PICTURES[function.__name__] = function
    return function
