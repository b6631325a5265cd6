"""Arguments in, canonical arrays out.  Every error that a user can meet is worded here.

Nothing is written to any array before all arguments of a call have been accepted.
"""

import math
import operator
import sys
from contextlib import suppress
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn._quiet import cast
from fastbn.kernels import activations

Array = NDArray[Any]
DType = np.dtype[Any]
Shape = tuple[int, ...]

ACTIVATIONS: dict[str, type] = {
    "relu": activations.Relu,
    "leaky_relu": activations.LeakyRelu,
    "sigmoid": activations.Sigmoid,
    "silu": activations.Silu,
    "gelu": activations.Gelu,
    "gelu_tanh": activations.GeluTanh,
}

_SCALARS = {float, int, bool, complex, str, type(None)}  # what lists hold that need no second look

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

# A supported dtype -> the dtype it is computed in.  bfloat16, which NumPy does not know, is added when first met.
COMPUTED_IN: dict[DType, DType] = {np.dtype(np.float16): _FLOAT32, _FLOAT32: _FLOAT32, _FLOAT64: _FLOAT64}


def array(x: Any, name: str) -> Array:
    """x as an ndarray of a supported float dtype, native, aligned, at least one axis."""
    x = ndarray(x, name)
    if not _supported(x.dtype):
        if _supported(x.dtype.newbyteorder("=")):
            return x.astype(x.dtype.newbyteorder("="))
        raise TypeError(f"{name} has dtype {x.dtype}; expected float16, bfloat16 (of ml_dtypes), float32 or float64")
    return x if x.flags.aligned else x.copy()


def numbers(x: Array, name: str) -> Array:
    """x as an ndarray of supported floats, integers or booleans, native and aligned."""
    x = x.astype(number_dtype(x.dtype, name), copy=False)
    return x if x.flags.aligned else x.copy()


def number_dtype(dtype: DType, name: str) -> DType:
    """The native dtype of what `numbers` takes."""
    native = dtype.newbyteorder("=")
    if native.kind not in "iub" and not _supported(native):
        raise TypeError(
            f"{name} has dtype {dtype}; expected float16, bfloat16 (of ml_dtypes), float32, float64, integers or bool"
        )
    return native


def _supported(dtype: DType) -> bool:
    """Whether arrays of this dtype are computed with, in this byte order."""
    if dtype not in COMPUTED_IN and dtype.name == "bfloat16" and dtype.itemsize == 2:
        COMPUTED_IN[dtype] = _FLOAT32
    return dtype in COMPUTED_IN and dtype.isnative


def _is_float(dtype: DType) -> bool:
    return dtype.kind == "f" or _supported(dtype)


def ndarray(x: Any, name: str) -> Array:
    """x as an ndarray of any dtype: the one door for arrays, which loses neither a mask nor a gradient silently."""
    if type(x) is np.ndarray:
        return x
    values = anyarray(x, name)
    _no_mask(values, name)
    return np.asarray(values)


