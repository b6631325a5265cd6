"""HDF5 files: a tree of hard links and of arrays that lie in the file itself, read by a reader of our own.

The library of HDF5 is not used: it was seen not to come back from damaged files, with Python's lock held.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np

from fastbn.files import _hdf5_headers as headers
from fastbn.files._hdf5_headers import Fields, Object, Region
from fastbn.files._source import MOST_ARRAYS, Array, Entry, Table, dtype_of, item_size

DEEPEST = 64
_LONGEST_ATTRIBUTE = 1 << 26
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3


class Tree:
    """The arrays of an HDF5 file by path, and the attributes of its groups that are text."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self.entries = Table(region.source)
        self.names: dict[str, str] = {}  # the attribute `name` of groups that have one
        self._root = headers.header(region, headers.root(region), "the root group")
        self._walk()

    def text(self, name: str) -> str | None:
        """An attribute of the root that is text."""
        return self._text(self._root, name)

    def _text(self, group: Object, name: str) -> str | None:
        if name not in group.attributes:
            return None
        return headers.text(self._region, group.attributes[name], _LONGEST_ATTRIBUTE, f"the attribute {name!r}")

    def _walk(self) -> None:
        seen: set[int] = set()
        pending: list[tuple[str, Object, int]] = [("", self._root, 0)]
        while pending:
            path, group, depth = pending.pop()
            if (name := self._text(group, "name")) is not None and len(name) < 1000:
                self.names[path] = name
            inner: list[tuple[str, Object, int]] = []
            for link in headers.links(self._region, group, f"group {path[:200]!r}"):
                full = f"{path}/{link.name}" if path else link.name
                if link.elsewhere:
                    self._region.bad(
                        f"{full[:200]!r} is a {link.elsewhere}, which leads elsewhere; expected hard links only"
                    )
                if link.place in seen or depth > DEEPEST or len(seen) > MOST_ARRAYS:
                    self._region.bad(f"{full[:200]!r} is in itself or comes twice, or is nested over {DEEPEST} deep")
                seen.add(link.place)
                value = headers.header(self._region, link.place, f"{full[:200]!r}")
                if value.find(0x08) is None:
                    inner.append((full, value, depth + 1))
                elif (entry := self._entry(full, value)) is not None:
                    self.entries.add(full, entry)
            pending += reversed(inner)

    def _entry(self, name: str, dataset: Object) -> Entry | None:
        what = f"array {name[:200]!r}"
        if dataset.find(0x07) is not None:
            self._region.bad(f"{what} lies in another file; expected arrays in this one")
        parts = [dataset.find(kind) for kind in (0x03, 0x01, 0x08)]
        if any(part is None or part.shared for part in parts):
            self._region.bad(f"{what} has no type, shape or layout of its own; expected all three")
        kind, space, layout = (part.fields for part in parts if part is not None)
        dtype, shape = headers.dtype_name(kind), headers.shape(space, what)
        if dtype is None or shape is None:
            return None
        return Entry(dtype, shape, _layout(_Stored(self._region, what, dtype, shape, _filters(dataset, what)), layout))


def _filters(dataset: Object, what: str) -> list[int]:
    """The filters that an array goes through, in the order of writing."""
    message = dataset.find(0x0B)
    if message is None:
        return []
    fields = message.fields
    version, count = fields.numbers(1, 1)
    fields.take(6 if version == 1 else 0)
    result = []
    for _ in range(count):
        number = fields.number(2)
        named = fields.number(2) if version == 1 or number >= 256 else 0
        _, values = fields.numbers(2, 2)
        fields.take(named + (-named % 8 if version == 1 else 0))
        fields.take(4 * (values + values % 2 if version == 1 else values))
        result.append(number)
    if foreign := [number for number in result if number not in (_DEFLATE, _SHUFFLE, _FLETCHER32)]:
        fields.region.bad(f"{what} goes through the filters {foreign}; expected deflate, shuffle and fletcher32 alone")
    return result


@dataclass(slots=True)
class _Stored:
    """An array as it lies in the file."""

    region: Region
    what: str
    dtype: str
    shape: tuple[int, ...]
    filters: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return item_size(self.dtype) * prod(self.shape)

    def held(self, length: int) -> None:
        """Refuse an array of which fewer bytes are there."""
        if length < self.length:
            self.region.bad(f"{self.what} of shape {self.shape} takes {self.length} bytes, but has {length}")


