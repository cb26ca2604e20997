"""Arguments of public functions and classes, checked against their annotations at the call.

A value whose meaning is beyond doubt is converted: NumPy arrays, data frames and lists of numbers where a tensor is
expected, NumPy's numbers where Python's are, and floats without a fraction for integers. Anything else is rejected in
one line that says what was given, what is expected and what to write.
"""

import difflib
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["ArgumentError", "as_tensor", "checked", "shown"]

F = TypeVar("F", bound=Callable[..., Any])
Rule = Callable[[str, Any], Any]
"""A function from the name of an argument and its value to the value that is used."""

_SHOWN = 60  # characters of a value in a message
# Examples for messages, by the class that is expected; messages about other classes have none.
_EXAMPLES = {
    "ChainModel": "scoresde.chains.GaussianChainModel(model, VPSDE().chain(1000))",
    "Coordinate": "scoresde.sampling.LogSNR()",
    "Divergence": "scoresde.likelihood.Exact()",
    "GaussianChain": "scoresde.sde.VPSDE().chain(1000)",
    "Generator": "torch.Generator().manual_seed(0)",
    "Grid": "scoresde.sampling.KarrasGrid(32)",
    "NetworkScore": "scoresde.load(directory)",
    "Objective": "scoresde.objectives.DenoisingScoreMatching()",
    "Preconditioning": "scoresde.preconditioning.EDMPreconditioning()",
    "SDE": "scoresde.sde.VPSDE()",
    "Sampler": "scoresde.sampling.Sampler(Heun(), KarrasGrid(32))",
    "ScoreModel": "scoresde.load(directory)",
    "Solver": "scoresde.sampling.Heun()",
}


class ArgumentError(TypeError, ValueError):
    """An argument of a kind that is not accepted."""


def checked(target: F) -> F:
    """The function, or the class with its `__init__`, whose arguments are checked against their annotations.

    Tensors, numbers, sequences, mappings, functions and classes are checked; protocols, and annotations by a name that
    only the type checker knows, are not.

    Raises:
        ArgumentError: At the call, an argument of another kind, one that is missing, or one that does not exist.

    >>> @checked
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> double(np.float64(3.0))
    6
    >>> double("3")
    Traceback (most recent call last):
        ...
    scoresde.arguments.ArgumentError: n is '3', expected an integer
    """
    if isinstance(target, type):
        target.__init__ = checked(target.__init__)  # type: ignore[misc]
        return target
    prepared: list[Any] = []

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not prepared:
            # At the first call: annotations may name what is defined further down, and an import takes less time.
            signature = inspect.signature(target)
            prepared[:] = signature, dict(_rules(target, signature))
        signature, rules = prepared
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            name = _name(target, args if "self" in signature.parameters else ())
            raise ArgumentError(_misfit(name, signature, args, kwargs, error)) from None
        given = bound.arguments
        for name, rule in rules.items():
            if name in given:
                given[name] = rule(name, given[name])
        return target(*bound.args, **bound.kwargs)

    return typing.cast(F, call)


def as_tensor(name: str, value: Any) -> Tensor:
    """A tensor as it is; arrays, data frames and lists of numbers or of arrays of one shape as a tensor on the CPU.

    Python's numbers become float64 or int64, as in NumPy.

    Raises:
        ArgumentError: Anything else; the message calls it `name`.

    >>> as_tensor("x", [[1, 2]])
    tensor([[1, 2]])
    """
    if isinstance(value, Tensor):
        return value
    if type(value).__name__ == "Samples":
        raise ArgumentError(f"{name} is {shown(value)}, expected a tensor: give its x")
    if type(value).__name__ == "Data":
        raise ArgumentError(f"{name} is {shown(value)}, expected a tensor: give its train or test")
    array = value
    if isinstance(value, list | tuple) and value and all(isinstance(v, Tensor) for v in value):
        array = [v.detach().cpu().numpy() for v in value]
    elif not isinstance(value, np.ndarray | np.generic | list | tuple) and not _array_like(value):
        raise ArgumentError(f"{name} is {shown(value)}, expected a tensor or an array of numbers")
    try:
        array = np.asarray(array)
    except (TypeError, ValueError) as error:  # lists of different lengths
        raise ArgumentError(
            f"{name} is {shown(value)}, whose parts have different shapes, expected an array of numbers"
        ) from error
    if array.dtype.kind not in "biufc":
        raise ArgumentError(
            f"{name} is an array of dtype {array.dtype}, expected numbers: convert it by .astype(float)"
        )
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "u" and size == 8 and array.size and array.max() > np.iinfo(np.int64).max:
        raise ArgumentError(f"{name} has the integer {array.max()}, expected numbers below 2**63")
    # dtypes that torch lacks, or supports in a few operations only.
    wider: Any = {("u", 2): np.int32, ("u", 4): np.int64, ("u", 8): np.int64}.get((kind, size))
    if size > {"f": 8, "c": 16}.get(kind, size):  # long double
        wider = {"f": np.float64, "c": np.complex128}[kind]
    array = np.ascontiguousarray(array, dtype=wider or array.dtype.newbyteorder("=")).reshape(array.shape)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _array_like(value: Any) -> bool:
    """True if NumPy can make an array of a value: a data frame, a Pillow image, an array of another library."""
    return not isinstance(value, type) and (hasattr(value, "__array__") or hasattr(value, "__array_interface__"))


