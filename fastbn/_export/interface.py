"""What a library consists of: the one table that entries, the header, the self test and the README follow from."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from numba import types

OPERATIONS = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm")
DTYPES = ("float16", "bfloat16", "float32", "float64")
LAYOUTS = {"nchw": "channels_first", "nhwc": "channels_last"}
STATUSES = (
    ("OK", "the result is there"),
    ("NULL", "a pointer is NULL that must not be"),
    ("SIZE", "a size is negative, or an array larger than memory can be"),
    ("OVERLAP", "memory that is written overlaps other memory; y may be x, as a whole"),
    (
        "SETTING",
        "eps is negative or not finite, or zero in training; momentum is not finite; groups do not divide",
    ),
    ("FEW", "training, or instance norm, with one value a channel"),
    ("ALIGNMENT", "a pointer, but for work, is not where an element can be in memory"),
)
INTERNAL = ("INTERNAL", "a fault of the library: nothing that a caller can do leads to it")


class Parameter(NamedTuple):
    """Of a C function."""

    name: str
    # Of elements like those of x: "in": read; "out": written.  Of the type that they are computed in: "affine": read;
    # "gradient": written; "both".  Of float64: "given": read; "double": written.  "size"; "number"; "work"
    kind: str


class Dtype(NamedTuple):
    name: str
    suffix: str
    c: str
    numba: Any
    item: int
    computed_in: str

    @property
    def half(self) -> bool:
        """Whether C and Numba know the elements by their bits alone."""
        return self.item == 2


DTYPE_OF = {
    "float16": Dtype("float16", "f16", "uint16_t", types.uint16, 2, "float32"),
    "bfloat16": Dtype("bfloat16", "bf16", "uint16_t", types.int16, 2, "float32"),
    "float32": Dtype("float32", "f32", "float", types.float32, 4, "float32"),
    "float64": Dtype("float64", "f64", "double", types.float64, 8, "float64"),
}


class Function(NamedTuple):
    """A C function and the one that says how much working memory it takes."""

    name: str
    entry: str  # of `entries`
    workspace: str
    operation: str
    layout: str | None
    dtype: Dtype
    parameters: tuple[Parameter, ...]
    about: str

    @property
    def backward(self) -> bool:
        return "_backward" in self.entry

    @property
    def sizes(self) -> tuple[Parameter, ...]:
        return tuple(p for p in self.parameters if p.kind == "size")

    def dtype_of(self, parameter: Parameter) -> Dtype:
        """Of what a pointer points to."""
        if parameter.kind in ("double", "given"):
            return DTYPE_OF["float64"]
        return self.dtype if parameter.kind in ("in", "out") else DTYPE_OF[self.dtype.computed_in]

    def signature(self) -> tuple[Any, ...]:
        """Numba's types of the entry, whose last argument is the most bytes of an array."""
        others = {"size": types.int64, "number": types.float64, "work": types.CPointer(types.int64)}
        given = [others.get(p.kind) or types.CPointer(self.dtype_of(p).numba) for p in self.parameters]
        return (*given, types.int64)


def _parameters(text: str) -> tuple[Parameter, ...]:
    """Parameters as they are declared: "kind name name, kind name"."""
    return tuple(Parameter(name, kind) for part in text.split(",") for kind, *names in [part.split()] for name in names)


_AFFINE = "in x, out y, affine weight bias"
_IMAGE = "size batch channels plane"
_KEPT = "double mean rstd, work work"
_ROWS = "size rows cols, number eps"

_TABLE: dict[str, tuple[tuple[str, str, str], ...]] = {
    "layer_norm": (("layer_norm", f"{_AFFINE}, {_ROWS}, {_KEPT}", "each of `rows` rows of `cols` elements"),),
    "rms_norm": (
        (
            "rms_norm",
            f"in x, out y, affine weight, {_ROWS}, double rstd, work work",
            "each row by its root mean square",
        ),
    ),
    "batch_norm": (
        (
            "batch_norm",
            f"{_AFFINE} running_mean running_var, {_IMAGE}, number eps, work work",
            "each channel by given statistics",
        ),
        (
            "batch_norm_train",
            f"{_AFFINE}, {_IMAGE}, number eps momentum, both running_mean running_var, {_KEPT}",
            "each channel by its own statistics, which go into the running ones",
        ),
    ),
    "group_norm": (
        ("group_norm", f"{_AFFINE}, {_IMAGE} groups, number eps, {_KEPT}", "each group of channels of a sample"),
    ),
    "instance_norm": (("instance_norm", f"{_AFFINE}, {_IMAGE}, number eps, {_KEPT}", "each channel of a sample"),),
}


_GRADIENTS = "in dy x, out dx, affine weight"
_OF_AFFINE = "given mean rstd, gradient dweight dbias, work work"
_BACKWARD: dict[str, tuple[tuple[str, str, str], ...]] = {
    "layer_norm": (
        ("layer_norm_backward", f"{_GRADIENTS}, size rows cols, {_OF_AFFINE}", "the gradients of layer_norm"),
    ),
    "rms_norm": (
        (
            "rms_norm_backward",
            f"{_GRADIENTS}, size rows cols, given rstd, gradient dweight, work work",
            "the gradients of rms_norm",
        ),
    ),
    "batch_norm": (
        (
            "batch_norm_train_backward",
            f"{_GRADIENTS}, {_IMAGE}, {_OF_AFFINE}",
            "the gradients of batch_norm_train, whose statistics depend on x",
        ),
    ),
    "group_norm": (
        ("group_norm_backward", f"{_GRADIENTS}, {_IMAGE} groups, {_OF_AFFINE}", "the gradients of group_norm"),
    ),
    "instance_norm": (
        ("instance_norm_backward", f"{_GRADIENTS}, {_IMAGE}, {_OF_AFFINE}", "the gradients of instance_norm"),
    ),
}


def functions(
    operations: Iterable[str],
    dtypes: Iterable[str],
    layouts: Iterable[str] = tuple(LAYOUTS),
    backward: bool = False,
) -> Iterator[Function]:
    """All of a library, in the order of the table."""
    operations, dtypes, layouts = set(operations), list(dtypes), list(layouts)
    for operation in OPERATIONS:
        if operation not in operations:
            continue
        for entry, parameters, about in (*_TABLE[operation], *(_BACKWARD[operation] if backward else ())):
            by_rows = operation in ("layer_norm", "rms_norm")
            for layout in (None,) if by_rows else layouts:
                full = entry if layout is None else f"{entry}_{layout}"
                of_rows = "rows_backward_workspace" if entry.endswith("_backward") else "rows_workspace"
                workspace = of_rows if by_rows else f"{full}_workspace"
                for dtype in (DTYPE_OF[d] for d in dtypes):
                    name = f"fastbn_{full}_{dtype.suffix}"
                    given = _parameters(parameters)
                    yield Function(name, full, workspace, operation, layout, dtype, given, about)
