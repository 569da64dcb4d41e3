"""
An interpreter for pickles that hold data.

Python's own unpickler imports whatever a pickle names, trusts its lengths, and can be made to
fill memory by a few kilobytes. This one knows the instructions that data needs and no others,
imports nothing, and counts what it builds. Names are looked up in a table (`names`); only entries
of that table can be called.

Source: pickletools of CPython, protocols 2 to 5.
"""

from __future__ import annotations

import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tistore.datasets.torch_files.source import Refused

MOST_PICKLE_BYTES = 64 << 20

MEMORY_BYTES = 512 << 20
"""What one pickle's objects may take together, by a generous estimate."""

# The estimate: what CPython 3.11 takes for each, rounded up.
_INSTRUCTION = 80
_MEMO = 100
_PAIR = 120
_SET = 220
_CALL = 400
_ARGUMENT = 100

_MOST_INTEGER_BYTES = 64
_MOST_NAME_BYTES = 256
_NEWEST_PROTOCOL = 5
_LONGEST_TUPLE_KEY = 16
_MOST_TUPLE_KEYS = 10_000

NOT_DATA = "if you trust its source, open it in torch and save tensors, numbers, text, lists, dicts"


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """
    Something a pickle may refer to by module and name.

    Attributes:
        text: "torch._utils._rebuild_tensor_v2".
        build: What a call of it makes; None when it is not to be called.
    """

    text: str
    build: Callable[[tuple[Any, ...]], Any] | None = None


class Unfinished(ABC):
    """
    What a call made, until a BUILD instruction gives it its state.

    Attributes:
        kept_at: Where the pickle remembers it, so that the finished object can take its place.
    """

    def __init__(self) -> None:
        self.kept_at: list[int] = []

    @abstractmethod
    def finish(self, state: Any) -> Any:
        """Make the finished object."""