def shown(value: Any) -> str:
    """A value for a message: its kind and a short text."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    if isinstance(value, nn.Module):
        return f"the module {type(value).__name__}"
    text = " ".join(repr(value).split())
    if text.startswith("<"):
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


def _rules(target: Callable[..., Any], signature: inspect.Signature) -> Iterator[tuple[str, Rule]]:
    scope = getattr(inspect.unwrap(target), "__globals__", {})
    for name, parameter in signature.parameters.items():
        annotation = parameter.annotation
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or annotation is parameter.empty:
            continue
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, scope)
            except NameError:
                continue
        rule = _rule(annotation)
        if rule is not None:
            yield name, rule


def _rule(annotation: Any) -> Rule | None:
    """The check of an argument with this annotation; None without a check."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return _union(parts)
    if annotation is Tensor:
        return as_tensor
    if annotation in (bool, int, float):
        return {bool: _flag, int: _integer, float: _number}[annotation]
    if origin in (list, Sequence, Iterable) or (origin is tuple and len(parts) == 2 and parts[1] is Ellipsis):
        return functools.partial(_sequence, parts[0])
    if origin is Mapping:
        return _mapping
    if origin is Callable:
        return _function
    if origin is Literal:
        return functools.partial(_literal, parts)
    if annotation in (Any, object):
        return None
    if isinstance(origin, type) and origin.__module__.startswith("scoresde."):  # a generic class of ours
        return functools.partial(_instance, origin)
    if isinstance(annotation, type) and not getattr(annotation, "_is_protocol", False):
        return functools.partial(_instance, annotation)
    return None


def _union(parts: tuple[Any, ...]) -> Rule | None:
    kinds = [p for p in parts if p is not type(None)]
    rules = [_rule(p) for p in kinds]
    optional = len(kinds) < len(parts)
    if any(r is None for r in rules) or np.ndarray in kinds:  # a function that takes any array checks it itself
        return None

    def rule(name: str, value: Any) -> Any:
        if optional and value is None:
            return None
        first: ArgumentError | None = None
        for part in rules:
            assert part is not None
            try:
                return part(name, value)
            except ArgumentError as error:
                first = first or error
        if len(rules) == 1:
            assert first is not None
            raise first
        # Of the first kind that something is to be written for.
        hints = (_expected(kind, value).partition(": write ")[2] for kind in kinds if isinstance(kind, type))
        hint = next((f": write {text}" for text in hints if text), "")
        raise ArgumentError(f"{name} is {shown(value)}, expected {' or '.join(map(_described, kinds))}{hint}")

    return rule


def _described(kind: Any) -> str:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Callable:
        return "a function"
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is not None:
        return f"a {'mapping' if origin is Mapping else 'sequence'} of {' to '.join(_plural(p) for p in parts[:2])}"
    names = {int: "an integer", float: "a number", bool: "True or False", str: "text", Tensor: "a tensor"}
    return names.get(kind) or _article(kind.__name__)


def _plural(kind: Any) -> str:
    return {int: "integers", float: "numbers", str: "names"}.get(kind, "values")


def _article(noun: str) -> str:
    spelt = noun[:2].isupper()  # pronounced letter by letter: an SDE, an MLP
    vowel = noun[0] in ("AEFHILMNORSX" if spelt else "AEIOaeiou")
    return f"{'an' if vowel else 'a'} {noun}"


