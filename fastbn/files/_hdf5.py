"""HDF5 files: a tree of hard links and of arrays that lie in the file itself, under the filters that HDF5 brings."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import IO, Any

import numpy as np

from fastbn.files._source import MOST_ARRAYS, Array, Entry, FileError, Source, Table, dtype_of

DEEPEST = 64
_OWN_FILTERS = range(1, 7)  # deflate, shuffle, fletcher32, szip, nbit, scale-offset
_LONGEST_ATTRIBUTE = 1 << 26


class Tree:
    """The arrays of an HDF5 file by path, and the attributes of its groups."""

    def __init__(self, source: Source, stream: IO[bytes] | Any) -> None:
        try:
            import h5py
        except ImportError:
            raise ImportError('files of Keras are read with h5py; run: pip install "fastbn[files]"') from None
        self._h5py, self._source = h5py, source
        self.entries = Table(source)
        self.names: dict[str, str] = {}  # the attribute `name` of groups that have one
        with self._told("the file"):
            self.file = h5py.File(stream, "r")
        try:
            self._walk()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.file.close()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileError:
            raise
        except (OSError, RuntimeError, LookupError, TypeError, AttributeError, OverflowError, ValueError) as error:
            self._source.bad(f"{what} is damaged: {str(error)[:300]}")

    def _walk(self) -> None:
        seen: set[int] = set()
        pending: list[tuple[str, Any, int]] = [("", self.file, 0)]
        while pending:
            path, group, depth = pending.pop()
            with self._told(f"group {path[:200]!r}"):
                place = self._h5py.h5o.get_info(group.id).addr
                if place in seen or depth > DEEPEST or len(seen) > MOST_ARRAYS:
                    self._source.bad(
                        f"group {path[:200]!r} is in itself or comes twice, or is nested over {DEEPEST} deep"
                    )
                seen.add(place)
                if "name" in group.attrs and len(name := self.text(group, "name")) < 1000:
                    self.names[path] = name
                for name in group:
                    pending += self._visit(path, name, group, depth)

    def _visit(self, path: str, name: str, group: Any, depth: int) -> list[tuple[str, Any, int]]:
        inner = f"{path}/{name}" if path else name
        link = group.get(name, getlink=True)
        if not isinstance(link, self._h5py.HardLink):
            self._source.bad(
                f"{inner[:200]!r} is a {type(link).__name__}, which leads elsewhere; expected hard links only"
            )
        value = group[name]
        if isinstance(value, self._h5py.Group):
            return [(inner, value, depth + 1)]
        if isinstance(value, self._h5py.Dataset):
            entry = self._entry(inner, value)
            if entry is not None:
                self.entries.add(inner, entry)
        return []

    def text(self, group: Any, name: str) -> str:
        """An attribute that is text."""
        with self._told(f"attribute {name!r}"):
            if group.attrs.get_id(name).get_storage_size() > _LONGEST_ATTRIBUTE:
                self._source.bad(f"the attribute {name!r} is longer than {_LONGEST_ATTRIBUTE} bytes")
            value = group.attrs[name]
            return value.decode() if isinstance(value, bytes) else str(value)

    def _entry(self, name: str, dataset: Any) -> Entry | None:
        what, source = f"array {name[:200]!r}", self._source
        properties, dtype = dataset.id.get_create_plist(), dataset.dtype
        if properties.get_external_count() or properties.get_layout() == self._h5py.h5d.VIRTUAL:
            source.bad(f"{what} lies in another file; expected arrays in this one")
        filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
        if foreign := [number for number in filters if number not in _OWN_FILTERS]:
            source.bad(f"{what} goes through the filters {foreign}; expected those that HDF5 brings")
        bfloat16 = dtype.kind == "V" and dtype.itemsize == 2 and dtype.fields is None
        if dtype.kind not in "biufc" and not bfloat16:
            return None
        shape = tuple(int(n) for n in dataset.shape or ())
        stored, length = dataset.id.get_storage_size(), dtype.itemsize * prod(shape)
        chunk = dtype.itemsize * prod(dataset.chunks or (0,))
        if not filters and stored < length:
            source.bad(f"{what} of shape {shape} takes {length} bytes, but has {stored}")

        def load() -> Array:
            if filters:
                source.inflate(what, max(length, chunk), stored)
            with self._told(what):
                values = np.asarray(dataset[()])
            if bfloat16:
                return np.frombuffer(values.tobytes(), dtype_of("bfloat16")).reshape(shape).copy()
            return values

        return Entry("bfloat16" if bfloat16 else dtype.str, shape, load)
