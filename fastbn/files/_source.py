"""A file that is read by position: every read is checked against the file's length before memory is taken for it."""

import io
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_ARRAYS = 100_000  # in one file: a model of more is none, and every name takes memory
LONGEST_NAME = 4_096
MOST_AXES = 32
DEFLATE_AT_MOST = 1_032  # bytes that one byte of a deflate stream can stand for

_ML_DTYPES = {"bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"}


@cache
def dtype_of(name: str) -> np.dtype[Any]:
    """The dtype of a name that NumPy or ml_dtypes knows."""
    if name not in _ML_DTYPES:
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(f'{name} arrays need ml_dtypes; run: pip install "fastbn[files]"') from None
    return np.dtype(getattr(ml_dtypes, name))


@cache
def item_size(name: str) -> int:
    """The bytes of an element, without ml_dtypes."""
    return 2 if name == "bfloat16" else 1 if name in _ML_DTYPES else np.dtype(name).itemsize


def path_of(value: Any) -> Path:
    """The path of a file that a user names."""
    if not isinstance(value, str | bytes | os.PathLike):
        raise TypeError(f"path is of type {type(value).__name__}; expected the path of a file, not an open one")
    if not (text := os.fsdecode(value)):  # as of a variable that is not set, which would be the folder at hand
        raise ValueError("path is empty; expected the path of a file")
    return Path(text)


class FileError(ValueError):
    """A file is damaged, or holds what is not read; the text names the file and the place in it."""


class Source:
    """An open file that counts what is read of it.

    It is read, not mapped: a file that is cut short while it is open gives an error, where a mapping would end the
    process with a bus error.
    """

    def __init__(self, path: str | os.PathLike[str], max_bytes: int | None = None) -> None:
        self.path = Path(path)
        if not stat.S_ISREG(self.path.stat().st_mode):  # before it is opened, which may not end for a pipe
            raise FileError(f"{self.path} is no regular file; expected one that can be read by position")
        self._file = self.path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        self.bytes_read = 0
        self._lock = threading.Lock()
        self._max_bytes = max_bytes
        self._inflated, self._counted = 0, dict[str, int]()

    def close(self) -> None:
        self._file.close()

    def bad(self, what: str, at: int | str | None = None) -> NoReturn:
        place = "" if at is None else f", {at}" if isinstance(at, str) else f", at byte {at}"
        raise FileError(f"{self.path}{place}: {what}")

    def check(self, offset: int, length: int, what: str) -> None:
        """Refuse what does not lie inside the file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            self.bad(
                f"{what} takes bytes {offset} to {offset + length} of a file of {self.size}; it is cut short", offset
            )

    def read(self, offset: int, length: int, what: str = "what is read") -> bytes:
        self.check(offset, length, what)
        with self._lock:
            data = self._at(offset).read(length) if length else b""
            while len(data) < length:  # the system may give less at once
                more = self._file.read(length - len(data))
                if not more:
                    self._ends(offset + len(data), what)
                data += more
            self.bytes_read += length
        return data

    def array(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> Array:
        """The C-ordered array at `offset`."""
        self.check(offset, dtype.itemsize * prod(shape), what)
        values = np.empty(shape, dtype)
        length = values.nbytes
        if length:
            view = values.reshape(-1).view(np.uint8).data
            with self._lock:
                done = self._at(offset).readinto(view) or 0
                while done < length:
                    count = self._file.readinto(view[done:])
                    if not count:
                        self._ends(offset + done, what)
                    done += count
                self.bytes_read += length
        return values

    def _at(self, offset: int) -> io.FileIO:
        if self._file.closed:
            self.bad("the file has been closed; read its arrays before")
        self._file.seek(offset)
        return self._file

    def _ends(self, at: int, what: str) -> NoReturn:
        self.bad(f"{what} ends early: the file was cut short while it was open", at)

    @property
    def is_bounded(self) -> bool:
        """Whether the user has said what may be inflated."""
        return self._max_bytes is not None

    def inflate(self, what: str, length: int, stored: int | None = None) -> None:
        """Count what is about to take more memory than in the file; refuse what cannot be or is not wanted."""
        if stored is not None and length > DEFLATE_AT_MOST * stored + 4096:
            self.bad(f"{what} claims {length} bytes in {stored}, which no compression gives")
        others = self._inflated - self._counted.get(what, 0)  # what is read again takes the place of what it was
        if self._max_bytes is not None and others + length > self._max_bytes:
            self.bad(
                f"{what} inflates to {length} bytes after {others} before it; expected at most "
                f"max_bytes={self._max_bytes} in all"
            )
        self._inflated = others + length
        self._counted[what] = length


def shown(value: Any) -> str:
    """What a file holds in some place, for a message: short, and without a walk through what may hold itself."""
    if isinstance(value, list | tuple):
        inner = ", ".join(shown(v) if not isinstance(v, list | tuple | dict) else type(v).__name__ for v in value[:8])
        return f"({inner}{', ...' if len(value) > 8 else ''})"
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 128 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes):
        return repr(value[:40])
    return str(value) if isinstance(value, float | None) else type(value).__name__


def shape_of(source: Source, values: Any, what: str, kind: str = "shape") -> tuple[int, ...]:
    """A shape of Python integers, none negative, whose product no 64-bit number loses."""
    if type(values) is tuple and len(values) == 1 and type(values[0]) is int and 0 <= values[0] < 1 << 62:
        return values
    if not isinstance(values, list | tuple) or len(values) > MOST_AXES:
        source.bad(f"the {kind} of {what} is {shown(values)}; expected at most {MOST_AXES} integers")
    total = 1
    for n in values:
        if type(n) is not int or n < 0:
            total = -1
            break
        total *= n or 1
    if total < 0:
        source.bad(f"the {kind} of {what} is {shown(values)}; expected integers of at least 0")
    if total >= 1 << 62:
        source.bad(f"the {kind} of {what} is {shown(values)}, more elements than any file has")
    return tuple(values)


@dataclass(slots=True)
class Entry:
    """One array of a file: what its header tells, and how to read it."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array]
    container: tuple[str, ...] = ()  # the nested dicts that it lies in


