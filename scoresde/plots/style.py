"""The style that all figures share: colours, sizes, axes and legends, and how a figure becomes a PNG."""

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scoresde.arguments import checked

__all__ = ["save", "to_png"]

DPI = 200

WIDTH = 6.0  # inches, the widest a picture becomes unless its images have more pixels

CHART = (5.6, 3.1)

INK, MUTED, FAINT = "#222222", "#6b6b6b", "#d9d9d9"

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"

CYCLE = (BLUE, VERMILION, GREEN, PURPLE, MUTED)

TEXT, SMALL = 9.0, 8.0


def subscript(i: int) -> str:
    """The subscript of the value with index i, counted from 1.

    >>> subscript(0), subscript(11)
    ('₁', '₁₂')
    """
    return str(i + 1).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


@checked
def to_png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as the bytes of a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    # Equal axes leave space that the layout does not know of; a mosaic has no layout and is exact already.
    crop = None if figure.get_layout_engine() is None else "tight"
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches=crop, pad_inches=0.05, metadata={"Software": None})
    return buffer.getvalue()


@checked
def save(figure: Figure, path: str | Path, dpi: int = DPI) -> Path:
    """Write a PNG atomically: under a temporary name, which is then renamed. Directories are made as needed.

    Args:
        figure: The figure.
        path: The file, whose name ends in .png.
        dpi: Dots per inch.

    Returns:
        The path.

    Raises:
        ValueError: A name that does not end in .png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"pictures are saved as PNG; give a name that ends in .png, got {path.name}")
    content = to_png(figure, dpi)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.unlink(missing_ok=True)  # left by a process that was killed
        with draft.open("xb") as file:  # never through a file or link that exists
            file.write(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


class ShownFigure(Figure):
    """A figure that a notebook shows, whether or not a backend of matplotlib is active."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The PNG, sharp on any screen, and its size on the page at 100 CSS pixels per inch."""
        dpi = DPI if self.get_layout_engine() is None else 150  # a mosaic's pixels are whole dots at DPI alone
        content = to_png(self, dpi)
        width, height = (int.from_bytes(content[k : k + 4], "big") for k in (16, 20))  # in the IHDR chunk
        return content, {"width": round(width * 100 / dpi), "height": round(height * 100 / dpi)}


FOOT = "range widened beyond the data's where noise exceeds it"


def text_width(text: str) -> float:
    """The approximate width of a text at the size `TEXT`, in points."""
    return 0.62 * TEXT * len(text)


def marker_style(n: int) -> tuple[float, float]:
    """The area and the opacity of markers at which n points can be told apart."""
    return float(np.clip(4000 / n, 1.8, 10)), float(np.clip(30 / math.sqrt(n), 0.3, 0.9))


def new_figure(width: float, height: float) -> Figure:
    """A white figure of this size in inches, whose layout is computed when it is drawn."""
    return ShownFigure(figsize=(width, height), facecolor="white", layout="constrained")


def line_style(i: int) -> dict[str, Any]:
    """The colour and width of the line of series i."""
    return {"color": CYCLE[i % len(CYCLE)], "linewidth": 1.5}


def add_legend(ax: Axes, outside: bool = False, **place: Any) -> None:
    """Add a legend without a frame, above the axes if `outside`."""
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "borderaxespad": 0.3}
    place |= above if outside else {"loc": "best"}
    legend = ax.legend(frameon=False, fontsize=SMALL, labelcolor=INK, handlelength=1.8, columnspacing=1.5, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may contain a dollar sign


def plane_axes(ax: Axes, window: tuple[np.ndarray, np.ndarray], title: str = "", ticks: int = 4) -> None:
    """Give axes over the plane equal scales and the limits of a window, the centre and the half sides of a box."""
    (left, bottom), (right, top) = window[0] - window[1], window[0] + window[1]
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    if title:
        ax.set_title(title, fontsize=TEXT, color=INK)


def log_if_wide(ax: Axes, values: np.ndarray) -> None:
    """Make the y axis logarithmic if the values are positive and span more than a factor of 30."""
    if values.min() > 0 and values.max() > 30 * values.min():
        ax.set_yscale("log")


def finish_axes(
    ax: Axes, xlabel: str, ylabel: str, title: str = "", grid: bool = False, pad: float | None = None
) -> None:
    """Give axes their labels, a thin frame and unobtrusive ticks.

    Args:
        ax: The axes.
        xlabel: The label of the x axis.
        ylabel: The label of the y axis.
        title: The title, on the left.
        grid: Whether to draw horizontal grid lines instead of a full frame.
        pad: The distance of the title in points; matplotlib's if None.
    """
    ax.set_facecolor("white")
    ax.set_xlabel(xlabel, fontsize=TEXT, color=INK)
    ax.set_ylabel(ylabel, fontsize=TEXT, color=INK)
    if title:
        ax.set_title(title, fontsize=TEXT + 1, color=INK, loc="left", pad=pad)
    ax.tick_params(which="both", labelsize=SMALL, color=FAINT, labelcolor=MUTED, width=0.8)
    for side, spine in ax.spines.items():
        spine.set_color(FAINT)
        spine.set_linewidth(0.8)
        spine.set_visible(not grid or side in ("left", "bottom"))
    if grid:
        ax.grid(True, axis="y", color=FAINT, linewidth=0.6)
        ax.set_axisbelow(True)
    else:
        ax.grid(False)
