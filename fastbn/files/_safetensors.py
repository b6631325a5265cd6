"""safetensors: a header in JSON, and arrays in C order."""

import json
from math import prod
from pathlib import Path
from typing import Any

from fastbn.files._content import Content
from fastbn.files._source import Entry, FileError, Source, Table, beside, flat, item_size, shape_of
from fastbn.files._states import PLAIN, find

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
    "C64": "<c8",
}
LONGEST_HEADER = 100_000_000  # the format's own limit
_MOST_SHARDS = 10_000


def read(source: Source) -> Content:
    entries = Table(source)
    _add(source, entries)
    return Content("safetensors", entries, lambda: find(entries, PLAIN))


def _add(source: Source, entries: Table) -> None:
    length = int.from_bytes(source.read(0, 8, "the header's length"), "little")
    if length > LONGEST_HEADER:
        source.bad(f"the header claims {length} bytes; expected at most {LONGEST_HEADER}")
    header = as_json(source, source.read(8, length, "the header"), "the header")
    header.pop("__metadata__", None)
    begin = 8 + length
    spans = []
    for name, told in header.items():
        entry, span = _entry(source, name, told, begin)
        entries.add(name, entry)
        spans.append((*span, name))
    end = 0
    for start, stop, name in sorted(spans):
        if start < end:
            source.bad(f"array {name[:200]!r} overlaps the one before it", begin + start)
        end = max(end, stop)


def _entry(source: Source, name: str, told: Any, begin: int) -> tuple[Entry, tuple[int, int]]:
    what = f"array {name[:200]!r}"
    if not isinstance(told, dict) or not {"dtype", "shape", "data_offsets"} <= told.keys():
        source.bad(f"{what} is {str(told)[:80]}; expected its dtype, shape and data_offsets")
    dtype = DTYPES.get(str(told["dtype"]))
    if dtype is None:
        source.bad(f"{what} has dtype {str(told['dtype'])[:40]!r}; expected one of {', '.join(DTYPES)}")
    shape = shape_of(source, told["shape"], what)
    span = shape_of(source, told["data_offsets"], f"the offsets of {what}")
    entry = None if len(span) != 2 else flat(source, name, begin + span[0], dtype, shape)
    if entry is None or span[1] - span[0] != prod(shape) * item_size(dtype):
        source.bad(f"{what} of shape {shape} and dtype {told['dtype']} lies at {span}, which is not as long as it is")
    return entry, (span[0], span[1])


def as_json(source: Source, data: bytes, what: str) -> dict[str, Any]:
    """An object of JSON in which no key comes twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in pairs:
            if name in result:
                source.bad(f"{what} has the key {name[:200]!r} twice")
            result[name] = value
        return result

    try:
        value = json.loads(data, object_pairs_hook=once)
    except FileError:
        raise
    except (ValueError, RecursionError) as error:  # a number may have too many digits, too
        source.bad(f"{what} is no JSON: {error}")
    if not isinstance(value, dict):
        source.bad(f"{what} is of type {type(value).__name__}; expected an object")
    return value


def read_index(source: Source, open_shard: Any) -> Content:
    """Several files, told by an index."""
    weight_map = as_json(source, source.read(0, source.size), "the index").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        source.bad("it has no weight_map from names of arrays to names of files")
    files = sorted(set(weight_map.values()))
    if len(files) > _MOST_SHARDS:
        source.bad(f"it names {len(files)} files; expected at most {_MOST_SHARDS}")
    paths: dict[str, Path] = {file: beside(source, file) for file in files}
    shards: dict[str, Content] = {}
    entries = Table(source)
    content = Content("safetensors", entries, lambda: find(entries, PLAIN), parts=list(paths.values()))
    try:
        for file, path in paths.items():
            shards[file] = open_shard(path)
            content.closers += shards[file].closers
        for name, file in weight_map.items():
            if name not in shards[file].entries:
                source.bad(f"the array {name[:200]!r} is not in {file}")
            entries.add(name, shards[file].entries[name])
    except BaseException:
        for close in content.closers:
            close()
        raise
    content.format = next(iter(shards.values())).format if shards else "safetensors"
    return content
