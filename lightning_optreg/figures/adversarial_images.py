"""Images, what attacks make of them, and the changes, enlarged."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_optreg.figures._style import GREEN, VERMILION, literal, new_figure

if TYPE_CHECKING:  # matplotlib is imported when something is drawn: it takes a while
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["draw_adversarial_images"]


def draw_adversarial_images(
    pixels: "Tensor",
    labels: Sequence[int],
    natural: Sequence[int],
    attacks: Mapping[str, tuple["Tensor", Sequence[int]]],
    class_names: Sequence[str] | None = None,
) -> "Figure":
    """Draw one row per image: the image, and for each attack the changed image and the change.

    Above each is what the network takes it for, green if it is right. Changes are grey where nothing changes,
    and scaled so that the largest of an attack is black or white; the factor is above its column.

    Args:
        pixels: Images (N, C, H, W) on [0, 1], N at least 1, C 1 or 3.
        labels: True classes (N,).
        natural: What the network takes the images for, (N,).
        attacks: By name, changed pixels (N, C, H, W) and what the network takes them for.
        class_names: Names of the classes. None: their numbers.

    Example:
        >>> import torch
        >>> pixels = torch.rand(2, 1, 8, 8)
        >>> found = {"FGSM": ((pixels + 0.1).clamp(0, 1), [1, 1])}
        >>> len(draw_adversarial_images(pixels, [0, 1], [0, 1], found).axes)
        6
    """
    rows, columns = len(pixels), 1 + 2 * len(attacks)
    figure = new_figure(1.25 * columns + 0.2, 1.5 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False)
    names = [str(k) for k in range(1 + max(*labels, *natural))] if class_names is None else class_names
    heads = ["image"]
    for name, (changed, _) in attacks.items():
        largest = float((changed - pixels).abs().max())
        heads += [name, f"change x {0.5 / largest:.3g}" if largest > 0.0 else "no change"]
    for row in range(rows):
        shown: list[tuple[Tensor, int | None]] = [(pixels[row], natural[row])]
        for changed, taken in attacks.values():
            change = changed - pixels
            scale = 0.5 / max(float(change.abs().max()), 1e-12)
            shown += [(changed[row], taken[row]), (0.5 + scale * change[row], None)]
        for column, (image, taken_for) in enumerate(shown):
            panel = axes[row, column]
            panel.imshow(
                image.permute(1, 2, 0).clamp(0.0, 1.0).numpy(),
                cmap="gray",
                vmin=0.0,
                vmax=1.0,
                interpolation="nearest",
            )
            panel.set_xticks([])
            panel.set_yticks([])
            if taken_for is not None:
                right = taken_for == labels[row]
                name = names[taken_for] if taken_for < len(names) else str(taken_for)
                panel.set_xlabel(literal(name), color=GREEN if right else VERMILION, fontsize=8)
            if row == 0:
                panel.set_title(literal(heads[column]), fontsize=9)
    return figure
