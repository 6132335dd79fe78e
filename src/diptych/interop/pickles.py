"""A pickle read as data: a tree of names and values. Nothing is imported, called or set.

`pickletools` splits the bytes into operations, and this file keeps the stack that they work on. Where Python would
import a global, the tree has its name; where Python would call one, the tree has a record of the call. (A subclass of
`pickle.Unpickler` isn't enough: it allocates memory for any memo index in the file, and hashes any key.)
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any


class Refused(ValueError):
    """The pickle is damaged or asks for more than data. The message is a phrase that says what it is."""


@dataclass(eq=False)
class Named:
    """A global, as its name: `module.name`."""

    name: str


@dataclass(eq=False)
class Made:
    """A call that Python would make: of a global, with arguments; then the state and entries it would set."""

    of: Any
    arguments: Any
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the global that Python would call; empty if it isn't a global."""
        return self.of.name if isinstance(self.of, Named) else ""


@dataclass(eq=False)
class Stored:
    """A reference to something outside the pickle: torch's storages."""

    reference: Any


_MARK = object()
_KEYS = (str, int, float, bytes, Made, type(None))
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}


def read(source: bytes | IO[bytes], allowed: Callable[[str], bool]) -> Any:
    """One pickle as a tree of plain values, Named, Made and Stored.

    allowed: whether a global's name may occur
    Raises Refused for any other name, for an operation that data doesn't need, and for damage.
    """
    machine = _Machine(allowed)
    try:
        for operation, argument, _ in pickletools.genops(io.BytesIO(source) if isinstance(source, bytes) else source):
            if operation.name == "STOP":
                return machine.pop()
            machine.take(operation.name, argument)
    except Refused:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, MemoryError) as error:
        raise Refused(f"a damaged pickle: {error}") from error
    raise Refused("a pickle without an end")  # not reached: pickletools raises ValueError


class _Machine:
    def __init__(self, allowed: Callable[[str], bool]) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        top = self.stack.pop()
        if top is _MARK:
            raise Refused("a damaged pickle: a mark where a value should be")
        return top

    def since_mark(self) -> list[Any]:
        values: list[Any] = []
        while (top := self.stack.pop()) is not _MARK:
            values.append(top)
        return values[::-1]

    def take(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name not in ("PROTO", "FRAME"):
            self.combine(name, argument)

    def combine(self, name: str, argument: Any) -> None:
        """The operations that combine values on the stack."""
        if name == "GLOBAL":
            self.stack.append(self.named(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            self.stack.append(self.named(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, of = self.pop(), self.pop()
            self.stack.append(Made(of, arguments))
        elif name == "BINPERSID":
            self.stack.append(Stored(self.pop()))
        elif name == "TUPLE":
            self.stack.append(tuple(self.since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple([self.pop() for _ in range(int(name[-1]))][::-1]))
        elif name in ("APPEND", "APPENDS"):
            values = [self.pop()] if name == "APPEND" else self.since_mark()
            self.top(list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            values = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self.since_mark()
            target = self.top((dict, Made))
            entries = target.entries if isinstance(target, Made) else target
            for key in values[::2]:
                self.check_key(key)
            entries.update(zip(values[::2], values[1::2], strict=True))
        elif name == "BUILD":
            state = self.pop()
            self.top(Made).state = state
        else:
            raise Refused(f"a pickle with the operation {name}, which plain data doesn't need")

    @staticmethod
    def check_key(key: Any) -> None:
        # The time to hash nested tuples that share parts doubles with each level.
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, _KEYS) for part in parts):
            raise Refused(f"a pickle with a {type(key).__name__} as a key")

    def named(self, name: str) -> Named:
        if not self.allowed(name):
            raise Refused(f"a pickle that names {name}")
        return Named(name)

    def top(self, kind: Any) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise Refused(f"a damaged pickle: a {type(self.stack[-1]).__name__} is given entries")
        return self.stack[-1]
