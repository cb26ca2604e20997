"""Pickles of plain values, read without Python's unpickler: nothing that a pickle names is imported or called.

A pickle is a program for a small machine with a stack. The one here knows the instructions that build dictionaries,
lists, tuples, sets, text, bytes and numbers, and recognises what numpy writes for an array; it refuses any other. A
reader of a format that has more, such as tensors, gives the machine functions of its own to stand for the names in it.
"""

import io
import math
import pickletools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Copy", "Machine", "Record", "Refused", "read_pickle", "run_pickle"]

_KINDS = "biufSU"  # of arrays: numbers and text
_MOST_AXES = 32


class _Name:
    """A global that a pickle names; it stands for nothing."""

    def __init__(self, module: str, name: str) -> None:
        self.text = f"{module.replace('numpy._core', 'numpy.core')}.{name}"


class _Blank:
    """An array or a type that the pickle has created and not yet filled."""

    def __init__(self, kind: str, code: str = "") -> None:
        self.kind, self.code = kind, code
        self.value: Any = None


@dataclass(eq=False)
class Record:
    """An object of a class that a pickle names, as what was written of it: it has no methods, and is of no class.

    Args:
        name: Full name of the class.
        state: What the pickle fills the object with, mostly a dictionary.
    """

    name: str
    state: Any = None


class Copy:
    """What a call makes a copy of some bytes for, and how many: those of one pickle may not be copied without end.

    Attributes:
        size: The number of bytes.
    """

    size: int


class Refused(Exception):
    """A part of a pickle that its reader has no need of."""


def read_pickle(content: bytes, where: str) -> Any:
    """The dictionaries, lists, text, bytes, numbers and numpy arrays of a pickle of any protocol.

    Text of Python 2, which may be bytes as well, is bytes.

    Args:
        content: The pickle.
        where: Its file, for messages.

    Raises:
        ValueError: Anything else in it, or damage.
    """
    return run_pickle(io.BytesIO(content), Machine(len(content)), where, "only plain values and arrays are read")


def run_pickle(stream: io.BytesIO, machine: "Machine", where: str, reads: str) -> Any:
    """The value of a pickle, which the stream is behind afterwards.

    Args:
        stream: The pickle.
        machine: Reads it.
        where: Its file, for messages.
        reads: Which contents are read, for messages.

    Raises:
        ValueError: Anything else in it, or damage.
    """
    try:
        for code, argument, _ in pickletools.genops(stream):
            if code.name == "STOP":
                return _filled(machine.stack[-1], {})
            machine.run(code.name, argument)
    except Refused as error:
        raise ValueError(f"{where} is a pickle with {error}: {reads}") from error
    except Exception as error:  # whatever a damaged program does to the machine
        raise ValueError(f"{where} is damaged, or no pickle") from error
    raise ValueError(f"{where} is damaged: it ends early")


