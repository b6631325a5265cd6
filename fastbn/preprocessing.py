"""Data before a network sees it: integers, booleans or floats normalized by given statistics, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbn._scaling import Numbers, apply, by_definition
from fastbn.engine import arguments, memory

__all__ = ["denormalize", "normalize"]

Array = NDArray[Any]

_LARGE = 1e150  # of std, beside which what a quarter of a number loses is nothing
_LAYOUTS = ("channels_first", "channels_last")


def normalize(
    x: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    *,
    axis: int | tuple[int, ...] | None = None,
    scale: float | None = None,
    dtype: DTypeLike = np.float32,
    layout: str | None = None,
    out: Array | None = None,
) -> Array:
    """Normalize data by given statistics: (x * scale - mean) / std.

    Parameters
    ----------
    x : array_like
        Integers, booleans, or floats: float16, bfloat16, float32 or float64.
    mean, std : array_like of float
        A number, or an array of the lengths of x along `axis`.  std is greater than zero.
    axis : int or tuple of int, optional
        The axes of x along which mean and std change, as of `Moments`; required unless both are numbers.
    scale : float, optional
        What x is multiplied by first, such as 1/255 for pixels from 0 to 255; not zero.
    dtype : dtype_like
        That of the result: float16, bfloat16, float32 or float64.
    layout : {"channels_first", "channels_last"}, optional
        Where `axis`, one axis, lies in the result: at 1 or at the end, axis 0 being the batch.  None: as in x.
    out : ndarray, optional
        Where the result goes, of its shape and dtype; it may be x.

    Returns
    -------
    y : ndarray of dtype
        The shape of x, its channels moved where `layout` tells.

    Raises
    ------
    TypeError
        If a dtype is not as expected, or x is a masked array.
    ValueError
        If mean and std do not have the shape that `axis` tells, a number is not finite, std is not greater than zero,
        or `out` does not have the shape of the result or overlaps x otherwise than by being x.

    Notes
    -----
    Computed in float32 where x has at most 16 bits or is float32 and the result is not float64, and in float64
    otherwise, as (x - hi) * a + t: a is scale / std, hi is mean / scale rounded to the type computed in, and t holds
    what that left out.  Error: 3 units in the last place of the largest result, in the type computed in, and one
    rounding to dtype.  64-bit integers are rounded to float64 first.  The bits do not depend on the number of threads,
    on the processor, or on how x lies in memory.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> image = np.array([[[0, 51, 255], [255, 51, 0]]], np.uint8)  # height, width, channels
    >>> y = fastbn.normalize(image[None], [0.5, 0.2, 0.5], [0.5, 0.1, 0.25], axis=-1, scale=1 / 255)
    >>> y.round(3)
    array([[[[-1.,  0.,  2.],
             [ 1.,  0., -2.]]]], dtype=float32)
    >>> fastbn.normalize(image[None], 127.5, 127.5, axis=-1, layout="channels_first").shape
    (1, 3, 1, 2)
    """
    data = arguments.numbers(arguments.ndarray(x, "x"), "x")
    target = _float_dtype(dtype)
    axes, groups = _groups(data, axis, mean, std)
    factor = _factor(scale)
    m, s = _statistics(mean, "mean", groups), _deviations(std, groups)
    y, moved = _result(data, axes, layout, target, out, "x")
    with np.errstate(all="ignore"):
        numbers = Numbers(m / factor, factor / s, np.zeros(s.shape))
        if numbers.fit():
            apply(data, moved, axes or (), numbers, _narrow(data) and target != np.float64)
        else:
            q, m, s = _quarters(m, s)
            by_definition(data, moved, axes or (), lambda v, k: (v * q[k] * factor - m[k]) / s[k])
    return y


def denormalize(
    y: ArrayLike,
    mean: ArrayLike,
    std: ArrayLike,
    *,
    axis: int | tuple[int, ...] | None = None,
    scale: float | None = None,
    dtype: DTypeLike | None = None,
    layout: str | None = None,
    out: Array | None = None,
) -> Array:
    """Take `normalize` back: (y * std + mean) / scale.

    Parameters
    ----------
    y : array_like
        float16, bfloat16, float32 or float64.
    mean, std, axis, scale, layout, out
        As for `normalize`; `axis` is one of y.
    dtype : dtype_like, optional
        That of the result, of floats or integers; None: the dtype of y.

    Returns
    -------
    x : ndarray of dtype
        The shape of y, its channels moved where `layout` tells.

    Raises
    ------
    TypeError, ValueError
        As `normalize`; also if y holds NaN and the result is of integers.

    Notes
    -----
    To integers, values are rounded to the nearest, halves to the even one, and those that the type does not hold become
    its least or largest.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> fastbn.denormalize([[-1.0, 0.0, 0.2, 9.0]], 127.5, 127.5, dtype=np.uint8)
    array([[  0, 128, 153, 255]], dtype=uint8)
    """
    data = arguments.array(y, "y")
    target = data.dtype if dtype is None else _any_dtype(dtype)
    axes, groups = _groups(data, axis, mean, std, "y")
    factor = _factor(scale)
    m, s = _statistics(mean, "mean", groups), _deviations(std, groups)
    if target.kind in "iu" and data.size and np.isnan(data.min()):
        raise ValueError(f"y holds NaN; expected numbers, as the result is of {target}")
    x, moved = _result(data, axes, layout, target, out, "y")
    with np.errstate(all="ignore"):
        numbers = Numbers(np.zeros(s.shape), s / factor, m / factor)
        q, m, s = _quarters(m, s)

        def back(v: Array, k: Any) -> Array:
            return (v * s[k] + m[k]) / (factor * q[k])

        if target.kind in "iu" and target.itemsize == 8:
            by_definition(data, moved, axes or (), lambda v, k: _rounded(back(v, k), target))
        elif numbers.fit():
            apply(data, moved, axes or (), numbers, _narrow(data) and target.kind not in "iu" and target != np.float64)
        else:
            by_definition(data, moved, axes or (), back)
    return x


# Arguments ------------------------------------------------------------------------------------------------------------


def _any_dtype(value: Any) -> np.dtype[Any]:
    try:
        dtype = np.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or value is None:  # to NumPy, None is float64
        raise TypeError(f"dtype is {value!r}; expected a dtype")
    if dtype.kind in "iu":
        return dtype.newbyteorder("=")
    if not arguments._supported(dtype):
        raise TypeError(f"dtype is {dtype}; expected float16, bfloat16, float32, float64 or integers")
    return dtype


def _float_dtype(value: Any) -> np.dtype[Any]:
    dtype = _any_dtype(value)
    if dtype.kind in "iu":
        raise TypeError(f"dtype is {dtype}; expected float16, bfloat16, float32 or float64")
    return dtype


def _groups(
    x: Array, axis: Any, mean: Any, std: Any, name: str = "x"
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """The axes along which the statistics change, sorted, and their lengths; None where they were left out."""
    if axis is None:
        for value, which in ((mean, "mean"), (std, "std")):
            if arguments.ndarray(value, which).ndim:
                raise TypeError(
                    f"axis is missing; expected the axis of {name}, of shape {x.shape}, along which {which}, of shape "
                    f"{np.shape(value)}, changes"
                )
        return None, ()
    try:
        given = tuple(axis)
    except TypeError:
        given = (axis,)
    axes = tuple(sorted(arguments.axis(a, x, name) for a in given))
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis is {given}, which names an axis of {name}, of shape {x.shape}, twice")
    return axes, tuple(x.shape[a] for a in axes)


def _statistics(value: Any, name: str, shape: tuple[int, ...]) -> Array:
    """Finite float64 numbers, a number for all groups included."""
    v = arguments.ndarray(value, name)
    if v.dtype.kind not in "iu" and not arguments._is_float(v.dtype):
        raise TypeError(f"{name} has dtype {v.dtype}; expected numbers")
    if v.shape not in ((), shape):
        raise ValueError(f"{name} has shape {v.shape}; expected {shape}, the lengths along axis, or a number")
    v = np.broadcast_to(v.astype(np.float64), shape)
    if not np.isfinite(v).all():
        raise ValueError(f"{name} holds NaN or infinity; expected finite numbers")
    return v


def _deviations(value: Any, shape: tuple[int, ...]) -> Array:
    std = _statistics(value, "std", shape)
    if not (std > 0).all():
        raise ValueError(
            f"std is {float(std.min())} at least once; expected numbers greater than 0 (1 for what is constant)"
        )
    return std


def _quarters(mean: Array, std: Array) -> tuple[Array, Array, Array]:
    """1, or 1/4 where numbers are so large that their differences may not fit float64; mean and std times that."""
    q = np.where(std > _LARGE, 0.25, 1.0)
    return q, mean * q, std * q


def _factor(value: Any) -> float:
    factor = 1.0 if value is None else arguments.real(value, "scale")
    if factor == 0:
        raise ValueError("scale is 0; expected another number, such as 1/255, or None")
    return factor


def _result(
    x: Array, axes: tuple[int, ...] | None, layout: Any, dtype: np.dtype[Any], out: Any, name: str
) -> tuple[Array, Array]:
    """Where the result goes, as the caller sees it, and with its axes in the order of x's."""
    source, place = 0, 0
    if layout is not None:
        if not isinstance(layout, str) or layout not in _LAYOUTS:
            raise ValueError(f"layout is {layout!r}; expected 'channels_first', 'channels_last' or None")
        if axes is None or len(axes) != 1 or axes[0] == 0:
            raise ValueError(f"layout is {layout!r}; expected axis to be one axis of {name}, not 0, that of the batch")
        source, place = axes[0], 1 if layout == "channels_first" else x.ndim - 1
    order = list(range(x.ndim))
    order.insert(place, order.pop(source)) if source != place else None
    shape = tuple(x.shape[a] for a in order)
    inverse = sorted(range(x.ndim), key=order.__getitem__)
    if out is None:
        y = memory.empty(shape, dtype)
    else:
        y = out
        like = np.broadcast_to(np.empty((), dtype), shape)
        as_is = source == place and x.dtype == dtype  # so that the result may go where x is
        arguments.out(y, (like, x) if as_is else (like,), *(() if as_is else (x,)), of="the result")
    return y, y.transpose(inverse)


def _narrow(x: Array) -> bool:
    """Whether float32 holds every element of x."""
    return x.itemsize <= 2 or x.dtype == np.float32 or x.dtype == bool


def _rounded(values: Array, dtype: np.dtype[Any]) -> Array:
    """Integers of 64 bits, of which float64 does not hold the largest."""
    whole, most = np.rint(values), np.iinfo(dtype).max
    inside = np.clip(whole, float(np.iinfo(dtype).min), np.nextafter(float(most), 0)).astype(dtype)
    return np.where(whole >= float(most), dtype.type(most), inside)
