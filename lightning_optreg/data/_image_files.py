"""One image's file, decoded to 8 bits and brought to a size."""

from pathlib import Path
from typing import Literal

from torch import Tensor

__all__ = ["READS", "read_image"]

READS = 2
"""To be increased when other pixels are read of the same file, so that cached ones are read anew."""


def read_image(
    path: Path,
    size: tuple[int, int],
    channels: Literal[1, 3],
    resize: Literal["crop", "stretch", "short_side"],
) -> Tensor:
    """Read an image and bring it to a size; one that has the size already keeps its pixels.

    It is turned and mirrored as its EXIF orientation says. Palettes, CMYK and the like become grey or RGB as
    Pillow converts them. Transparency is left out: a clear pixel has the colour that is stored with it. Of
    several pictures in one file the first is read. Of 16 bits a colour the upper 8 are kept; grey of 16
    bits is refused.

    Args:
        path: The file.
        size: Height and width.
        channels: 1 for grey, 3 for red, green and blue.
        resize: "crop" scales until the size is covered, then cuts out the middle; "stretch" scales height and
            width each by its own factor; "short_side" scales until the size is covered, and cuts nothing.

    Returns:
        uint8 (C, height, width); with "short_side" one of the two may be more.

    Raises:
        ValueError: If the file cannot be read, or its pixels are single numbers of more than 8 bits.
    """
    from PIL import Image, ImageOps  # with torchvision, which needs it
    from torchvision.transforms.v2 import functional as transforms

    height, width = size
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of mode {file.mode}, expected 8 bits")
            ImageOps.exif_transpose(file, in_place=True)
            # Without the way over RGBA, Pillow warns of palettes with transparency; the colours are the same.
            transparent = file.mode == "P" and "transparency" in file.info
            image = (file.convert("RGBA") if transparent else file).convert("L" if channels == 1 else "RGB")
    # What PIL raises for one damage or the other, and for one with more pixels than it believes.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from error
    if image.size != (width, height):
        new = size
        if resize != "stretch":
            scale = max(height / image.height, width / image.width)
            new = (max(height, round(image.height * scale)), max(width, round(image.width * scale)))
        image = transforms.resize(image, list(new), antialias=True)
        if resize != "short_side":
            image = transforms.center_crop(image, list(size))
    pixels: Tensor = transforms.pil_to_tensor(image)
    return pixels