def _layout(stored: _Stored, fields: Fields) -> Callable[[], Array]:
    """What reads the array, by its layout message."""
    region, what = stored.region, stored.what
    version, kind = fields.numbers(1, 1)
    if version == 4 and kind == 3:
        region.bad(f"{what} lies in another file; expected arrays in this one")
    if version not in (3, 4) or kind > 2 or (kind == 2 and version == 4):
        region.bad(
            f"{what} is laid out as version {version}, class {kind}; expected what h5py writes unless asked for the "
            "newest form (copy the file with h5py)"
        )
    if kind == 0:
        data = fields.take(fields.number(2))
        stored.held(len(data))
        return lambda: np.frombuffer(bytearray(data[: stored.length]), dtype_of(stored.dtype)).reshape(stored.shape)
    if kind == 1:
        place, length = fields.numbers(8, 8)
        stored.held(0 if place == headers.UNDEFINED else length)
        place = place if stored.length else 0
        region.check(place, stored.length, what)
        return lambda: region.array(place, dtype_of(stored.dtype), stored.shape, what)
    rank = fields.number(1)
    tree = fields.number(8)
    *chunk, item = fields.numbers(*[4] * rank) or (0,)
    if len(chunk) != len(stored.shape) or item != item_size(stored.dtype) or 0 in chunk:
        region.bad(f"{what} of shape {stored.shape} has chunks of shape {tuple(chunk)} and of {item} bytes an element")
    return lambda: _chunked(stored, tree, tuple(chunk))


# Chunks ---------------------------------------------------------------------------------------------------------------


def _chunked(stored: _Stored, tree: int, chunk: tuple[int, ...]) -> Array:
    """An array out of chunks, each of which went through the filters."""
    region, what, rank = stored.region, stored.what, len(stored.shape)
    places: dict[tuple[int, ...], tuple[int, int, int]] = {}
    told = () if tree == headers.UNDEFINED else headers.leaves(region, tree, 1, 16 + 8 * rank, what)
    for key, place in told:
        fields = Fields(region, key, what, place)
        length, mask = fields.numbers(4, 4)
        places[fields.numbers(*[8] * rank)] = place, length, mask
    size, held = item_size(stored.dtype) * prod(chunk), sum(length for _, length, _ in places.values())
    if held > region.length:
        region.bad(f"the chunks of {what} take {held} bytes of {region.length}; they overlap, or the file is cut short")
    region.source.inflate(what, max(stored.length, size), held) if stored.filters else stored.held(held)
    result = np.empty(stored.shape, dtype_of(stored.dtype))
    for start in product(*(range(0, n, step) for n, step in zip(stored.shape, chunk, strict=True))):
        if start not in places:
            region.bad(f"{what} has no chunk at {start}; expected all of its elements to be written")
        place, length, mask = places[start]
        data = _unfiltered(stored, region.take(place, length, what), mask, size)
        part = tuple(slice(k, k + step) for k, step in zip(start, chunk, strict=True))
        there = result[part]
        there[...] = np.frombuffer(data, result.dtype).reshape(chunk)[tuple(slice(0, n) for n in there.shape)]
    return result


def _unfiltered(stored: _Stored, data: bytes, mask: int, size: int) -> bytes:
    """The bytes of a chunk before its filters; mask tells which of them it did not go through."""
    region, what = stored.region, stored.what
    for k, number in reversed(list(enumerate(stored.filters))):
        if mask >> k & 1:
            continue
        if number == _DEFLATE:
            machine = zlib.decompressobj()
            try:
                data = machine.decompress(data, size + 4 * len(stored.filters) + 1)
            except zlib.error as error:
                region.bad(f"a chunk of {what} is damaged: {error}")
        elif number == _FLETCHER32:
            if len(data) < 4 or _fletcher32(data[:-4]) != int.from_bytes(data[-4:], "little"):
                region.bad(f"a chunk of {what} is damaged: its checksum is another")
            data = data[:-4]
        else:
            item = item_size(stored.dtype)
            whole = len(data) // item * item
            shuffled = np.frombuffer(data[:whole], np.uint8).reshape(item, -1)
            data = shuffled.T.tobytes() + data[whole:]
    if len(data) != size:
        region.bad(f"a chunk of {what} has {len(data)} bytes; expected {size}")
    return data


def _fletcher32(data: bytes) -> int:
    """The checksum of HDF5: two sums of words of 16 bits, the higher byte first, modulo 65535."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % np.uint64(65535)
    totals: list[Any] = [int(words.sum()), int((words * weights).sum())]
    first, second = (total % 65535 or (65535 if total else 0) for total in totals)
    return second << 16 | first
