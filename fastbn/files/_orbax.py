"""Checkpoints of orbax: a folder that tensorstore reads, local files only."""

import json
from pathlib import Path
from typing import Any

from fastbn.files._content import Content
from fastbn.files._dicts import find_nested
from fastbn.files._source import LONGEST_NAME, MOST_ARRAYS, Array, Entry, FileError

_LONGEST_METADATA = 1 << 27


def read(folder: Path) -> Content:
    folder = folder.resolve()
    if not (folder / "_METADATA").is_file() and (folder / "default" / "_METADATA").is_file():
        folder = folder / "default"  # as a CheckpointManager lays it out
    metadata = folder / "_METADATA"
    if not metadata.is_file() or metadata.stat().st_size > _LONGEST_METADATA:
        raise FileError(f"{folder} is a folder without _METADATA; expected a file, or a checkpoint of orbax")
    try:
        import tensorstore
    except ImportError:
        raise ImportError("checkpoints of orbax are read with tensorstore; run: pip install tensorstore") from None
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise FileError(f"{folder}: {path.name} is a link; expected the files themselves")
    ocdbt = (folder / "manifest.ocdbt").is_file()
    entries: dict[str, Entry] = {}
    for keys in _keys(metadata):
        name = "/".join(keys)
        if name in entries or len(name) > LONGEST_NAME or len(entries) >= MOST_ARRAYS:
            raise FileError(f"{metadata}: the name {name[:200]!r} comes twice, is too long, or is one of too many")
        if (entry := _entry(tensorstore, folder, ".".join(keys), ocdbt, name)) is not None:
            entries[name] = entry
    return Content("orbax", entries, lambda: find_nested(entries), layout=lambda name: "last")


def _keys(metadata: Path) -> list[list[str]]:
    """The paths of the arrays in the tree."""
    try:
        tree = json.loads(metadata.read_bytes()).get("tree_metadata", {})
        records = [record for record in tree.values() if isinstance(record, dict)]
        return [[str(part["key"]) for part in record["key_metadata"]] for record in records]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{metadata} is no tree of orbax's: {error!r}") from None


def _entry(tensorstore: Any, folder: Path, key: str, ocdbt: bool, name: str) -> Entry | None:
    if "/" in key or ".." in key or "\0" in key:
        raise FileError(f"{folder}: the key {key[:200]!r} is none of orbax's")
    store: dict[str, Any] = {"driver": "file", "path": f"{folder}/{key}/"}
    if ocdbt:
        store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}, "path": f"{key}/"}
    opened = None
    for driver in ("zarr", "zarr3"):
        try:
            opened = tensorstore.open({"driver": driver, "kvstore": store}, read=True, open=True).result()
            break
        except ValueError:
            continue  # a value that is no array, or of the other driver
    if opened is None:
        return None

    def load() -> Array:
        try:
            values: Array = opened.read().result()
        except ValueError as error:
            raise FileError(f"{folder}: array {name[:200]!r} is damaged: {str(error)[:300]}") from None
        return values

    dtype = opened.dtype.numpy_dtype
    return Entry(dtype.name if dtype.name == "bfloat16" else dtype.str, tuple(int(n) for n in opened.shape), load)
