"""Pictures into one array of 8-bit values; shared by every reader of image files."""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from scoresde.limits import check_memory, most_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SUFFIXES", "Resample", "images_to_tensor", "open_image"]

Resample = Literal["lanczos", "box"]
"""Lanczos is the sharper; box averages whole pixels, which is how low-resolution conditions are made."""

_FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "AVIF": (".avif",),
    "TGA": (".tga",),
}
SUFFIXES = frozenset(suffix for suffixes in _FORMATS.values() for suffix in suffixes)
"""Of the files that are read as pictures, in lower case."""


def open_image(source: Path | IO[bytes], suffix: str = "") -> "Image":
    """Open a picture of one of the formats behind `SUFFIXES`, whatever its name says, and of no other.

    Pillow knows formats that it hands to other programs (PostScript, to Ghostscript); these are never tried.

    Args:
        source: A path or a stream of bytes.
        suffix: Of the file's name. TGA has no mark of its own, and is tried for files that say so alone.

    Raises:
        ValueError: None of these formats.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()
    own = suffix.lower() in _FORMATS["TGA"]
    formats = [name for name in _FORMATS if name in Image.OPEN and (name != "TGA" or own)]
    try:
        return Image.open(source, formats=formats)
    except UnidentifiedImageError:
        raise ValueError(f"its content is none of {', '.join(formats)}") from None


def images_to_tensor(
    sources: Iterable[tuple[str, Callable[[], "Image"]]],
    count: int,
    size: int | None,
    channels: int,
    resample: Resample,
) -> Tensor:
    """Open `count` pictures one by one; uint8, `(count, channels, H, W)`.

    Args:
        sources: A name for messages and a function that opens the picture, such as by `open_image`.
        count: How many there are.
        size: Side of the result: the largest centred square is cut out and resized. None keeps the pictures
            as they are, and they must then agree in size.
        channels: 3 for RGB, 1 for grey. Transparency is dropped.
        resample: Filter used for resizing.

    Raises:
        ValueError: No pictures, one that cannot be read or has more than 8 bits a channel, sizes that differ
            while `size` is None, more pixels or memory than `scoresde.limits` allows by what headers declare, or an
            unusable argument.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    if resample not in ("lanczos", "box"):
        raise ValueError(f"resample must be 'lanczos' or 'box', got {resample!r}")
    out: np.ndarray | None = None
    first = ""
    for i, (name, opener) in enumerate(sources):
        pixels = _read(name, opener, size, channels, resample)
        if out is None:
            first = name
            check_memory(count * pixels.size, f"reading {count} images of {_size(pixels.shape)} (or give size=)")
            out = np.empty((count, *pixels.shape), dtype=np.uint8)
        if pixels.shape != out.shape[1:]:
            raise ValueError(
                f"images differ in size: {first} is {_size(out.shape[1:])}, {name} is {_size(pixels.shape)}; "
                "give size= to crop and resize all of them"
            )
        out[i] = pixels
    if out is None:
        raise ValueError("there are no images to read")
    return torch.from_numpy(out)


def _read(
    name: str,
    opener: Callable[[], "Image"],
    size: int | None,
    channels: int,
    resample: Resample,
) -> np.ndarray:
    from PIL import Image, ImageOps

    most, pillows = most_pixels(), Image.MAX_IMAGE_PIXELS
    try:
        # Pillow's own limit is looked at for every frame and tile. Beyond it comes a warning, beyond twice an error.
        Image.MAX_IMAGE_PIXELS = most
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a format's oddities, without a word on which picture has them
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with opener() as opened:
                # More than 8 bits a channel: converting would clip, not scale.
                deep = opened.mode == "F" or opened.mode.startswith("I")
                mode = opened.mode
                image = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
                if size is not None:
                    image = _square(image, size, resample)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"the image {name} has more than {most} pixels, the limit for one: if it is what it should be, raise the "
            "limit by the environment variable SCORESDE_PIXELS"
        ) from error
    except Exception as error:  # whatever a damaged file makes the reader of its format raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read the image {name}: {reason}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = pillows
    if deep:
        raise ValueError(
            f"the image {name} has mode {mode}, more than 8 bits a channel; convert it to 8 bits, or use an "
            ".npz file with levels="
        )
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _square(image: "Image", size: int, resample: Resample) -> "Image":
    """The largest centred square, `size` pixels wide."""
    from PIL.Image import Resampling

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side == size:
        return image
    return image.resize((size, size), Resampling.LANCZOS if resample == "lanczos" else Resampling.BOX)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]}"
