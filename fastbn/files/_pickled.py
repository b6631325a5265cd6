"""What the pickles of arrays hold: the names on the list, nested dicts, NumPy's arrays, and the files made of them."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from fastbn.files._opcodes import Built, Cursor, Machine, Span
from fastbn.files._source import LONGEST_NAME, MOST_ARRAYS, Array, Entry, Source, Table, dtype_of, item_size, shape_of

DEEPEST = 64  # nested dicts
_MOST_VISITED = 500_000


def _dict(*pairs: Any) -> dict[Any, Any]:
    if not pairs or pairs[0] in ((), []):
        return {}
    if len(pairs) == 1 and isinstance(pairs[0], dict):
        return pairs[0]
    return dict(pairs[0])


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What protocol 2 writes for bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise TypeError(f"bytes in {encoding!r}")
    return text.encode("latin1")


def _same(*values: Any) -> Any:
    return values[0] if len(values) == 1 else values


def _array(*arguments: Any) -> Built:
    return Built("array", arguments)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> Built:
    return Built("array", (), (1, shape, dtype, order == "F", data))


def _scalar(dtype: Any, data: Any) -> Built:
    return Built("array", (), (1, (), dtype, False, data))


def _jax_array(function: Any, arguments: Any, state: Any, _aval: Any = None) -> Built:
    return Built("array", (), state)


NAMES: dict[str, Callable[..., Any] | None] = {
    "collections.OrderedDict": _dict,
    "builtins.dict": _dict,
    "builtins.tuple": _same,
    "__builtin__.tuple": _same,
    "builtins.set": lambda values=(): list(values),
    "__builtin__.set": lambda values=(): list(values),
    "_codecs.encode": _encode,
    "builtins.bytearray": lambda *values: values[0] if values else b"",
    "numpy.dtype": lambda *arguments: Built("dtype", arguments),
    "numpy.ndarray": None,
    "jax._src.array._reconstruct_array": _jax_array,
    "ml_dtypes.bfloat16": None,
    "ml_dtypes.float8_e4m3fn": None,
    "ml_dtypes.float8_e5m2": None,
}
for _core in ("numpy.core", "numpy._core"):
    NAMES[f"{_core}.multiarray._reconstruct"] = _array
    NAMES[f"{_core}.multiarray.scalar"] = _scalar
    NAMES[f"{_core}.numeric._frombuffer"] = _frombuffer


def _dtype_name(source: Source, value: Any) -> str:
    name = value.arguments[0] if isinstance(value, Built) and value.kind == "dtype" and value.arguments else value
    name = getattr(name, "name", name)  # a type of ml_dtypes, by its name
    if isinstance(name, bytes):
        name = name.decode("latin1")
    if not isinstance(name, str):
        source.bad("an array has no dtype")
    name = name.removeprefix("ml_dtypes.")
    if name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return name
    state = value.state if isinstance(value, Built) else None
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"
    if isinstance(order, bytes):
        order = order.decode("latin1")
    if order == ">":
        source.bad("an array in a pickle is big-endian; expected little-endian, which all systems write today")
    if len(name) < 2 or name[0] not in "biufc" or not name[1:].isdigit() or int(name[1:]) not in (1, 2, 4, 8, 16):
        source.bad(f"an array has dtype {name[:40]!r}; expected numbers")
    try:
        return np.dtype(name).newbyteorder("<").str
    except TypeError:
        source.bad(f"an array has dtype {name[:40]!r}, which NumPy does not know")


def entry_of(source: Source, value: Built, name: str, container: tuple[str, ...]) -> Entry:
    """The entry of an array that was pickled as NumPy does."""
    what, state = f"array {name[:200]!r}", value.state
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        source.bad(f"{what} has no state of an array of NumPy's")
    shape_told, told, fortran, data = state[-4:]
    shape, dtype = shape_of(source, shape_told, what), _dtype_name(source, told)
    item = item_size(dtype)
    length = data.length if isinstance(data, Span) else len(data) if isinstance(data, bytes) else -1
    if length != item * prod(shape):
        source.bad(
            f"{what} of shape {shape} and dtype {dtype} takes {item * prod(shape)} bytes, but has {max(length, 0)}"
        )
    order: Any = "F" if fortran else "C"

    def load() -> Array:
        kind = dtype_of(dtype)
        if isinstance(data, Span):
            return source.array(data.offset, kind, (prod(shape),), what).reshape(shape, order=order)
        return np.frombuffer(bytearray(data), kind).reshape(shape, order=order)

    return Entry(dtype, shape, load, container)


def walk(source: Source, root: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of nested dicts and sequences with their keys; a container that holds itself is nested too deep."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), root)]
    for _ in range(_MOST_VISITED):
        if not pending:
            return
        path, value = pending.pop()
        if not isinstance(value, dict | list | tuple):
            yield path, value
            continue
        if len(path) >= DEEPEST:
            source.bad(f"{'.'.join(path)[:200]!r}: containers hold themselves, or are nested over {DEEPEST} deep")
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        pending += [((*path, str(key)), inner) for key, inner in reversed(items)]
    source.bad(f"the pickle holds over {_MOST_VISITED} values when written out")


def joined(source: Source, path: tuple[str, ...], separator: str) -> str:
    name = separator.join(path)
    if len(name) > LONGEST_NAME:
        source.bad(f"a name of over {LONGEST_NAME} characters: {name[:80]!r}...")
    return name


def table(source: Source, root: Any, separator: str, entry: Callable[..., Entry | None]) -> Table:
    """The arrays in what a pickle or msgpack file holds; what is no array is passed over."""
    result = Table(source)
    for path, value in walk(source, root):
        name = joined(source, path, separator)
        if (made := entry(value, name, path[:-1])) is not None:
            result.add(name, made)
        if len(result) > MOST_ARRAYS:
            source.bad(f"it has more than {MOST_ARRAYS} arrays")
    return result


def load(source: Source) -> Any:
    """What the only pickle of a file holds."""
    return Machine(Cursor(source), NAMES).load()


def numpy_entry(source: Source) -> Callable[[Any, str, tuple[str, ...]], Entry | None]:
    def entry(value: Any, name: str, container: tuple[str, ...]) -> Entry | None:
        return entry_of(source, value, name, container) if isinstance(value, Built) and value.kind == "array" else None

    return entry