class Arrays(Mapping[str, Array]):
    """The arrays of a file by name, each read when it is asked for, anew each time."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> Array:
        return self._entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, from the header."""
        return self._entries[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Its dtype, from the header."""
        return dtype_of(self._entries[name].dtype)

    def __repr__(self) -> str:
        return f"<{len(self)} arrays>"


class Table(dict[str, Entry]):
    """Entries by name, where no name may come twice."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def add(self, name: str, entry: Entry) -> None:
        if name in self:
            self._source.bad(f"the name {name[:200]!r} comes twice")
        if len(name) > LONGEST_NAME or len(self) >= MOST_ARRAYS:
            self._source.bad(f"it has more than {MOST_ARRAYS} arrays, or a name of over {LONGEST_NAME} characters")
        self[name] = entry


def flat(source: Source, name: str, offset: int, dtype: str, shape: tuple[int, ...]) -> Entry:
    """The entry of a C-ordered array at a place in the file, which is checked now."""
    source.check(offset, item_size(dtype) * prod(shape), f"array {name[:200]!r}")
    return Entry(dtype, shape, lambda: source.array(offset, dtype_of(dtype), shape, f"array {name[:200]!r}"))


def beside(source: Source, name: str) -> Path:
    """The path of a file that a file names, if it lies in the same folder and no link leads out of that."""
    folder = source.path.parent.resolve()
    path = folder / name
    if os.path.isabs(name) or "\0" in name or not path.resolve().is_relative_to(folder):
        source.bad(f"it names the file {name[:200]!r}, which is not in its own folder; copy it there to have it read")
    return path
