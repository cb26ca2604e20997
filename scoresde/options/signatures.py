"""Arguments of a configuration against the signatures of what it names.

A mapping with `_target_` is compared with the class or function that it names: a key that is no parameter is reported
with the nearest that is, and a value with what its annotation allows. Without this check a misspelt key can be ignored,
and a word from the shell is a string, which Python takes for true: `training.compile=no` would compile.
"""

import collections.abc
import difflib
import inspect
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

from scoresde.options.declarations import Declaration

__all__ = ["Range", "Word", "expected", "fits", "nearest", "problems", "shown"]

# Keys that Hydra reads itself.
_HYDRA = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
# Names of annotated types whose values no configuration can write down.
_UNWRITABLE = ("Tensor", "ndarray", "Generator", "dtype", "device", "Module")
_NAMES: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "null"}
_PATHS = (os.PathLike,)


@dataclass(frozen=True)
class Range:
    """The numbers that an annotation allows, as in `Annotated[int, Range(1)]`.

    Args:
        low: Smallest number.
        above: Whether `low` itself is excluded, and infinity too.
        most: Largest number.
        bits: Number of bits, so that numbers are below 2**bits; no limit if not given.

    >>> print(Range(0, above=True), "|", Range(1, bits=63), "|", 0 in Range(0, above=True))
    above 0 | of at least 1 and below 2**63 | False
    """

    low: float
    above: bool = False
    most: float = math.inf
    bits: int | None = None

    def __contains__(self, value: float) -> bool:
        inside = self.low < value < math.inf if self.above else value >= self.low
        return inside and value <= self.most and (self.bits is None or value < 2**self.bits)

    def __str__(self) -> str:
        if self.most < math.inf:
            span = "above {:g} and at most {:g}" if self.above else "from {:g} to {:g}"
            return span.format(self.low, self.most)
        least = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        return least if self.bits is None else f"{least} and below 2**{self.bits}"


@dataclass(frozen=True)
class Word:
    """The words that an annotation allows, as in `Annotated[str, Word("auto|none", "auto or none")]`.

    Args:
        pattern: Regular expression of the whole word.
        words: The allowed words, for a message.
    """

    pattern: str
    words: str

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.words


