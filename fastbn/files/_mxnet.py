"""MXNet's .params: arrays one after the other, their names at the end, and fix_gamma in the symbol beside."""

from math import prod
from typing import Any

from fastbn.files._content import Content, Found, Norm, Unknown
from fastbn.files._opcodes import Cursor
from fastbn.files._safetensors import as_json
from fastbn.files._source import LONGEST_NAME, MOST_ARRAYS, Entry, Source, Table, flat, item_size, shape_of
from fastbn.files._states import GLUON, find

_DTYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "|u1", 4: "<i4", 5: "|i1", 6: "<i8", 7: "|b1", 12: "bfloat16"}
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_OWN = {"gamma": "weight", "beta": "bias"}
_STATISTICS = {
    "moving_mean": "running_mean",
    "moving_var": "running_var",
    "running_mean": "running_mean",
    "running_var": "running_var",
}
EPS = 1e-3  # of nd and sym; Gluon's is 1e-5


def read(source: Source) -> Content:
    cursor = Cursor(source, 16)
    arrays = [_array(source, cursor, k) for k in range(_count(source, cursor))]
    names = [_name(source, cursor) for _ in range(_count(source, cursor))]
    if len(names) != len(arrays):
        source.bad(f"it has {len(arrays)} arrays and {len(names)} names; a list of arrays without names is not read")
    entries = Table(source)
    for name, array in zip(names, arrays, strict=True):
        if array is not None:
            offset, dtype, shape = array
            entries.add(name, flat(source, name, offset, dtype, shape))
    return Content("mxnet", entries, lambda: _find(source, entries))


def _number(cursor: Cursor, count: int) -> int:
    return int.from_bytes(cursor.take(count), "little")


def _count(source: Source, cursor: Cursor) -> int:
    count = _number(cursor, 8)
    if count > MOST_ARRAYS:
        source.bad(f"it claims {count} arrays; expected at most {MOST_ARRAYS}", cursor.at)
    return count


def _name(source: Source, cursor: Cursor) -> str:
    length = _number(cursor, 8)
    if length > LONGEST_NAME:
        source.bad(f"a name of {length} bytes; expected at most {LONGEST_NAME}", cursor.at)
    try:
        return cursor.take(length).decode()
    except UnicodeDecodeError:
        source.bad("a name that is no UTF-8", cursor.at)


def _array(source: Source, cursor: Cursor, k: int) -> tuple[int, str, tuple[int, ...]] | None:
    magic, what = _number(cursor, 4), f"array {k}"
    if magic in (_V2, _V3):
        if (kind := _number(cursor, 4)) != 0:
            source.bad(f"{what} is sparse (storage {kind}); expected a dense one", cursor.at)
        axes, item = _number(cursor, 4), 8
    elif magic == _V1:
        axes, item = _number(cursor, 4), 8
    else:
        axes, item = magic, 4  # the oldest form has no magic number
    if axes > 32:
        source.bad(f"{what} claims {axes} axes", cursor.at)
    shape = shape_of(source, [_number(cursor, item) for _ in range(axes)], what)
    if not axes and magic != _V3:
        return None  # an array that was never given values
    cursor.take(8)  # on which device it was
    dtype = _DTYPES.get(number := _number(cursor, 4))
    if dtype is None:
        source.bad(f"{what} has the dtype {number}, which is not read", cursor.at)
    length = prod(shape) * item_size(dtype)
    source.check(cursor.at, length, what)
    at, cursor.at = cursor.at, cursor.at + length
    return at, dtype, shape


def _find(source: Source, entries: dict[str, Entry]) -> Found:
    """Names of Gluon as they are; those of symbols as arg:NAME_gamma and aux:NAME_moving_mean."""
    if not any(name.startswith(("arg:", "aux:")) for name in entries):
        return find(entries, (GLUON,))
    groups: dict[str, dict[str, str]] = {}
    for name in entries:
        plain = name.partition(":")[2]
        for own, role in (_OWN | _STATISTICS).items():
            if plain.endswith((f"_{own}", f".{own}")):
                groups.setdefault(plain[: -len(own) - 1], {})[role] = name
    symbol = _symbol(source)
    norms: dict[str, Norm] = {}
    unknown: dict[str, Unknown] = {}
    for name, arrays in groups.items():
        shape = entries[next(iter(arrays.values()))].shape
        if {"running_mean", "running_var"} <= arrays.keys():
            _batch(name, arrays, entries, shape, symbol, (norms, unknown))
        elif "weight" in arrays:
            unknown[name] = Unknown("gamma and beta without statistics; tell which norm by kinds", arrays, shape)
    return norms, unknown


def _batch(
    name: str,
    arrays: dict[str, str],
    entries: dict[str, Entry],
    shape: tuple[int, ...],
    symbol: dict[str, dict[str, Any]] | None,
    found: Found,
) -> None:
    norms, unknown = found
    told = (symbol or {}).get(name)
    if told is None:
        gamma = entries[arrays["weight"]].read() if "weight" in arrays else None
        if gamma is not None and (gamma != 1).any():
            why = "fix_gamma is in the symbol, NAME-symbol.json, which is not beside it: whether gamma counts is open"
            unknown[name] = Unknown(why, arrays, shape)
            return
        norms[name] = Norm("batch", arrays, shape, EPS)
        return
    fixed = str(told.get("fix_gamma", "True")).lower() in ("true", "1")
    try:
        eps, decay, axis = float(told.get("eps", EPS)), float(told.get("momentum", 0.9)), int(told.get("axis", 1))
    except (TypeError, ValueError):
        source_text = str(told)[:200]
        unknown[name] = Unknown(f"its attributes in the symbol are {source_text}", arrays, shape)
        return
    norms[name] = Norm("batch", arrays, shape, eps, False, round(1 - decay, 7), axis, fixed_weight=fixed)


def _symbol(source: Source) -> dict[str, dict[str, Any]] | None:
    """The attributes of the batch norms in PREFIX-symbol.json beside PREFIX-0000.params, if it is there."""
    path = source.path.with_name(source.path.stem.rsplit("-", 1)[0] + "-symbol.json")
    if not path.is_file() or path.is_symlink():
        return None
    beside = Source(path)
    try:
        nodes = as_json(beside, beside.read(0, beside.size), "the symbol").get("nodes")
    finally:
        beside.close()
    result = {}
    for node in nodes if isinstance(nodes, list) else []:
        if isinstance(node, dict) and node.get("op") in ("BatchNorm", "BatchNorm_v1", "SyncBatchNorm"):
            attributes = node.get("attrs") or node.get("attr") or node.get("param") or {}
            if isinstance(attributes, dict):
                result[str(node.get("name"))] = attributes
    return result
