"""Signatures of classes and functions as their source declares them, without importing it.

Importing the classes that a configuration names takes seconds, most of them for torch. A word in place of a number is
found before that: the parameters of a class, their annotations and defaults are in the text of its module. Whatever is
not written plainly there counts as unknown, and is left to the check of the imported class.
"""

import ast
import collections.abc
import functools
import importlib.util
import inspect
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

__all__ = ["Declaration", "declaration"]

_MAX_DEPTH = 12  # imports and base classes that are followed
_PLAIN: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}
_PLAIN |= {"Path": os.PathLike, "PathLike": os.PathLike}
_GENERIC: dict[str, Any] = {
    "list": list, "List": list, "tuple": tuple, "Tuple": tuple, "Sequence": collections.abc.Sequence,
    "Iterable": collections.abc.Iterable, "dict": dict, "Dict": dict, "Mapping": collections.abc.Mapping,
    "Callable": collections.abc.Callable,
}  # fmt: skip
_WITHOUT_ARGUMENTS = ("ABC", "Protocol", "object")  # bases whose constructors take no arguments
_TORCH = {"Tensor": "Tensor", "torch.Tensor": "Tensor", "nn.Module": "Module", "torch.nn.Module": "Module"}


class Declaration:
    """A class or function that can be called.

    Args:
        name: Name of the class or function.
        parameters: Parameters by name, without `self`; None if they are unknown.
        hints: The annotations that are known, by parameter.
        kind: Stand-in for the class, a subclass of the stand-ins of its bases; None for a function.
    """

    def __init__(
        self,
        name: str,
        parameters: dict[str, inspect.Parameter] | None,
        hints: dict[str, Any],
        kind: type | None = None,
    ) -> None:
        self.__name__ = name
        self.parameters = parameters
        self.hints = hints
        self.kind = kind


def declaration(target: Any) -> Declaration:
    """The declaration of a dotted name, without parameters if it is not found or not plain."""
    text = str(target)
    module, _, name = text.rpartition(".")
    found = _resolve(module, name) if module and all(map(str.isidentifier, text.split("."))) else None
    if found is None:
        return Declaration(name, None, {})
    where, node = found
    name = getattr(node, "name", name)
    kind = _stand_in(where, node.name) if isinstance(node, ast.ClassDef) else None
    fields = _of_function(where, node) if isinstance(node, ast.FunctionDef) else None
    fields = fields if kind is None else _of_class(kind)
    if fields is None:
        return Declaration(name, None, {}, kind)
    parameters = {p.name: p for p, _ in fields}
    return Declaration(name, parameters, {p.name: hint for p, hint in fields if hint is not Any}, kind)


# -- modules --------------------------------------------------------------------------------------------


