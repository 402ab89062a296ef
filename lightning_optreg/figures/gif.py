"""Animated GIF files with one palette for all frames.

A separate palette for each frame, as matplotlib's PillowWriter uses, spends its colours on large pale areas
and gives thin lines the colours of other lines, which then change from frame to frame.
"""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.animation import AbstractMovieWriter

__all__ = ["gif_writer"]


def gif_writer(fps: int) -> "AbstractMovieWriter":
    """Return a writer for `matplotlib.animation.Animation.save`.

    The palette is that of the last frame: its most frequent colours, then some that cover the range of its
    colours, however few pixels have them, and some for its large areas.

    Args:
        fps: Frames per second.
    """
    from matplotlib.animation import AbstractMovieWriter
    from PIL import Image

    class GifWriter(AbstractMovieWriter):
        def setup(self, fig: Any, outfile: Any, dpi: float | None = None) -> None:
            super().setup(fig, outfile, dpi)
            self.pictures: list[Image.Image] = []

        def grab_frame(self, **savefig_kwargs: Any) -> None:
            buffer = io.BytesIO()
            self.fig.savefig(buffer, **{**savefig_kwargs, "format": "png", "dpi": self.dpi})
            self.pictures.append(Image.open(buffer).convert("RGB"))

        def finish(self) -> None:
            last = self.pictures[-1]
            counted: Any = last.getcolors(last.width * last.height)
            candidates = [color for _, color in sorted(counted, reverse=True)[:96]]
            for method in (Image.Quantize.MAXCOVERAGE, Image.Quantize.MEDIANCUT):
                flat = (last.quantize(80, method).getpalette() or [])[: 3 * 80]
                candidates += zip(*[iter(flat)] * 3, strict=True)
            colors: list[tuple[int, ...]] = []
            # Pillow looks colours up coarsely: it would take a close neighbour of white for white.
            for color in candidates:
                if all(sum(abs(a - b) for a, b in zip(color, c, strict=True)) > 24 for c in colors):
                    colors.append(color)
            palette = Image.new("P", (1, 1))
            palette.putpalette([part for color in colors for part in color])
            first, *others = [
                picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in self.pictures
            ]
            first.save(
                self.outfile, save_all=True, append_images=others, duration=round(1000 / self.fps), loop=0
            )

    return GifWriter(fps=fps)
