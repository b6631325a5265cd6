"""Writing: safetensors and .npz, beside the place and then renamed, always in C order."""

from __future__ import annotations

import io
import json
import os
import secrets
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike

from fastbn.engine import arguments
from fastbn.files._source import Array, path_of

_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}


def write(path: str | os.PathLike[str], arrays: Mapping[str, ArrayLike], *, format: str | None = None) -> None:
    """Write arrays to a file, which is there whole or not at all.

    Parameters
    ----------
    path : path-like
        The file; one that exists is replaced.
    arrays : mapping of str to array_like
        The arrays by name, of any shape.  They are written in C order, whatever their strides.
    format : {"safetensors", "npz"}, optional
        By default from the suffix: .safetensors or .npz.

    Raises
    ------
    ValueError
        If the format is another one, or a name or a dtype is none that it can hold.
    TypeError
        If a name is no text.

    Notes
    -----
    The file is written under another name in the same folder, and renamed once it is on the disk.  In .npz, bfloat16
    is written as NumPy writes it, as two bytes of no type, which `read` takes for bfloat16; safetensors knows it.
    Big-endian arrays are written little-endian.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> import fastbn.files
    >>> path = os.path.join(tempfile.mkdtemp(), "state.safetensors")
    >>> fastbn.files.write(path, {"weight": np.ones((2, 3), np.float32).T})
    >>> with fastbn.files.read(path) as file:
    ...     file.arrays["weight"].shape
    (3, 2)
    """
    target = path_of(path)
    kind = format or {".safetensors": "safetensors", ".npz": "npz"}.get(target.suffix.lower())
    if kind not in ("safetensors", "npz"):
        raise ValueError(
            f"{target.name} would be of the format {kind or target.suffix!r}; expected 'safetensors' or 'npz', the "
            "formats that are written (a .pt is read only: load the arrays in torch, and save them there)"
        )
    if not isinstance(arrays, Mapping):
        raise TypeError(f"arrays is of type {type(arrays).__name__}; expected a mapping from names to arrays")
    checked = {_name(name, kind): _array(name, value, kind) for name, value in arrays.items()}
    replace(target, lambda stream: (_safetensors if kind == "safetensors" else _npz)(stream, checked))


def _name(name: Any, kind: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} is of type {type(name).__name__}; expected text")
    if kind == "safetensors" and name == "__metadata__":
        raise ValueError("the name '__metadata__' is safetensors' own; expected another")
    if kind == "npz" and ("\0" in name or not name):
        raise ValueError(f"the name {name!r} is none that a zip archive can hold; expected text without NUL")
    if not name.isprintable() and any("\ud800" <= c <= "\udfff" for c in name):
        raise ValueError(f"the name {name!r} has half a character, a surrogate; expected text that UTF-8 can hold")
    return name


def _array(name: str, value: ArrayLike, kind: str) -> Array:
    array = arguments.ndarray(value, name)
    known = (
        array.dtype.name in _NAMES if kind == "safetensors" else not array.dtype.hasobject and array.dtype.names is None
    )
    if not known:
        raise ValueError(f"{name} has dtype {array.dtype}; expected one that {kind} can hold: {', '.join(_NAMES)}")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.kind in "iufc" else array
    return np.ascontiguousarray(array).reshape(array.shape)


def _safetensors(stream: IO[bytes], arrays: dict[str, Array]) -> None:
    header: dict[str, Any] = {}
    at = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
        if array.size:
            stream.write(array.reshape(-1).view(np.uint8).data)


def _npz(stream: IO[bytes], arrays: dict[str, Array]) -> None:
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(name + ".npy")
            header = io.BytesIO()
            told = np.lib.format.header_data_from_array_1_0(array) | {"fortran_order": False}
            np.lib.format.write_array_header_1_0(header, told)
            with archive.open(info, "w", force_zip64=True) as member:
                member.write(header.getvalue())
                if array.size:
                    member.write(array.reshape(-1).view(np.uint8).data)


def replace(target: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Write a file beside its place, and rename it when it is whole and on the disk."""
    beside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}")
    handle = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            os.chmod(beside, target.stat().st_mode & 0o777)
        os.replace(beside, target)
    except BaseException:
        os.unlink(beside)
        raise
