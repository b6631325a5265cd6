"""Which types of arguments compiled code takes: everything that can be said before there are values."""

from typing import Any

from numba import types
from numba.core.errors import TypingError

from fastbn._compiled.values import constant, leaky_relu, named_leaky_relu, nothing
from fastbn.engine.arguments import ACTIVATIONS
from fastbn.kernels.activations import packed


def refuse(message: str) -> TypingError:
    return TypingError(f"fastbn in compiled code: {message}")


def absent(value: Any) -> bool:
    """Whether an argument is None or left out."""
    return (
        value is None or isinstance(value, types.NoneType) or (isinstance(value, types.Omitted) and value.value is None)
    )


def leave_out(**arguments: Any) -> None:
    """Arguments that only Python's calls take."""
    for name, value in arguments.items():
        if not absent(value):
            raise refuse(f"{name} is given; leave it out, or call fastbn from Python, which takes it")


def _settled(value: Any, name: str) -> None:
    if isinstance(value, types.Optional):
        raise refuse(f"{name} may be None, as only a run tells; expected a value, or None: write two calls and an if")


def array(value: Any, name: str) -> types.Array:
    """x, or an array like it."""
    _settled(value, name)
    if not isinstance(value, types.Array):
        raise refuse(f"{name} is {_named(value)}; expected an array")
    if value.dtype not in (types.float32, types.float64):
        raise refuse(f"{name} has dtype {value.dtype}; expected float32 or float64 (others are taken from Python)")
    if value.layout != "C" or not value.aligned:
        raise refuse(f"{name} is not C-contiguous by its type; expected numpy.ascontiguousarray({name})")
    if value.ndim < 1:
        raise refuse(f"{name} has no axes; expected at least one")
    return value


def like(value: Any, name: str, x: types.Array) -> None:
    a = array(value, name)
    if a.dtype != x.dtype or a.ndim != x.ndim:
        raise refuse(f"{name} is {_named(a)}; expected the dtype and the number of axes of x, {_named(x)}")


def vector(value: Any, name: str, ndim: int) -> None:
    """A weight, bias or statistic; None passes."""
    if absent(value):
        return
    if isinstance(value, types.Optional):
        raise refuse(f"{name} may be None or an array, as only a run tells; expected one of them: write two calls")
    if not isinstance(value, types.Array) or value.dtype not in (types.float32, types.float64):
        raise refuse(f"{name} is {_named(value)}; expected an array of float32 or float64")
    if value.layout != "C" or not value.aligned:
        raise refuse(f"{name} is not C-contiguous by its type; expected numpy.ascontiguousarray({name})")
    if value.ndim != ndim:
        raise refuse(f"{name} has {_axes(value.ndim)}; expected {ndim}")


def statistic(value: Any, name: str, ndim: int) -> None:
    if absent(value):
        raise refuse(f"{name} is None; expected an array with {_axes(ndim)}")
    vector(value, name, ndim)


def written(value: Any, name: str) -> None:
    """An array that is written to, beside what is asked of its elements; None passes."""
    if not absent(value) and not value.mutable:
        raise refuse(f"{name} is read-only; expected an array that can be written to")


def target(out: Any, x: types.Array) -> None:
    if not absent(out):
        like(out, "out", x)
        written(out, "out")


def number(value: Any, name: str) -> None:
    _settled(value, name)
    value = value.value if isinstance(value, types.Omitted) else value
    if not isinstance(value, int | float | types.Integer | types.Float):
        raise refuse(f"{name} is {_named(value)}; expected a number")


def integer(value: Any, name: str) -> None:
    _settled(value, name)
    value = value.value if isinstance(value, types.Omitted) else value
    if not isinstance(value, int | types.Integer):
        raise refuse(f"{name} is {_named(value)}; expected an integer")


def known(value: Any) -> Any:
    """The value of an argument if it is known now; else None."""
    if isinstance(value, types.Omitted):
        return value.value
    return value.literal_value if isinstance(value, types.Literal) else None if isinstance(value, types.Type) else value


def trailing(value: Any, x: types.Array) -> int:
    """How many axes a normalized shape has."""
    if isinstance(value, types.Integer):
        return 1
    if not isinstance(value, types.BaseTuple) or not all(isinstance(n, types.Integer) for n in value):
        raise refuse(f"normalized_shape is {_named(value)}; expected an integer or a tuple of integers")
    if not 1 <= len(value) <= x.ndim:
        raise refuse(f"normalized_shape has {len(value)} lengths; expected 1 to {x.ndim}, the axes of x")
    return len(value)


def activation(value: Any) -> Any:
    """What makes of an activation, in compiled code, what kernels take."""
    if absent(value):
        return nothing
    _settled(value, "activation")
    if isinstance(value, types.BaseTuple) and len(value) == 2 and isinstance(value[1], types.Integer | types.Float):
        if isinstance(value[0], types.StringLiteral) and value[0].literal_value == "leaky_relu":
            return leaky_relu
        if isinstance(value[0], types.UnicodeType):
            return named_leaky_relu
    name = known(value)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        names = ", ".join(map(repr, ACTIVATIONS))
        raise refuse(f"activation is {_named(value)}; expected None, ('leaky_relu', slope), or as a literal: {names}")
    return constant(packed(ACTIVATIONS[name]()))


def channels(
    x: Any, vectors: dict[str, Any], settings: tuple[Any, Any, Any], left_out: dict[str, Any], out: Any
) -> None:
    """What calls of an array of channels have in common; vectors: a number a channel; settings: momentum, eps, axis."""
    x = array(x, "x")
    if x.ndim < 2:
        raise refuse("x has one axis; expected at least two, as in (N, C)")
    for name, value in vectors.items():
        vector(value, name, 1)
    number(settings[0], "momentum")
    number(settings[1], "eps")
    integer(settings[2], "axis")
    leave_out(**left_out)
    target(out, x)


def backward(dy: Any, x: Any, affine: tuple[Any, Any], ndim: int, left_out: dict[str, Any], out: Any) -> None:
    """What all backward calls have in common; ndim: of weight and bias."""
    x = array(x, "x")
    like(dy, "dy", x)
    vector(affine[0], "weight", ndim)
    vector(affine[1], "bias", ndim)
    leave_out(**left_out)
    target(out, x)


def flag(value: Any, name: str) -> bool:
    """The value of an argument, which is to be known now."""
    told = known(value)
    if not isinstance(told, bool | int) or told not in (0, 1):
        what = "a variable" if told is None and isinstance(value, types.Boolean | types.Integer) else _named(value)
        raise refuse(f"{name} is {what}; expected True or False in the source: write two calls and an if")
    return bool(told)


def first_channels(axis: Any) -> bool:
    """Whether nothing can lie between samples and channels."""
    return bool(known(axis) == 1)


def _axes(count: int) -> str:
    return "1 axis" if count == 1 else f"{count} axes"


def _named(value: Any) -> str:
    return repr(value.literal_value) if isinstance(value, types.Literal) else str(value)
