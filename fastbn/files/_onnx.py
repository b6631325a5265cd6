"""ONNX models: the graph, its constants, and external data in the same folder."""

from importlib import import_module
from math import prod
from typing import Any

import numpy as np

from fastbn.files._content import Content
from fastbn.files._source import Array, Entry, Source, Table, beside, dtype_of, item_size, shape_of

_DTYPES = {
    1: "<f4",
    2: "|u1",
    3: "|i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "|b1",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
    14: "<c8",
    15: "<c16",
    16: "bfloat16",
    17: "float8_e4m3fn",
    19: "float8_e5m2",
}
# Where values lie that are not raw, and how many of them make an element.
_FIELDS = {
    1: "float_data",
    7: "int64_data",
    11: "double_data",
    12: "uint64_data",
    13: "uint64_data",
    14: "float_data",
    15: "double_data",
}


def read(source: Source) -> Content:
    try:
        import onnx
    except ImportError:
        raise ImportError('ONNX models are read with onnx; run: pip install "fastbn[files]"') from None
    decode_error: type[Exception] = import_module("google.protobuf.message").DecodeError
    model = onnx.ModelProto()
    try:
        model.ParseFromString(source.read(0, source.size))
    except (decode_error, RecursionError, ValueError) as error:
        source.bad(f"it is no ONNX model, or damaged: {error}")
    if not model.HasField("graph"):
        source.bad("it holds no graph")
    from fastbn.files._onnx_graph import Graph

    graph = Graph(source, model)
    return Content("onnx", graph.entries, graph.norms, closers=[graph.close], graph=graph)


class Tensors:
    """The constants of a model as entries; files of external data are opened once, and only beside the model."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._outside: dict[str, Source] = {}

    def close(self) -> None:
        for source in self._outside.values():
            source.close()

    def add(self, entries: Table, name: str, tensor: Any) -> None:
        source, what = self._source, f"tensor {name[:200]!r}"
        dtype = _DTYPES.get(tensor.data_type)
        if dtype is None:
            return  # text, or numbers of fewer than eight bits: of no norm
        shape = shape_of(source, [int(n) for n in tensor.dims], what)
        item = item_size(dtype)
        if tensor.data_location == 1:
            entries.add(name, self._external(name, tensor, dtype, shape, item))
            return
        field = _FIELDS.get(tensor.data_type, "int32_data")
        if tensor.HasField("raw_data"):
            held = len(tensor.raw_data)
        else:
            held = len(getattr(tensor, field)) * item // (2 if tensor.data_type in (14, 15) else 1)
        if held != item * prod(shape):
            source.bad(f"{what} of shape {shape} takes {item * prod(shape)} bytes, but has {held}")
        entries.add(name, Entry(dtype, shape, lambda: _value(tensor, dtype, shape)))

    def _external(self, name: str, tensor: Any, dtype: str, shape: tuple[int, ...], item: int) -> Entry:
        source, what = self._source, f"tensor {name[:200]!r}"
        told = {entry.key: entry.value for entry in tensor.external_data}
        location = told.get("location", "")
        numbers = [told.get("offset", "0"), told.get("length", str(item * prod(shape)))]
        if not location or not all(number.isdecimal() and len(number) < 19 for number in numbers):
            source.bad(f"{what} has external data whose place is {str(told)[:200]}")
        offset, length = (int(number) for number in numbers)
        if length != item * prod(shape):
            source.bad(
                f"{what} of shape {shape} takes {item * prod(shape)} bytes, but {location[:200]!r} has {length} for it"
            )
        path = beside(source, location)

        def load() -> Array:
            if location not in self._outside:
                self._outside[location] = Source(path)
            return self._outside[location].array(offset, dtype_of(dtype), shape, what)

        return Entry(dtype, shape, load)


def _value(tensor: Any, dtype: str, shape: tuple[int, ...]) -> Array:
    if tensor.HasField("raw_data"):
        return np.frombuffer(bytearray(tensor.raw_data), dtype_of(dtype)).reshape(shape)
    from onnx import numpy_helper

    return np.array(numpy_helper.to_array(tensor)).reshape(shape)
