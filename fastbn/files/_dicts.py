"""Nested dicts of arrays: Flax's msgpack, and pickles of Haiku, of NNX, of Paddle."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from fastbn.files import _pickled
from fastbn.files._content import Content, Found, Norm, Unknown
from fastbn.files._msgpack import Extension, Reader, value_of
from fastbn.files._opcodes import Cursor, Span
from fastbn.files._source import Array, Entry, Source, dtype_of, item_size, shape_of
from fastbn.files._states import FLAX_NAMES, PADDLE, PLAIN, bare, batch, find

_CHUNKED = "__msgpack_chunked_array__"


def read_pickle(source: Source) -> Content:
    root = _pickled.load(source)
    extra = root.pop("StructuredToParameterName@@", None) if isinstance(root, dict) else None
    entry = _pickled.numpy_entry(source)
    if extra is not None:
        # paddle.save writes each tensor as its name and its array
        root = {
            k: v[1] if isinstance(v, tuple) and len(v) == 2 and isinstance(v[0], str) else v for k, v in root.items()
        }
        entries = _pickled.table(source, root, ".", entry)
        return Content(
            "paddle",
            entries,
            lambda: find(entries, PADDLE),
            layout=lambda name: "last" if len(entries[name].shape) == 2 else "first",  # Linear's are (in, out)
        )
    entries = _pickled.table(source, root, "/", entry)
    return Content("pickle", entries, lambda: find_nested(entries), layout=lambda name: "last")


def read_msgpack(source: Source) -> Content:
    cursor = Cursor(source)
    root = Reader(cursor).load()
    if cursor.at != source.size:
        source.bad("there is more after the message's end", cursor.at)
    if not isinstance(root, dict):
        source.bad(f"it holds a {type(root).__name__}; expected a map of arrays")
    entries = _pickled.table(source, _unchunked(source, root), "/", _entry_in(source))
    return Content("flax", entries, lambda: find_nested(entries), layout=lambda name: "last")


class _Leaf:
    """The pieces of an array of over 1 GB, and its shape."""

    def __init__(self, shape: list[Any], chunks: list[Any]) -> None:
        self.shape, self.chunks = shape, chunks


def _unchunked(source: Source, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value.get(_CHUNKED) is not True:
        return {key: _unchunked(source, inner) for key, inner in value.items()}
    shape, chunks = value.get("shape"), value.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict):
        source.bad("an array in pieces has no shape or no pieces")
    return _Leaf([shape.get(str(k)) for k in range(len(shape))], [chunks.get(str(k)) for k in range(len(chunks))])


def _entry_in(source: Source) -> Callable[[Any, str, tuple[str, ...]], Entry | None]:
    def entry(value: Any, name: str, container: tuple[str, ...]) -> Entry | None:
        if isinstance(value, _Leaf):
            parts = [
                told for piece in value.chunks if isinstance(piece, Extension) and (told := value_of(piece, source))
            ]
            if len(parts) != len(value.chunks) or not parts:
                source.bad(f"array {name[:200]!r} lacks a piece")
            return _of_pieces(source, name, value.shape, parts[0][1], [part[2] for part in parts])
        told = value_of(value, source) if isinstance(value, Extension) else None
        return None if told is None else _of_pieces(source, name, told[0], told[1], [told[2]])

    return entry


def _of_pieces(source: Source, name: str, shape_told: Any, dtype_told: Any, pieces: list[Span | bytes]) -> Entry:
    what = f"array {name[:200]!r}"
    shape = shape_of(source, shape_told, what)
    dtype = _dtype(source, dtype_told, what)
    item = item_size(dtype)
    length = sum(piece.length if isinstance(piece, Span) else len(piece) for piece in pieces)
    if length != item * prod(shape):
        source.bad(f"{what} of shape {shape} and dtype {dtype} takes {item * prod(shape)} bytes, but has {length}")

    def load() -> Array:
        flat = [
            source.array(piece.offset, np.dtype(np.uint8), (piece.length,), what)
            if isinstance(piece, Span)
            else np.frombuffer(bytearray(piece), np.uint8)
            for piece in pieces
        ]
        return (flat[0] if len(flat) == 1 else np.concatenate(flat)).view(dtype_of(dtype)).reshape(shape)

    return Entry(dtype, shape, load)


def _dtype(source: Source, name: Any, what: str) -> str:
    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return str(name)
    try:
        dtype = np.dtype(name if isinstance(name, str) and len(name) < 20 else None)
    except TypeError:
        dtype = np.dtype(object)
    if not isinstance(name, str) or dtype.kind not in "biufc" or dtype.byteorder == ">":
        source.bad(f"{what} has dtype {str(name)[:40]!r}; expected little-endian numbers")
    return dtype.str


def find_nested(entries: dict[str, Entry]) -> Found:
    """The norms of Flax (Linen: params and batch_stats apart; NNX: a further level `value`) and of Haiku."""
    norms: dict[str, Norm] = {}
    unknown: dict[str, Unknown] = {}
    groups: dict[str, dict[str, str]] = {}
    for name in entries:
        parts = name.split("/")
        own = parts[:-1] if parts[-1] in ("value", "raw_value") and len(parts) > 1 else parts
        groups.setdefault("/".join(own[:-1]), {})[own[-1]] = name
    _of_haiku(groups, entries, norms)
    statistics = {module: arrays for module, arrays in groups.items() if "mean" in arrays and "var" in arrays}
    for module, arrays in statistics.items():
        other = _parameters_of(module, groups)
        name, beside = other if other is not None else (module, {})
        found = batch({**{k: beside[k] for k in ("scale", "bias") if k in beside}, **arrays}, entries, FLAX_NAMES)
        if isinstance(found, Norm):
            norms[name] = found
        else:
            unknown[name] = found
    taken = {key for norm in norms.values() for key in norm.arrays.values()}
    for module, arrays in groups.items():
        if module not in norms and not taken & set(arrays.values()):
            looks = bare(module, arrays, entries)
            if looks is not None:
                unknown.setdefault("/".join(part for part in module.split("/") if part != "params") or module, looks)
    used = {key for norm in norms.values() for role, key in norm.arrays.items() if role.startswith("running")}
    if used and all(key in used or key.split("/")[-1] in ("counter", "hidden") for key in entries):
        for name, norm in norms.items():
            unknown[name] = Unknown(
                "the file holds statistics alone; expected the parameters beside them", norm.arrays, norm.shape
            )
        norms = {}
    if not norms and not unknown:
        return find(entries, PLAIN)
    return norms, unknown


def _parameters_of(module: str, groups: dict[str, dict[str, str]]) -> tuple[str, dict[str, str]] | None:
    """Linen's parameters of the module whose statistics lie under batch_stats."""
    parts = module.split("/")
    if "batch_stats" not in parts:
        return None
    at = parts.index("batch_stats")
    other = "/".join([*parts[:at], "params", *parts[at + 1 :]])
    return "/".join([*parts[:at], *parts[at + 1 :]]), groups.get(other, {})