class Machine:
    """The stack and the memory of a pickle while it is read.

    Args:
        room: Bytes that calls may make or copy: a plain pickle holds each of them once.
        calls: Functions that stand for the names that the pickle may call, besides those for plain values and arrays.
        objects: Names of the classes of which it may have objects, each of which becomes a `Record`.
        persistent: Function that stands for what is kept outside the pickle.
    """

    def __init__(
        self,
        room: int,
        calls: Mapping[str, Callable[..., Any]] | None = None,
        objects: Collection[str] = (),
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.room = room
        self.calls = {**_CALLS, **(calls or {})}
        self.objects = objects
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memory: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Do one instruction."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            plain = bytes(argument) if isinstance(argument, bytearray) else argument
            self.stack.append(argument.encode("latin-1") if name in _TEXT_OF_2 else plain)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memory[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memory[len(self.memory)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memory[argument])
        elif hasattr(self, f"_{name.lower()}"):
            getattr(self, f"_{name.lower()}")(argument)
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"the instruction {name}")

    def _from_mark(self) -> list[Any]:
        """The values above the last mark, taken off the stack with it."""
        place = self.marks.pop()
        found = self.stack[place:]
        del self.stack[place:]
        return found

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._from_mark()))

    def _tuple1(self, _: Any) -> None:
        self._pack(1)

    def _tuple2(self, _: Any) -> None:
        self._pack(2)

    def _tuple3(self, _: Any) -> None:
        self._pack(3)

    def _pack(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _list(self, _: Any) -> None:
        self.stack.append(self._from_mark())

    def _dict(self, _: Any) -> None:
        self.stack.append(_entries(self._from_mark()))

    def _append(self, _: Any) -> None:
        value = self.stack.pop()
        self._top(list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._from_mark()
        self._top(list).extend(values)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._top(dict).update(_entries([key, value]))

    def _setitems(self, _: Any) -> None:
        items = self._from_mark()
        self._top(dict).update(_entries(items))

    def _additems(self, _: Any) -> None:
        items = self._from_mark()
        self._top(set).update(_plain_keys(items))

    def _frozenset(self, _: Any) -> None:
        self.stack.append(set(_plain_keys(self._from_mark())))

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise Refused("an instruction for another object")
        return self.stack[-1]

    # -- numpy ------------------------------------------------------------------------------------------

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._name(module, name)

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a name that is no text")
        found = _Name(module, name)
        if found.text not in self.calls and found.text not in self.objects and found.text != "numpy.ndarray":
            raise Refused(found.text[:80])
        self.stack.append(found)

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or function.text not in self.calls:
            raise Refused("a call")
        self._call(function, arguments)

    def _call(self, function: _Name, arguments: Any) -> None:
        made = self.calls[function.text](*map(_own, arguments))
        if isinstance(made, bytes | str | Copy):
            self.room -= made.size if isinstance(made, Copy) else len(made)
            if self.room < 0:
                raise Refused("more text than it holds")
        self.stack.append(made)

    def _newobj(self, _: Any) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if isinstance(kind, _Name) and kind.text in self.calls:
            self._call(kind, arguments)
        elif isinstance(kind, _Name) and kind.text in self.objects and arguments == ():
            self.stack.append(Record(kind.text))
        else:
            raise Refused("an object")

    def _binpersid(self, _: Any) -> None:
        if self.persistent is None:
            raise Refused("a part that is kept outside of it")
        self.stack.append(self.persistent(self.stack.pop()))

    def _build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state = state
            return
        if type(target) is dict and self.objects:
            return  # attributes of an ordered dictionary, such as the versions of modules in a state dict
        if not isinstance(target, _Blank) or (target.value is not None and target.kind == "array"):
            raise Refused("an object's state")
        if target.kind == "dtype":
            # (version, byte order, subtype, names, fields, size, alignment, flags)
            order = state[1].decode() if isinstance(state[1], bytes) else state[1]
            if state[2] is not None or state[3] is not None or order not in ("<", ">", "|", "="):
                raise Refused("a structured array")
            target.value = np.dtype(f"{order}{target.code}")
        else:
            _, shape, dtype, fortran, data = state
            target.value = _array(data, _own(dtype), shape, "F" if fortran else "C")


def _entries(items: list[Any]) -> dict[Any, Any]:
    """Keys and values in turn as a dictionary."""
    return dict(zip(_plain_keys(items[::2]), items[1::2], strict=True))


def _plain_keys(keys: list[Any]) -> list[Any]:
    # The hash of a tuple goes through all that it holds, however deep.
    if not all(isinstance(key, str | bytes | int | float | None) for key in keys):
        raise Refused("a key that is neither text nor a number")
    return keys


def _blank_array(*_: Any) -> _Blank:
    return _Blank("array")


def _blank_type(code: Any, *_: Any) -> _Blank:
    code = code.decode() if isinstance(code, bytes) else code
    if not isinstance(code, str):
        raise Refused("a type that has no name")
    if code[:1] not in _KINDS or not code[1:].isdecimal():
        raise Refused(f"an array of type {code[:20]!r}")
    blank = _Blank("dtype", code)
    blank.value = np.dtype(code)
    return blank


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """An array of its bytes, of which there must be as many as the shape says."""
    if not isinstance(data, bytes) or not isinstance(dtype, np.dtype):
        raise Refused("an array of objects")
    sizes = tuple(shape) if len(shape) <= _MOST_AXES else (-1,)
    if not all(isinstance(n, int) and 0 <= n < 2**63 for n in sizes) or math.prod(sizes) * dtype.itemsize != len(data):
        raise Refused("an array whose shape is not that of its data")
    return np.frombuffer(data, dtype).reshape(sizes, order="F" if order in ("F", b"F") else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (1,), "C")[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes as Python 3 writes them below protocol 3."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise Refused("text in another encoding")
    return text.encode("latin-1")


_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _blank_array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _array,
    "numpy.dtype": _blank_type,
    "_codecs.encode": _encode,
    "__builtin__.bytes": lambda: b"",  # as protocols below 3 write bytes where there are none
    "__builtin__.set": lambda items: set(_plain_keys(items)),
    "builtins.set": lambda items: set(_plain_keys(items)),
}


def _own(value: Any) -> Any:
    """The array or type in place of the object that was filled with it."""
    return value.value if isinstance(value, _Blank) else value


def _filled(value: Any, done: dict[int, Any]) -> Any:
    """The value with arrays in place of the objects that were filled; what is shared stays shared."""
    if not isinstance(value, dict | list | tuple | Record):
        return _own(value)
    if id(value) not in done:
        done[id(value)] = None  # of a list that holds itself, which is refused
        made: Any
        if isinstance(value, Record):
            made = Record(value.name, _filled(value.state, done))
        elif isinstance(value, dict):
            made = {k: _filled(v, done) for k, v in value.items()}
        else:
            made = type(value)(_filled(v, done) for v in value)
        done[id(value)] = made
    if done[id(value)] is None:
        raise Refused("a list that holds itself")
    return done[id(value)]


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_TEXT_OF_2 = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_VALUES = {
    *_TEXT_OF_2,
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
