"""The wire format of protocol buffers, as far as a checkpoint needs it; long fields are passed over."""

from collections.abc import Iterator

from fastbn.files._opcodes import Cursor, Span
from fastbn.files._source import Source

MOST_FIELDS = 5_000_000


def varint(cursor: Cursor) -> int:
    result = 0
    for shift in range(0, 70, 7):
        byte = cursor.take(1)[0]
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFF_FFFF_FFFF_FFFF
    return cursor.bad("a number of over ten bytes")


def fields(source: Source, at: int, end: int) -> Iterator[tuple[int, int | Span]]:
    """The numbers of a message's fields with their values, those of a length as places in the file."""
    cursor = Cursor(source, at, end)
    for _ in range(MOST_FIELDS):
        if cursor.at >= end:
            return
        key = varint(cursor)
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, varint(cursor)
        elif kind == 2:
            length = varint(cursor)
            if cursor.at + length > end:
                cursor.bad(f"a field claims {length} bytes of {end - cursor.at} that are left")
            yield number, Span(cursor.at, length)
            cursor.at += length
        elif kind in (1, 5):
            cursor.take(8 if kind == 1 else 4)
        else:
            cursor.bad(f"a field of the kind {kind}, which there is none of")
    cursor.bad(f"a message has over {MOST_FIELDS} fields")


def kind(source: Source) -> str | None:
    """Whose message a file is: ONNX's has a graph in field 7, a checkpoint of MindSpore's only field 1."""
    numbers: dict[int, type] = {}
    try:
        for number, value in fields(source, 0, source.size):
            numbers.setdefault(number, type(value))
            if len(numbers) > 30:
                return None
    except ValueError:
        # damaged: the first field alone tells
        return {int: "onnx", Span: "mindspore"}.get(numbers.get(1, str))
    if numbers.get(7) is Span and numbers.get(1, int) is int:
        return "onnx"
    return "mindspore" if numbers == {1: Span} else "onnx" if numbers.get(1) is int else None
