"""Colours, sizes and the frame that all figures share."""

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from scoresde.arguments import checked

__all__ = ["save", "to_png"]

Array: TypeAlias = Tensor | np.ndarray | Sequence[Any]

DPI = 200

WIDTH = 6.0  # inches, the widest a picture becomes unless its images have more pixels

CHART = (5.6, 3.1)

INK, MUTED, FAINT = "#222222", "#6b6b6b", "#d9d9d9"

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#AA4499"

CYCLE = (BLUE, VERMILION, GREEN, PURPLE, MUTED)

TEXT, SMALL = 9.0, 8.0


def subscript(i: int) -> str:
    """The index that is shown for value i, from 1."""
    return str(i + 1).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


@checked
def to_png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    # Equal axes leave space that the layout cannot know of; a mosaic has no layout and is exact already.
    crop = None if figure.get_layout_engine() is None else "tight"
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches=crop, pad_inches=0.05, metadata={"Software": None})
    return buffer.getvalue()


@checked
def save(figure: Figure, path: str | Path, dpi: int = DPI) -> Path:
    """Write a PNG, whole or not at all: under another name first, then renamed. Folders are made as needed.

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
        draft.unlink(missing_ok=True)  # of a process that was killed
        with draft.open("xb") as file:  # nothing that is there, and no link, is written to
            file.write(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


class ShownFigure(Figure):
    """A figure that a notebook shows whether or not a backend of matplotlib is active there."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture, sharp on any screen, and its size on the page: 100 CSS pixels to an inch."""
        dpi = DPI if self.get_layout_engine() is None else 150  # a mosaic's pixels are whole dots at DPI alone
        content = to_png(self, dpi)
        width, height = (int.from_bytes(content[k : k + 4], "big") for k in (16, 20))  # of the IHDR chunk
        return content, {"width": round(width * 100 / dpi), "height": round(height * 100 / dpi)}


FOOT = "range widened beyond the data's where noise exceeds it"


def as_numbers(values: Array, name: str, ndim: int, allow_nan: bool = False) -> np.ndarray:
    """A finite float64 array of `ndim` dimensions with at least one value."""
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu().double().numpy()
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {type(values).__name__}") from error
    if x.ndim != ndim or x.size == 0:
        raise ValueError(f"{name} must have {ndim} dimensions and at least one value, got shape {x.shape}")
    if not (np.isfinite(x) | (np.isnan(x) & allow_nan)).all():
        raise ValueError(f"{name} has values that are not finite")
    return x


def as_images(values: Array, name: str, ndim: int) -> np.ndarray:
    x = as_numbers(values, name, ndim)
    if x.shape[-3] not in (1, 3):
        shape = "(N, C, H, W)" if ndim == 4 else "(T, N, C, H, W)"
        raise ValueError(f"{name} must be {shape} with C = 1 or 3, got shape {x.shape}")
    return x


def as_points(values: Array, name: str) -> np.ndarray:
    x = as_numbers(values, name, 2)
    if x.shape[1] != 2:
        raise ValueError(f"{name} must be points (N, 2), got shape {x.shape}")
    return x


def as_states(values: Array, times: Array, name: str) -> tuple[np.ndarray, np.ndarray]:
    """`(T, N, C, H, W)` or `(T, N, 2)`, and times `(T,)`."""
    shape = tuple(getattr(values, "shape", ())) or np.shape(values)
    if len(shape) not in (3, 5):
        raise ValueError(f"{name} must be images (T, N, C, H, W) or points (T, N, 2), got shape {tuple(shape)}")
    x = as_images(values, name, 5) if len(shape) == 5 else as_numbers(values, name, 3)
    if x.ndim == 3 and x.shape[2] != 2:
        raise ValueError(f"{name} must be images (T, N, C, H, W) or points (T, N, 2), got shape {x.shape}")
    t = as_numbers(times, "times", 1)
    if len(t) != len(x):
        raise ValueError(f"times must have one value for each of the {len(x)} {name}, got {len(t)}")
    return x, t


def fitted_range(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """Images `(T, ...)` mapped to [0, 1] time by time, and whether any range was widened for it."""
    away = np.abs(x - 0.5).reshape(len(x), -1)
    half = np.maximum(np.quantile(away, 0.98, axis=1), 0.5)
    scaled = 0.5 + (x - 0.5) * (0.5 / half).reshape(-1, 1, 1, 1, 1)
    return scaled, bool((half > 0.5 * 1.02).any())


def text_width(text: str) -> float:
    """Points that text takes at the size `TEXT`, about."""
    return 0.62 * TEXT * len(text)


def short_number(value: float, digits: int = 3) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def window_of(x: np.ndarray, coverage: float = 0.995, flattest: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half sides, `(2,)` each, of a box that holds `coverage` of each coordinate of `(N, 2)`.

    The shorter side is at least `flattest` times the longer.
    """
    low, high = np.quantile(x, ((1 - coverage) / 2, (1 + coverage) / 2), axis=0)
    half = np.maximum((high - low) / 2, flattest * max(high - low) / 2)
    return (low + high) / 2, 1.08 * half if half.max() > 0 else np.ones(2)


def marker_style(n: int) -> tuple[float, float]:
    """Marker area and opacity that keep n points apart."""
    return float(np.clip(4000 / n, 1.8, 10)), float(np.clip(30 / math.sqrt(n), 0.3, 0.9))


def running_mean(y: np.ndarray, half: int) -> np.ndarray:
    """The mean of the 2 half + 1 values around each, or of those there are near the ends."""
    total = np.concatenate([[0.0], y.cumsum()])
    i = np.arange(len(y))
    first, last = np.maximum(i - half, 0), np.minimum(i + half, len(y) - 1)
    return (total[last + 1] - total[first]) / (last + 1 - first)


def new_figure(width: float, height: float) -> Figure:
    return ShownFigure(figsize=(width, height), facecolor="white", layout="constrained")


def line_style(i: int) -> dict[str, Any]:
    return {"color": CYCLE[i % len(CYCLE)], "linewidth": 1.5}


def add_legend(ax: Axes, outside: bool = False, **place: Any) -> None:
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "borderaxespad": 0.3}
    place |= above if outside else {"loc": "best"}
    legend = ax.legend(frameon=False, fontsize=SMALL, labelcolor=INK, handlelength=1.8, columnspacing=1.5, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names are names, whatever they contain


def plane_axes(ax: Axes, window: tuple[np.ndarray, np.ndarray], title: str = "", ticks: int = 4) -> None:
    """Equal axes over a box."""
    (left, bottom), (right, top) = window[0] - window[1], window[0] + window[1]
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    if title:
        ax.set_title(title, fontsize=TEXT, color=INK)


def log_if_wide(ax: Axes, values: np.ndarray) -> None:
    if values.min() > 0 and values.max() > 30 * values.min():
        ax.set_yscale("log")


def finish_axes(
    ax: Axes, xlabel: str, ylabel: str, title: str = "", grid: bool = False, pad: float | None = None
) -> None:
    """Labels, thin frame, quiet ticks."""
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
