"""Zip archives: members read lazily, stored ones by position."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from fastbn.files._source import FileError, Source

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
    struct.error,
)


LARGEST_INFLATED = 1 << 27  # bytes of a member that is needed to open the file, unless max_bytes is given


class Archive:
    """A zip whose members are looked up once, with names that come once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        with self._told():
            self._zip = zipfile.ZipFile(source.path)
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if info.filename in self.members:
                self.close()
                source.bad(f"member {info.filename[:200]!r} comes twice")
            self.members[info.filename] = info

    def close(self) -> None:
        self._zip.close()

    @contextmanager
    def _told(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except FileError:
            raise
        except _DAMAGE as error:
            self.source.bad(
                f"the zip archive is damaged or of a kind not read: {error}", name and f"member {name[:200]!r}"
            )

    def is_stored(self, name: str) -> bool:
        return self.members[name].compress_type == zipfile.ZIP_STORED

    def stored(self, name: str) -> int:
        """The length of a member that is stored as it is."""
        info = self.members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            self.source.bad(f"member {name[:200]!r} is compressed or encrypted; expected it stored")
        return info.file_size

    def place(self, name: str) -> int:
        """Where the bytes of a stored member begin."""
        length, at = self.stored(name), self.members[name].header_offset
        header = self.source.read(at, 30, f"the header of {name[:200]!r}")
        if header[:4] != b"PK\x03\x04":
            self.source.bad(f"member {name[:200]!r} has no header", at)
        offset = at + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        self.source.check(offset, length, f"member {name[:200]!r}")
        return offset

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with self._told(name), self._zip.open(self.members[name]) as member:
            yield member

    def read(self, name: str) -> bytes:
        """The whole of a member, which counts as inflated."""
        info = self.members[name]
        if self.is_stored(name):
            return self.source.read(self.place(name), info.file_size, f"member {name[:200]!r}")
        if info.file_size > LARGEST_INFLATED and not self.source.is_bounded:
            most = f"at most {LARGEST_INFLATED}, or more by max_bytes="
            self.source.bad(f"member {name[:200]!r} inflates to {info.file_size} bytes; expected {most}")
        self.source.inflate(f"member {name[:200]!r}", info.file_size, info.compress_size)
        with self.open(name) as member:
            data = member.read(info.file_size + 1)
        if len(data) != info.file_size:
            self.source.bad(f"member {name[:200]!r} has {len(data)} bytes, not {info.file_size} as its header says")
        return data
