"""Shared by the kinds of pictures: mistakes become one line, and files are written whole or not at all."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lightning_optreg.cli.meter import Meter
from lightning_optreg.cli.option_parser import OptionParser, UsageError
from lightning_optreg.figures.gif import gif_writer
from lightning_optreg.files import replacing
from lightning_optreg.places import Place, check_place, place_of

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

__all__ = [
    "ANIMATED",
    "STILL",
    "OptionParser",
    "UsageError",
    "add_output",
    "guarded",
    "read_output",
    "remaining_time",
    "save",
    "save_film",
]

STILL = (".png", ".svg", ".pdf")
"""File endings of still pictures."""
ANIMATED = (".gif", ".mp4")
"""File endings of films."""


def guarded(command: Callable[[], object]) -> int:
    """Run a command; print one line for what a user can fix, and return the exit status.

    Args:
        command: Raises `UsageError` or OSError for that.

    Returns:
        0, or 2 after a message.
    """
    try:
        command()
    except UsageError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        what = error.strerror or str(error)
        print(f"error: {f'{error.filename}: ' if error.filename else ''}{what}", file=sys.stderr)
        return 2
    return 0


def add_output(parser: OptionParser, *, dpi: int = 130) -> None:
    """Add the options of a still picture's file.

    Args:
        parser: The command's options.
        dpi: Dots per inch by default.
    """
    parser.add_argument("--dpi", type=int, default=dpi, metavar="N", help=f"dots per inch; default: {dpi}")
    parser.add_argument("--output", metavar="FILE", help=f"the file to write: {', '.join(STILL)}")


def read_output(text: str | None, endings: Sequence[str]) -> Place:
    """Check a file's name, before anything is computed for it.

    Args:
        text: The name; None: it was not given.
        endings: The allowed endings.

    Raises:
        UsageError: If there is none, its ending is not allowed, or the program that writes the film is
            missing.
    """
    if text is None:
        raise UsageError("--output FILE is missing")
    path = place_of(text)
    try:
        check_place(path, "--output")
    except (ValueError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from error
    if path.suffix not in endings:
        raise UsageError(f"--output must end in {', '.join(endings)}, got {text}")
    if path.suffix == ".mp4":
        from matplotlib.animation import FFMpegWriter

        if not FFMpegWriter.isAvailable():
            raise UsageError(f"--output {text}: the program ffmpeg is not installed; a .gif needs none")
    return path


def remaining_time(what: str) -> Callable[[int, int], None]:
    """Return a function that shows on the standard error how much is done and how long is left.

    Args:
        what: What is counted, in the plural.

    Returns:
        To be called with the number done and that of all.
    """
    meter = Meter(what)

    def progress(done: int, total: int) -> None:
        meter(done, total)

    return progress


def save(figure: "Figure", path: Place, *, dpi: int) -> None:
    """Write a picture and say so.

    Args:
        figure: The picture.
        path: The file; its folder is made if missing.
        dpi: Dots per inch, for pixel formats.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
    print(path)


def save_film(film: "FuncAnimation", path: Place, *, dpi: int, fps: int) -> None:
    """Write a film and say so.

    Args:
        film: The film.
        path: The file, `.gif` or `.mp4`; its folder is made if missing.
        dpi: Dots per inch.
        fps: Frames per second.
    """
    from matplotlib.animation import FFMpegWriter

    writer = gif_writer(fps) if path.suffix == ".gif" else FFMpegWriter(fps=fps)
    drawn = remaining_time("frames")
    with replacing(path) as temporary:
        film.save(
            str(temporary),
            writer=writer,
            dpi=dpi,
            progress_callback=lambda frame, frames: drawn(frame + 1, frames),
        )
    print(path)
