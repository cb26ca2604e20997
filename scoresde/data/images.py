"""Pictures into one array of 8-bit or 16-bit values; shared by every reader of image files."""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from scoresde.extras import need
from scoresde.storage.limits import check_memory, most_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "SUFFIXES", "Fit", "Frames", "Reading", "Resample", "Source", "allow_pixels", "images_to_tensor", "open_image",
    "picture", "size_of", "warn_of",
]  # fmt: skip

_log = logging.getLogger(__name__)

Source = tuple[str, Callable[[], "Image"]]
"""The name of a picture, for messages, and what opens it."""

Resample = Literal["lanczos", "box"]
"""Lanczos is the sharper; box averages whole pixels, which is how low-resolution conditions are made."""

Fit = Literal["crop", "stretch"]
"""How a picture gets another size: the middle is cut out first, or its sides are scaled each by its own factor."""

Frames = Literal["first", "refuse"]
"""The part of an animation, or of a file of several pages, that is read."""

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

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
"""Suffixes of the files that are read as pictures, in lower case."""


def open_image(source: Path | IO[bytes], suffix: str = "") -> "Image":
    """Open a picture of one of the formats behind `SUFFIXES`, whatever its name says, and of no other.

    Pillow knows formats that it hands to other programs (PostScript, to Ghostscript); these are never tried.

    Args:
        source: A path or a stream of bytes.
        suffix: The end of the file's name. TGA has no mark of its own, and is tried for files that say so alone.

    Raises:
        ValueError: None of these formats.
    """
    need("reading pictures", "PIL")
    from PIL import Image, UnidentifiedImageError

    Image.init()
    own = suffix.lower() in _FORMATS["TGA"]
    formats = [name for name in _FORMATS if name in Image.OPEN and (name != "TGA" or own)]
    try:
        return Image.open(source, formats=formats)
    except UnidentifiedImageError:
        raise ValueError(f"its content is none of {', '.join(formats)}") from None


@dataclass(frozen=True)
class Reading:
    """Options for reading images.

    Args:
        size: Side of the result, or height and width. None keeps the pictures as they are, and they must then agree
            in size.
        channels: 1 for grey, 2 for grey and opacity, 3 for RGB, 4 for RGB and opacity.
        resample: Filter used for resizing.
        fit: `"crop"` cuts the largest piece of the wanted proportions out of the middle; `"stretch"` distorts.
        background: Colour that pictures with transparency are put on, as "white" or "#ff8800". None: with 1 or 3
            channels transparency is dropped, which leaves the colours that the file has below it.
        bits: Bits of a channel: 8 or 16. None: 8, and grey pictures of more are refused, as converting loses some.
        frames: What of an animation is read.

    Raises:
        ValueError: A value that is none of these.
    """

    size: int | Sequence[int] | None = None
    channels: int = 3
    resample: Resample = "lanczos"
    fit: Fit = "crop"
    background: str | None = None
    bits: int | None = None
    frames: Frames = "first"

    def __post_init__(self) -> None:
        if self.channels not in _MODES or isinstance(self.channels, bool):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), or with transparency 2 or 4, got {self.channels}")
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in self.sides or ()):
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")
        if self.sides is not None and len(self.sides) != 2:
            raise ValueError(f"size must be one number, or a height and a width, got {self.size}")
        if self.resample not in ("lanczos", "box"):
            raise ValueError(f"resample must be 'lanczos' or 'box', got {self.resample!r}")
        if self.fit not in ("crop", "stretch"):
            raise ValueError(f"fit must be 'crop' or 'stretch', got {self.fit!r}")
        if self.bits not in (None, 8, 16):
            raise ValueError(f"bits must be 8, 16 or null, got {self.bits!r}")
        if self.bits == 16 and self.channels != 1:
            raise ValueError(
                f"bits=16 needs channels=1, got {self.channels}: Pillow reads colour pictures with 8 bits; save the "
                "others as an .npz file, and give levels=65536"
            )
        if self.frames not in ("first", "refuse"):
            raise ValueError(f"frames must be 'first' or 'refuse', got {self.frames!r}")
        if self.background is not None:
            self.colour()

    @property
    def sides(self) -> tuple[int, ...] | None:
        """Height and width of the result, or None."""
        if self.size is None:
            return None
        return (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)

    def colour(self) -> tuple[int, ...] | None:
        """The background in red, green and blue."""
        if self.background is None:
            return None
        need("the background of pictures", "PIL")
        from PIL import ImageColor

        try:
            return ImageColor.getrgb(self.background)[:3]
        except ValueError as error:
            raise ValueError(f"background is {self.background!r}, expected a colour as white or '#ff8800'") from error

    @property
    def levels(self) -> int:
        """Number of values of a channel."""
        return int(2 ** (self.bits or 8))


