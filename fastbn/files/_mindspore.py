"""MindSpore's .ckpt: a message of values, each a tag and a tensor."""

from math import prod

import numpy as np

from fastbn.files._content import Content
from fastbn.files._opcodes import Cursor, Span
from fastbn.files._protobuf import fields, varint
from fastbn.files._source import LONGEST_NAME, Array, Entry, Source, Table, dtype_of, item_size, shape_of
from fastbn.files._states import MINDSPORE, find

_DTYPES = {
    "Float64": "<f8",
    "Float32": "<f4",
    "Float16": "<f2",
    "BFloat16": "bfloat16",
    "Int64": "<i8",
    "Int32": "<i4",
    "Int16": "<i2",
    "Int8": "|i1",
    "UInt64": "<u8",
    "UInt32": "<u4",
    "UInt16": "<u2",
    "UInt8": "|u1",
    "Bool": "|b1",
}


def read(source: Source) -> Content:
    entries = Table(source)
    pieces: dict[str, list[Span]] = {}
    told: dict[str, tuple[str, tuple[int, ...]]] = {}
    for number, value in fields(source, 0, source.size):
        if number != 1 or not isinstance(value, Span):
            source.bad(f"a checkpoint of MindSpore's has a field {number}; expected values only")
        tag, dtype, shape, data = _value(source, value)
        if told.setdefault(tag, (dtype, shape)) != (dtype, shape):
            source.bad(f"the name {tag[:200]!r} comes twice", value.offset)
        pieces.setdefault(tag, []).append(data)  # a tensor of over 512 MB comes in pieces
    for tag, (dtype, shape) in told.items():
        entries.add(tag, _entry(source, tag, dtype, shape, pieces[tag]))
    return Content("mindspore", entries, lambda: find(entries, (MINDSPORE,)))


def _text(source: Source, span: Span) -> str:
    if span.length > LONGEST_NAME:
        source.bad(f"a name of {span.length} bytes; expected at most {LONGEST_NAME}", span.offset)
    try:
        return source.read(span.offset, span.length).decode()
    except UnicodeDecodeError:
        source.bad("a name that is no UTF-8", span.offset)


def _value(source: Source, span: Span) -> tuple[str, str, tuple[int, ...], Span]:
    parts = dict(fields(source, span.offset, span.offset + span.length))
    tag, tensor = parts.get(1), parts.get(2)
    if not isinstance(tag, Span) or not isinstance(tensor, Span):
        source.bad("a value without a tag or a tensor", span.offset)
    name = _text(source, tag)
    sizes: list[int] = []
    dtype = data = None
    for number, value in fields(source, tensor.offset, tensor.offset + tensor.length):
        if number == 1 and isinstance(value, Span):
            cursor = Cursor(source, value.offset, value.offset + value.length)
            while cursor.at < cursor.end and len(sizes) < 100:
                sizes.append(varint(cursor))
        elif number == 1 and isinstance(value, int):
            sizes.append(value)
        elif number == 2 and isinstance(value, Span):
            dtype = _DTYPES.get(_text(source, value))
        elif number == 3 and isinstance(value, Span):
            data = value
    if dtype is None or data is None:
        source.bad(f"the tensor {name[:200]!r} has no data or a dtype that is not read", tensor.offset)
    return name, dtype, shape_of(source, sizes, f"tensor {name[:200]!r}"), data


def _entry(source: Source, name: str, dtype: str, shape: tuple[int, ...], spans: list[Span]) -> Entry:
    what, item = f"tensor {name[:200]!r}", item_size(dtype)
    length = sum(span.length for span in spans)
    if shape == (0,) and length == item:
        shape = ()  # how a scalar is written
    if length != item * prod(shape):
        twice = " (or the name comes twice)" if len(spans) > 1 else ""
        source.bad(
            f"{what} of shape {shape} takes {item * prod(shape)} bytes, but has {length}{twice}", spans[0].offset
        )

    def load() -> Array:
        parts = [source.array(span.offset, np.dtype(np.uint8), (span.length,), what) for span in spans]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)).view(dtype_of(dtype)).reshape(shape)

    return Entry(dtype, shape, load)
