"""An estimate: a number with its error bar and the sample size for which it holds."""

import math
from dataclasses import dataclass

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """A metric's value, its standard error, and the number of samples in each of the two sets.

    Sample-quality metrics are biased by an amount that depends on n (a Fréchet distance falls as n grows, at fixed
    quality), so two estimates are compared or subtracted only if they have the same name and the same n; anything else
    raises `ValueError`.

    Args:
        value: Value of the metric.
        stderr: Standard error of `value` over fresh draws of both sets; each metric says what it leaves out.
        n: Number of samples in each set.
        name: Name of the metric.

    >>> a, b = Estimate(0.1234, 0.004, 1000, "recall"), Estimate(0.1034, 0.003, 1000, "recall")
    >>> print(a, "|", a - b)
    0.123 ± 0.004 (n = 1000) | 0.020 ± 0.005 (n = 1000)
    """

    value: float
    stderr: float
    n: int
    name: str

    def __str__(self) -> str:
        return f"{_with_error(self.value, self.stderr)} (n = {self.n})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference, with its standard error by quadrature.

        Two models measured against one reference share the reference's noise. Quadrature counts it twice, so the
        standard error of their difference is usually too large, not too small.
        """
        if not isinstance(other, Estimate):
            return NotImplemented
        self._require_comparable(other)
        return Estimate(
            self.value - other.value, math.hypot(self.stderr, other.stderr), self.n, f"{self.name} difference"
        )

    def compare(self, other: "Estimate") -> float:
        """The difference `self - other` in units of its standard error.

        It is ±inf for different values without error bars, and 0 for equal values.

        Raises:
            ValueError: Estimates of different names or different n.
        """
        difference = self - other
        if difference.stderr == 0:
            return math.copysign(math.inf, difference.value) if difference.value else 0.0
        return difference.value / difference.stderr

    def __lt__(self, other: "Estimate") -> bool:
        """Order by value alone; `compare` shows whether the difference exceeds the error."""
        if not isinstance(other, Estimate):
            return NotImplemented
        self._require_comparable(other)
        return self.value < other.value

    def __le__(self, other: "Estimate") -> bool:
        if not isinstance(other, Estimate):
            return NotImplemented
        self._require_comparable(other)
        return self.value <= other.value

    def _require_comparable(self, other: "Estimate") -> None:
        if self.name != other.name:
            raise ValueError(f"cannot compare {self.name} with {other.name}: estimates must be of one metric")
        if self.n != other.n:
            raise ValueError(
                f"cannot compare {self.name} at n = {self.n} with n = {other.n}: the bias depends on n; "
                "recompute both on equally many samples"
            )


def _with_error(value: float, stderr: float) -> str:
    """The text `value ± stderr`, to one digit of the error, or two if it starts with 1."""
    if not (math.isfinite(value) and math.isfinite(stderr)):
        return f"{value:.4g} ± {stderr:.4g}"
    if stderr == 0:
        return f"{value:.4g} ± 0"
    mantissa, exponent = f"{stderr:.1e}".split("e")
    decimals = -int(exponent) + (mantissa < "2")
    if decimals <= 6:
        decimals = max(decimals, 0)
        return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"
    power = math.floor(math.log10(max(abs(value), stderr)))
    places = max(decimals + power, 0)
    return f"({value / 10.0**power:.{places}f} ± {stderr / 10.0**power:.{places}f})e{power:03d}"
