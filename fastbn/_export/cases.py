"""What the self test of a library computes, and the digests of what Python computes of the same.

Inputs are integers by a formula, scaled by powers of two, or of half precision such integers as bits: the same in C,
JavaScript and NumPy, whether or not a compiler fuses multiplications and additions.
"""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastbn
from fastbn._export.errors import ExportError
from fastbn._export.interface import Function, Parameter

Array = NDArray[Any]


class Argument(NamedTuple):
    """Of a call: a number, memory of `count` elements, drawn or filled with bytes of 0x7f, or memory told by others."""

    # "number"; "size"; "draw"; "room"; "askew": a byte further on in it; "null"; "work"; "same": the memory of argument
    # `of`; "part": an element further on in that
    kind: str
    value: Any = 0  # of a number or size; of memory, the count, and of what is drawn what `drawn` takes
    of: int = 0


class Case(NamedTuple):
    function: Function
    sizes: tuple[int, ...]
    arguments: tuple[Argument, ...]
    status: int
    expected: tuple[tuple[int, int, int], ...]  # of arguments: which, its count, the digest

    @property
    def name(self) -> str:
        left_out = [p.name for p, a in zip(self.function.parameters, self.arguments, strict=True) if a.kind == "null"]
        moved = "".join(f" {a.kind}" for a in self.arguments if a.kind in ("same", "part", "askew"))
        without = f" without {' '.join(left_out)}" if left_out else ""
        return f"{self.function.name} {'x'.join(map(str, self.sizes))}{without}{moved}"


# Data -----------------------------------------------------------------------------------------------------------------


