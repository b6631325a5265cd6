"""GGUF: a header of keys and values, descriptions of tensors, and their data aligned behind."""

import struct
from math import prod
from typing import Any

import numpy as np

from fastbn.files._content import Content, Found, Norm, Unknown
from fastbn.files._opcodes import Cursor
from fastbn.files._source import LONGEST_NAME, MOST_ARRAYS, Array, Entry, Source, Table, flat, shape_of

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _ARRAY = 8, 9
_DTYPES = {0: "<f4", 1: "<f2", 24: "|i1", 25: "<i2", 26: "<i4", 27: "<i8", 28: "<f8", 30: "bfloat16"}
_LONGEST_TEXT = 1 << 24
_MOST_KEYS = 100_000


def read(source: Source) -> Content:
    cursor = Cursor(source, 4)
    version = _number(cursor, "<I")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3)
        source.bad(
            "it is big-endian; expected little-endian" if swapped else f"GGUF {version}; expected version 2 or 3", 4
        )
    tensors, keys = _number(cursor, "<Q"), _number(cursor, "<Q")
    if tensors > MOST_ARRAYS or keys > _MOST_KEYS:
        source.bad(f"it claims {tensors} tensors and {keys} keys", 8)
    told: dict[str, Any] = {}
    for _ in range(keys):
        name = _text(cursor)
        if name in told:
            source.bad(f"the key {name[:200]!r} comes twice", cursor.at)
        told[name] = _value(cursor, _number(cursor, "<I"))
    described = [_described(source, cursor) for _ in range(tensors)]
    alignment = told.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        source.bad(f"its alignment is {str(alignment)[:40]}")
    begin = -(-cursor.at // alignment) * alignment
    entries = Table(source)
    for name, shape, kind, offset in described:
        entries.add(name, _entry(source, name, shape, kind, begin + offset))
    return Content("gguf", entries, lambda: _find(entries, told))


def _number(cursor: Cursor, code: str) -> Any:
    return struct.unpack(code, cursor.take(struct.calcsize(code)))[0]


def _text(cursor: Cursor, longest: int = LONGEST_NAME) -> str:
    length = _number(cursor, "<Q")
    if length > longest:
        cursor.bad(f"a text of {length} bytes; expected at most {longest}")
    return cursor.take(length).decode("utf-8", "replace")


def _value(cursor: Cursor, kind: int) -> Any:
    """The value of a key; lists are passed over, for they are vocabularies."""
    if kind in _SCALARS:
        return _number(cursor, _SCALARS[kind])
    if kind == _TEXT:
        return _text(cursor, _LONGEST_TEXT)
    if kind != _ARRAY:
        cursor.bad(f"a value of the type {kind}, which there is none of")
    inner, count = _number(cursor, "<I"), _number(cursor, "<Q")
    if inner in _SCALARS:
        length = count * struct.calcsize(_SCALARS[inner])
        if cursor.at + length > cursor.end:
            cursor.bad(f"a list claims {length} bytes of {cursor.end - cursor.at} that are left")
        cursor.at += length
    elif inner == _TEXT and count <= (cursor.end - cursor.at) // 8:
        for _ in range(count):
            length = _number(cursor, "<Q")
            if cursor.at + length > cursor.end:
                cursor.bad(f"a text claims {length} bytes of {cursor.end - cursor.at} that are left")
            cursor.at += length
    else:
        cursor.bad(f"a list of {count} values of the type {inner}")
    return None


def _described(source: Source, cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name, axes = _text(cursor), _number(cursor, "<I")
    if axes > 8:
        source.bad(f"tensor {name[:200]!r} claims {axes} axes", cursor.at)
    sizes = [_number(cursor, "<Q") for _ in range(axes)]
    shape = shape_of(source, sizes[::-1], f"tensor {name[:200]!r}")  # the fastest axis comes first
    return name, shape, _number(cursor, "<I"), _number(cursor, "<Q")


def _entry(source: Source, name: str, shape: tuple[int, ...], kind: int, offset: int) -> Entry:
    dtype = _DTYPES.get(kind)
    if dtype is not None:
        return flat(source, name, offset, dtype, shape)

    def refuse() -> Array:
        source.bad(f"tensor {name[:200]!r} is quantized (type {kind}), which is not read; norms are not", offset)

    return Entry("|u1", shape, refuse)


def _find(entries: dict[str, Entry], told: dict[str, Any]) -> Found:
    """The kind and eps from the keys that end in attention.layer_norm_epsilon, layer_norm_rms_epsilon or group_norm."""
    kinds: dict[str, float] = {}
    for key, value in told.items():
        for kind, ending in (("rms", "attention.layer_norm_rms_epsilon"), ("layer", "attention.layer_norm_epsilon")):
            if key.endswith(ending) and isinstance(value, float):
                kinds[kind] = float(np.format_float_positional(np.float32(value), unique=True))
    norms: dict[str, Norm] = {}
    unknown: dict[str, Unknown] = {}
    for key, entry in entries.items():
        name = key.removesuffix(".weight")
        if name == key or not name.endswith("norm") or len(entry.shape) != 1 or not prod(entry.shape):
            continue
        bias = f"{name}.bias"
        arrays = {"weight": key} | ({"bias": bias} if bias in entries else {})
        if len(kinds) == 1 and not (bias in entries and "rms" in kinds):
            kind, eps = next(iter(kinds.items()))
            norms[name] = Norm(kind, arrays, entry.shape, eps, False)
        else:
            why = "its keys tell no eps" if not kinds else "its keys tell an eps of another kind of norm, or of two"
            unknown[name] = Unknown(f"{why}; tell which norm by kinds", arrays, entry.shape)
    return norms, unknown