def unmasked(x: Any, name: str) -> tuple[Array, Array | None]:
    """x as `ndarray` reads it, and where a masked one counts (of its shape, bool); None where all of it does."""
    values = anyarray(x, name)
    counted = None
    if isinstance(values, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(values)
        counted, values = (~mask if mask.any() else None), values.data
    _no_mask(values, name)
    return np.asarray(values), counted


def anyarray(x: Any, name: str) -> Array:
    """x as an array or of a subclass of it, which tells whether there is a mask."""
    if isinstance(x, np.ndarray):
        return x
    if x is None:
        raise TypeError(f"{name} is None; expected an array of floats")
    if isinstance(x, list | tuple):
        x = _parts_read(x, name)
    elif getattr(x, "requires_grad", False) is True:
        raise TypeError(f"{name} is a tensor that requires a gradient, which would be lost; expected {name}.detach()")
    try:
        if isinstance(getattr(x, "_meta", None), np.ma.MaskedArray):
            x = x.compute()  # of Dask, whose __array__ drops the masks of its chunks
        return _from_torch(x, name) if _is_torch_bfloat16(x) else np.asanyarray(x)
    except ImportError as error:
        raise TypeError(str(error)) from None
    except Exception as error:  # __array__ may raise what it likes: torch, RuntimeError
        raise TypeError(f"{name} cannot be read as an array of floats: {error}") from None


def _parts_read(x: Any, name: str) -> Any:
    """A list with each array in it read as `ndarray` does; NumPy would make one array of them, without their masks."""
    if isinstance(x, list | tuple):
        return x if set(map(type, x)) <= _SCALARS else [_parts_read(part, name) for part in x]
    return x if type(x) in _SCALARS or isinstance(x, np.generic) else ndarray(x, name)


def _no_mask(x: Array, name: str, instead: str = "filled(...)") -> None:
    """Other packages' masked arrays are subclasses with a mask too, such as Astropy's."""
    if isinstance(x, np.ma.MaskedArray) or (type(x) is not np.ndarray and hasattr(type(x), "mask")):
        raise TypeError(f"{name} is a masked array, and its mask would be ignored; expected {name}.{instead}")


def refuse_mask(value: Any, name: str) -> None:
    """Refuse a masked array where another package reads arrays, which drops masks; all else is left to that package."""
    if isinstance(value, np.ndarray):
        _no_mask(value, name)


def _is_torch_bfloat16(x: Any) -> bool:
    return str(getattr(x, "dtype", None)) == "torch.bfloat16"


def _from_torch(x: Any, name: str) -> Array:
    """A torch.bfloat16 tensor by its bits; torch has no NumPy dtype for it."""
    bfloat16 = bfloat16_dtype(f"{name} is a torch.bfloat16 tensor, which is read as an array of ml_dtypes")
    values: Array = x.view(sys.modules["torch"].int16).numpy()
    return values.view(bfloat16)


def bfloat16_dtype(purpose: str) -> DType:
    """bfloat16 of ml_dtypes; without it, an error that says for what it is wanted."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise ImportError(f'{purpose}: pip install "fastbn[half]"') from None
    return np.dtype(bfloat16)


def parameter_dtype(value: Any) -> DType:
    """The dtype of a layer's parameters: one of floats that NumPy computes with, or bfloat16."""
    expected = "expected float16, bfloat16 (of ml_dtypes), float32 or float64"
    if isinstance(value, str) and value == "bfloat16":
        return bfloat16_dtype("dtype 'bfloat16' is a type of ml_dtypes")
    if value is None:  # which would mean float64 to NumPy
        raise TypeError(f"dtype is None; {expected}")
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"dtype is {value!r}; {expected}") from None
    if not (issubclass(dtype.type, np.floating) or _supported(dtype)):
        raise TypeError(f"dtype is {dtype}; {expected}")
    return dtype


def rank(x: Array, least: int, name: str = "x") -> None:
    """x has at least so many axes."""
    if x.ndim < least:
        raise ValueError(f"{name} has shape {x.shape}; expected at least {least} axes, as in (N, C)")


def axis(value: Any, x: Array, of: str = "x") -> int:
    """The channel axis, counted from the front; of: what the caller calls x."""
    a = integer(value, "axis")
    if x.ndim == 0:
        raise ValueError(f"{of} has shape (); expected at least one axis")
    if not -x.ndim <= a < x.ndim:
        told = f"{-x.ndim} to {x.ndim - 1}, an axis of {of}, which has shape {x.shape}"
        raise ValueError(f"axis is {value}; expected {told}")
    return a % x.ndim


def sample_axis(value: Any, x: Array, of: str = "x") -> int:
    """A channel axis where axis 0 counts samples; of: what the caller calls x."""
    a = axis(value, x, of)
    if a == 0:
        told = f"a channel axis of {of}, of shape {x.shape}"
        raise ValueError(f"axis is {value}, the axis of the samples; expected {told}")
    return a