@functools.cache
def _source(module: str) -> tuple[Path, ast.Module] | None:
    """The file of a module and its syntax tree."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)  # finds a top-level module without importing it
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(next(iter(spec.submodule_search_locations))).joinpath(*rest)
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        return path, ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError, ImportError):
        return None


@functools.cache
def _names(module: str) -> dict[str, ast.stmt | tuple[str, str]]:
    """Definitions of a module by name; for an imported name, the other module and the name there."""
    source = _source(module)
    if source is None:
        return {}
    path, tree = source
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: dict[str, ast.stmt | tuple[str, str]] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
    return names


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from node.body
        else:
            yield node


def _resolve(module: str, name: str, depth: int = 0) -> tuple[str, ast.ClassDef | ast.FunctionDef | ast.Assign] | None:
    """The definition of a name in a module, and the module in which it stands."""
    found = _names(module).get(name)
    if isinstance(found, ast.Assign) and isinstance(found.value, ast.Name):  # an alias
        found = (module, found.value.id)
    if isinstance(found, tuple):
        return _resolve(*found, depth + 1) if depth < _MAX_DEPTH else None
    return (module, found) if isinstance(found, ast.ClassDef | ast.FunctionDef | ast.Assign) else None


def _class_of(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    found = _resolve(module, name)
    return (found[0], found[1]) if found is not None and isinstance(found[1], ast.ClassDef) else None


class _Unknown:
    """The base of stand-ins for classes with a base that is not found."""


@functools.cache
def _stand_in(module: str, name: str) -> type:
    """A class of the same name, in a module of the same name, with stand-ins for its bases."""
    found = _class_of(module, name)
    bases: list[type] = []
    for base in [] if found is None else found[1].bases:
        if ast.unparse(base).partition("[")[0].rpartition(".")[2] in _WITHOUT_ARGUMENTS:
            continue
        known = _class_of(module, base.id) if isinstance(base, ast.Name) else None
        # A class may have the same name as its base, which the module imports.
        own = known is not None and found is not None and known[1] is found[1]
        bases.append(_Unknown if known is None or own else _stand_in(known[0], known[1].name))
    try:
        return type(name, tuple(dict.fromkeys(bases)), {"__module__": module})
    except TypeError:  # an order of bases that only unknown bases make possible
        return type(name, (_Unknown,), {"__module__": module})


# -- parameters -----------------------------------------------------------------------------------------

_Field = tuple[inspect.Parameter, Any]  # a parameter and its evaluated annotation


def _of_class(kind: type) -> list[_Field] | None:
    """The parameters of a class's constructor, found by the class's stand-in."""
    own: dict[str, _Field] | None = None
    for each in kind.__mro__[:-1]:
        found = None if each is _Unknown else _class_of(each.__module__, each.__name__)
        if found is None:
            return None
        module, node = found
        if any("dataclass" in ast.unparse(d).partition("(")[0] for d in node.decorator_list):
            # Fields of a base come first, and keep their place.
            own = {p.name: (p, hint) for p, hint in _of_dataclass(module, node)} | (own or {})
        elif own is None:
            for statement in node.body:
                if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                    return _of_function(module, statement)[1:]
    return list((own or {}).values())


def _of_dataclass(module: str, node: ast.ClassDef) -> Iterator[_Field]:
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            text = "" if each.value is None else ast.unparse(each.value)
            if "ClassVar" in ast.unparse(each.annotation) or "init=False" in text:
                continue
            given = not text.startswith("field(") or "default" in text
            yield _parameter(each.target.id, each.value if given else None), _type(each.annotation, module)


def _of_function(module: str, node: ast.FunctionDef) -> list[_Field]:
    kinds, arguments = inspect.Parameter, node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    fields = [(_parameter(a.arg, d), _type(a.annotation, module)) for a, d in zip(positional, defaults, strict=True)]
    if arguments.vararg is not None:
        fields.append((kinds(arguments.vararg.arg, kinds.VAR_POSITIONAL), Any))
    for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        fields.append((_parameter(a.arg, d, kinds.KEYWORD_ONLY), _type(a.annotation, module)))
    if arguments.kwarg is not None:
        fields.append((kinds(arguments.kwarg.arg, kinds.VAR_KEYWORD), Any))
    return fields


def _parameter(
    name: str, default: ast.expr | None, kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
) -> inspect.Parameter:
    # Callers ask only whether there is a default, and whether it is True or False.
    value: Any = inspect.Parameter.empty
    if default is not None:
        value = default.value if isinstance(default, ast.Constant) else ...
    return inspect.Parameter(name, kind, default=value)


# -- annotations ----------------------------------------------------------------------------------------


def _type(node: ast.expr | None, module: str) -> Any:
    """The type that an annotation names; Any if it is not known."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            try:
                return _type(ast.parse(node.value, mode="eval").body, module)
            except SyntaxError:
                return Any
        return None if node.value is None else Any
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([_type(node.left, module), _type(node.right, module)])
    if isinstance(node, ast.Subscript):
        return _subscripted(node, module)
    return _named(node, module) if isinstance(node, ast.Name | ast.Attribute) else Any


def _named(node: ast.Name | ast.Attribute, module: str) -> Any:
    """The type of a name: a plain type, an alias, or a stand-in for a class of this package or of torch."""
    text = ast.unparse(node)
    name = text.rpartition(".")[2]
    known = {**_PLAIN, **_GENERIC}
    if name in known:
        return known[name]
    if text in _TORCH:
        return _stand_in("torch", _TORCH[text])
    found = _resolve(module, text)
    if found is None or not found[0].startswith(f"{__name__.partition('.')[0]}."):
        return Any
    where, definition = found
    if isinstance(definition, ast.ClassDef):
        return _stand_in(where, definition.name)
    return _type(definition.value, where) if isinstance(definition, ast.Assign) else Any


def _subscripted(node: ast.Subscript, module: str) -> Any:
    name = ast.unparse(node.value).rpartition(".")[2]
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        known = all(isinstance(part, ast.Constant) for part in parts)
        return Literal[tuple(part.value for part in parts if isinstance(part, ast.Constant))] if known else Any
    if name == "Callable":
        return collections.abc.Callable
    if name == "Optional":
        return _union([_type(parts[0], module), None])
    types = [... if isinstance(p, ast.Constant) and p.value is ... else _type(p, module) for p in parts]
    if name == "Union":
        return _union(types)
    return _GENERIC[name][tuple(types)] if name in _GENERIC else Any


def _union(types: list[Any]) -> Any:
    if Any in types:
        return Any
    return functools.reduce(operator.or_, (type(None) if t is None else t for t in types))
