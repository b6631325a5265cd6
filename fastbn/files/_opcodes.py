"""A machine for pickles that executes nothing: it knows containers, numbers and text, and refuses all other names.

Only the names that its caller lists may be looked up, and each stands for a function of this package, never for the
one that the pickle names.  Memo, stack, opcodes and the length of names and numbers are bounded.

What a pickle holds may hold itself, or the same list a million times over: nothing here, nor in what uses it, may copy,
compare, hash or write out a value as a whole.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from fastbn.files._source import FileError, Source

MOST_OPCODES = 5_000_000  # a state has about a hundred for each of its arrays
LONGEST_TEXT = 1 << 20
LONGEST_INTEGER = 64
LARGEST_KEY = 1 << 60  # larger integers can be made to share a hash, and a dict of them takes quadratic time
MOST_ARGUMENTS = 16
KEPT = 256  # bytes strings that are longer stay in the file
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Span:
    """A string that was passed over: where it is."""

    offset: int
    length: int
    text: bool = False  # bytes that protocol 2 has written as text: in UTF-8, each a character


@dataclass(frozen=True, slots=True)
class Global:
    """A name of the list, and what stands for it."""

    name: str
    call: Callable[..., Any] | None


@dataclass(slots=True)
class Built:
    """An object that takes a state after it was made: an array or a dtype of NumPy's."""

    kind: str
    arguments: tuple[Any, ...]
    state: Any = None


class Cursor:
    """Reads on through a part of the file, or through bytes that came from it."""

    def __init__(self, source: Source, at: int = 0, end: int | None = None, data: bytes | None = None) -> None:
        self.source, self.at, self._in_file = source, at, data is None
        self.end = (source.size if data is None else len(data)) if end is None else end
        self.chunk, self.chunk_at = (b"", at) if data is None else (data, 0)  # what has been read, and where it begins

    def take(self, count: int) -> bytes:
        at = self.at
        if count < 0 or at + count > self.end:
            self.bad(f"the pickle ends {at + max(count, 0) - self.end} bytes early")
        self.at = at + count
        inside = at - self.chunk_at
        if inside < 0 or inside + count > len(self.chunk):
            self.chunk = self.source.read(at, min(max(count, _CHUNK), self.end - at), "the pickle")
            self.chunk_at, inside = at, 0
        return self.chunk[inside : inside + count]

    def line(self) -> bytes:
        result = bytearray()
        while (byte := self.take(1)) != b"\n":
            result += byte
            if len(result) > 4096:
                self.bad("a line of over 4096 characters")
        return bytes(result)

    def string(self, count: int) -> bytes | Span:
        """A bytes string; a long one is only passed over."""
        if count <= KEPT or not self._in_file:
            return self.take(count)
        if count < 0 or self.at + count > self.end:
            self.bad(f"a string claims {count} bytes of {self.end - self.at} that are left")
        at, self.at = self.at, self.at + count
        return Span(at, count)

    def bad(self, what: str) -> NoReturn:
        self.source.bad(what, self.at if self._in_file else f"byte {self.at} of its pickle")


_MARK = object()
_CONSTANTS = {ord("N"): None, 0x88: True, 0x89: False, ord(")"): ()}
_SIZES = {"B": 1, "H": 2, "i": 4, "I": 4, "Q": 8, "q": 8}


def called(function: Any, arguments: Any) -> Any:
    """What a function of the list makes of its arguments."""
    if type(function) is not Global or function.call is None or type(arguments) is not tuple:
        raise TypeError("it calls something that is no function")
    if len(arguments) > MOST_ARGUMENTS:
        raise TypeError(f"it calls {function.name} with {len(arguments)} arguments; expected at most {MOST_ARGUMENTS}")
    return function.call(*arguments)


def put(target: dict[Any, Any], key: Any, value: Any) -> None:
    """Put a value into a dict under a key that comes once."""
    if not isinstance(key, str | int | float | bytes | None):
        raise TypeError(f"a dict has a key that is of type {type(key).__name__}; expected text or a number")
    if isinstance(key, int) and abs(key) > LARGEST_KEY:
        raise ValueError(f"a dict has the key {key}; expected integers of at most {LARGEST_KEY}")
    if key in target:
        raise ValueError(f"the key {str(key)[:200]!r} comes twice")
    target[key] = value


