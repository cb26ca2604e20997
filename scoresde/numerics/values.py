"""Values: how they are broadcast, checked and shown."""

import math
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from torch import Tensor

__all__ = [
    "Value",
    "at_least",
    "described",
    "equal",
    "expand_to",
    "fraction",
    "not_negative",
    "one_of",
    "positive",
    "quoted",
    "share",
    "whole_number",
]


def expand_to(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient `()` or `(B,)` so that it multiplies `x` of shape `(B, ...)`, in the dtype of `x`.

    A scalar on the CPU stays there: PyTorch passes it to a kernel on any device without synchronising.

    Raises:
        ValueError: Coefficients of another number than the samples.
    """
    if coefficient.ndim == 0:
        return coefficient.to(x.dtype)
    if coefficient.shape != x.shape[:1]:
        raise ValueError(
            f"t has shape {tuple(coefficient.shape)}, expected () or ({x.shape[0]},) for x of shape {tuple(x.shape)}"
        )
    return coefficient.to(x).reshape(-1, *[1] * (x.ndim - 1))


def described(obj: object, *names: str, digits: int | None = None, without_none: bool = False) -> str:
    """The text `Class(name=value, ...)`, for the `__repr__` of objects that are made of named values.

    Args:
        obj: The object.
        *names: Attributes to show; if none is given, all that the instance has whose names have no leading underscore.
        digits: Significant digits of floats; all that are needed to read the same number back if not given.
        without_none: Leave out attributes that are None.

    >>> from types import SimpleNamespace
    >>> described(SimpleNamespace(order=2, tau=0.1, _plan=None))
    'SimpleNamespace(order=2, tau=0.1)'
    """
    shown = names or tuple(name for name in vars(obj) if not name.startswith("_"))
    values = ((name, getattr(obj, name)) for name in shown)
    parts = (f"{name}={_text(value, digits)}" for name, value in values if not (without_none and value is None))
    return f"{type(obj).__name__}({', '.join(parts)})"


class Value:
    """An object that is its class and its named settings: equal to others that are made alike, and hashable.

    >>> class Level(Value):
    ...     def __init__(self, std):
    ...         self.std = std
    >>> Level(0.5), Level(0.5) == Level(0.5), Level(0.5) == Level(0.6)
    (Level(std=0.5), True, False)
    """

    def __repr__(self) -> str:
        return described(self)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and equal(vars(self), vars(other))

    def __hash__(self) -> int:
        # Other attributes, such as lists, cannot be hashed, or are rarely all that differs.
        return hash((type(self), *(v for v in vars(self).values() if isinstance(v, int | float | str))))


def equal(a: Any, b: Any) -> bool:
    """True if two values are equal; containers, tensors and arrays are compared element by element.

    >>> import torch
    >>> equal({"a": [torch.ones(2), 1]}, {"a": [torch.ones(2), 1]}), equal(torch.ones(2), torch.ones(1))
    (True, False)
    """
    if isinstance(a, Mapping):
        return type(a) is type(b) and a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if getattr(a, "shape", None) != getattr(b, "shape", None):
        return False
    same = a == b
    return bool(same.all()) if hasattr(same, "all") else bool(same)


def _text(value: Any, digits: int | None) -> str:
    return f"{value:.{digits}g}" if digits is not None and isinstance(value, float) else repr(value)


def whole_number(name: str, value: Any, at_least: int = 1) -> int:
    """The value as an integer, if it is one of at least a least; a float without a fraction counts as an integer.

    Raises:
        ValueError: Anything else; the message calls it `name`.
    """
    integer = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not integer or value < at_least:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least {at_least}")
    return int(value)


def at_least(name: str, value: float, least: float, hint: str = "") -> None:
    """Check that a number is not below a least.

    Args:
        name: The subject of the message.
        value: The number.
        least: The smallest number that is accepted.
        hint: The end of the message, such as "; use NoCorrector for none".

    Raises:
        ValueError: A number that is smaller, or NaN.
    """
    if not value >= least:
        raise ValueError(f"{name} is {value}, expected at least {least}{hint}")


def positive(name: str, value: float, expected: str = "a positive number", finite: bool = True) -> None:
    """Check that a number is positive.

    Args:
        name: The subject of the message.
        value: The number.
        expected: The noun of the message, such as "a positive number of nats".
        finite: Whether infinity is rejected.

    Raises:
        ValueError: A number that is not positive, NaN, or infinity where that is rejected.
    """
    if not value > 0 or (finite and value == math.inf):
        raise ValueError(f"{name} is {value}, expected {expected}")


def not_negative(name: str, value: float, expected: str = "0 or more", finite: bool = True) -> None:
    """Check that a number is 0 or more.

    Args:
        name: The subject of the message.
        value: The number.
        expected: The end of the message.
        finite: Whether infinity is rejected.

    Raises:
        ValueError: A negative number, NaN, or infinity where that is rejected.
    """
    if not value >= 0 or (finite and value == math.inf):
        raise ValueError(f"{name} is {value}, expected {expected}")


def fraction(name: str, value: float) -> None:
    """Check that a number is above 0 and at most 1.

    Raises:
        ValueError: Any other number, or NaN.
    """
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}, expected more than 0 and at most 1")


def share(name: str, value: float) -> float:
    """The value as a float, if it is from 0 to 1.

    Raises:
        ValueError: Any other number, or NaN.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}, expected a share from 0 to 1")
    return float(value)


def one_of(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Check that a value is one of a few words or numbers.

    Raises:
        ValueError: Any other value.
    """
    known = tuple(choices)
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected {quoted(known)}")


def quoted(choices: Iterable[Any]) -> str:
    """Words as a sentence lists them.

    >>> quoted(["auto", "reverse", "forward"])
    "'auto', 'reverse' or 'forward'"
    """
    *head, last = map(repr, choices)
    return f"{', '.join(head)} or {last}" if head else last