def nearest(name: str, names: Iterable[object]) -> str:
    """The text `, did you mean ...?` with the nearest of some names; empty if none is near.

    >>> nearest("wdith", ["width", "depth"])
    ", did you mean 'width'?"
    """
    found = difflib.get_close_matches(name, [str(n) for n in names], n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""


def problems(node: Any, key: str, find: Callable[[Any], Any], given: Sequence[str] | None = None) -> Iterator[str]:
    """Messages about arguments that their targets do not take, each in one line.

    Args:
        node: Plain containers.
        key: Dotted name of the node.
        find: Function from a `_target_` to the class or function.
        given: Parameters of the node's own target that the program adds; None if they are not known, in which case none
            of its parameters is reported as missing.
    """
    if isinstance(node, list):
        for i, value in enumerate(node):
            yield from problems(value, f"{key}[{i}]", find, ())
    elif isinstance(node, dict) and "_target_" in node:
        yield from _of_target(node, key, find, given)
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from problems(value, f"{key}.{name}", find, ())


def _of_target(
    node: dict[str, Any], key: str, find: Callable[[Any], Any], given: Sequence[str] | None
) -> Iterator[str]:
    target = find(node["_target_"])
    parameters, hints = _signature(target)
    if parameters is None:
        return
    kinds = inspect.Parameter
    names = [n for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    anything = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    what = getattr(target, "__name__", str(target))
    for name, value in node.items():
        if name in _HYDRA:
            continue
        where = f"{key}.{name}"
        if name not in names:
            if not anything:
                takes = ", ".join(n for n in names if n not in (given or ())) or "no arguments"
                near = difflib.get_close_matches(str(name), names, 1, 0.5)
                hint = f", did you mean {key}.{near[0]}?" if near else ""
                yield f"{where}: {what} has no {name!r}{hint}; it takes {takes}"
            continue
        annotation = hints.get(name, Any)
        if name not in hints and isinstance(parameters[name].default, bool):
            annotation = bool
        if not fits(value, annotation, find):
            yield f"{where} is {shown(value)}, expected {expected(annotation)}"
        yield from problems(value, where, find, ())
    for name in given or ():
        if name not in names and not anything:
            yield f"{key}: {what} does not take {name!r}, which is given to it{nearest(name, names)}"
    if given is None or node.get("_partial_"):
        return
    positional = len(node.get("_args_") or ())
    for place, name in enumerate(names):
        if parameters[name].default is kinds.empty and name not in node and name not in given and place >= positional:
            yield f"{key}.{name} is missing: {what} needs {expected(hints.get(name, Any))}"


def _signature(target: Any) -> tuple[Any, dict[str, Any]]:
    """Parameters by name, None if they are not known, and the annotations that can be evaluated."""
    if isinstance(target, Declaration):
        return target.parameters, target.hints
    function = target.__init__ if inspect.isclass(target) else target
    try:
        # The signature of a class would be that of its metaclass, if that has a `__call__`.
        own = inspect.isfunction(function) and inspect.isclass(target)
        found = inspect.signature(function if own else target).parameters
    except (TypeError, ValueError):
        return None, {}
    parameters = dict(list(found.items())[1:]) if own else dict(found)
    try:
        return parameters, typing.get_type_hints(function)
    except Exception:  # names that only a type checker imports
        return parameters, {}


def fits(value: Any, annotation: Any, find: Callable[[Any], Any] = str) -> bool:
    """True if a value of a configuration, a plain one or a mapping with `_target_`, is of the annotated type.

    It is True for annotations that say nothing about values of a configuration.

    Args:
        value: The value.
        annotation: The type.
        find: Function from a `_target_` to the class or function that is compared with the type; any class fits if not
            given.

    >>> fits(3, float), fits("no", bool), fits([1, "a"], list[int])
    (True, False, False)
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or isinstance(annotation, typing.TypeVar | str):
        return True
    if origin is typing.Annotated:
        limits = [limit for limit in args[1:] if isinstance(limit, Range | Word)]
        return fits(value, args[0], find) and all(value in limit for limit in limits)
    if origin in (Union, types.UnionType):
        return any(fits(value, arg, find) for arg in args)
    if isinstance(value, dict) and "_target_" in value:
        return _makes(value, origin or annotation, find)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if annotation in (None, type(None)):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    kind: Any = origin or annotation
    if not inspect.isclass(kind):
        return True
    if kind is str or issubclass(kind, _PATHS):
        return isinstance(value, str)
    if issubclass(kind, collections.abc.Mapping):
        return isinstance(value, dict)
    if issubclass(kind, collections.abc.Iterable) and kind.__module__ in ("builtins", "collections.abc"):
        return isinstance(value, list) and _elements_fit(value, kind, args, find)
    if kind is collections.abc.Callable or value is None:
        return False
    # A class is made by a mapping with _target_; a class of a user may be made of any value.
    return not (kind.__module__.startswith("scoresde.") or kind.__name__ in _UNWRITABLE)


def _elements_fit(value: list[Any], kind: type, args: tuple[Any, ...], find: Callable[[Any], Any]) -> bool:
    if not args:
        return True
    if issubclass(kind, tuple) and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(fits(v, arg, find) for v, arg in zip(value, args, strict=True))
    return all(fits(v, args[0], find) for v in value)


def _makes(node: dict[str, Any], kind: Any, find: Callable[[Any], Any]) -> bool:
    """True if the object that a node makes may be an instance of the class."""
    if kind in (bool, int, float, str, type(None), Literal):
        return False
    target = find(node["_target_"])
    target = target.kind if isinstance(target, Declaration) else target
    if not inspect.isclass(target) or not target.__module__.startswith("scoresde."):
        return True
    if node.get("_partial_") or not inspect.isclass(kind):
        return True
    return issubclass(target, kind) or not kind.__module__.startswith("scoresde.")


def expected(annotation: Any) -> str:
    """The annotated type in words.

    >>> expected(int | None), expected(list[float])
    ('an integer or null', 'a list, each a number')
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        known = [a for a in args if getattr(a, "__name__", "") not in _UNWRITABLE]
        return " or ".join(dict.fromkeys(expected(a) for a in known or args))
    if origin is typing.Annotated:
        limits = [limit for limit in args[1:] if isinstance(limit, Range | Word)]
        if limits == [Range(0, above=True)]:
            return expected(args[0]).replace("a number", "a positive number")
        noun = [] if any(isinstance(limit, Word) for limit in limits) else [expected(args[0])]
        return " ".join([*noun, *map(str, limits)])
    if origin is Literal:
        return " or ".join(map(shown, args))
    if annotation in _NAMES:
        return _NAMES[annotation]
    kind: Any = origin or annotation
    if not inspect.isclass(kind):
        return "a value"
    if issubclass(kind, _PATHS):
        return "a path"
    if issubclass(kind, collections.abc.Mapping):
        return "a mapping"
    if issubclass(kind, collections.abc.Iterable) and kind.__module__ in ("builtins", "collections.abc"):
        if issubclass(kind, tuple) and args and args[-1] is not Ellipsis:
            return f"a list of {len(args)}: {', '.join(map(expected, args))}"
        return f"a list, each {expected(args[0])}" if args and args[0] is not Any else "a list"
    if kind is collections.abc.Callable:
        return "a function, as a mapping with _target_ and _partial_"
    return f"a {kind.__name__}, as a mapping with _target_"


def shown(value: Any) -> str:
    """A value as a configuration writes it; an object by the name of its class."""
    if isinstance(value, dict) and "_target_" in value:
        return str(value["_target_"])
    words = ((None, "null"), (True, "true"), (False, "false"))
    return next((word for known, word in words if value is known), repr(value))
