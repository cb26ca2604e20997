"""Results in a notebook: small HTML tables, escaped, and numbers with their errors."""

import math
from collections.abc import Sequence
from html import escape

from torch import Tensor

from scoresde.numerics.means import mean_and_error
from scoresde.numerics.ode import Status

__all__ = [
    "arrived",
    "counts",
    "mean_with_error",
    "range_of",
    "rms",
    "shape_of",
    "spread_of",
    "table",
    "times_of",
    "with_error",
]

Rows = Sequence[tuple[str, str]]

# Colours are left to the notebook, which may be light or dark.
_CELL = "text-align:left;padding:1px 12px 1px 0"


def table(title: str, rows: Rows, note: str = "") -> str:
    """A heading and a table of names and values, all of them text.

    Args:
        title: The heading.
        rows: Names and values.
        note: A note below the table, in small print.
    """
    cells = "".join(
        f'<tr><th style="{_CELL};font-weight:normal;opacity:0.7">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in rows
    )
    foot = f'<div style="opacity:0.7;font-size:90%">{escape(note)}</div>' if note else ""
    return f"<div><b>{escape(title)}</b><table>{cells}</table>{foot}</div>"


def shape_of(x: Tensor) -> str:
    """The shape of a tensor, such as `64 × 1 × 8 × 8`."""
    return " × ".join(map(str, x.shape))


def times_of(times: Tensor) -> str:
    """The ends of a grid of times and its number of steps."""
    first, last = float(times[0]), float(times[-1])
    return f"{first:.3g} to {last:.3g} in {len(times) - 1} steps"


def spread_of(x: Tensor) -> str:
    """Range, mean and standard deviation of the finite values."""
    values = x[x.isfinite()].double()
    if not values.numel():
        return "none is finite"
    low, high = values.aminmax()
    return f"{low:.3g} to {high:.3g}, mean {values.mean():.3g}, standard deviation {values.std(correction=0):.3g}"


def arrived(status: Tensor) -> str:
    """The number of samples that came to the end."""
    count = int((status == Status.ARRIVED).sum())
    return "all" if count == len(status) else f"{count} of {len(status)}; see status"


def counts(values: Tensor | int) -> str:
    """A number, or the mean and the range if samples differ."""
    if isinstance(values, int):
        return str(values)
    low, high = values.double().aminmax()
    return f"{low:g}" if low == high else f"{values.double().mean():.4g} ({low:g} to {high:g})"


def range_of(values: Tensor) -> str:
    """The smallest and the largest value."""
    low, high = values.double().aminmax()
    return f"{low:.4g} to {high:.4g}"


def mean_with_error(values: Tensor) -> str:
    """The mean of independent values with its standard error."""
    return with_error(*mean_and_error(values.double()))


def rms(values: Tensor) -> float:
    """The root mean square."""
    return values.double().square().mean().sqrt().item()


def with_error(value: float, stderr: float) -> str:
    """A value and its error, to two digits of the error; the value alone without an error.

    >>> with_error(3.14159, 0.0123), with_error(3.14159, float("nan"))
    ('3.142 ± 0.012', '3.1416')
    """
    if not (math.isfinite(stderr) and stderr > 0):
        return f"{value:.5g}"
    places = max(0, 1 - math.floor(math.log10(stderr)))
    return f"{value:.{places}f} ± {stderr:.{places}f}"