class PickleReader:
    """
    Run one pickle.

    Args:
        content: Bytes with the pickle somewhere in them.
        find_name: Gives a `Name`, or a plain value, for a module and a name; refuses others.
        find_persistent: Gives what a persistent id stands for.
        place: Where in `content` the pickle begins.
    """

    def __init__(
        self,
        content: bytes,
        find_name: Callable[[str, str], Any],
        find_persistent: Callable[[Any], Any],
        place: int = 0,
    ) -> None:
        self.content = content
        self.place = place
        self.find_name = find_name
        self.find_persistent = find_persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.spent = 0
        self.n_tuple_keys = 0

    def read(self) -> Any:
        """
        Run to the pickle's end; `place` is then the first byte after it.

        Raises:
            Refused: The pickle is damaged, too large, or asks for more than data.
        """
        try:
            return self._run()
        except (IndexError, struct.error) as error:
            raise self._damaged("it ends too early") from error
        except UnicodeError as error:
            raise self._damaged("its text is no text") from error
        except (TypeError, ValueError, ArithmeticError) as error:
            # None is known, but the file chooses what runs, and one file must not end an import.
            raise self._damaged("its parts do not fit together") from error

    def _run(self) -> Any:
        content = self.content
        while True:
            code = content[self.place]
            self.place += 1
            if code == _STOP:
                break
            step = _STEPS.get(code)
            if step is None:
                raise self._unknown(code)
            self.spend(_INSTRUCTION)
            step(self)
        if len(self.stack) != 1 or self.marked:
            raise self._damaged("it leaves several values")
        return self.stack[0]

    def spend(self, n_bytes: int) -> None:
        """Count memory before it is taken."""
        self.spent += n_bytes
        if self.spent > MEMORY_BYTES:
            raise Refused(
                f"its pickle would build more than {MEMORY_BYTES >> 20} MiB of objects",
                "save tensors, not lists of numbers, or split the file",
            )

    def _damaged(self, how: str) -> Refused:
        return Refused(
            f"its pickle is damaged: {how}, at byte {self.place}", "copy or download the file again"
        )

    def _unknown(self, code: int) -> Refused:
        if code in _REFUSED_STEPS:
            return Refused(f"its pickle {_REFUSED_STEPS[code]}, which data never does", NOT_DATA)
        return self._damaged(f"{code:#04x} is no instruction that torch.save writes")

    # What moves through the content and the stack.

    def _take(self, n_bytes: int) -> bytes:
        end = self.place + n_bytes
        if end > len(self.content):
            raise self._damaged(f"{n_bytes:,} bytes are announced and are not there")
        taken = self.content[self.place : end]
        self.place = end
        return taken

    def _number(self, layout: struct.Struct) -> Any:
        (number,) = layout.unpack_from(self.content, self.place)
        self.place += layout.size
        return number

    def _line(self) -> str:
        end = self.content.find(b"\n", self.place, self.place + _MOST_NAME_BYTES)
        if end < 0:
            raise self._damaged("a name has no end")
        line = self.content[self.place : end].decode("utf-8")
        self.place = end + 1
        return line

    def _to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    # Atoms.

    def _protocol(self) -> None:
        if self._take(1)[0] > _NEWEST_PROTOCOL:
            raise self._damaged("its protocol is newer than 5")

    def _frame(self) -> None:
        if self._number(_U8) > len(self.content) - self.place:
            raise self._damaged("a frame is longer than the file")

    def _push_number(self, layout: struct.Struct) -> None:
        self.stack.append(self._number(layout))

    def _push_integer(self, length: struct.Struct) -> None:
        n_bytes = self._number(length)
        if not 0 <= n_bytes <= _MOST_INTEGER_BYTES:
            raise Refused(f"its pickle has a whole number of {n_bytes:,} bytes", NOT_DATA)
        self.stack.append(int.from_bytes(self._take(n_bytes), "little", signed=True))

    def _push_text(self, length: struct.Struct) -> None:
        raw = self._take(self._number(length))
        # Four bytes a character when one of them is outside the first plane: counted before.
        self.spend(4 * len(raw))
        # As pickle itself does: text of a broken tokenizer may hold half a surrogate pair.
        self.stack.append(raw.decode("utf-8", "surrogatepass"))

    def _push_old_text(self, length: struct.Struct) -> None:
        n_bytes = self._number(length)
        if n_bytes < 0:
            raise self._damaged("a length is negative")
        self.spend(4 * n_bytes)
        self.stack.append(self._take(n_bytes).decode("utf-8"))

    def _push_bytes(self, length: struct.Struct) -> None:
        raw = self._take(self._number(length))
        self.spend(len(raw))
        self.stack.append(raw)

    def _push_byte_array(self) -> None:
        raw = self._take(self._number(_U8))
        self.spend(2 * len(raw))
        self.stack.append(bytearray(raw))

    # Containers.

    def _mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _tuple_of(self, n_items: int) -> None:
        if len(self.stack) < n_items:
            raise self._damaged("a tuple has too few items")
        items = tuple(self.stack[-n_items:])
        del self.stack[-n_items:]
        self.stack.append(items)

    def _marked_tuple(self) -> None:
        items = self._to_mark()
        self.stack.append(tuple(items))

    def _marked_list(self) -> None:
        items = self._to_mark()
        self.stack.append(items)

    def _marked_dict(self) -> None:
        items = self._to_mark()
        self.stack.append({})
        self._set_items(items)

    def _append(self) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self) -> None:
        self._extend(self._to_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise self._damaged("an item is added to what is no list")
        target.extend(items)

    def _set_item(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._set_items([key, value])

    def _marked_items(self) -> None:
        self._set_items(self._to_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise self._damaged("a key is set in what is no dict")
        self.spend(_PAIR * len(items) // 2)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._key(key)] = value

    def _key(self, key: Any) -> Any:
        if type(key) is not tuple:
            return check_key(key)
        # Hashing a deep tuple recurses in C without a limit, one that doubles takes for ever, and
        # flat ones can be chosen to collide.
        self.n_tuple_keys += 1
        if len(key) > _LONGEST_TUPLE_KEY or self.n_tuple_keys > _MOST_TUPLE_KEYS:
            raise Refused("its dicts have too many tuples as keys", NOT_DATA)
        return tuple(check_key(item) for item in key)

    def _empty_set(self) -> None:
        self.spend(_SET)
        self.stack.append(set())

    def _add_items(self) -> None:
        items = self._to_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise self._damaged("an item is added to what is no set")
        self.spend(_ARGUMENT * len(items))
        target.update(map(self._key, items))

    def _frozen_set(self) -> None:
        items = self._to_mark()
        self.spend(_SET + _ARGUMENT * len(items))
        self.stack.append(frozenset(map(self._key, items)))

    # Names, calls, memory.

    def _name(self) -> None:
        module = self._line()
        self.stack.append(self.find_name(module, self._line()))

    def _name_from_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise self._damaged("a name is no text")
        self.stack.append(self.find_name(module, name))

    def _call(self) -> None:
        arguments = self.stack.pop()
        called = self.stack.pop()
        if not isinstance(called, Name) or called.build is None or type(arguments) is not tuple:
            what = called.text if isinstance(called, Name) else type(called).__name__
            raise Refused(f"its pickle calls {what}", NOT_DATA)
        # A call may copy what it is given, and be made again and again on the same argument.
        self.spend(_CALL + sum(map(_copy_bytes, arguments)))
        self.stack.append(called.build(arguments))

    def _build(self) -> None:
        state = self.stack.pop()
        unfinished = self.stack[-1]
        if isinstance(unfinished, dict):
            return  # attributes of a state dict, such as its version numbers
        if not isinstance(unfinished, Unfinished):
            raise Refused(f"its pickle sets the state of a {type(unfinished).__name__}", NOT_DATA)
        self.spend(_CALL)
        finished = unfinished.finish(state)
        self.stack[-1] = finished
        for index in unfinished.kept_at:
            self.memo[index] = finished

    def _persistent(self) -> None:
        self.stack[-1] = self.find_persistent(self.stack[-1])

    def _remember(self, index: int) -> None:
        if index not in self.memo:
            self.spend(_MEMO)
        value = self.stack[-1]
        self.memo[index] = value
        if isinstance(value, Unfinished):
            value.kept_at.append(index)

    def _recall(self, index: int) -> None:
        if index not in self.memo:
            raise self._damaged(f"it recalls value {index}, which it never kept")
        self.stack.append(self.memo[index])


def check_key(key: Any) -> Any:
    """
    Give back what can be a key: text, bytes, a number, None.

    Raises:
        Refused: It is something else.
    """
    if isinstance(key, str | bytes | float | bool | None):
        return key
    # Longer numbers can be chosen to collide, which makes a dict slow without end.
    if isinstance(key, int) and abs(key) < 2**64:
        return key
    what = "number beyond 64 bits" if isinstance(key, int) else type(key).__name__
    raise Refused(f"a dict or set in it has, as a key, a {what}", NOT_DATA)


def _copy_bytes(argument: Any) -> int:
    if isinstance(argument, str):
        return sys.getsizeof(argument)
    if isinstance(argument, bytes | bytearray):
        return len(argument)
    return _ARGUMENT * len(argument) if isinstance(argument, list | tuple | set | dict) else 0


_U1, _U2, _U4, _U8 = (struct.Struct(f"<{letter}") for letter in "BHIQ")
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")

_STOP = ord(".")

_Step = Callable[[PickleReader], None]


def _push(value: Any) -> _Step:
    return lambda reader: reader.stack.append(value)


def _with(step: Callable[[PickleReader, Any], None], argument: Any) -> _Step:
    return lambda reader: step(reader, argument)


_P = PickleReader

_STEPS: dict[int, _Step] = {
    0x80: _P._protocol,
    0x95: _P._frame,
    ord("N"): _push(None),
    0x88: _push(True),
    0x89: _push(False),
    ord("J"): _with(_P._push_number, _I4),
    ord("K"): _with(_P._push_number, _U1),
    ord("M"): _with(_P._push_number, _U2),
    ord("G"): _with(_P._push_number, _F8),
    0x8A: _with(_P._push_integer, _U1),
    0x8B: _with(_P._push_integer, _I4),
    ord("X"): _with(_P._push_text, _U4),
    0x8C: _with(_P._push_text, _U1),
    0x8D: _with(_P._push_text, _U8),
    ord("U"): _with(_P._push_old_text, _U1),
    ord("T"): _with(_P._push_old_text, _I4),
    ord("C"): _with(_P._push_bytes, _U1),
    ord("B"): _with(_P._push_bytes, _U4),
    0x8E: _with(_P._push_bytes, _U8),
    0x96: _P._push_byte_array,
    ord("("): _P._mark,
    ord(")"): _push(()),
    0x85: _with(_P._tuple_of, 1),
    0x86: _with(_P._tuple_of, 2),
    0x87: _with(_P._tuple_of, 3),
    ord("t"): _P._marked_tuple,
    ord("]"): lambda reader: reader.stack.append([]),
    ord("l"): _P._marked_list,
    ord("a"): _P._append,
    ord("e"): _P._appends,
    ord("}"): lambda reader: reader.stack.append({}),
    ord("d"): _P._marked_dict,
    ord("s"): _P._set_item,
    ord("u"): _P._marked_items,
    0x8F: _P._empty_set,
    0x90: _P._add_items,
    0x91: _P._frozen_set,
    ord("c"): _P._name,
    0x93: _P._name_from_stack,
    ord("R"): _P._call,
    ord("b"): _P._build,
    ord("Q"): _P._persistent,
    ord("q"): lambda reader: reader._remember(reader._number(_U1)),
    ord("r"): lambda reader: reader._remember(reader._number(_U4)),
    0x94: lambda reader: reader._remember(len(reader.memo)),
    ord("h"): lambda reader: reader._recall(reader._number(_U1)),
    ord("j"): lambda reader: reader._recall(reader._number(_U4)),
}

_REFUSED_STEPS = {
    ord("i"): "makes an object of a class (INST)",
    ord("o"): "makes an object of a class (OBJ)",
    0x81: "makes an object of a class (NEWOBJ)",
    0x92: "makes an object of a class (NEWOBJ_EX)",
    0x82: "uses the extension registry (EXT1)",
    0x83: "uses the extension registry (EXT2)",
    0x84: "uses the extension registry (EXT4)",
    ord("P"): "names storages as lines of text (PERSID)",
    0x97: "expects memory from outside the file (NEXT_BUFFER)",
    0x98: "expects memory from outside the file (READONLY_BUFFER)",
}
