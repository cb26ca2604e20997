"""Images in rows and columns."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scoresde.arguments import checked
from scoresde.plots.arrays import Array, as_images
from scoresde.plots.style import DPI, FOOT, INK, MUTED, SMALL, TEXT, WIDTH, ShownFigure, text_width

__all__ = ["image_grid"]


@checked
def image_grid(
    images: Array, columns: int | None = None, titles: Sequence[str] | None = None, levels: int | None = None
) -> Figure:
    """Images side by side, each pixel a sharp square.

    The samples of a model of pixels are in model space: `Samples.plot()` draws them, and
    `image_grid(model.decode(out.x), levels=256)` does the same by hand.

    Args:
        images: `(N, C, H, W)` in [0, 1], or integers 0 .. levels-1; C is 1 (grey) or 3 (RGB).
        columns: Images in a row; about √N if None.
        titles: One for each image, written above it.
        levels: How many values a pixel may have, 256 for bytes; for integers.

    Raises:
        ValueError: A wrong shape, values not finite or not in [0, 1], integers without their number of levels, or not
            one title for each image.
    """
    x = as_images(images, "images", 4)
    if levels is not None:
        if isinstance(levels, bool) or not isinstance(levels, Integral) or levels < 2:
            raise ValueError(f"levels is {levels!r}, expected an integer of at least 2, such as 256 for bytes")
        x = x / (levels - 1)
    if x.min() < -1e-4 or x.max() > 1 + 1e-4:  # round-off of a decoder passes
        raise ValueError(
            f"images must lie in [0, 1], got {x.min():.4g} to {x.max():.4g}: draw samples by their own plot(), as in "
            "out.plot(), and integers by image_grid(model.decode(out.x), levels=256)"
            if levels is None
            else f"images of {levels} levels must be integers 0 to {levels - 1}, got {x.min() * (levels - 1):.4g} to "
            f"{x.max() * (levels - 1):.4g}"
        )
    columns = min(math.ceil(math.sqrt(len(x))), 16) if columns is None else min(columns, len(x))
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if titles is not None and len(titles) != len(x):
        raise ValueError(f"titles must have one entry for each of the {len(x)} images, got {len(titles)}")
    rows = math.ceil(len(x) / columns)
    padded = np.full((rows * columns, *x.shape[1:]), np.nan)
    padded[: len(x)] = x
    texts = [str(title) for title in titles or ()]
    mosaic = Mosaic(
        padded.reshape(rows, columns, *x.shape[1:]),
        head=TEXT * 1.6 if texts else 0.0,
        every=True,
        widest=max(map(text_width, texts), default=0.0),
    )
    for i, text in enumerate(texts):
        mosaic.over(i // columns, i % columns, text)
    return mosaic.figure


def rows_of_channels(x: np.ndarray) -> np.ndarray:
    """Each channel of images `(N, C, H, W)` as an image of its own, `(N C, 1, H, W)`."""
    return x.reshape(-1, 1, *x.shape[2:])


def image_blocks(parts: list[np.ndarray], columns: int, names: Sequence[str] = ()) -> Figure:
    """Blocks of images side by side, the samples and then the data.

    Args:
        parts: Images `(N, C, H, W)` of samples, and of data if there are two.
        columns: The number of columns of each block.
        names: The names of the columns, instead of those of the blocks.
    """
    rows = max(math.ceil(len(x) / columns) for x in parts)
    cells = np.full((rows, len(parts) * (columns + 1) - 1, *parts[0].shape[1:]), np.nan)
    heads: list[tuple[int, str]] = []
    for k, (part, name) in enumerate(zip(parts, ("samples", "data"), strict=False)):
        first = k * (columns + 1)
        for i, image in enumerate(part):
            cells[i // columns, first + i % columns] = image
        heads += [(first + i, text) for i, text in enumerate(names)] if names else [(first, name)]
    widest = max(map(text_width, names)) if names else 0.0
    mosaic = Mosaic(cells, head=TEXT * 1.6, widest=widest)
    for column, text in heads:
        if names:
            mosaic.over(0, column, text)
        else:
            mosaic.above(column, text)
    return mosaic.figure


class Mosaic:
    """Rows of images in one axes. An image pixel is an integer number of dots at `DPI`, so that none is blurred.

    Args:
        images: Images `(R, K, C, H, W)` in [0, 1], or NaN for a place that is left empty.
        left: Space for text before each row, in points.
        head: Space for text above the rows, in points.
        every: Whether that space is above every row, or only above the first.
        widest: The width of the longest text above an image, in points; a small image is enlarged to it.
        foot: Whether to write below the images that the range was widened.
    """

    def __init__(
        self,
        images: np.ndarray,
        left: float = 0.0,
        head: float = 0.0,
        every: bool = False,
        widest: float = 0.0,
        foot: bool = False,
    ) -> None:
        rows, columns, _, height, width = images.shape
        dot = DPI / 72  # dots in a point
        self.left, self.head, self.every = round(left * dot), round(head * dot), every
        room = (WIDTH * DPI - self.left) / columns
        side = max(height, width)
        enough = max((0.4 + 0.02 * side) * DPI / side, widest * dot / width)
        scale = max(1, int(min(0.93 * room / width, enough)))
        scale -= scale % 2 if scale > 1 else 0  # even, so that half the resolution is sharp too
        self.cell = (height * scale, width * scale)
        self.gap = max(4, 2 * round(0.025 * side * scale))
        bottom = round(SMALL * 1.8 * dot) if foot else 0
        size = (
            rows * (self.cell[0] + self.gap) + (rows if every else 1) * self.head + self.gap + bottom,
            columns * (self.cell[1] + self.gap) + self.gap + self.left,
        )
        canvas = np.ones((*size, 3), dtype=np.float32)
        for r in range(rows):
            for k in range(columns):
                image = images[r, k]
                if np.isnan(image).any():
                    continue
                pixels = np.broadcast_to(image.clip(0, 1).transpose(1, 2, 0), (height, width, 3))
                y, x = self._corner(r, k)
                canvas[y : y + self.cell[0], x : x + self.cell[1]] = pixels.repeat(scale, 0).repeat(scale, 1)
        self.figure = ShownFigure(figsize=(size[1] / DPI, size[0] / DPI), facecolor="white")
        self.ax = self.figure.add_axes((0, 0, 1, 1))
        self.ax.set_axis_off()
        self.ax.imshow(canvas, interpolation="nearest", extent=(0, size[1], size[0], 0), aspect="auto")
        if foot:
            fits = SMALL * min(1.0, (size[1] - self.left - 2 * self.gap) / dot / (text_width(FOOT) * SMALL / TEXT))
            self._text(self.left + self.gap, size[0] - bottom / 2, FOOT, fontsize=fits, color=MUTED, va="center")

    def _corner(self, row: int, column: int) -> tuple[int, int]:
        """The distances of an image from the top and from the left, in dots."""
        y = self.gap + row * (self.cell[0] + self.gap) + (row + 1 if self.every else 1) * self.head
        return y, self.left + self.gap + column * (self.cell[1] + self.gap)

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        given: dict[str, Any] = {"fontsize": TEXT, "color": INK, "parse_math": False} | style
        self.ax.text(x, y, text, **given)

    def size_of(self, labels: Sequence[str]) -> float:
        """The largest font size, at most `TEXT`, at which labels above neighbouring images do not overlap."""
        room = (self.cell[1] + self.gap) * 72 / DPI - TEXT / 2
        return TEXT * min(1.0, float(room) / max(map(text_width, labels)))

    def over(self, row: int, column: int, text: str, size: float = TEXT) -> None:
        """Text centred above an image."""
        y, x = self._corner(row, column)
        self._text(x + self.cell[1] / 2, y - 0.45 * self.head, text, ha="center", va="center", fontsize=size)

    def above(self, column: int, text: str) -> None:
        """Text above the first row, aligned with the left of a column's image."""
        y, x = self._corner(0, column)
        self._text(x, y - 0.45 * self.head, text, ha="left", va="center")

    def before(self, row: int, text: str) -> None:
        """Text to the left of a row."""
        y, x = self._corner(row, 0)
        self._text(x - 2 * self.gap, y + self.cell[0] / 2, text, ha="right", va="center")