def mixed(numbers: Array, seed: int) -> Array:
    """32 bits of each number, which is less than 2^32."""
    h = (numbers.astype(np.uint64) * 0x9E3779B1 + seed * 0x85EBCA6B) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h = ((h ^ (h >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    return h ^ (h >> np.uint64(16))


def drawn(count: int, seed: int, *numbers: Any, dtype: str) -> Array:
    """Numbers from offset - scale to offset + scale, in steps of scale / 2^15; numbers: these two.

    Of half precision the bits: so many patterns from a first one on, with any sign if asked for; numbers: these three.
    """
    h = mixed(np.arange(count), seed)
    if "float16" in dtype:
        first, patterns, signed = numbers
        return (first + (h >> np.uint64(16)) % patterns | (h & np.uint64(signed)) << np.uint64(15)).astype(np.uint16)
    offset, scale = numbers
    whole = (h >> np.uint64(16)).astype(np.int64) - 32768
    return (offset + whole * (scale / 32768)).astype(dtype)


def check(dtype: str) -> None:
    """Raise unless there is a Python to compare with."""
    if dtype == "bfloat16" and find_spec("ml_dtypes") is None:
        raise ExportError('the self test of bfloat16 needs ml_dtypes; pip install "fastbn[half]"')


def _from_bits(values: Array, dtype: str) -> Array:
    """Half precision as Python's calls take it."""
    if dtype == "bfloat16":
        from ml_dtypes import bfloat16

        return values.view(bfloat16)
    return values.view(dtype)


def digest(values: Array) -> int:
    raw = np.ascontiguousarray(values).tobytes()
    words = np.frombuffer(raw + bytes(-len(raw) % 4), np.uint32).astype(np.uint64)
    numbers, halves = np.arange(words.size), []
    for seed in (101, 102):
        terms = words * (mixed(numbers, seed) | np.uint64(1))
        halves.append(int((terms & np.uint64(0xFFFFFFFF)).sum()) & 0xFFFFFFFF)
    return halves[0] << 32 | halves[1]


# Which cases ----------------------------------------------------------------------------------------------------------

_ROWS = ((1, 768), (7, 100), (64, 1000), (3, 40_000), (5, 1), (9, 17), (0, 8), (4, 0), (5, 900_000))
_NCHW = (
    (4, 16, 49),
    (8, 16, 9),
    (2, 3, 50_000),
    (3, 5, 17),
    (1, 5, 7),
    (5, 1, 30),
    (64, 70, 4),
    (640, 12, 1),
    (20, 3, 40),
    (0, 3, 4),
    (3, 4, 400_000),
)
_NHWC = (
    (1, 64, 196),
    (2, 3, 1000),
    (1, 1000, 64),
    (3, 129, 1500),
    (2, 768, 300),
    (3, 5, 2),
    (4, 1, 10),
    (2, 6, 0),
    (1, 1, 40),
    (3, 48, 31_000),
)
_GROUPS = {1: (2, 8, 30), 2: (3, 6, 1), 3: (2, 6, 63), 4: (2, 16, 3000), 5: (70, 5, 2), 16: (4, 16, 7)}
_DATA = ((0.0, 1.0, 1e-5), (1000.0, 0.5, 1e-5), (2.0**-66, 2.0**-70, 1e-45))  # offset, scale, eps
_DATA_OF = {
    "float16": ((0.0, 1.0, 1e-5), (768.0, 128.0, 1e-5), (0.0, 2.0**-15, 1e-45)),
    "bfloat16": ((0.0, 1.0, 1e-5), (768.0, 128.0, 1e-5), (0.0, 2.0**-65, 1e-45)),
    "float32": _DATA,
    "float64": _DATA,
}
_BITS = {  # of the same magnitudes; see `drawn`
    "float16": ((0x2C00, 0x1000, 1), (0x6000, 0x400, 0), (0, 0x400, 1)),
    "bfloat16": ((0x3D80, 0x200, 1), (0x4400, 0x80, 0), (0x1F00, 0x100, 1)),
}


def _sizes(function: Function) -> Iterator[tuple[int, ...]]:
    if function.layout is None:
        yield from _ROWS
        return
    images = _NCHW if function.layout == "nchw" else _NHWC
    if function.operation == "group_norm":
        yield from ((*images[k], 1 if k % 2 else images[k][1]) for k in range(0, len(images) - 1, 2))
        yield from ((*image, groups) for groups, image in _GROUPS.items())
    else:
        few = {"instance_norm": lambda image: image[2] == 1, "batch_norm": lambda image: False}[function.operation]
        yield from (image for image in images if not few(image))


def cases(functions: Iterable[Function]) -> Iterator[Case]:
    """All cases of a library, each with what Python computes."""
    with fastbn.num_threads(1):
        for function in functions:
            for k, sizes in enumerate(_sizes(function)):
                yield _computed(function, sizes, k, missing=(), in_place=k % 4 == 3)
            sizes = next(_sizes(function))
            optional = [p.name for p in function.parameters if _may_be_missing(function, p)]
            for k, missing in enumerate((*((name,) for name in optional), tuple(optional))):
                yield _computed(function, sizes, k, missing, in_place=False)
            yield from _refused(function, sizes)


def _may_be_missing(function: Function, parameter: Parameter) -> bool:
    needed = {"running_mean", "running_var"} if "train" not in function.entry else set()
    return parameter.kind in ("affine", "gradient", "both", "double") and parameter.name not in needed


def _count(function: Function, name: str, sizes: dict[str, int]) -> int:
    """The elements of an argument."""
    if name in ("x", "y", "dy", "dx"):
        return sizes["rows"] * sizes["cols"] if "rows" in sizes else sizes["batch"] * sizes["channels"] * sizes["plane"]
    if name in ("mean", "rstd"):
        if "rows" in sizes:
            return sizes["rows"]
        of_batch = {"batch_norm": 1, "group_norm": sizes["batch"], "instance_norm": sizes["batch"]}[function.operation]
        return of_batch * sizes.get("groups", sizes["channels"])
    return sizes["cols"] if "cols" in sizes else sizes["channels"]


def _arguments(
    function: Function, sizes: tuple[int, ...], k: int, missing: tuple[str, ...], in_place: bool
) -> tuple[Argument, ...]:
    named = dict(zip((p.name for p in function.sizes), sizes, strict=True))
    dtype, kind = function.dtype.name, k % len(_DATA)
    offset, scale, eps = _DATA_OF[dtype][kind]
    numbers = {"eps": eps, "momentum": 0.1 + k / 64}
    data: dict[str, tuple[Any, ...]] = {
        "x": (offset, scale),
        "weight": (1.0, 0.5),
        "bias": (0.0, 1.0),
        "running_mean": (offset, scale),
    }
    data |= {"dy": (0.0, 1.0), "mean": (offset, scale), "rstd": (2.0 / scale, 1.0 / scale)}
    data["running_var"] = (2.0 * scale * scale, scale * scale)
    if function.dtype.half:
        data |= {"x": _BITS[dtype][kind], "dy": _BITS[dtype][0]}
    found = []
    for i, p in enumerate(function.parameters):
        if p.name in missing:
            found.append(Argument("null"))
        elif p.kind == "size":
            found.append(Argument("size", named[p.name]))
        elif p.kind == "number":
            found.append(Argument("number", numbers[p.name]))
        elif p.kind == "work":
            found.append(Argument("work"))
        elif p.name in ("y", "dx") and in_place:
            found.append(Argument("same", of=k // 4 % 2 if function.backward else 0))
        elif p.kind in ("in", "affine", "both", "given"):
            found.append(Argument("draw", (_count(function, p.name, named), 7 * k + i, *data[p.name])))
        else:
            found.append(Argument("room", (_count(function, p.name, named),)))
    return tuple(found)


def _computed(function: Function, sizes: tuple[int, ...], k: int, missing: tuple[str, ...], in_place: bool) -> Case:
    arguments = _arguments(function, sizes, k, missing, in_place)
    results = _by_python(function, sizes, arguments)
    expected = tuple(
        (i, results[p.name].size, digest(results[p.name]))
        for i, p in enumerate(function.parameters)
        if p.name in results and arguments[i].kind != "null" and results[p.name].size
    )
    return Case(function, sizes, arguments, 0, expected)


def _by_python(function: Function, sizes: tuple[int, ...], arguments: tuple[Argument, ...]) -> dict[str, Array]:
    named = dict(zip((p.name for p in function.sizes), sizes, strict=True))
    given: dict[str, Any] = {}
    for p, a in zip(function.parameters, arguments, strict=True):
        if a.kind == "draw":
            dtype = function.dtype_of(p)
            given[p.name] = drawn(*a.value, dtype=dtype.name)
            if dtype.half:
                given[p.name] = _from_bits(given[p.name], dtype.name)
        elif a.kind == "number":
            given[p.name] = a.value
    if function.backward:
        return _gradients(function, named, given)
    x, weight, bias, eps = given["x"], given.get("weight"), given.get("bias"), given["eps"]
    if function.operation == "layer_norm":
        x = x.reshape(sizes)
        y, mean, rstd = fastbn.layer_norm_forward(x, sizes[1], weight, bias, eps)
        return {"y": y, "mean": mean, "rstd": rstd}
    if function.operation == "rms_norm":
        y, rstd = fastbn.rms_norm_forward(x.reshape(sizes), sizes[1], weight, eps)
        return {"y": y, "rstd": rstd}
    shape = (named["batch"], named["channels"], named["plane"])
    axis = 1
    if function.layout == "nhwc":
        shape, axis = (named["batch"], named["plane"], named["channels"]), -1
    x = x.reshape(shape)
    running = given.get("running_mean"), given.get("running_var")
    if function.operation == "group_norm":
        y, mean, rstd = fastbn.group_norm_forward(x, named["groups"], weight, bias, eps, axis=axis)
    elif function.operation == "instance_norm":
        y, mean, rstd = fastbn.instance_norm_forward(x, weight, bias, eps=eps, axis=axis)
    elif "momentum" not in given:
        return {"y": fastbn.batch_norm(x, *running, weight, bias, eps=eps, axis=axis)}
    else:
        y, mean, rstd = fastbn.batch_norm_forward(x, weight, bias, *running, given["momentum"], eps, axis=axis)
    kept = {name: given[name] for name in ("running_mean", "running_var") if name in given}
    return {"y": y, "mean": mean, "rstd": rstd} | kept


def _gradients(function: Function, named: dict[str, int], given: dict[str, Any]) -> dict[str, Array]:
    dy, x, rstd, mean, weight = (
        given["dy"],
        given["x"],
        given["rstd"],
        given.get("mean", given["rstd"]),
        given.get("weight"),
    )
    if "rows" in named:
        shape = named["rows"], named["cols"]
        if function.operation == "rms_norm":
            dx, dweight = fastbn.rms_norm_backward(dy.reshape(shape), x.reshape(shape), rstd, weight)
            return {"dx": dx, "dweight": dweight}
        results = fastbn.layer_norm_backward(dy.reshape(shape), x.reshape(shape), mean, rstd, weight)
        return dict(zip(("dx", "dweight", "dbias"), results, strict=True))
    axis, image = 1, (named["batch"], named["channels"], named["plane"])
    if function.layout == "nhwc":
        axis, image = -1, (named["batch"], named["plane"], named["channels"])
    if function.operation != "batch_norm":
        groups = (named["batch"], named.get("groups", named["channels"]))
        mean, rstd = mean.reshape(groups), rstd.reshape(groups)
    backward = getattr(fastbn, f"{function.operation}_backward")
    results = backward(dy.reshape(image), x.reshape(image), mean, rstd, weight, axis=axis)
    return dict(zip(("dx", "dweight", "dbias"), results, strict=True))


def _refused(function: Function, sizes: tuple[int, ...]) -> Iterator[Case]:
    """Calls that come back with a status and write nothing: y keeps what it holds."""
    from fastbn._export import entries

    arguments = _arguments(function, sizes, 0, (), False)
    at = {p.name: i for i, p in enumerate(function.parameters)}
    first, last = function.sizes[0].name, function.sizes[1].name
    target, source = ("dx", "dy") if function.backward else ("y", "x")
    named = dict(zip((p.name for p in function.sizes), sizes, strict=True))
    room = {name: _count(function, name, named) + 1 for name in (target, "weight", "rstd") if name in at}
    changes: list[tuple[int, dict[str, Argument]]] = [
        (entries.NULL, {source: Argument("null")}),
        (entries.NULL, {target: Argument("null")}),
        (entries.SIZE, {first: Argument("size", -1)}),
        (entries.SIZE, {last: Argument("size", 1 << 62)}),
        (entries.SIZE, {first: Argument("size", 1 << 40), last: Argument("size", 1 << 40)}),
        (entries.OVERLAP, {target: Argument("part", of=0)}),
        (entries.OVERLAP, {"weight": Argument("same", of=at[target])}),
        *((entries.ALIGNMENT, {name: Argument("askew", (room[name],))}) for name in room),
    ]
    written = "dweight" if function.backward else "rstd"
    if written in at:
        askew = Argument("askew", (_count(function, written, named) + 1,))
        changes.append((entries.ALIGNMENT, {first: Argument("size", 0), written: askew}))
    if "eps" in at:
        changes.append((entries.SETTING, {"eps": Argument("number", -1.0)}))
    if "groups" in at:
        changes.append((entries.SETTING, {"groups": Argument("size", 5)}))
    if "momentum" in at:
        changes.append((entries.SETTING, {"eps": Argument("number", 0.0)}))
        changes.append((entries.FEW, {"batch": Argument("size", 1), "plane": Argument("size", 1)}))
    if function.operation == "instance_norm" and not function.backward:
        changes.append((entries.FEW, {"plane": Argument("size", 1)}))
    if function.backward:
        changes.append((entries.NULL, {"rstd": Argument("null")}))
        changes.append((entries.OVERLAP, {target: Argument("part", of=1)}))
    if function.layout is not None or function.backward:
        changes.append((entries.NULL, {"work": Argument("null")}))
    for status, changed in changes:
        called = list(arguments)
        for name, argument in changed.items():
            called[at[name]] = argument
        yield Case(function, sizes, tuple(called), status, ())
