"""torch's .pt and .pth: a pickle of tensors over raw storages, in a zip or, in the older form, one after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from fastbn.files import _pickled
from fastbn.files._content import Content
from fastbn.files._detect import TORCH_LEGACY
from fastbn.files._opcodes import Built, Cursor, Global, Machine, called
from fastbn.files._source import Array, Entry, Source, Table, dtype_of, item_size, shape_of, shown
from fastbn.files._states import PLAIN, find
from fastbn.files._zip import Archive

_LARGEST_EXPANDED = 1 << 28  # bytes of a tensor that is larger than its storage

_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}
_DTYPES_OF_STORAGES = {
    f"{module}.{name}": dtype for name, dtype in _STORAGES.items() for module in ("torch", "torch.storage")
}
_DTYPES = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "bfloat16",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint8": "|u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "bool": "|b1",
    "complex64": "<c8",
    "complex128": "<c16",
    "float8_e4m3fn": "float8_e4m3fn",
    "float8_e5m2": "float8_e5m2",
    "float8_e4m3fnuz": "float8_e4m3fnuz",
    "float8_e5m2fnuz": "float8_e5m2fnuz",
}


@dataclass(slots=True)
class _Storage:
    dtype: str | None  # None: bytes of no type
    key: str
    elements: int
    shift: int = 0  # elements from the start of the storage that is written
    place: int = -1  # in the file; in a zip not before an array of it is read
    find: Callable[[str], int] | None = None  # tells the place of a key

    def start(self) -> int:
        """Where in the file it begins."""
        if self.place < 0 and self.find is not None:
            self.place = self.find(self.key)
        return self.place


@dataclass(slots=True)
class _Tensor:
    storage: _Storage
    offset: Any
    shape: Any
    stride: Any
    dtype: str | None = None


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise TypeError("a tensor without a storage")
    return _Tensor(storage, offset, shape, stride)


def _tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any) -> Any:
    tensor = _tensor(storage, offset, shape, stride)
    tensor.dtype = _DTYPES.get(dtype.name.removeprefix("torch.")) if isinstance(dtype, Global) else None
    return tensor


def _of_subclass(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    if isinstance(function, Global) and function.call is _of_subclass:
        raise TypeError("a subclass of tensors that is made of itself")
    return called(function, arguments)


_NAMES = _pickled.NAMES | {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _of_subclass,
    "torch.nn.parameter.Parameter": lambda data, *_: data,
    "torch.Tensor": None,
    "torch.Size": lambda sizes=(): sizes,
    "torch.device": lambda *_: None,
    "torch.serialization._get_layout": lambda *_: None,
    "torch.storage.UntypedStorage": None,
    "torch.storage.TypedStorage": None,
}
_NAMES |= {f"torch.{name}": None for name in _DTYPES}
_NAMES |= dict.fromkeys(_DTYPES_OF_STORAGES)


def _persistent(source: Source, storages: list[_Storage]) -> Any:
    def load(told: Any) -> _Storage:
        if not isinstance(told, tuple) or len(told) < 5 or not (told[0] == "storage" or told[0] == b"storage"):
            source.bad("the pickle refers to something that is no storage")
        kind, key, elements = told[1], told[2], told[4]
        if not isinstance(kind, Global) or not isinstance(key, str) or len(key) > 200:
            source.bad("a storage has no type or no key")
        if type(elements) is not int or not 0 <= elements < 1 << 62:
            source.bad(f"storage {key!r} has {shown(elements)} elements; expected an integer of at least 0")
        storage = _Storage(_DTYPES_OF_STORAGES.get(kind.name), key, elements)
        if len(told) > 5 and told[5] is not None:  # the older form's views of storages: key, offset, elements
            if not isinstance(told[5], tuple) or len(told[5]) != 3:
                source.bad(f"storage {key!r} has a view that is none")
            storage.shift, storage.elements = shape_of(source, told[5][1:], f"the view of storage {key!r}")
        storages.append(storage)
        return storage

    return load


def read_zip(source: Source, archive: Archive, root: str) -> Content:
    if f"{root}/constants.pkl" in archive.members and any(m.startswith(f"{root}/code/") for m in archive.members):
        source.bad("it is a TorchScript archive, which is a program; expected a state: save module.state_dict()")
    archive.stored(f"{root}/data.pkl")  # as torch writes it; a compressed one could be of any length
    order = f"{root}/byteorder"
    if order in archive.members and archive.read(order).strip() != b"little":
        source.bad("its storages are big-endian; expected little-endian: load and save it on a little-endian machine")
    storages: list[_Storage] = []
    cursor = Cursor(source, data=archive.read(f"{root}/data.pkl"))
    value = Machine(cursor, _NAMES, _persistent(source, storages)).load()

    def find(key: str) -> int:
        return archive.place(f"{root}/data/{key}")

    for storage in storages:
        member = f"{root}/data/{storage.key}"
        if member not in archive.members:
            source.bad(f"the storage {storage.key[:200]!r} is not in it")
        storage.find = find
        length = storage.elements * (1 if storage.dtype is None else item_size(storage.dtype))
        if length > (held := archive.stored(member)):
            source.bad(f"the storage {storage.key[:200]!r} claims {length} bytes but has {held}")
    return _content(source, value)


def read_legacy(source: Source) -> Content:
    cursor = Cursor(source, len(TORCH_LEGACY))
    protocol = Machine(cursor, {}).load()
    system = Machine(cursor, _NAMES).load()
    if protocol != 1001 or not isinstance(system, dict):
        source.bad(f"it is of torch's older form, protocol {shown(protocol)}; expected 1001")
    if system.get("little_endian") is not True:
        source.bad("its storages are big-endian; expected little-endian: load and save it on a little-endian machine")
    storages: list[_Storage] = []
    value = Machine(cursor, _NAMES, _persistent(source, storages)).load()
    keys = Machine(cursor, {}).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        source.bad("its list of storages is none, or has a key twice", cursor.at)
    by_key: dict[str, list[_Storage]] = {}
    for storage in storages:
        by_key.setdefault(storage.key, []).append(storage)
    at = cursor.at
    for key in keys:
        (elements,) = shape_of(
            source, [int.from_bytes(source.read(at, 8, f"storage {key[:200]!r}"), "little")], "a storage"
        )
        if key not in by_key or by_key[key][0].dtype is None:
            source.bad(f"the storage {key[:200]!r} belongs to no tensor", at)
        for storage in by_key[key]:
            if storage.shift + storage.elements > elements:
                source.bad(f"the storage {key[:200]!r} has {elements} elements, fewer than its tensors take", at)
            storage.place = at + 8 + storage.shift * item_size(storage.dtype or "|u1")
        at += 8 + elements * item_size(by_key[key][0].dtype or "|u1")
        source.check(at, 0, f"storage {key[:200]!r}")
    if any(storage.place < 0 for storage in storages):
        source.bad("a tensor's storage is not in it")
    return _content(source, value)


def _content(source: Source, value: Any) -> Content:
    numpy_entry = _pickled.numpy_entry(source)

    def entry(value: Any, name: str, container: tuple[str, ...]) -> Entry | None:
        if isinstance(value, _Tensor):
            return _entry(source, value, name, container)
        return numpy_entry(value, name, container) if isinstance(value, Built) else None

    entries: Table = _pickled.table(source, value, ".", entry)
    return Content("torch", entries, lambda: find(entries, PLAIN))


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for n, step in zip(reversed(shape), reversed(stride), strict=True):
        if n != 1 and step != expected:
            return False
        expected *= n
    return True


def _entry(source: Source, tensor: _Tensor, name: str, container: tuple[str, ...]) -> Entry:
    what, storage = f"tensor {name[:200]!r}", tensor.storage
    shape = shape_of(source, tensor.shape, what)
    stride = shape_of(source, tensor.stride, what, "stride")  # a negative one is refused here
    offset = tensor.offset
    if type(offset) is not int or not 0 <= offset < 1 << 62:
        source.bad(f"the offset of {what} is {shown(offset)}; expected an integer of at least 0")
    dtype = tensor.dtype or storage.dtype
    if dtype is None:
        source.bad(f"{what} has a dtype that NumPy has none for")
    if len(stride) != len(shape):
        source.bad(f"{what} has the shape {shape} and the stride {stride}, which are not of one length")
    item = item_size(dtype)
    held = storage.elements * (1 if storage.dtype is None else item_size(storage.dtype)) // item
    count = prod(shape)
    dense = count == 0 or _is_dense(shape, stride)
    extent = count if dense else 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if offset + extent > held:
        source.bad(f"{what} takes elements {offset} to {offset + extent} of a storage of {held}")
    if count > held and count * item > _LARGEST_EXPANDED:
        source.bad(
            f"{what} has {count} elements over a storage of {held}; expected no more than {_LARGEST_EXPANDED} bytes"
        )

    def load() -> Array:
        kind, place = dtype_of(dtype), storage.start() + offset * item
        if dense:
            return source.array(place, kind, shape, what)
        if count > held:
            source.inflate(what, count * item)
        values = source.array(place, kind, (extent,), what)
        strides = tuple(step * item for step in stride)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, shape, strides, writeable=False)).reshape(
            shape
        )

    return Entry(dtype, shape, load, container)
