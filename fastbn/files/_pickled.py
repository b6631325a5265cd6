"""What the pickles of arrays hold: the names on the list, nested dicts, NumPy's arrays, and the files made of them."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from fastbn.files._opcodes import MOST_ARGUMENTS, Built, Cursor, Machine, Span, put
from fastbn.files._source import LONGEST_NAME, MOST_ARRAYS, Array, Entry, Source, Table, dtype_of, item_size, shape_of

DEEPEST = 64  # nested dicts
_MOST_VISITED = 500_000


def _dict(pairs: Any = None) -> dict[Any, Any]:
    if isinstance(pairs, dict):
        return pairs
    result: dict[Any, Any] = {}
    for key, value in pairs or ():
        put(result, key, value)
    if isinstance(pairs, list):
        pairs.clear()  # they are the dict's now: of one list no two dicts are made
    elif len(result) > MOST_ARGUMENTS:
        raise TypeError("a dict of a tuple of pairs; expected a list")
    return result


def _encode(text: Any, encoding: Any = "latin1") -> Any:
    """What protocol 2 writes for bytes: it stays the text that it is until it is asked for."""
    if not isinstance(text, str | Span) or (encoding != "latin1" and encoding != "latin-1"):
        raise TypeError("bytes that are no text of latin1")
    return text


def _same(value: Any = ()) -> Any:
    return value


def _list(values: Any = ()) -> Any:
    """A set, which may have what no set of Python's has; the list is not copied."""
    if not isinstance(values, list | tuple):
        raise TypeError("a set that is made of something else than a list")
    return values


def _bytes_of(source: Source, text: str | Span, count: int, what: str) -> bytearray:
    """So many bytes that were written as text."""
    try:
        if isinstance(text, Span):
            text = source.read(text.offset, text.length, what).decode("utf-8", "surrogatepass")
        data = bytearray(text.encode("latin1"))
    except UnicodeError:
        source.bad(f"{what} is of text that stands for no bytes")
    if len(data) != count:
        source.bad(f"{what} has {len(data)} bytes; expected {count}")
    return data


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
    "builtins.set": _list,
    "__builtin__.set": _list,
    "_codecs.encode": _encode,
    "builtins.bytearray": lambda value=b"", *_: value,
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
    if name[:1] not in tuple("biufc") or name[1:] not in ("1", "2", "4", "8", "16"):
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
    size, as_text = item_size(dtype) * prod(shape), isinstance(data, str) or (isinstance(data, Span) and data.text)
    length = data.length if isinstance(data, Span) else len(data) if isinstance(data, bytes | str) else -1
    if length != size and not (as_text and size <= length <= 2 * size):  # a character takes a byte or two there
        source.bad(f"{what} of shape {shape} and dtype {dtype} takes {size} bytes, but has {max(length, 0)}")
    order: Any = "F" if fortran else "C"

    def load() -> Array:
        kind = dtype_of(dtype)
        if isinstance(data, Span) and not as_text:
            return source.array(data.offset, kind, (prod(shape),), what).reshape(shape, order=order)
        held = _bytes_of(source, data, size, what) if as_text else bytearray(data)
        return np.frombuffer(held, kind).reshape(shape, order=order)

    return Entry(dtype, shape, load, container)


def walk(source: Source, root: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of nested dicts and sequences with their keys; a container that holds itself is nested too deep."""
    path: tuple[str, ...] = ()
    if not isinstance(root, dict | list | tuple):
        yield path, root
        return
    open_ = [(path, _items(root))]  # iterators, not lists: a container can come anywhere, any number of times
    for _ in range(_MOST_VISITED):
        path, items = open_[-1]
        step = next(items, None)
        if step is None:
            open_.pop()
            if not open_:
                return
            continue
        inner, value = (*path, str(step[0])), step[1]
        if not isinstance(value, dict | list | tuple):
            yield inner, value
            continue
        if len(inner) >= DEEPEST:
            shown = ".".join(part[:20] for part in inner)[:200]
            source.bad(f"{shown!r}: containers hold themselves, or are nested over {DEEPEST} deep")
        open_.append((inner, _items(value)))
    source.bad(f"the pickle holds over {_MOST_VISITED} values when written out")


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    return iter(value.items() if isinstance(value, dict) else enumerate(value))


def joined(source: Source, path: tuple[str, ...], separator: str) -> str:
    if sum(map(len, path)) + len(path) > LONGEST_NAME:
        source.bad(f"a name of over {LONGEST_NAME} characters: {path[0][:80]!r}...")
    return separator.join(path)


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
