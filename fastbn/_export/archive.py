"""A static library: the common format of ar, with the index by which linkers find the object that has a function."""

import struct
from collections.abc import Iterable

_MAGIC = b"!<arch>\n"


def archive(members: Iterable[tuple[str, bytes, tuple[str, ...]]]) -> bytes:
    """Of (file name, content, names that it defines), in their order."""
    members = list(members)
    long_names, name_of = b"", []
    for name, _, _ in members:
        name_of.append(f"/{len(long_names)}")
        long_names += f"{name}/\n".encode()
    defined = [symbol for _, _, symbols in members for symbol in symbols]
    index_size = 4 + 4 * len(defined) + sum(len(symbol) + 1 for symbol in defined)
    place = len(_MAGIC) + _size_of(index_size) + _size_of(len(long_names))
    index = [len(defined)]
    for _, content, symbols in members:
        index += [place] * len(symbols)
        place += _size_of(len(content))
    symbols_part = struct.pack(f">{len(index)}I", *index) + b"".join(symbol.encode() + b"\0" for symbol in defined)
    parts = [_member("/", symbols_part), _member("//", long_names)]
    parts += [_member(name, content) for name, (_, content, _) in zip(name_of, members, strict=True)]
    return _MAGIC + b"".join(parts)


def _size_of(length: int) -> int:
    return 60 + length + length % 2


def _member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)