def images_to_tensor(sources: Sequence[Source], reading: Reading, order: Sequence[int] | None = None) -> Tensor:
    """Open pictures one by one; `(N, channels, H, W)`, uint8, or int32 for 16 bits.

    Args:
        sources: A name for messages and a function that opens the picture, such as by `open_image`.
        reading: How they are read.
        order: The order in which they are opened; as they come, if not given.

    Raises:
        ValueError: No pictures, one that cannot be read or has more bits than `reading` allows, sizes that differ
            while there is no size, or headers that declare more pixels or memory than `scoresde.storage.limits` allows.
    """
    out: np.ndarray | None = None
    first = ""
    notes: Counter[str] = Counter()
    for i in order if order is not None else range(len(sources)):
        name, opener = sources[i]
        pixels = picture(name, opener, reading, notes)
        if out is None:
            first, count = name, len(sources)
            dtype = np.dtype(np.int32 if reading.levels > 256 else np.uint8)
            needed = count * pixels.size * dtype.itemsize
            check_memory(needed, f"reading {count} images of {size_of(pixels.shape)} (or give size=)")
            out = np.empty((count, *pixels.shape), dtype)
        if pixels.shape != out.shape[1:]:
            raise ValueError(
                f"images differ in size: {first} is {size_of(out.shape[1:])}, {name} is {size_of(pixels.shape)}; "
                "give size= to crop and resize all of them"
            )
        out[i] = pixels
    if out is None:
        raise ValueError("there are no images to read")
    warn_of(notes, len(sources))
    return torch.from_numpy(out)


def warn_of(notes: Counter[str], count: int) -> None:
    """Say what is to be said of so many pictures."""
    for note, number in notes.items():
        _log.warning("%d of %d images %s", number, count, note)


def picture(
    name: str, opener: Callable[[], "Image"], reading: Reading, notes: Counter[str], alone: bool = True
) -> np.ndarray:
    """The values `(channels, H, W)` of a picture.

    Args:
        name: Its name, for messages.
        opener: Opens it.
        reading: How it is read.
        notes: What is to be said of pictures, counted.
        alone: Whether nothing else runs in the process, so that Pillow's limit and Python's warnings, which are those
            of all threads, may be set meanwhile. Otherwise `allow_pixels` is to be called first.

    Raises:
        ValueError: One that cannot be read, or has more pixels or bits than are allowed.
    """
    need("reading pictures", "PIL")
    from PIL import Image

    try:
        with _within_limits() if alone else nullcontext(), opener() as opened:
            if opened.width * opened.height > most_pixels():
                raise Image.DecompressionBombError
            pixels, mode = _pixels(opened, reading, notes)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"the image {name} has more than {most_pixels()} pixels, the limit for one: if it is what it should be, "
            "raise the limit by the environment variable SCORESDE_PIXELS"
        ) from error
    except Exception as error:  # whatever a damaged file makes the reader of its format raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot read the image {name}: {reason}") from error
    if _is_deep(mode):
        pixels = _scaled(pixels, mode, name, reading)
    elif reading.levels > 256:
        pixels = pixels.astype(np.int32) * 257
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@contextmanager
def _within_limits() -> Iterator[None]:
    from PIL import Image

    pillows = Image.MAX_IMAGE_PIXELS
    try:
        # Pillow's own limit is looked at for every frame and tile. Beyond it comes a warning, beyond twice an error.
        Image.MAX_IMAGE_PIXELS = most_pixels()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a format's oddities, without a word on which picture has them
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = pillows