def _of_haiku(groups: dict[str, dict[str, str]], entries: dict[str, Entry], norms: dict[str, Norm]) -> None:
    """Batch norms of Haiku: evaluation takes `average` of the two moving averages."""
    affine = {name: beside for name, beside in groups.items() if {"scale", "offset"} & beside.keys()}
    inner = {_inner(name): name for name in affine}
    for group, arrays in list(groups.items()):
        if not group.endswith("/~/mean_ema") or "average" not in arrays:
            continue
        module = group.removesuffix("/~/mean_ema")
        variance = groups.get(module + "/~/var_ema", {}).get("average")
        if variance is None:
            continue
        shape = (prod(entries[arrays["average"]].shape),)
        found = {"running_mean": arrays["average"], "running_var": variance}
        own = module
        # Params and state are saved side by side, so that their paths differ in the outermost dict, or one has none.
        for other in (inner.get(_inner(module)), inner.get(module), _inner(module), module):
            if other is not None and other in affine:
                beside = affine[other]
                found |= {role: beside[key] for role, key in (("weight", "scale"), ("bias", "offset")) if key in beside}
                own = _inner(module) if other != module else module
        norms[own] = Norm("batch", found, shape, FLAX_NAMES.eps, momentum=0.01, axis=-1)


def _inner(path: str) -> str:
    """A path without the outermost dict."""
    return path.partition("/")[2]
