"""The structure of HDF5 files: object headers, the links of groups, types, shapes and attributes.

Read as the published file format, version 3, tells: superblocks 0 to 3, groups as symbol tables or as links in their
header, which is what h5py and Keras write unless asked for the newest form.  Every structure is read once, and all of
them together may take no more bytes than the file has a few times over, so that damage or malice takes no longer.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np

from fastbn.files._source import LONGEST_NAME, MOST_ARRAYS, Array, Source, shape_of

UNDEFINED = (1 << 64) - 1
_NEWER = "is kept in a form of newer releases of HDF5; expected the older one, as copying by h5py to a new file gives"
_BYTES_AGAIN = 4  # times the file's length: what all structures together may take
_FLOATS = {(2, 5, 10): "f2", (2, 8, 7): "bfloat16", (4, 8, 23): "f4", (8, 11, 52): "f8"}


class Region:
    """A part of a file, or bytes that were in it, read by position and within a budget."""

    def __init__(self, source: Source, offset: int, length: int, data: bytes | None = None) -> None:
        self.source, self.offset, self.length, self._data = source, offset, length, data
        self._left = _BYTES_AGAIN * length + (1 << 16)

    def check(self, at: int, count: int, what: str) -> None:
        """Refuse what does not lie inside."""
        if at < 0 or count < 0 or at + count > self.length:
            self.bad(f"{what} takes bytes {at} to {at + count} of {self.length}; the file is cut short or damaged", at)

    def take(self, at: int, count: int, what: str) -> bytes:
        """So many bytes at a place."""
        self.check(at, count, what)
        if self._data is not None:
            return self._data[at : at + count]
        return self.source.read(self.offset + at, count, what)

    def array(self, at: int, dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> Array:
        """The array at a place, whose bytes are there once."""
        if self._data is not None:
            return np.frombuffer(bytearray(self.take(at, dtype.itemsize * prod(shape), what)), dtype).reshape(shape)
        return self.source.array(self.offset + at, dtype, shape, what)

    def structure(self, at: int, count: int, what: str) -> bytes:
        """The same of what is no array's data, all of which together is limited."""
        self._left -= count + 16
        if self._left < 0:
            self.bad(f"{what}: its structures lead to each other or overlap", at)
        return self.take(at, count, what)

    def bad(self, what: str, at: int | None = None) -> NoReturn:
        self.source.bad(what, None if at is None else self.offset + at)