def allow_pixels() -> None:
    """Let Pillow open pictures of as many pixels as `SCORESDE_PIXELS` allows, where that is more than its own limit."""
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, most_pixels())


def _is_deep(mode: str) -> bool:
    """Whether a mode has more than 8 bits a channel, which Pillow's own conversion would clip, not scale."""
    return mode == "F" or mode.startswith("I")


def _pixels(opened: "Image", reading: Reading, notes: Counter[str]) -> tuple[np.ndarray, str]:
    """The values of an open picture in the wanted mode and size, and its own mode."""
    from PIL import ImageOps

    if getattr(opened, "is_animated", False):
        if reading.frames == "refuse":
            raise ValueError(
                f"it has {opened.n_frames} frames: frames=first takes the first"  # type: ignore[attr-defined]
            )
        notes["have several frames: the first is read (data.frames=refuse: none)"] += 1
    mode = opened.mode
    deep = _is_deep(mode)
    if _cut_to_8_bits(opened):
        notes["have colours of 16 bits, of which the upper 8 are read"] += 1
    image = ImageOps.exif_transpose(opened)
    if not deep:
        image = _in_mode(image, reading, notes)
    elif reading.bits is not None and mode != "F":
        # Resizing knows floating point, and not 16 bits.
        image = image.convert("F")
    if reading.sides is not None and not (deep and image.mode != "F"):
        image = _resized(image, reading)
    return np.asarray(image), mode


def _cut_to_8_bits(opened: "Image") -> bool:
    """True if the file has 16 bits per channel in colour, of which Pillow reads 8."""
    tiles = getattr(opened, "tile", [])
    return any(";16" in str(tile[3]) for tile in tiles) and not opened.mode.startswith("I")


def _in_mode(image: "Image", reading: Reading, notes: Counter[str]) -> "Image":
    """The picture in the mode of so many channels, on the background if there is one."""
    from PIL import Image

    mode = _MODES[reading.channels]
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    colour = reading.colour()
    if transparent and colour is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*colour, 255)), image).convert(mode)
    if transparent and "A" not in mode:
        notes[
            "have transparency, which is dropped (data.background=white puts them on a colour, data.channels=4 "
            "keeps it)"
        ] += 1
    if transparent and mode == "LA":
        return image.convert("RGBA").convert("LA")
    return image.convert(mode)


def _scaled(pixels: np.ndarray, mode: str, name: str, reading: Reading) -> np.ndarray:
    """A grey picture of more than 8 bits with the bits that are wanted, in three channels if so many are."""
    if reading.bits is None or mode == "F":
        how = (
            "save it as an .npy file"
            if mode == "F"
            else "data.bits=8 converts it, data.bits=16 (with channels=1) keeps 65536 levels"
        )
        raise ValueError(f"the image {name} has mode {mode}, more than 8 bits a channel: {how}")
    values: np.ndarray = np.clip(np.rint(pixels), 0, None).astype(np.int64)
    if values.max(initial=0) >= 2**16:
        raise ValueError(
            f"the image {name} has values up to {values.max()}, more than 16 bits: save it as an .npy file"
        )
    if reading.bits == 8:
        values = np.rint(values / 257).astype(np.int64)
    values = values.astype(np.int32 if reading.levels > 256 else np.uint8)
    if reading.channels == 1:
        return values
    opaque = [np.full_like(values, 255)] if reading.channels in (2, 4) else []
    return np.stack([values] * (reading.channels - len(opaque)) + opaque, -1)


def _resized(image: "Image", reading: Reading) -> "Image":
    """The picture in the wanted size, of which its largest centred part of the same proportions is kept."""
    from PIL.Image import Resampling

    assert reading.sides is not None
    height, width = reading.sides
    if reading.fit == "crop":
        scale = min(image.width / width, image.height / height)
        across, down = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (image.width - across) // 2, (image.height - down) // 2
        image = image.crop((left, top, left + across, top + down))
    if image.size == (width, height):
        return image
    return image.resize((width, height), Resampling.LANCZOS if reading.resample == "lanczos" else Resampling.BOX)


def size_of(shape: tuple[int, ...]) -> str:
    """Width and height of values `(C, H, W)`, for messages."""
    return f"{shape[2]}x{shape[1]}"
