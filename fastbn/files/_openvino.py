"""OpenVINO's intermediate representation: a graph in XML, constants in the .bin beside it."""

import xml.etree.ElementTree as ElementTree
from math import prod
from typing import Any
from xml.parsers import expat

from fastbn.files._content import Content, Found, Norm, Unknown
from fastbn.files._onnx_norms import misplaced
from fastbn.files._source import Array, Entry, Source, Table, beside, dtype_of, item_size, shape_of

_DTYPES = {
    "f64": "<f8",
    "f32": "<f4",
    "f16": "<f2",
    "bf16": "bfloat16",
    "i64": "<i8",
    "i32": "<i4",
    "i16": "<i2",
    "i8": "|i1",
    "u64": "<u8",
    "u32": "<u4",
    "u16": "<u2",
    "u8": "|u1",
    "boolean": "|b1",
}
_LONGEST_XML = 1 << 28


def read(source: Source) -> Content:
    root = _parse(source)
    if root.tag != "net":
        source.bad(f"its root is <{root.tag[:40]}>; expected <net>")
    path = beside(source, source.path.with_suffix(".bin").name)
    if not path.is_file():
        source.bad(f"{path.name}, which holds its constants, is not beside it")
    constants = Source(path)
    try:
        model = _Model(source, constants, root)
    except BaseException:
        constants.close()
        raise
    return Content("openvino", model.entries, model.find, closers=[constants.close])


def _parse(source: Source) -> ElementTree.Element:
    """The tree of an XML that declares no type and no entities."""
    if source.size > _LONGEST_XML:
        source.bad(f"an XML of {source.size} bytes; expected at most {_LONGEST_XML}")
    data = source.read(0, source.size)
    checker = expat.ParserCreate()

    def refuse(*_: Any) -> None:
        source.bad("its XML declares a document type or entities; expected none")

    checker.StartDoctypeDeclHandler = refuse
    checker.EntityDeclHandler = refuse
    try:
        checker.Parse(data, True)
        return ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, RecursionError, ValueError) as error:
        if type(error).__name__ == "FileError":
            raise
        source.bad(f"it is no XML: {error}")