def _scalar(value: Any) -> Any:
    """A Python number for a NumPy number or a tensor without dimensions; other values as they are."""
    if isinstance(value, np.generic) or (isinstance(value, Tensor | np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def _flag(name: str, value: Any) -> Any:
    value = _scalar(value)
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} is {shown(value)}, expected True or False")
    return value


def _integer(name: str, value: Any) -> Any:
    value = _scalar(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ArgumentError(f"{name} is {shown(value)}, expected an integer")
    return value


def _number(name: str, value: Any) -> Any:
    value = _scalar(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentError(f"{name} is {shown(value)}, expected a number")
    return value


def _sequence(kind: Any, name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.tolist() if value.ndim else value.item()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        # A text in place of names, or a number in place of numbers, lacks only the brackets.
        alone = isinstance(value, str if kind is str else Real)
        hint = f": write [{value!r}]" if alone else ""
        raise ArgumentError(f"{name} is {shown(value)}, expected a sequence of {_plural(kind)}{hint}")
    rule = _rule(kind) if kind in (int, float) else None
    if rule is None or not isinstance(value, list | tuple):
        return value
    return type(value)(rule(f"{name}[{i}]", v) for i, v in enumerate(value)) if type(value) in (list, tuple) else value


def _mapping(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{name} is {shown(value)}, expected a mapping from names, such as {{'name': ...}}")
    return value


def _function(name: str, value: Any) -> Any:
    if not callable(value):
        raise ArgumentError(f"{name} is {shown(value)}, expected a function")
    return value


def _literal(allowed: tuple[Any, ...], name: str, value: Any) -> Any:
    # Another word is left to the function, which knows what the words are for.
    if not isinstance(value, str) and not any(value is v for v in allowed):
        raise ArgumentError(f"{name} is {shown(value)}, expected {' or '.join(map(repr, allowed))}")
    return value


def _instance(kind: type, name: str, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    raise ArgumentError(f"{name} is {shown(value)}, expected {_expected(kind, value)}")


def _expected(kind: type, value: Any) -> str:
    """The kind that is expected in place of `value`, with what to write."""
    what = "text" if kind is str else _article(kind.__name__)
    if isinstance(value, type) and issubclass(value, kind):
        return f"{what}: make one, {value.__name__}(...)"
    if inspect.isroutine(value) or isinstance(value, bool | None):
        return _with_example(kind, what)
    if isinstance(value, str | os.PathLike) and kind.__name__ in ("ScoreModel", "NetworkScore"):
        return f"{what}: write scoresde.load({os.fspath(value)!r}), if that is a run directory"
    if isinstance(value, nn.Module) and kind.__name__ in ("ScoreModel", "NetworkScore"):
        return f"{what}: write NetworkScore(network, sde, preconditioning) of scoresde.score"
    if type(value).__name__ == "Run" and kind.__name__ in ("ScoreModel", "NetworkScore"):
        return f"{what}: write run.model()"
    namesake = next((c for c in _concrete(kind) if c.__name__ == type(value).__name__), None)
    if namesake is not None:  # such as a distribution of times in place of a grid
        return f"{what}: write {namesake.__name__}(...) of {_public(namesake)}, not of {_public(type(value))}"
    if isinstance(value, str):
        named = {c.__name__.lower().replace("_", ""): c for c in _concrete(kind)}
        near = difflib.get_close_matches(value.lower().replace("_", "").replace("-", ""), named, 1, cutoff=0.75)
        if near:
            return f"{what}: write {named[near[0]].__name__}(...) of {_public(named[near[0]])}"
    return _with_example(kind, what)


def _with_example(kind: type, what: str) -> str:
    example = _EXAMPLES.get(kind.__name__)
    return f"{what}, such as {example}" if example else what


def _concrete(kind: type) -> Iterator[type]:
    """Public concrete classes of this kind."""
    subclasses: list[type] = kind.__subclasses__()
    for sub in subclasses:
        if not inspect.isabstract(sub) and not sub.__name__.startswith("_") and sub.__module__.startswith("scoresde."):
            yield sub
        yield from _concrete(sub)


def _public(kind: type) -> str:
    """The package from which a class is imported, such as scoresde.sampling, without the file in it."""
    return ".".join(kind.__module__.split(".")[:2])


def _name(target: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """The name of the function or class that is called."""
    own = getattr(target, "__name__", "")
    if own == "__init__":
        return type(args[0]).__name__ if args else "it"
    return f"a {type(args[0]).__name__}" if own == "__call__" and args else own


def _misfit(
    called: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], error: TypeError
) -> str:
    """The message about arguments that do not fit a signature."""
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes = ", ".join(named) or "no arguments"
    unknown = [k for k in kwargs if k not in named]
    if unknown and not any(p.kind == p.VAR_KEYWORD for p in parameters):
        near = difflib.get_close_matches(unknown[0], named, 1)
        return (
            f"{called} has no argument {unknown[0]!r}{f', did you mean {near[0]}?' if near else '.'} It takes {takes}"
        )
    given = {p.name for p, _ in zip(parameters, args[len(signature.parameters) - len(parameters) :], strict=False)}
    missing = [p for p in parameters if p.default is p.empty and p.name in named and p.name not in given | set(kwargs)]
    if missing:
        kind = missing[0].annotation
        what = f": {_expected(kind, None)}" if isinstance(kind, type) else ""
        return f"{called} needs {missing[0].name}{what}. It takes {takes}"
    return f"{called}: {error}. It takes {takes}"
