"""Pictures into one array of 8-bit values; shared by every reader of image files."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Resample", "images_to_tensor"]

Resample = Literal["lanczos", "box"]
"""Lanczos is the sharper; box averages whole pixels, which is how low-resolution conditions are made."""


def images_to_tensor(
    sources: Iterable[tuple[str, Callable[[], "Image"]]],
    count: int,
    size: int | None,
    channels: int,
    resample: Resample,
) -> Tensor:
    """Open `count` pictures one by one; uint8, `(count, channels, H, W)`.

    Args:
        sources: A name for messages and a function that opens the picture.
        count: How many there are.
        size: Side of the result: the largest centred square is cut out and resized. None keeps the pictures
            as they are, and they must then agree in size.
        channels: 3 for RGB, 1 for grey. Transparency is dropped.
        resample: Filter used for resizing.

    Raises:
        ValueError: No pictures, one that cannot be read or has more than 8 bits a channel, sizes that differ
            while `size` is None, or an unusable argument.
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


def _read(name: str, opener: Callable[[], "Image"], size: int | None, channels: int, resample: Resample) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with opener() as opened:
            # More than 8 bits a channel: converting would clip, not scale.
            deep = opened.mode == "F" or opened.mode.startswith("I")
            mode = opened.mode
            image = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read the image {name}: {reason}") from error
    if deep:
        raise ValueError(
            f"the image {name} has mode {mode}, more than 8 bits a channel; convert it to 8 bits, or use an "
            ".npz file with levels="
        )
    if size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        filter_ = Image.Resampling.LANCZOS if resample == "lanczos" else Image.Resampling.BOX
        image = image.crop((left, top, left + side, top + side))
        if side != size:
            image = image.resize((size, size), filter_)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]}"
