"""An interpreter of pickles that never runs them.

A pickle is a program that may call any function. This interpreter knows only the few instructions of tables of tensors,
and builds nothing but dicts, tuples, numbers, texts and bytes. A name that the pickle requests is a token: nothing is
imported, looked up or called. A subclass lists the names that its format needs, and says what a call of one gives.
"""

import io
import pickletools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from show1_jax.errors import UserError, shown, shown_name

MAX_INSTRUCTIONS: Final = 1_000_000
"""Limit of instructions in a pickle: 20,000 tensors."""


class MalformedError(Exception):
    """A problem of a file's contents; `named_errors` turns it into a UserError with the file's name."""


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn every exception of the block into a UserError with the file's name.

    An exception that is neither a UserError nor a MalformedError means that no writer of the format produced the bytes:
    pickletools, zipfile and tarfile raise a dozen kinds of exceptions on damaged input.
    """
    try:
        yield
    except UserError:
        raise
    except MalformedError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:
        reason = shown_name(" ".join(str(error).split()) or type(error).__name__)
        raise UserError(f"{path}: truncated or damaged ({reason}); download it again") from None


@dataclass(frozen=True)
class Name:
    """A permitted name that the pickle requested, as "module name"."""

    name: str


class PickleMachine:
    """The stack and the memo of one run (the protocol is documented in `pickletools`).

    Attributes:
        contents: the contents of the format, for messages.
        remedy: advice if the pickle holds other contents.
        names: the names that it may request, as "module name".
    """

    contents: ClassVar[str]
    remedy: ClassVar[str]
    names: ClassVar[frozenset[str]]

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def called(self, function: Any, arguments: Any) -> Any:
        """Return the result of a call; neither argument is checked. The base class permits no call."""
        raise MalformedError(f"its pickle makes a call that no {self.contents} has; do not trust this file")

    def build(self, target: Any, state: Any) -> None:
        """Set the state of an object. The base class ignores it: attributes beside the tensors of a module."""

    def persistent(self, identity: Any) -> Any:
        """Return an object that is stored outside the pickle. The base class has none."""
        raise MalformedError(f"its pickle refers to other data, which no {self.contents} does; do not trust this file")

    def run(self, program: bytes | io.BytesIO) -> Any:
        """Return the object that a pickle describes; a stream is then at the pickle's end.

        Raises:
            MalformedError: it uses an instruction, a name or a call that the format does not need.
            Exception: it is damaged; of any class.
        """
        for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
            if opcode.name == "STOP":
                return self._stack.pop()
            if count == MAX_INSTRUCTIONS:
                more = f"its pickle has more instructions than any {self.contents}"
                raise MalformedError(f"{more}; do not trust this file")
            self._step(opcode.name, argument)
        raise MalformedError("its pickle has no end; download it again")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "GLOBAL" | "INST":
                stack.append(self._permitted(argument))
            case "STACK_GLOBAL":
                module, name = self._pop(2)
                if not isinstance(module, str) or not isinstance(name, str):
                    raise MalformedError("its pickle asks for a name that is not text; do not trust this file")
                stack.append(self._permitted(f"{module} {name}"))
            case (
                "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES" | "BININT" | "BININT1" | "BININT2"
                | "LONG1"
            ):  # fmt: skip
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                stack.append(tuple(self._pop(count)))
            case "MARK":
                self._marked.append(stack)
                self._stack = []
            case "TUPLE":
                self._unmark().append(tuple(stack))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items(stack[-1], [key, value])
            case "SETITEMS":
                self._set_items(self._unmark()[-1], stack)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "BINPERSID":
                stack.append(self.persistent(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self.called(function, arguments))
            case "BUILD":
                state = stack.pop()
                self.build(stack[-1], state)
            case _:
                raise MalformedError(
                    f"its pickle uses the instruction {opcode}, which no {self.contents} needs; "
                    "do not trust this file, download the released one"
                )

    def _pop(self, count: int) -> list[Any]:
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _unmark(self) -> list[Any]:
        self._stack = self._marked.pop()
        return self._stack

    def _permitted(self, name: str) -> Name:
        if name not in self.names:
            raise MalformedError(
                f"its pickle asks for {shown(name.replace(' ', '.'))}, which no {self.contents} needs; "
                f"refused, as it could run code: use the released file{self.remedy and f', or {self.remedy} alone'}"
            )
        return Name(name)

    def _set_items(self, target: Any, items: list[Any]) -> None:
        """Fill a dict from key, value, key, value. Keys must be strings: hashing one cannot recurse."""
        if not isinstance(target, dict) or len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
            raise MalformedError(f"a table whose keys are not names; {self.remedy or 'use the released file'}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if key in target:
                raise MalformedError(f"has {shown(key)} twice; download it again")
            target[key] = value
