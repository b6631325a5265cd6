"""Arguments in, canonical arrays out.  Every error that a user can meet is worded here.

Nothing is written to any array before all arguments of a call have been accepted.
"""

import math
import operator
import sys

import numpy as np

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

# A supported dtype -> the dtype it is computed in.  bfloat16, which NumPy does not know, is added when first met.
COMPUTED_IN = {np.dtype(np.float16): _FLOAT32, _FLOAT32: _FLOAT32, _FLOAT64: _FLOAT64}


def array(x, name):
    """x as an ndarray of a supported float dtype, native, aligned, at least one axis."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, and its mask would be ignored; pass {name}.filled(...)")
    x = _asarray(x, name)
    if not _supported(x.dtype):
        if _supported(x.dtype.newbyteorder("=")):
            return x.astype(x.dtype.newbyteorder("="))
        raise TypeError(f"{name} has dtype {x.dtype}; expected float16, bfloat16 (of ml_dtypes), float32 or float64")
    return x if x.flags.aligned else x.copy()


def _supported(dtype):
    """Whether arrays of this dtype are computed with, in this byte order."""
    if dtype.name == "bfloat16" and dtype.itemsize == 2:
        COMPUTED_IN.setdefault(dtype, _FLOAT32)
    return dtype in COMPUTED_IN and dtype.isnative


def _is_float(dtype):
    return dtype.kind == "f" or _supported(dtype)


def _asarray(x, name):
    if type(x) is np.ndarray:
        return x
    if str(getattr(x, "dtype", None)) == "torch.bfloat16":
        return _from_torch(x, name)
    try:
        return np.asarray(x)
    except (ValueError, TypeError) as error:
        raise TypeError(f"{name} cannot be read as an array of floats: {error}") from None


def _from_torch(x, name):
    """A torch.bfloat16 tensor by its bits; torch has no NumPy dtype for it."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise TypeError(f'{name} is a torch.bfloat16 tensor, which needs ml_dtypes: pip install "fastbn[half]"') from None
    return x.detach().view(sys.modules["torch"].int16).numpy().view(bfloat16)


def rank(x, least, name="x"):
    """x has at least so many axes."""
    if x.ndim < least:
        raise ValueError(f"{name} has shape {x.shape}; expected at least {least} axes, as in (N, C)")


def axis(value, x, name="axis"):
    """The channel axis, counted from the front."""
    a = integer(value, name)
    if not -x.ndim <= a < x.ndim:
        raise ValueError(f"{name} is {value}; x of shape {x.shape} has axes {-x.ndim} to {x.ndim - 1}")
    return a % x.ndim


def sample_axis(value, x):
    """A channel axis where axis 0 counts samples."""
    a = axis(value, x)
    if a == 0:
        raise ValueError(f"axis is {value}, the samples' own axis of x with shape {x.shape}; expected 1 to {x.ndim - 1}")
    return a


def integer(value, name):
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected an integer") from None


def real(value, name):
    """A finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}; expected a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}; expected a finite number")
    return number


def eps(value):
    number = real(value, "eps")
    if number < 0:
        raise ValueError(f"eps is {value!r}; expected zero or a small positive number such as 1e-5")
    return number


def groups(value, channels):
    """The number of groups divides the channels."""
    n = integer(value, "num_groups")
    if n < 1 or channels % n:
        raise ValueError(f"num_groups is {n}; expected a divisor of the {channels} channels")
    return n


def normalized_shape(value, x):
    """The trailing shape as a tuple; x ends in it."""
    try:
        shape = tuple(integer(v, "normalized_shape") for v in value)
    except TypeError:
        shape = (integer(value, "normalized_shape"),)
    if not shape:
        raise ValueError("normalized_shape is empty; expected the lengths of the trailing axes to normalize over")
    if x.shape[x.ndim - len(shape) :] != shape or len(shape) > x.ndim:
        raise ValueError(f"normalized_shape is {shape}; x has shape {x.shape}, which does not end in it")
    return shape


def vector(value, name, shape, dtype):
    """A weight, bias or statistic of exactly this shape, contiguous in `dtype`; None stays None."""
    if value is None:
        return None
    v = _asarray(value, name)
    if not _is_float(v.dtype):
        raise TypeError(f"{name} has dtype {v.dtype}; expected a float dtype")
    if v.shape != shape:
        raise ValueError(f"{name} has shape {v.shape}; expected {shape}")
    return np.ascontiguousarray(v, dtype)


def running(value, name, channels):
    """A running statistic that is about to be updated in place; None stays None."""
    if value is None:
        return
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a NumPy array, which is updated in place")
    if not _is_float(value.dtype):
        raise TypeError(f"{name} has dtype {value.dtype}; expected a float dtype")
    if value.shape != (channels,):
        raise ValueError(f"{name} has shape {value.shape}; expected {(channels,)}, one number a channel")
    if not value.flags.writeable:
        raise ValueError(f"{name} is read-only; training updates it in place")


def same_shape(value, name, x, other="x"):
    if value.shape != x.shape:
        raise ValueError(f"{name} has shape {value.shape}; expected {x.shape}, the shape of {other}")
    if value.dtype != x.dtype:
        raise TypeError(f"{name} has dtype {value.dtype}; expected {x.dtype}, the dtype of {other}")


def out(value, x, *inputs):
    """Where the result goes: None, or an array like x that is one of the inputs or shares no memory with any."""
    if value is None:
        return
    if not isinstance(value, np.ndarray):
        raise TypeError(f"out is a {type(value).__name__}; expected a NumPy array")
    if value.shape != x.shape:
        raise ValueError(f"out has shape {value.shape}; expected {x.shape}, the shape of x")
    if value.dtype != x.dtype:
        raise TypeError(f"out has dtype {value.dtype}; expected {x.dtype}, the dtype of x")
    if not value.flags.writeable:
        raise ValueError("out is read-only")
    if not value.flags.aligned:
        raise ValueError("out is misaligned in memory; expected an ordinary array")
    if any(extent > 1 and stride == 0 for extent, stride in zip(value.shape, value.strides, strict=True)):
        raise ValueError("out overlaps itself (a broadcast array); expected an ordinary array")
    for given in inputs:
        if isinstance(given, np.ndarray) and np.may_share_memory(value, given) and not _same_memory(value, given):
            if np.shares_memory(value, given):
                raise ValueError("out overlaps an input without being it; expected x itself or memory of its own")


def _same_memory(a, b):
    return (
        a.shape == b.shape
        and a.strides == b.strides
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    )
