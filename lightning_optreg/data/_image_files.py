"""Read an image file, decoded to 8 bits and resized."""

import struct
import zlib
from pathlib import Path
from typing import Literal

from torch import Tensor

__all__ = ["READS", "read_image"]

# By content, whatever the file's name: Pillow knows others too, and runs a program for some.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# What Pillow's readers raise over damaged bytes, by the fields that they trip over.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    TypeError,
    struct.error,
    zlib.error,
)
_MOST_PIXELS = 1 << 24  # of an image that nothing but its header vouches for
_PIXELS_PER_BYTE = 10_000  # deflate's limit is 1,032 bytes for one, of 8 pixels each
READS = 2
"""Increase it when the same file gives other pixels, so that cached images are read again."""


def read_image(
    path: Path,
    size: tuple[int, int],
    channels: Literal[1, 3],
    resize: Literal["crop", "stretch", "short_side"],
) -> Tensor:
    """Read an image and resize it; an image that already has the size keeps its pixels.

    The EXIF orientation is applied. Palettes, CMYK and other modes become grey or RGB as Pillow converts
    them. Transparency is ignored: a transparent pixel has the colour that is stored with it. Of several
    pictures in one file the first is read. With 16 bits per colour the upper 8 are kept; 16-bit grey images
    are refused.

    Args:
        path: The file.
        size: Height and width.
        channels: 1 for grey, 3 for red, green and blue.
        resize: "crop" scales until the size is covered, then cuts out the middle; "stretch" scales height and
            width separately; "short_side" scales until the size is covered, and cuts nothing.

    Returns:
        uint8 (C, height, width); with "short_side" one of the two may be larger.

    Raises:
        ValueError: If the file cannot be read, is a grey image with more than 8 bits per pixel, or asks for
            far more memory than its size.
    """
    from PIL import Image, ImageOps  # installed with torchvision
    from torchvision.transforms.v2 import functional as transforms

    height, width = size
    Image.init()  # does something once; until then Pillow knows some of the formats only
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with Image.open(path, formats=formats) as file:
            _refuse_bombs(file.width * file.height, path)
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of mode {file.mode}, expected 8 bits")
            ImageOps.exif_transpose(file, in_place=True)
            # By way of RGBA, since Pillow otherwise warns of palettes with transparency; same colours.
            transparent = file.mode == "P" and "transparency" in file.info
            image = (file.convert("RGBA") if transparent else file).convert("L" if channels == 1 else "RGB")
    # Pillow raises these for damaged files, and for images with more pixels than it considers safe.
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({_words(error)})") from error
    if image.size != (width, height):
        new = size
        if resize != "stretch":
            scale = max(height / image.height, width / image.width)
            new = (max(height, round(image.height * scale)), max(width, round(image.width * scale)))
            if new[0] * new[1] > max(_MOST_PIXELS, image.width * image.height):
                raise ValueError(
                    f"{path}: an image of {image.height} x {image.width} pixels would become one of "
                    f"{new[0]} x {new[1]}; cut it, or use resize='stretch'"
                )
        image = transforms.resize(image, list(new), antialias=True)
        if resize != "short_side":
            image = transforms.center_crop(image, list(size))
    pixels: Tensor = transforms.pil_to_tensor(image)
    return pixels


def _refuse_bombs(pixels: int, path: Path) -> None:
    """Refuse a header that asks for memory which the file can't fill."""
    size = path.stat().st_size
    if pixels > max(_MOST_PIXELS, _PIXELS_PER_BYTE * size):
        raise ValueError(f"{pixels} pixels in {size} bytes")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
