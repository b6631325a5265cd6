"""MessagePack, with bytes passed over: what Flax writes states in."""

import struct
from dataclasses import dataclass
from typing import Any

from fastbn.files._opcodes import LONGEST_TEXT, Cursor, Span
from fastbn.files._pickled import DEEPEST

_MOST_VALUES = 5_000_000
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}


@dataclass(slots=True)
class Extension:
    """A value of a type of the application's own."""

    kind: int
    offset: int
    length: int


class Reader:
    """Reads one message."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor, self._count = cursor, 0

    def load(self, depth: int = 0) -> Any:
        self._count += 1
        if depth > DEEPEST or self._count > _MOST_VALUES:
            self._cursor.bad(f"values are nested over {DEEPEST} deep, or there are over {_MOST_VALUES}")
        code = self._cursor.take(1)[0]
        if code <= 0x7F or code >= 0xE0:
            return code if code <= 0x7F else code - 256
        if code in _NUMBERS:
            return struct.unpack(_NUMBERS[code], self._cursor.take(struct.calcsize(_NUMBERS[code])))[0]
        if code <= 0x8F or code in (0xDE, 0xDF):
            return self._map(code & 0x0F if code <= 0x8F else self._size(2 << (code - 0xDE)), depth)
        if code <= 0x9F or code in (0xDC, 0xDD):
            return self._list(code & 0x0F if code <= 0x9F else self._size(2 << (code - 0xDC)), depth)
        if code <= 0xBF or 0xD9 <= code <= 0xDB:
            return self._text(code & 0x1F if code <= 0xBF else self._size(1 << (code - 0xD9)))
        if code in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[code]
        if 0xC4 <= code <= 0xC6:
            return self._cursor.string(self._size(1 << (code - 0xC4)))
        if 0xC7 <= code <= 0xC9 or 0xD4 <= code <= 0xD8:
            return self._extension(self._size(1 << (code - 0xC7)) if code <= 0xC9 else 1 << (code - 0xD4))
        self._cursor.bad(f"the byte {code:#04x} begins no value")

    def _size(self, count: int) -> int:
        return int.from_bytes(self._cursor.take(count), "big")

    def _map(self, count: int, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for _ in range(count):
            key = self.load(depth + 1)
            if not isinstance(key, str | int):
                self._cursor.bad(f"a map has a key that is of type {type(key).__name__}; expected text")
            if str(key) in result:
                self._cursor.bad(f"the key {str(key)[:200]!r} comes twice")
            result[str(key)] = self.load(depth + 1)
        return result

    def _list(self, count: int, depth: int) -> list[Any]:
        return [self.load(depth + 1) for _ in range(count)]

    def _text(self, count: int) -> str:
        if count > LONGEST_TEXT:
            self._cursor.bad(f"a text of {count} bytes; expected at most {LONGEST_TEXT}")
        try:
            return self._cursor.take(count).decode()
        except UnicodeDecodeError:
            self._cursor.bad("a text that is no UTF-8")

    def _extension(self, count: int) -> Extension:
        kind = self._cursor.take(1)[0]
        at = self._cursor.at
        if at + count > self._cursor.end:
            self._cursor.bad(f"a value claims {count} bytes of {self._cursor.end - at} that are left")
        self._cursor.at += count
        return Extension(kind, at, count)


def value_of(extension: Extension, source: Any) -> tuple[Any, Any, Span | bytes] | None:
    """Shape, name of the dtype and the place of the data, where it is one of Flax's arrays."""
    if extension.kind not in (1, 3):  # 2 is a complex number of Python's
        return None
    told = Reader(Cursor(source, extension.offset, extension.offset + extension.length)).load()
    if not isinstance(told, list) or len(told) != 3 or not isinstance(told[2], Span | bytes):
        source.bad("an array is not [shape, dtype, bytes]", extension.offset)
    return told[0], told[1], told[2]
