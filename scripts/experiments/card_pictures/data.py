"""Pictures of the transforms' cards."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from card_pictures.registry import picture
from card_pictures.style import BLACK, BLUE, COLORS, GREEN, GREY, VERMILION, figure, label, show_images
from lightning_optreg.data import (
    BatchTransform,
    ColorJitter,
    Draws,
    LensDistortion,
    PCAColorJitter,
    PerImageStandardization,
    Place,
    RandomAutocontrast,
    RandomCrop,
    RandomEqualize,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomPosterize,
    RandomResizedCrop,
    RandomScaleCrop,
    RandomSolarize,
    RandomStretch,
    TFColorJitter,
    compute_statistics,
)
from lightning_optreg.data.transforms import Normalize


def landscape(size: int = 48) -> Tensor:
    """A landscape with a sun, a house and a fence, (3, size, size) on [0, 1]."""
    y, x = torch.meshgrid(*2 * [(torch.arange(size) + 0.5) / size], indexing="ij")
    image = torch.stack((0.35 + 0.4 * y, 0.6 + 0.3 * y, 0.95 - 0.1 * y))
    for shape, color in (
        ((x - 0.2) ** 2 + (y - 0.2) ** 2 < 0.012, (1.0, 0.85, 0.2)),  # the sun
        (y > 0.68 + 0.05 * (6 * x).sin(), (0.3, 0.62, 0.25)),  # meadow
        ((x > 0.5) & (x < 0.85) & (y > 0.45) & (y < 0.85), (0.85, 0.75, 0.6)),  # a house
        ((y < 0.45) & (y > 0.2) & ((x - 0.675).abs() < (y - 0.2) * 0.85), (0.75, 0.25, 0.15)),  # its roof
        ((x > 0.56) & (x < 0.65) & (y > 0.53) & (y < 0.64), (0.25, 0.35, 0.55)),  # a window
        ((x > 0.71) & (x < 0.79) & (y > 0.63) & (y < 0.85), (0.35, 0.2, 0.1)),  # the door
        ((x < 0.45) & (y > 0.78) & (y < 0.94) & ((x * 14).floor() % 2 == 0), (0.95, 0.95, 0.9)),  # a fence
    ):
        image = torch.where(shape, torch.tensor(color)[:, None, None], image)
    return image


def applied(transform: BatchTransform, images: Tensor, seed: int = 0) -> Tensor:
    """What a transform makes of a batch in training."""
    place = Place(epoch=0, step=0, start=0, total=len(images))
    return transform(images, Draws(seed, place, len(images), images.device))


def copies(count: int, size: int = 48) -> Tensor:
    """The same picture so many times."""
    return landscape(size).expand(count, -1, -1, -1).clone()


def row_of(transform: BatchTransform, name: str, seed: int = 0, count: int = 6) -> Figure:
    """The picture, and what a transform makes of copies of it."""
    drawn, axes = figure(count + 1, height=1.25, width=7.0)
    images = torch.cat((copies(1), applied(transform, copies(count), seed)))
    show_images(axes, images, ["image", name, *[""] * (count - 1)])
    return drawn


@picture
def random_crop() -> Figure:
    """Shifts by up to six of 48 pixels."""
    return row_of(RandomCrop(padding=6), "padding 6")


@picture
def random_horizontal_flip() -> Figure:
    """Which images are mirrored in which epoch."""
    drawn, axes = figure(2, height=2.4)
    for each, alternating in zip(axes, (False, True), strict=True):
        flip, image = (
            RandomHorizontalFlip(alternating=alternating),
            torch.tensor([1.0, 2.0]).expand(12, 1, 1, 2),
        )
        for epoch in range(6):
            draws = Draws(3, Place(epoch, step=0, start=0, total=12), 12, image.device, torch.arange(12))
            mirrored = flip(image, draws)[:, 0, 0, 0] == 2
            for which, marker, color in ((mirrored, "<", VERMILION), (~mirrored, ">", BLUE)):
                number = torch.arange(1, 13)[which]
                each.plot(number, [epoch] * len(number), marker, color=color, markersize=6, linestyle="none")
        each.set_xticks([1, 4, 8, 12])
        each.invert_yaxis()
        label(each, "image", "epoch", "alternating" if alternating else "independent coins")
    drawn.suptitle("right: as it is; left: mirrored", fontsize=8)
    return drawn


@picture
def random_resized_crop() -> Figure:
    """Random boxes, without and with rotation, shear and stretch."""
    drawn, axes = figure(7, 2, height=2.4, width=7.0)
    plain, turned = RandomResizedCrop(), RandomResizedCrop(rotation=25.0, shear=15.0, stretch=1.3)
    for start, transform, name in ((0, plain, "scale, ratio"), (7, turned, "+ rotation, shear")):
        images = torch.cat((copies(1), applied(transform, copies(6), seed=1)))
        show_images(axes[start : start + 7], images, ["image", name, *[""] * 5])
    return drawn


@picture
def random_scale_crop() -> Figure:
    """Crops at several scales, and how often each scale is drawn."""
    drawn, axes = figure(5, height=1.7, width=7.4)
    images = copies(1, 64)
    for each, side in zip(axes, (32, 41, 50, 60), strict=False):
        crop = applied(RandomScaleCrop(28, scale=(side, side)), images, seed=2)
        show_images([each], crop, [f"L = {round(side * 8)}"])
    scale = torch.linspace(256, 480, 100)
    axes[4].plot(scale, torch.full((100,), 1 / 224), color=BLUE, label="uniform in L")
    density = (
        2 * scale.reciprocal() ** 3 / (1 / 256**2 - 1 / 480**2)
    )  # of L for a share 1 / L^2 that is uniform
    axes[4].plot(scale, density, "--", color=VERMILION, label="in the area")
    axes[4].set_yticks([])
    axes[4].set_ylim(0, 0.016)
    label(axes[4], "L", "density")
    return drawn


@picture
def random_stretch() -> Figure:
    """Width and height changed by factors of their own."""
    return row_of(RandomStretch((0.6, 1.6), (0.6, 1.6)), "0.6 to 1.6", seed=4)


@picture
def lens_distortion() -> Figure:
    """A grid through three lenses, and the radius after against that before."""
    drawn, axes = figure(4, height=1.8, width=7.0)
    lines = torch.arange(96) % 12 >= 10
    grid = 1.0 - 0.8 * (lines[:, None] | lines[None]).float()
    radius = torch.linspace(0, 1, 50)
    colors = ((-0.3, BLUE, "-"), (0.0, BLACK, ":"), (0.3, VERMILION, "--"))
    for each, (k1, color, line) in zip(axes, colors, strict=False):
        name = {-0.3: "pincushion", 0.0: "none", 0.3: "barrel"}[k1]
        show_images(
            [each], applied(LensDistortion((k1, k1)), grid.expand(1, 1, -1, -1)), [f"{name}, $k_1 = {k1}$"]
        )
        axes[3].plot(radius, radius * (1 + k1 * radius**2), line, color=color)
    label(axes[3], "$r$ in the result", "$r'$ in the image")
    return drawn


@picture
def color_jitter() -> Figure:
    """Brightness and contrast."""
    drawn, axes = figure(7, 2, height=2.4, width=7.0)
    for start, transform, name in (
        (0, ColorJitter(brightness=0.5), "brightness 0.5"),
        (7, ColorJitter(contrast=0.8), "contrast 0.8"),
    ):
        images = torch.cat((copies(1), applied(transform, copies(6), seed=2)))
        show_images(axes[start : start + 7], images, ["image", name, *[""] * 5])
    return drawn


@picture
def pca_color_jitter() -> Figure:
    """Shifted colours, and the shifts of many draws."""
    images = (255 * copies(2)).byte()
    jitter = PCAColorJitter(std=0.3, form="std")
    jitter.fit(compute_statistics(images))
    drawn, axes = figure(6, height=1.7, width=7.4)
    show_images(
        axes,
        torch.cat((copies(1), applied(jitter, copies(4), 3))),
        ["image", "std 0.3, form std", "", "", ""],
    )
    shifts = applied(jitter, torch.zeros(300, 3, 1, 1))[:, :, 0, 0]
    axes[5].plot(shifts[:, 0], shifts[:, 2], ".", color=BLUE, markersize=2)
    axes[5].set_aspect("equal", "datalim")
    label(axes[5], "shift of red", "of blue")
    return drawn


@picture
def tf_color_jitter() -> Figure:
    """Saturation and contrast, as in TensorFlow."""
    drawn, axes = figure(7, 2, height=2.4, width=7.0)
    for start, transform, name in (
        (0, TFColorJitter(saturation=(0.0, 2.0)), "saturation 0 to 2"),
        (7, TFColorJitter(contrast=(0.2, 1.8)), "contrast 0.2 to 1.8"),
    ):
        images = torch.cat((copies(1), applied(transform, copies(6), seed=5)))
        show_images(axes[start : start + 7], images, ["image", name, *[""] * 5])
    return drawn


@picture
def random_grayscale() -> Figure:
    """Some of six images have lost their colour."""
    return row_of(RandomGrayscale(p=0.4), "p = 0.4", seed=1)


@picture
def random_tone_curves() -> Figure:
    """Three changes of tone, and their curves."""
    drawn, axes = figure(5, height=1.8, width=7.4)
    changes = (
        (RandomInvert(1.0), "invert"),
        (RandomPosterize(2, 1.0), "posterize"),
        (RandomSolarize(0.5, 1.0), "solarize"),
    )
    show_images(
        axes,
        torch.cat([copies(1), *(applied(change, copies(1)) for change, _ in changes)]),
        ["image", "invert", "posterize, 2 bits", "solarize"],
    )
    tones = torch.linspace(0, 1, 256)
    for (change, _), color, line in zip(changes, COLORS, ("-", "--", ":"), strict=False):
        curve = applied(change, tones.view(1, 1, 16, 16)).flatten()
        axes[4].plot(tones, curve, line, color=color)
    for (x, y, side), (_, name), color in zip(
        ((0.1, 0.96, "left"), (1.0, 0.84, "right"), (0.0, 0.42, "left")), changes, COLORS, strict=False
    ):
        axes[4].text(x, y, name, color=color, fontsize=8, ha=side)
    label(axes[4], "pixel", "new value")
    axes[4].set_ylim(-0.05, 1.05)
    return drawn


@picture
def random_histograms() -> Figure:
    """A dark picture, stretched and equalized, with histograms of its values."""
    drawn, axes = figure(3, 2, height=3.0, width=5.6)
    dark = 0.1 + 0.45 * copies(1)
    dark = (255 * dark).byte()
    images = torch.cat(
        [dark, *(applied(change, dark) for change in (RandomAutocontrast(1.0), RandomEqualize(1.0)))]
    )
    show_images(axes[:3], images / 255, ["dark image", "autocontrast", "equalize"])
    for each, image in zip(axes[3:], images, strict=True):
        for channel, color in zip(image, (VERMILION, GREEN, BLUE), strict=True):
            each.hist(channel.flatten().tolist(), bins=32, range=(0, 256), histtype="step", color=color)
        each.set_yticks([])
        label(each, "red, green, blue", "")
    return drawn


@picture
def random_erasing() -> Figure:
    """Rectangles of black and of noise."""
    drawn, axes = figure(7, 2, height=2.4, width=7.0)
    for start, value, name in ((0, 0.0, "black, p = 0.5"), (7, "random", "random, p = 0.5")):
        images = torch.cat((copies(1), applied(RandomErasing(0.5, value=value), copies(6), seed=start)))
        show_images(axes[start : start + 7], images, ["image", name, *[""] * 5])
    return drawn


@picture
def per_image_standardization() -> Figure:
    """Three exposures of a picture before and after, and their histograms."""
    drawn, axes = figure(4, 2, height=2.9, width=6.4)
    images = torch.cat((0.3 * copies(1), copies(1) * 0.6 + 0.2, (copies(1) * 0.35 + 0.6)))
    after = PerImageStandardization().evaluate(images)
    show_images(axes[:3], images, ["dark", "middle", "light"])
    show_images(axes[4:7], after / 5 + 0.5, ["after (mean = grey)", "", ""])
    for each, values, name in ((axes[3], images, "before"), (axes[7], after, "after")):
        for image, color, line in zip(values, COLORS, ("-", "--", ":"), strict=False):
            each.hist(image.flatten().tolist(), bins=30, histtype="step", color=color, linestyle=line)
        each.set_yticks([])
        label(each, f"values {name}", "")
    return drawn


@picture
def normalize() -> Figure:
    """Histograms of three channels of images in each mode."""
    torch.manual_seed(0)
    images = applied(ColorJitter(0.4, 0.4), copies(64))
    images = (255 * images).byte()
    drawn, axes = figure(4, height=2.2, width=7.0)
    for each, mode in zip(axes, ("none", "mean", "mean_image", "mean_std"), strict=True):
        values = Normalize(mode, compute_statistics(images))(images)
        for channel, color, line in zip(
            values.transpose(0, 1), (VERMILION, GREEN, BLUE), ("-", "--", ":"), strict=True
        ):
            counts = torch.histogram(channel.flatten(), 40, density=True)
            each.plot(counts.bin_edges[1:], counts.hist, line, color=color, linewidth=1.2)
        each.axvline(0, color=GREY, linewidth=0.6)
        each.set_yticks([])
        label(each, "red, green, blue", "", mode)
    return drawn