class _Model:
    """Layers by number, with who takes what from whom."""

    def __init__(self, source: Source, constants: Source, root: ElementTree.Element) -> None:
        self._source, self._constants = source, constants
        self.entries = Table(source)
        self._layers: dict[str, ElementTree.Element] = {}
        self._inputs: dict[str, dict[str, str]] = {}
        self._takers: dict[str, list[str]] = {}
        self._names: dict[str, str] = {}
        for layer in root.iterfind("./layers/layer"):
            number = layer.get("id", "")
            if number in self._layers:
                source.bad(f"two layers have the id {number[:40]!r}")
            self._layers[number] = layer
            if layer.get("type") == "Const":
                self._constant(number, layer)
        for edge in root.iterfind("./edges/edge"):
            first, second = edge.get("from-layer", ""), edge.get("to-layer", "")
            self._inputs.setdefault(second, {})[edge.get("to-port", "")] = first
            self._takers.setdefault(first, []).append(second)

    def _constant(self, number: str, layer: ElementTree.Element) -> None:
        data, name = layer.find("data"), layer.get("name", number)
        dtype = None if data is None else _DTYPES.get(data.get("element_type", ""))
        if data is None or dtype is None:
            return  # text, or numbers of fewer than eight bits
        what = f"constant {name[:200]!r}"
        sizes = [part.strip() for part in data.get("shape", "").split(",") if part.strip()]
        numbers = [data.get("offset", ""), data.get("size", ""), *sizes]
        if not all(part.isdecimal() and len(part) < 19 for part in numbers):
            self._source.bad(f"{what} has no offset, size or shape")
        shape = shape_of(self._source, [int(part) for part in sizes], what)
        offset, length = int(numbers[0]), int(numbers[1])
        item = item_size(dtype)
        if length != item * prod(shape):
            self._source.bad(f"{what} of shape {shape} takes {item * prod(shape)} bytes, but has {length}")
        self._constants.check(offset, length, what)

        def load() -> Array:
            return self._constants.array(offset, dtype_of(dtype), shape, what)

        unique = name if name not in self.entries else f"{name}#{number}"
        self.entries.add(unique, Entry(dtype, shape, load))
        self._names[number] = unique

    def _value(self, number: str) -> str | None:
        """The constant that a layer gives, through conversions of its dtype."""
        for _ in range(5):
            if number in self._names:
                return self._names[number]
            layer = self._layers.get(number)
            if layer is None or layer.get("type") not in ("Convert", "Reshape"):
                return None
            number = self._inputs.get(number, {}).get("0", "")
        return None

    def _operands(self, number: str) -> tuple[str | None, str]:
        """The constant that an operation of two takes, and where the other comes from."""
        given = list(self._inputs.get(number, {}).values())
        values = (
            [(self._value(n), other) for n, other in zip(given, given[::-1], strict=True)] if len(given) == 2 else []
        )
        found = [(value, other) for value, other in values if value is not None]
        return found[0] if len(found) == 1 else (None, "")

    def find(self) -> Found:
        norms: dict[str, Norm] = {}
        unknown: dict[str, Unknown] = {}
        for number, layer in self._layers.items():
            kind = layer.get("type", "")
            found = _KINDS[kind](self, number, layer) if kind in _KINDS else None
            if found is None:
                continue
            made, last = found
            name = self._layers[last].get("name", last)  # the last of its layers has the name of the operation
            if isinstance(made, Norm):
                norms[name if name not in norms else f"{name}#{number}"] = made
            else:
                unknown[name] = made
        return norms, unknown

    def _next(self, number: str, kind: str) -> tuple[str, str] | None:
        """The number and the constant of the one layer that takes this one's output, if it is of this kind."""
        takers = self._takers.get(number, [])
        if len(takers) != 1 or takers[0] not in self._layers or self._layers[takers[0]].get("type") != kind:
            return None
        value, _ = self._operands(takers[0])
        return None if value is None else (takers[0], value)

    def _affine(self, number: str) -> tuple[dict[str, str], str]:
        """The constants of a Multiply and an Add behind a layer, and the last of these."""
        arrays = {}
        if (scaled := self._next(number, "Multiply")) is not None:
            number, arrays["weight"] = scaled
        if (shifted := self._next(number, "Add")) is not None:
            number, arrays["bias"] = shifted
        return arrays, number

    def _type_of(self, number: str) -> str:
        return self._layers[number].get("type", "") if number in self._layers else ""

    def scale(self, number: str, layer: ElementTree.Element) -> tuple[Norm | Unknown, str] | None:
        """A batch norm that was made a scale and a shift of each channel."""
        scale, before = self._operands(number)
        added = self._next(number, "Add")
        if scale is None or added is None or self._type_of(before) == "MVN" or self._is_group(before):
            return None
        shapes = [self.entries[key].shape for key in (scale, added[1])]
        channels = [shape[1] for shape in shapes if len(shape) > 1 and prod(shape) == shape[1]]
        if len(channels) != 2 or channels[0] != channels[1] or misplaced(shapes[1], shapes[0]):
            return None
        arrays = {"weight": scale, "bias": added[1]}
        return Norm("scale", arrays, (channels[0],), 0.0, False, rank=len(shapes[0])), added[0]

    def _is_group(self, number: str) -> bool:
        """Whether a layer is the Reshape behind an MVN of groups."""
        return self._type_of(number) == "Reshape" and self._type_of(self._inputs.get(number, {}).get("0", "")) == "MVN"

    def batch(self, number: str, layer: ElementTree.Element) -> tuple[Norm | Unknown, str] | None:
        """A batch norm that was kept as one."""
        ports = ("0", "1", "3", "4") if layer.get("version") == "opset1" else ("1", "2", "3", "4")
        given = self._inputs.get(number, {})
        values = [self._value(given.get(port, "")) for port in ports]
        roles = ("weight", "bias", "running_mean", "running_var")
        arrays = {role: value for role, value in zip(roles, values, strict=True) if value is not None}
        if len(arrays) < 4 or (eps := _eps(layer, "epsilon")) is None:
            return Unknown("a batch norm whose weights the graph computes, or without epsilon", arrays, ()), number
        return Norm("batch", arrays, (prod(self.entries[arrays["running_mean"]].shape),), eps, False), number

    def mvn(self, number: str, layer: ElementTree.Element) -> tuple[Norm | Unknown, str] | None:
        """Layer, instance or group norm: an MVN, and a Multiply and an Add where it is affine."""
        data, given = layer.find("data"), self._inputs.get(number, {})
        told: dict[str, str] = {} if data is None else dict(data.attrib)
        axes_name, eps = self._value(given.get("1", "")), _eps(layer, "eps")
        axes = [] if axes_name is None else [int(n) for n in self.entries[axes_name].read().reshape(-1)]
        behind = self._takers.get(number, [])
        grouped = len(behind) == 1 and self._is_group(behind[0])
        arrays, last = self._affine(behind[0] if grouped else number)
        shape = self.entries[arrays["weight"]].shape if "weight" in arrays else ()
        own, axes = tuple(n for n in shape if n != 1), sorted(n - len(shape) if n >= 0 else n for n in axes)
        inside = (
            told.get("eps_mode", "inside_sqrt").lower() == "inside_sqrt" and told.get("normalize_variance") == "true"
        )
        channels = len(shape) > 1 and prod(shape) == shape[1]
        if "bias" in arrays and shape and misplaced(self.entries[arrays["bias"]].shape, shape):
            return Unknown("an MVN whose weight and bias lie along different axes", arrays, own), last
        if eps is not None and inside and shape:
            if grouped and channels and (groups := self._groups(given.get("0", ""))) and shape[1] % groups == 0:
                return Norm("group", arrays, (shape[1],), eps, False, groups=groups), last
            if not grouped and axes == list(range(-len(own), 0)) and shape[len(shape) - len(own) :] == own:
                return Norm("layer", arrays, own, eps, False), last
            if not grouped and channels and axes == list(range(2 - len(shape), 0)):
                return Norm("instance", arrays, (shape[1],), eps, False, rank=len(shape)), last
        return Unknown(f"an MVN over the axes {axes} with {told}; tell which norm by kinds", arrays, own), last

    def _groups(self, number: str) -> int:
        """The groups that a Reshape to (0, groups, -1) makes."""
        name = self._value(self._inputs.get(number, {}).get("1", ""))
        if self._type_of(number) != "Reshape" or name is None:
            return 0
        target = self.entries[name].read().reshape(-1)
        return int(target[1]) if len(target) == 3 and target[1] > 0 and target[2] == -1 else 0


def _eps(layer: ElementTree.Element, name: str) -> float | None:
    data = layer.find("data")
    try:
        value = float(f"{float('' if data is None else data.get(name, '')):.7g}")
    except ValueError:
        return None
    return value if value > 0 else None


_KINDS = {"Multiply": _Model.scale, "BatchNormInference": _Model.batch, "MVN": _Model.mvn}
