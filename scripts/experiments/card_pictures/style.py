"""One look for all pictures of the cards: white background, colours that everybody can tell apart."""

import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours (2008).
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY_BLUE, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#7F7F7F"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK)


def figure(
    columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 2.8
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row; width and height in inches."""
    drawn = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = list(drawn.subplots(rows, columns, squeeze=False).flat)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="0.9", linewidth=0.8)
        each.set_axisbelow(True)
        each.tick_params(labelsize=8)
    return drawn, axes


def label(axes: Axes, x: str, y: str, title: str = "", place: str = "best") -> None:
    """Name the axes, and show a legend if anything has a label."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    if title:
        axes.set_title(title, fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=True, edgecolor="none", framealpha=0.8, loc=place)


def show_images(axes: list[Axes], images: Any, titles: list[str]) -> None:
    """Show images, a tensor (N, C, H, W) with values from 0 to 1, one in each axes."""
    for each, image, title in zip(axes, images, titles, strict=False):
        pixels = image.detach().clamp(0, 1).permute(1, 2, 0).numpy()
        grey = pixels.shape[-1] == 1
        each.imshow(pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=1)
        each.set_title(title, fontsize=8)
        each.set_xticks([])
        each.set_yticks([])
        each.grid(visible=False)
        each.spines[:].set_visible(False)


def save(drawn: Figure, path: Path) -> Path:
    """Write a figure: as PNG if it shows images, as SVG otherwise."""
    images = any(axes.images for axes in drawn.axes)
    path = path.with_suffix(".png" if images else ".svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    if images:
        drawn.savefig(path, dpi=110, metadata={"Software": None})
        return path
    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        drawn.savefig(path, metadata={"Date": None, "Creator": None})
    text = "\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n"
    path.write_text(re.sub(r' d="[^"]*"', lambda line: re.sub(r"(\.\d\d)\d+", r"\1", line[0]), text))
    return path
