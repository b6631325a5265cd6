"""NumPy's .npz, and what Chainer writes in it."""

import io
from math import prod
from typing import Any, NoReturn

import numpy as np

from fastbn.files._content import Content
from fastbn.files._source import Array, Entry, Source, Table, dtype_of, shape_of
from fastbn.files._states import CHAINER, PLAIN, find
from fastbn.files._zip import Archive

_LONGEST_HEADER = 1 << 12  # of numbers it is some hundred bytes; each of up to 100,000 members is looked into


def read(source: Source, archive: Archive) -> Content:
    entries = Table(source)
    for member in archive.members:
        name = member.removesuffix(".npy")
        entries.add(name, _entry(archive, member, name))
    chainer = any(name.endswith("avg_mean") for name in entries) and any(name.endswith("avg_var") for name in entries)
    conventions = CHAINER if chainer else PLAIN
    return Content("chainer" if chainer else "npz", entries, lambda: find(entries, conventions))


def _entry(archive: Archive, member: str, name: str) -> Entry:
    source, info, what = archive.source, archive.members[member], f"array {name[:200]!r}"
    with archive.open(member) as stream:
        start = stream.read(min(info.file_size, _LONGEST_HEADER))
    shape, fortran, dtype, skipped = _header(source, start, what)
    if dtype.subdtype is not None or not (dtype.kind in "biufc" or dtype == "V2"):
        return Entry("|u1", shape, lambda: _refuse(source, what, dtype))
    nbytes = dtype.itemsize * prod(shape)
    if skipped + nbytes != info.file_size:
        source.bad(f"{what} has {info.file_size - skipped} bytes; expected {nbytes} for {dtype}, shape {shape}")
    order: Any = "F" if fortran else "C"
    bfloat16 = dtype.kind == "V" and dtype.itemsize == 2  # how NumPy writes it: a type that it does not know, two bytes

    def load() -> Array:
        if archive.is_stored(member):
            values = source.array(archive.place(member) + skipped, dtype, (prod(shape),), what)
        else:
            source.inflate(what, info.file_size, info.compress_size)
            values = np.empty(prod(shape), dtype)
            with archive.open(member) as stream:
                stream.read(skipped)
                data = stream.read(nbytes)
            if len(data) != nbytes:
                source.bad(f"{what} ends after {len(data)} of {nbytes} bytes")
            values.view(np.uint8)[:] = np.frombuffer(data, np.uint8)
        return (values.view(dtype_of("bfloat16")) if bfloat16 else values).reshape(shape, order=order)

    return Entry("bfloat16" if bfloat16 else dtype.str, shape, load)


def _refuse(source: Source, what: str, dtype: np.dtype[Any]) -> NoReturn:
    """Of an array beside the others that holds text or objects."""
    source.bad(f"{what} has dtype {str(dtype)[:200]}; expected numbers, since objects would have to be unpickled")


def _header(source: Source, start: bytes, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, dtype and the header's own length."""
    stream = io.BytesIO(start)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream, max_header_size=_LONGEST_HEADER)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        source.bad(f"{what} is no array of NumPy's: {str(error)[:200]}")
    return shape_of(source, shape, what), fortran, dtype, stream.tell()
