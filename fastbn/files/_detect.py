"""Which format a file has, by what is in it; its name is not asked."""

import contextlib
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from fastbn.files._content import Content
from fastbn.files._source import Source
from fastbn.files._zip import Archive

FORMATS = (
    "chainer",
    "darknet",
    "flax",
    "gguf",
    "keras",
    "keras_h5",
    "keras_weights",
    "mindspore",
    "mxnet",
    "npz",
    "onnx",
    "openvino",
    "orbax",
    "paddle",
    "pickle",
    "safetensors",
    "torch",
)
_HDF5 = b"\x89HDF\r\n\x1a\n"
TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def open_file(path: str | os.PathLike[str], format: str | None, max_bytes: int | None) -> tuple[Source | None, Content]:
    """The open file, and what its header tells."""
    if Path(path).is_dir():
        if format not in (None, "orbax"):
            raise ValueError(f"{path} is a folder; expected a file, or one of orbax's checkpoints with format='orbax'")
        content: Content = _reader("orbax").read(Path(path))
        return None, content
    source = Source(path, max_bytes)
    try:
        content = _open(source, format)
    except BaseException:
        source.close()
        raise
    content.closers.append(source.close)
    if format is not None and content.format != format:
        for close in content.closers:
            close()
        source.bad(f"it is of the format {content.format!r}; expected {format!r}, as asked")
    return source, content


def _reader(name: str) -> Any:
    return import_module(f"fastbn.files._{name}")


def _open(source: Source, format: str | None) -> Content:
    start = source.read(0, min(source.size, 64))
    if start[:4] == b"PK\x03\x04" or start[:4] == b"PK\x05\x06":
        return _zip(source)
    for name, matches in _BY_START.items():
        if matches(source, start):
            return _READERS[name](source, start)
    if format == "darknet" or _is_darknet(source, start):
        return _reader("darknet").read(source)
    return source.bad(
        f"it begins with {start[:16].hex(' ')}, which is none of the formats {', '.join(FORMATS)}"
        if start
        else "it is empty"
    )


def _zip(source: Source) -> Content:
    archive = Archive(source)
    try:
        names = archive.members
        roots = [
            name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        content: Content
        if len(roots) == 1:
            content = _reader("torch").read_zip(source, archive, roots[0])
        elif "config.json" in names and "model.weights.h5" in names:
            content = _reader("keras").read_zip(source, archive)
        elif all(name.endswith(".npy") for name in names):
            content = _reader("npz").read(source, archive)
        else:
            source.bad(
                f"it is a zip archive with {str(sorted(names)[:5])[:300]} in it, of none of the formats that are read"
            )
    except BaseException:
        archive.close()
        raise
    content.closers.append(archive.close)
    return content


def _is_safetensors(source: Source, start: bytes) -> bool:
    return len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= 1 << 48


def _is_index(source: Source, start: bytes) -> bool:
    return start.lstrip()[:1] == b"{"


def _is_pickle(source: Source, start: bytes) -> bool:
    return len(start) > 2 and start[0] == 0x80 and 2 <= start[1] <= 5


def _is_msgpack(source: Source, start: bytes) -> bool:
    return start[:1] != b"" and (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF))


def _is_darknet(source: Source, start: bytes) -> bool:
    version = [int.from_bytes(start[k : k + 4], "little") for k in (0, 4, 8)]
    return len(start) >= 16 and version[0] == 0 and version[1] in (1, 2) and version[2] < 10


def _is_cfg(source: Source, start: bytes) -> bool:
    if any(byte > 127 or (byte < 32 and byte not in b"\t\r\n") for byte in start):
        return False
    lines = [line.strip() for line in source.read(0, min(source.size, 1 << 14)).splitlines()]
    return next((line for line in lines if line and line[:1] not in b"#;"), b"")[:4] == b"[net"


def _is_xml(source: Source, start: bytes) -> bool:
    return start.lstrip(b"\xef\xbb\xbf \r\n\t")[:5] in (b"<?xml", b"<net ")


_BY_START: dict[str, Callable[[Source, bytes], bool]] = {
    "hdf5": lambda source, start: start[:8] == _HDF5,
    "gguf": lambda source, start: start[:4] in (b"GGUF", b"FUGG"),
    "mxnet": lambda source, start: start[:8] == (0x112).to_bytes(8, "little"),
    "legacy": lambda source, start: start.startswith(TORCH_LEGACY),
    "pickle": _is_pickle,
    "openvino": _is_xml,
    "cfg": _is_cfg,
    "index": _is_index,
    "safetensors": _is_safetensors,
    "protobuf": lambda source, start: start[:1] in (b"\x08", b"\x0a") and _protobuf(source) is not None,
    "msgpack": _is_msgpack,
}


def _protobuf(source: Source) -> str | None:
    """Whether it is a message of ONNX's or of MindSpore's, by the numbers of its fields."""
    name: str | None = _reader("protobuf").kind(source)
    return name


def _shard(source: Source) -> Callable[[Path], Content]:
    def read(path: Path) -> Content:
        shard = Source(path)
        content = None
        try:
            if _is_index(shard, shard.read(0, min(shard.size, 64))):
                source.bad(f"it names {path.name}, which is an index itself; expected files of arrays")
            content = _open(shard, None)
            if content.format not in ("safetensors", "torch"):
                source.bad(f"it names {path.name}, which is of the format {content.format!r}")
        except BaseException:
            shard.close()
            for close in content.closers if content else ():
                with contextlib.suppress(OSError):
                    close()
            raise
        content.closers.append(shard.close)
        return content

    return read


def _index(source: Source, start: bytes) -> Content:
    content: Content = _reader("safetensors").read_index(source, _shard(source))
    return content


_READERS: dict[str, Callable[[Source, bytes], Content]] = {
    "hdf5": lambda source, start: _reader("keras").read_hdf5(source),
    "gguf": lambda source, start: _reader("gguf").read(source),
    "mxnet": lambda source, start: _reader("mxnet").read(source),
    "legacy": lambda source, start: _reader("torch").read_legacy(source),
    "pickle": lambda source, start: _reader("dicts").read_pickle(source),
    "openvino": lambda source, start: _reader("openvino").read(source),
    "cfg": lambda source, start: _reader("darknet").read_cfg(source),
    "index": _index,
    "safetensors": lambda source, start: _reader("safetensors").read(source),
    "protobuf": lambda source, start: _reader("onnx" if _protobuf(source) == "onnx" else "mindspore").read(source),
    "msgpack": lambda source, start: _reader("dicts").read_msgpack(source),
}