def integer(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected an integer") from None


def flag(value: Any, name: str) -> bool:
    """True or false, of anything that equals one of them: 0 and 1 do, and no text, which is true whatever it says."""
    if value is True or value is False:
        return value
    with suppress(Exception):  # of whatever kind: arrays of several elements, for one, say neither
        if value == 0 or value == 1:
            return bool(value)
    raise TypeError(f"{name} is {value!r}; expected True or False")


def real(value: Any, name: str) -> float:
    """A finite number."""
    if getattr(getattr(value, "dtype", None), "kind", "") == "c":  # which float() takes without its imaginary part
        raise TypeError(f"{name} is {value!r}; expected a real number")
    try:
        finite = math.isfinite(value)  # unlike float(), it reads no strings
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; expected a number") from None
    except OverflowError:
        finite = False
    if not finite:
        raise ValueError(f"{name} is {value!r}; expected a finite number")
    return float(value)


def eps(value: Any, zero: bool = True) -> float:
    """zero: whether it may be zero."""
    number = real(value, "eps")
    if number < 0 or (number == 0 and not zero):
        raise ValueError(f"eps is {value!r}; expected {'zero or ' * zero}a small positive number such as 1e-5")
    return number


def groups(value: Any, channels: int) -> int:
    """The number of groups divides the channels."""
    n = integer(value, "num_groups")
    if n != channels and (n < 1 or channels % n):
        raise ValueError(f"num_groups is {n}; expected a divisor of the {channels} channels")
    return n


def groups_of(rstd: Any, channels: int) -> int:
    """The number of groups that saved statistics tell."""
    shape = ndarray(rstd, "rstd").shape
    if len(shape) != 2 or (shape[1] != channels and (shape[1] < 1 or channels % shape[1])):
        raise ValueError(f"rstd has shape {shape}; expected (N, G), where G divides the {channels} channels")
    return int(shape[1])


def lengths(value: Any) -> int | Shape:
    """A normalized shape, made of int alone: as a key, 5.0 would pass for 5."""
    try:
        return tuple(integer(v, "normalized_shape") for v in value)
    except TypeError:
        return integer(value, "normalized_shape")


def normalized_shape(value: int | Shape, x: Array) -> Shape:
    """The trailing shape as a tuple; x ends in it."""
    shape = value if isinstance(value, tuple) else (value,)
    if not shape:
        raise ValueError("normalized_shape is empty; expected the lengths of the trailing axes to normalize over")
    if x.shape[x.ndim - len(shape) :] != shape or len(shape) > x.ndim:
        raise ValueError(f"normalized_shape is {shape}; x has shape {x.shape}, which does not end in it")
    return shape


def vector(value: Any, name: str, shape: Shape, dtype: DTypeLike | None = None, why: str = "") -> Array | None:
    """A weight, bias or statistic of exactly this shape, contiguous in `dtype` (None: its own); None stays None.

    why: where the shape comes from, as an error tells it.
    """
    if value is None:
        return None
    v = ndarray(value, name)
    if not _is_float(v.dtype):
        raise TypeError(f"{name} has dtype {v.dtype}; expected a float dtype")
    if v.shape != shape:
        raise ValueError(f"{name} has shape {v.shape}; expected {shape}{why}")
    return v if dtype is None else np.asarray(cast(v, dtype), order="C")


def float64_statistic(value: Any, name: str, shape: Shape) -> Array:
    """A statistic that a call cannot do without, in float64."""
    if value is None:
        raise ValueError(f"{name} is None; expected an array of shape {shape}")
    return vector(value, name, shape, np.float64)  # type: ignore[return-value]  # None only for None


def statistic(value: Any, name: str, shape: Shape) -> Array:
    """A statistic that a call cannot do without, in float32 where it is, else in float64."""
    if type(value) is np.ndarray and value.dtype == np.float32 and value.shape == shape:
        return np.asarray(value, order="C")
    return float64_statistic(value, name, shape)


def trailing(value: Any, name: str, x: Array) -> Shape:
    """The lengths of the normalized axes of x, which saved statistics lack."""
    saved = ndarray(value, name)
    if saved.ndim >= x.ndim:
        raise ValueError(f"{name} has shape {saved.shape}; expected the leading axes of x, which has shape {x.shape}")
    return x.shape[saved.ndim :]


def running(mean: Any, var: Any, shape: Shape, *inputs: Any) -> None:
    """Running statistics that are about to be updated in place."""
    for value, name in ((mean, "running_mean"), (var, "running_var")):
        if value is None:
            continue
        if not isinstance(value, np.ndarray):
            given = type(value).__name__
            raise TypeError(f"{name} is of type {given}; expected a NumPy array, which is updated in place")
        _no_mask(value, name, "data")  # what is written to a copy would be lost
        if not _is_float(value.dtype):
            raise TypeError(f"{name} has dtype {value.dtype}; expected a float dtype")
        if value.shape != shape:
            raise ValueError(f"{name} has shape {value.shape}; expected {shape}, one number a channel")
        if not value.flags.writeable:
            raise ValueError(f"{name} is read-only; expected an array that training can update in place")
        _no_self_overlap(value, name)
        _no_overlap(value, name, *inputs)
    if mean is not None and overlap(mean, var):
        raise ValueError("running_mean overlaps running_var; expected memory of its own")


def gradient(dy: Any, x: Any, name: str = "x") -> tuple[Array, Array]:
    """dy and x, of one shape and dtype; name: what the caller calls x."""
    x = array(x, name)
    return like(dy, "dy", x, name), x


def like(value: Any, name: str, x: Array, of: str = "x") -> Array:
    """An array of the shape and dtype of x, which the caller calls `of`."""
    a = array(value, name)
    if a.shape != x.shape:
        raise ValueError(f"{name} has shape {a.shape}; expected {x.shape}, the shape of {of}")
    if a.dtype != x.dtype:
        raise TypeError(f"{name} has dtype {a.dtype}; expected {x.dtype}, the dtype of {of}")
    return a


def activation(value: Any) -> Any:
    """An activation as the kernels take it; None stays None."""
    if value is None:
        return None
    name, *parameters = value if isinstance(value, tuple) and value else (value,)
    if not isinstance(name, str):
        raise TypeError(f"activation is {value!r}; expected a name, ('leaky_relu', slope) or None")
    if name not in ACTIVATIONS:
        raise ValueError(f"activation is {value!r}; expected one of {', '.join(map(repr, ACTIVATIONS))}, or None")
    if parameters and (name != "leaky_relu" or len(parameters) > 1):
        raise ValueError(f"activation is {value!r}; expected a number after 'leaky_relu' only, its slope")
    # 0.0 for -0.0, which is equal to it as a setting of calls, and so has to give the same bits
    return ACTIVATIONS[name](*(real(p, "the slope of 'leaky_relu'") + 0.0 for p in parameters))


def where(value: Any, x: Array) -> Array | None:
    """A mask with as many axes as x, each as long or of length one; None stays None."""
    if value is None:
        return None
    mask = ndarray(value, "where")
    if mask.dtype != bool:
        raise TypeError(f"where has dtype {mask.dtype}; expected bool")
    own = (1,) * (x.ndim - mask.ndim) + mask.shape
    if len(own) > x.ndim or any(n not in (1, full) for n, full in zip(own, x.shape, strict=True)):
        raise ValueError(f"where has shape {mask.shape}; expected one that broadcasts to {x.shape}, the shape of x")
    return mask if mask.shape == own else mask.reshape(own)


def extras(x: Array, function: Any, mask: Any, residual: Any) -> tuple[Any, Array | None, Array | None]:
    """The arguments activation, where and residual."""
    if function is None and mask is None and residual is None:
        return None, None, None
    mask = where(mask, x)
    added = None if residual is None else like(residual, "residual", x)
    return activation(function), mask, added


class Extras(NamedTuple):
    """What a call may ask for beside the normalization; all checked."""

    residual: Array | None = None  # like x
    activation: Any = None
    where: Array | None = None  # of bool, as many axes as x, each as long or of length one
    counts: Array | None = None  # in the shape of the statistics: how many elements `where` leaves


NO_EXTRAS = Extras()


def extras_with_counts(
    x: Array, function: Any, mask: Any, residual: Any, kept: tuple[int, ...], groups: int = 0
) -> Extras:
    """The arguments activation, where and residual; groups: into how many the last of the kept axes is split."""
    if function is None and mask is None and residual is None:
        return NO_EXTRAS
    mask = where(mask, x)
    return Extras(
        None if residual is None else like(residual, "residual", x),
        activation(function),
        mask,
        None if mask is None else counts(mask, x.shape, kept, groups),
    )


def counts(mask: Array, shape: tuple[int, ...], kept: tuple[int, ...], groups: int) -> Array:
    """How many elements of every group the mask leaves."""
    own, full = list(mask.shape), list(shape)
    if groups:
        axis = kept[-1]
        split = [groups, shape[axis] // groups]
        own[axis : axis + 1] = split if own[axis] == shape[axis] else [1, 1]
        full[axis : axis + 1] = split
    reduced = tuple(a for a in range(len(full)) if a not in kept)
    n = mask.reshape(own).sum(axis=reduced, dtype=np.float64, keepdims=True)
    n *= prod(full[a] for a in reduced if own[a] == 1)
    return np.broadcast_to(n, [1 if a in reduced else full[a] for a in range(len(full))]).reshape(
        [full[a] for a in kept]
    )


def either(x: Any, y: Any) -> Any:
    """What backward starts from."""
    if y is None:
        return x
    if x is not None:
        raise ValueError("both x and y are given; expected x to be None where backward starts from y")
    return y


def out(value: Any, like: tuple[Any, ...], *inputs: Any, of: str = "x") -> None:
    """Where the result goes: None, or an array like x that is one of `like` or shares no memory with any input.

    of: what the caller calls x.
    """
    out_like(value, like[0], of)
    if value is not None:
        _no_overlap(value, "out", *(given for given in like if not same_memory(value, given)), *inputs)


def out_like(value: Any, x: Array, of: str = "x") -> None:
    """Where the result goes: None, or an array like x that can be written to."""
    if value is None:
        return
    if not isinstance(value, np.ndarray):
        raise TypeError(f"out is of type {type(value).__name__}; expected a NumPy array")
    _no_mask(value, "out", "data")
    if value.shape != x.shape:
        raise ValueError(f"out has shape {value.shape}; expected {x.shape}, the shape of {of}")
    if value.dtype != x.dtype:
        raise TypeError(f"out has dtype {value.dtype}; expected {x.dtype}, the dtype of {of}")
    if not value.flags.writeable:
        raise ValueError("out is read-only; expected an array that can be written to")
    if not value.flags.aligned:
        raise ValueError("out is misaligned in memory; expected an ordinary array, as numpy.empty makes it")
    _no_self_overlap(value, "out")


def _no_self_overlap(value: Array, name: str) -> None:
    """From the fastest axis to the slowest, each steps over all of those before it."""
    extent = 1
    for stride, length in sorted((abs(s), n) for s, n in zip(value.strides, value.shape, strict=True) if n > 1):
        if stride < extent and value.size:
            raise ValueError(f"{name} overlaps itself (a broadcast array); expected memory for every element")
        extent = stride * length


def _no_overlap(value: Array, name: str, *inputs: Any) -> None:
    for given in inputs:
        if overlap(value, given):
            raise ValueError(f"{name} overlaps another argument; expected memory of its own")


def overlap(a: Array, b: Any) -> bool:
    """Whether b is an array that has memory in common with a."""
    return isinstance(b, np.ndarray) and np.may_share_memory(a, b) and np.shares_memory(a, b)


def same_memory(a: Array, b: Any) -> bool:
    """Whether both are the same elements."""
    return a is b or (
        isinstance(b, np.ndarray)
        and a.shape == b.shape
        and a.strides == b.strides
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    )