class Machine:
    """Reads one pickle."""

    def __init__(
        self,
        cursor: Cursor,
        names: Mapping[str, Callable[..., Any] | None],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._cursor, self._names, self._persistent = cursor, names, persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._marks: list[int] = []  # where on the stack they are

    def load(self) -> Any:
        """The value; every opcode adds one value at most, so that their number bounds the memory too."""
        cursor, stack, memo, marks, number = self._cursor, self._stack, self._memo, self._marks, int.from_bytes
        push, persistent, safe = stack.append, self._persistent, 0
        chunk, begin = cursor.chunk, cursor.chunk_at
        at = cursor.at - begin
        try:
            for _ in range(MOST_OPCODES):
                if at >= safe:  # too near the end of what has been read
                    cursor.at = begin + at
                    code = cursor.take(1)[0]
                else:
                    code = chunk[at]
                    at += 1
                    # Those that make up nearly all of a state's pickle are done here, the most frequent first.
                    if code == 0x72:  # LONG_BINPUT
                        memo[number(chunk[at : at + 4], "little")] = stack[-1]
                        at += 4
                        continue
                    if code == 0x68:  # BINGET
                        push(memo[chunk[at]])
                        at += 1
                        continue
                    if code == 0x4B:  # BININT1
                        push(chunk[at])
                        at += 1
                        continue
                    if code == 0x58:  # BINUNICODE
                        end = at + 4 + number(chunk[at : at + 4], "little")
                        if end - at <= LONGEST_TEXT and end <= len(chunk):
                            push(chunk[at + 4 : end].decode("utf-8", "surrogatepass"))
                            at = end
                            continue
                    if code == 0x28:  # MARK
                        marks.append(len(stack))
                        push(_MARK)
                        continue
                    if code == 0x74 and marks:  # TUPLE
                        mark = marks.pop()
                        values = tuple(stack[mark + 1 :])
                        del stack[mark:]
                        push(values)
                        continue
                    if code == 0x52:  # REDUCE
                        arguments = stack.pop()
                        stack[-1] = called(stack[-1], arguments)
                        continue
                    if code in _CONSTANTS:
                        push(_CONSTANTS[code])
                        continue
                    if code == 0x4D:  # BININT2
                        push(chunk[at] | chunk[at + 1] << 8)
                        at += 2
                        continue
                    if code == 0x85 and stack[-1] is not _MARK:  # TUPLE1
                        stack[-1] = (stack[-1],)
                        continue
                    if code == 0x71:  # BINPUT
                        memo[chunk[at]] = stack[-1]
                        at += 1
                        continue
                    if code == 0x51 and persistent is not None:  # BINPERSID
                        stack[-1] = persistent(stack[-1])
                        continue
                    cursor.at = begin + at
                if code == 0x2E:  # STOP
                    return self._pop()
                step = _STEPS[code]
                if step is None:
                    cursor.bad(f"the opcode {code:#04x} is no part of an array's pickle")
                step(self)
                chunk, begin = cursor.chunk, cursor.chunk_at
                at, safe = cursor.at - begin, len(chunk) - 4
        except FileError:
            raise
        except (TypeError, AttributeError, struct.error, ValueError, OverflowError, LookupError) as error:
            cursor.at = begin + at
            cursor.bad(f"the pickle is damaged: {error}")
        cursor.bad(f"the pickle has over {MOST_OPCODES} opcodes")

    def _number(self, letter: str) -> int:
        return int.from_bytes(self._cursor.take(_SIZES[letter]), "little", signed=letter in "iq")

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            self._cursor.bad("the pickle takes a value where there is none")
        return self._stack.pop()

    def _top(self, kind: Any) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            self._cursor.bad("the pickle adds to something that is no container")
        return self._stack[-1]

    def _marked(self) -> list[Any]:
        if not self._marks:
            self._cursor.bad("the pickle has no mark where one is needed")
        mark = self._marks.pop()
        values = self._stack[mark + 1 :]
        del self._stack[mark:]
        return values

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self) -> None:
        self._marks.append(len(self._stack))
        self.push(_MARK)

    def _text(self, count: int) -> None:
        """A text, or the place of one that is longer than any name."""
        if count <= LONGEST_TEXT:
            self.push(self._cursor.take(count).decode("utf-8", "surrogatepass"))
            return
        data = self._cursor.string(count)
        if not isinstance(data, Span):
            self._cursor.bad(f"a text of {count} bytes; expected at most {LONGEST_TEXT}")
        self.push(Span(data.offset, count, text=True))

    def _long(self, count: int) -> None:
        if not 0 <= count <= LONGEST_INTEGER:
            self._cursor.bad(f"an integer of {count} bytes; expected at most {LONGEST_INTEGER}")
        self.push(int.from_bytes(self._cursor.take(count), "little", signed=True))

    def _ascii_integer(self) -> None:
        line = self._cursor.line().rstrip(b"L")
        if len(line) > 2 * LONGEST_INTEGER:
            self._cursor.bad("an integer of too many digits")
        try:
            self.push({b"00": False, b"01": True}.get(line) if line in (b"00", b"01") else int(line))
        except ValueError:
            self._cursor.bad(f"{line[:40]!r} is no integer")

    def _tuple(self, count: int) -> None:
        values = tuple(self._stack[-count:])
        if len(values) < count or any(value is _MARK for value in values):
            self._cursor.bad("the pickle takes a value where there is none")
        del self._stack[-count:]
        self._stack.append(values)

    def _look_up(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            self._cursor.bad("the pickle asks for something whose name is no text")
        full = f"{module}.{name}"
        if full not in self._names:
            self._cursor.bad(
                f"the pickle asks for {full[:200]!r}, which is not on the list of names that arrays need; it was "
                "refused, and nothing was executed. Save the state alone: a dict of arrays"
            )
        self.push(Global(full, self._names[full]))

    def _global_line(self) -> None:
        module, name = self._cursor.line().decode(), self._cursor.line().decode()
        self._look_up(module, name)

    def _global_stack(self) -> None:
        name, module = self._pop(), self._pop()
        self._look_up(module, name)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        self._stack.append(called(function, arguments))

    def _build(self) -> None:
        state, value = self._pop(), self._top((Built, dict))
        if isinstance(value, Built):
            value.state = state  # a dict's attributes, as torch's _metadata, are passed over

    def _set_items(self, values: list[Any]) -> None:
        target = self._top(dict)
        if len(values) % 2:
            self._cursor.bad("the pickle has a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            put(target, key, value)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _add_items(self) -> None:
        values = self._marked()
        self._top(list).extend(values)

    def _new_dict(self) -> None:
        values = self._marked()
        self.push({})
        self._set_items(values)

    def _put(self, key: int) -> None:
        if not self._stack:
            self._cursor.bad("the pickle remembers a value where there is none")
        self._memo[key] = self._stack[-1]

    def _get(self, key: int) -> None:
        if key not in self._memo:
            self._cursor.bad(f"the pickle asks for the value {key}, which it has not remembered")
        self.push(self._memo[key])

    def _persist(self) -> None:
        if self._persistent is None:
            self._cursor.bad("the pickle refers to something outside it")
        self.push(self._persistent(self._pop()))

    def _protocol(self) -> None:
        if (version := self._number("B")) > 5:
            self._cursor.bad(f"a pickle of protocol {version}; expected at most 5")

    def _pop_mark(self) -> None:
        self._marked()

    def _drop(self) -> None:
        if self._stack and self._stack.pop() is _MARK and self._marks:
            self._marks.pop()

    def _frame(self) -> None:
        self._cursor.take(8)  # its length, which tells nothing that is needed

    def _dup(self) -> None:
        value = self._pop()
        self._stack += [value, value]

    def _ascii_float(self) -> None:
        try:
            self.push(float(self._cursor.line()))
        except ValueError:
            self._cursor.bad("a float that is none")


def _pushing(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.push(value)


_BY_CODE: dict[int, Callable[[Machine], None]] = {code: _pushing(value) for code, value in _CONSTANTS.items()} | {
    ord("("): Machine._mark,
    ord("\x80"): Machine._protocol,
    ord("\x95"): Machine._frame,
    ord("0"): Machine._drop,
    ord("1"): Machine._pop_mark,
    ord("2"): Machine._dup,
    ord("I"): Machine._ascii_integer,
    ord("L"): Machine._ascii_integer,
    ord("K"): lambda m: m.push(m._number("B")),
    ord("J"): lambda m: m.push(m._number("i")),
    ord("M"): lambda m: m.push(m._number("H")),
    ord("\x8a"): lambda m: m._long(m._number("B")),
    ord("\x8b"): lambda m: m._long(m._number("i")),
    ord("F"): Machine._ascii_float,
    ord("G"): lambda m: m.push(struct.unpack(">d", m._cursor.take(8))[0]),
    ord("X"): lambda m: m._text(m._number("I")),
    ord("\x8c"): lambda m: m._text(m._number("B")),
    ord("\x8d"): lambda m: m._text(m._number("Q")),
    ord("C"): lambda m: m.push(m._cursor.string(m._number("B"))),
    ord("B"): lambda m: m.push(m._cursor.string(m._number("I"))),
    ord("\x8e"): lambda m: m.push(m._cursor.string(m._number("Q"))),
    ord("\x96"): lambda m: m.push(m._cursor.string(m._number("Q"))),  # BYTEARRAY8
    ord("T"): lambda m: m.push(m._cursor.string(m._number("i"))),
    ord("U"): lambda m: m.push(m._cursor.string(m._number("B"))),
    ord("]"): lambda m: m.push([]),
    ord("}"): lambda m: m.push({}),
    ord("t"): lambda m: m._stack.append(tuple(m._marked())),
    ord("\x85"): lambda m: m._tuple(1),
    ord("\x86"): lambda m: m._tuple(2),
    ord("\x87"): lambda m: m._tuple(3),
    ord("l"): lambda m: m.push(m._marked()),
    ord("d"): Machine._new_dict,
    ord("a"): Machine._append,
    ord("e"): Machine._add_items,
    ord("s"): Machine._set_item,
    ord("u"): lambda m: m._set_items(m._marked()),
    ord("c"): Machine._global_line,
    ord("\x93"): Machine._global_stack,
    ord("R"): Machine._reduce,
    ord("\x81"): Machine._reduce,  # NEWOBJ, of the same two
    ord("b"): Machine._build,
    ord("Q"): Machine._persist,
    ord("q"): lambda m: m._put(m._number("B")),
    ord("r"): lambda m: m._put(m._number("I")),
    ord("\x94"): lambda m: m._put(len(m._memo)),
    ord("h"): lambda m: m._get(m._number("B")),
    ord("j"): lambda m: m._get(m._number("I")),
}
_STEPS = [_BY_CODE.get(code) for code in range(256)]