class Fields:
    """Little-endian numbers and bytes, one after the other, out of a structure."""

    def __init__(self, region: Region, data: bytes, what: str, at: int) -> None:
        self.region, self.data, self.what, self.place, self.at = region, data, what, at, 0

    def bad(self, why: str) -> NoReturn:
        self.region.bad(f"{self.what} {why}", self.place)

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            self.bad("ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def numbers(self, *sizes: int) -> tuple[int, ...]:
        return tuple(self.number(size) for size in sizes)

    def left(self) -> int:
        return len(self.data) - self.at

    def part(self, count: int, padded: bool = False) -> "Fields":
        """The next `count` bytes, with zeros to a multiple of 8 behind them in older structures."""
        part = Fields(self.region, self.take(count), self.what, self.place)
        self.take(min(-count % 8, self.left()) if padded else 0)
        return part


class Message(NamedTuple):
    kind: int
    shared: bool
    fields: Fields


class Link(NamedTuple):
    name: str
    place: int
    elsewhere: str  # "", or what kind of link it is that leads elsewhere


@dataclass(slots=True)
class Object:
    """What an object header says: of a group its links, of an array its type, shape, layout and filters."""

    messages: list[Message]
    attributes: dict[str, "Attribute"] = field(default_factory=dict)

    def find(self, kind: int) -> Message | None:
        return next((message for message in self.messages if message.kind == kind), None)


class Attribute(NamedTuple):
    kind: int  # the class of its type: 3 is text of a fixed length, 9 of any
    size: int
    elements: int
    data: bytes


def root(region: Region) -> int:
    """Where the header of the root group is, by the superblock."""
    fields = Fields(region, region.structure(0, min(96, region.length), "the superblock"), "the superblock", 0)
    fields.take(8)
    version = fields.number(1)
    if version > 3:
        fields.bad(f"is of version {version}; expected at most 3")
    sizes = fields.numbers(1, 1) if version >= 2 else fields.numbers(1, 1, 1, 1, 1, 1)[-2:]
    if sizes != (8, 8):
        fields.bad(f"tells of addresses and lengths of {sizes[0]} and {sizes[1]} bytes; expected 8 of each")
    if version >= 2:
        _, base, _, end, place = fields.numbers(1, 8, 8, 8, 8)
    else:
        fields.take(1 + 2 + 2 + 4 + (4 if version == 1 else 0))
        base, _, end, _, _, place = fields.numbers(8, 8, 8, 8, 8, 8)
    if base:
        fields.bad(f"tells that addresses count from byte {base}; expected 0")
    if end > region.length:
        fields.bad(f"tells of {end} bytes, but there are {region.length}: the file is cut short")
    return place


def header(region: Region, place: int, what: str) -> Object:
    """The object header at a place."""
    start = region.structure(place, 16, what)
    found = Object(list(_first(region, place, what) if start[:4] == b"OHDR" else _second(region, place, start, what)))
    for message in found.messages:
        if message.kind == 0x0C and not message.shared:
            name, attribute = _attribute(message.fields)
            found.attributes[name] = attribute
        if message.kind == 0x15:
            message.fields.take(1)
            if message.fields.number(1) & 1:
                message.fields.take(2)
            if message.fields.number(8) != UNDEFINED:
                region.bad(f"the attributes of {what} {_NEWER}", place)
    return found


def _first(region: Region, place: int, what: str) -> Iterator[Message]:
    """The messages of a header of version 2, which begins with OHDR."""
    head = region.structure(place, min(34, region.length - place), what)
    fields = Fields(region, head, what, place)
    fields.take(4)
    version, flags = fields.numbers(1, 1)
    if version != 2:
        fields.bad(f"has a header of version {version}; expected 2")
    fields.take((16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0))
    length = fields.number(1 << (flags & 3))
    order = 2 if flags & 4 else 0
    blocks = [(place + fields.at, length)]
    for at, count in blocks:  # which grows while it is gone through
        block = Fields(region, region.structure(at, count, what), what, at)
        while block.left() >= 4 + order:
            kind, size, told = block.numbers(1, 2, 1)
            block.take(order)
            message = Message(kind, bool(told & 2), block.part(size))
            yield message
            if kind == 0x10:
                following, length = message.fields.numbers(8, 8)
                if region.structure(following, 4, what) != b"OCHK":
                    block.bad("is continued where nothing is")
                blocks.append((following + 4, length - 8))


def _second(region: Region, place: int, start: bytes, what: str) -> Iterator[Message]:
    """The messages of a header of version 1."""
    fields = Fields(region, start, what, place)
    version, _, _, _, length = fields.numbers(1, 1, 2, 4, 4)
    if version != 1:
        fields.bad(f"has no header there: version {version}; expected 1 or 2")
    blocks = [(place + 16, length)]
    for at, count in blocks:
        block = Fields(region, region.structure(at, count, what), what, at)
        while block.left() >= 8:
            kind, size, told, _ = block.numbers(2, 2, 1, 3)
            message = Message(kind, bool(told & 2), block.part(size))
            yield message
            if kind == 0x10:
                following, length = message.fields.numbers(8, 8)
                blocks.append((following, length))


# Links ----------------------------------------------------------------------------------------------------------------


def links(region: Region, group: Object, what: str) -> Iterator[Link]:
    """What a group leads to."""
    for message in group.messages:
        if message.kind == 0x11:
            tree, heap = message.fields.numbers(8, 8)
            yield from _symbols(region, tree, heap, what)
        elif message.kind == 0x06:
            yield _link(message.fields)
        elif message.kind == 0x02:
            message.fields.take(1)
            message.fields.take(8 if message.fields.number(1) & 1 else 0)
            if message.fields.number(8) != UNDEFINED:
                region.bad(f"{what} {_NEWER}")


def _link(fields: Fields) -> Link:
    _, flags = fields.numbers(1, 1)
    kind = fields.number(1) if flags & 8 else 0
    fields.take((8 if flags & 4 else 0) + (1 if flags & 0x10 else 0))
    length = fields.number(1 << (flags & 3))
    if length > LONGEST_NAME:
        fields.bad(f"has a name of {length} bytes")
    name = fields.take(length).decode("utf-8", "surrogateescape")
    if kind:
        return Link(name, 0, {1: "SoftLink", 64: "ExternalLink"}.get(kind, f"link of kind {kind}"))
    return Link(name, fields.number(8), "")


def _symbols(region: Region, tree: int, heap: int, what: str) -> Iterator[Link]:
    """The links of a symbol table: a tree of nodes of entries, whose names are in a heap."""
    fields = Fields(region, region.structure(heap, 32, what), what, heap)
    if fields.take(8)[:4] != b"HEAP":
        fields.bad("has no heap of names where one is needed")
    size, _, place = fields.numbers(8, 8, 8)
    names = region.structure(place, size, what)
    for node in _leaves(region, tree, 0, 8, what):
        entries = Fields(region, region.structure(node, 8, what), what, node)
        signature, _, count = entries.take(4), *entries.numbers(2, 2)
        if signature != b"SNOD":
            entries.bad("has no entries where some are needed")
        entries = Fields(region, region.structure(node + 8, 40 * count, what), what, node)
        for _ in range(count):
            start, place, cached = entries.numbers(8, 8, 4)
            entries.take(20)
            end = names.find(b"\0", start, start + LONGEST_NAME + 1)
            if start >= len(names) or end < 0:
                entries.bad("has a name that is not in its heap")
            name = names[start:end].decode("utf-8", "surrogateescape")
            yield Link(name, place, "SoftLink" if cached == 2 or place == UNDEFINED else "")


def _leaves(region: Region, tree: int, kind: int, key: int, what: str) -> Iterator[int]:
    for _, place in leaves(region, tree, kind, key, what):
        yield place


def leaves(region: Region, tree: int, kind: int, key: int, what: str) -> Iterator[tuple[bytes, int]]:
    """The keys and children of the lowest nodes of a B-tree of version 1, whose keys have so many bytes."""
    seen: set[int] = set()
    pending = [(tree, -1)]
    while pending:
        place, expected = pending.pop()
        if place in seen or len(seen) > MOST_ARRAYS:
            region.bad(f"{what}: its tree leads to itself", place)
        seen.add(place)
        fields = Fields(region, region.structure(place, 24, what), what, place)
        signature, own, level, count = fields.take(4), *fields.numbers(1, 1, 2)
        if signature != b"TREE" or own != kind or (expected >= 0 and level != expected):
            fields.bad("has no node of its tree where one is needed")
        data = region.structure(place + 24, count * (key + 8), what)
        children = [
            (data[k : k + key], int.from_bytes(data[k + key : k + key + 8], "little"))
            for k in range(0, len(data), key + 8)
        ]
        if level == 0:
            yield from children
        else:
            pending += [(child, level - 1) for _, child in reversed(children)]


# Types, shapes and attributes -----------------------------------------------------------------------------------------


def dtype_name(fields: Fields) -> str | None:
    """The dtype of a type message; None if it is none of numbers."""
    kind, bits, size = fields.numbers(1, 3, 4)
    kind, order = kind & 15, ">" if bits & 1 else "<"
    if kind == 0 and size in (1, 2, 4, 8):
        if fields.numbers(2, 2) != (0, 8 * size):
            return None
        return f"{order if size > 1 else '|'}{'i' if bits & 8 else 'u'}{size}"
    if kind == 1:
        _, precision, _, exponent, _, mantissa = fields.numbers(2, 2, 1, 1, 1, 1)
        name = _FLOATS.get((size, exponent, mantissa))
        if name is None or precision != 8 * size or bits & 0x40:
            return None
        return order + name if name != "bfloat16" else name if order == "<" else None
    if kind == 5 and size == 2:
        return "bfloat16"  # two bytes of no type, as which h5py writes it
    if kind == 8 and size == 1 and b"FALSE\0" in fields.data and b"TRUE\0" in fields.data:
        return "|b1"
    return None


def shape(fields: Fields, what: str) -> tuple[int, ...] | None:
    """The shape of a dataspace message; None if it has no elements at all."""
    version, rank, _, kind = fields.numbers(1, 1, 1, 1)
    if version not in (1, 2):
        fields.bad(f"has a shape of version {version}; expected 1 or 2")
    if version == 2 and kind == 2:
        return None
    fields.take(4 if version == 1 else 0)
    return shape_of(fields.region.source, [fields.number(8) for _ in range(rank)], what)


def _attribute(fields: Fields) -> tuple[str, Attribute]:
    version, flags = fields.numbers(1, 1)
    if version not in (1, 2, 3):
        fields.bad(f"has an attribute of version {version}; expected 1 to 3")
    name_size, type_size, space_size = fields.numbers(2, 2, 2)
    fields.take(1 if version == 3 else 0)
    padded = version == 1
    name = fields.part(name_size, padded).data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
    kind, space = fields.part(type_size, padded), fields.part(space_size, padded)
    if version > 1 and flags & 3:  # a type or a shape that is kept elsewhere: of none that is looked at
        return name, Attribute(-1, 0, 0, b"")
    number, _, size = kind.numbers(1, 3, 4)
    sizes = shape(space, f"the attribute {name[:200]!r}")
    return name, Attribute(number & 15, size, 0 if sizes is None else prod(sizes), fields.take(fields.left()))


def text(region: Region, attribute: Attribute, longest: int, what: str) -> str | None:
    """An attribute of one text; None if it is none."""
    if attribute.elements != 1:
        return None
    if attribute.kind == 3:
        data = attribute.data[: attribute.size]
    elif attribute.kind == 9 and attribute.size == 16 and len(attribute.data) >= 16:
        length, heap, index = struct.unpack("<IQI", attribute.data[:16])
        if length > longest:
            region.bad(f"{what} has {length} bytes; expected at most {longest}")
        data = _of_heap(region, heap, index, length, what) if length else b""
    else:
        return None
    return data.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _of_heap(region: Region, heap: int, index: int, length: int, what: str) -> bytes:
    """Bytes of any length, which lie in a collection of such."""
    fields = Fields(region, region.structure(heap, 16, what), what, heap)
    signature, size = fields.take(8)[:4], fields.number(8)
    if signature != b"GCOL":
        fields.bad("is not where it is said to be")
    at = heap + 16
    while at + 16 <= heap + size:
        found, _, _, held = Fields(region, region.structure(at, 16, what), what, at).numbers(2, 2, 4, 8)
        if found == index and index:
            if length > held:
                fields.bad(f"claims {length} bytes, but has {held}")
            return region.structure(at + 16, length, what)
        if not found:
            break
        at += 16 + held + -held % 8
    fields.bad("is not in the collection that it is said to be in")
