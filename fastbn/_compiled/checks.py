# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""What is checked when a compiled call runs, before anything is written: everything that types do not say."""

import math

import numpy as np
from numba.extending import overload

from fastbn._compiled import INLINED
from fastbn._compiled.values import small


@small
def check_eps(eps):
    if not (math.isfinite(eps) and eps >= 0.0):
        raise ValueError("eps is negative or not finite; expected zero or a small positive number such as 1e-5")


def _shape_check(message):
    """A function that raises where there is an array that has not a given shape; the message is known beforehand.

    One that is not would be put together in memory that the function asks for whenever it is called.
    """

    @small
    def check(values, shape):
        if values is not None:  # noqa: SIM102 - Numba leaves out a branch on None alone
            if values.shape != shape:
                raise ValueError(message)

    return check


check_weight, check_bias, check_mean, check_var, _check_saved = (
    _shape_check(message)
    for message in (
        "weight has another shape; expected that of the normalized axes, or one number a channel",
        "bias has another shape; expected that of the normalized axes, or one number a channel",
        "running_mean has another shape; expected one number a channel",
        "running_var has another shape; expected one number a channel",
        "mean or rstd has another shape; expected what the forward returned",
    )
)


def check_saved(values, shape):
    """Raise unless saved statistics have this shape."""


@overload(check_saved, jit_options=INLINED)
def _saved(values, shape):
    if len(shape) == 0:  # nor has `values` axes, by its type
        return lambda values, shape: None
    return lambda values, shape: _check_saved(values, shape)


@small
def _begin(array):
    return np.int64(array.ctypes.data)


@small
def _meet(a, b):
    """Whether two contiguous arrays have memory in common."""
    if a.size == 0 or b.size == 0:
        return False
    return _begin(a) < _begin(b) + b.size * b.itemsize and _begin(b) < _begin(a) + a.size * a.itemsize


def _apart_check(message):
    """A function that raises where two arrays have memory in common; see `_shape_check`."""

    @small
    def check(written, other):
        if written is not None and other is not None:  # noqa: SIM102 - as above
            if _meet(written, other):
                raise ValueError(message)

    return check


check_apart, check_running_apart, _check_apart_but_same = (
    _apart_check(message)
    for message in (
        "out overlaps another argument; expected memory of its own",
        "running_mean or running_var overlaps another argument; expected memory of its own",
        "out overlaps x or dy, without being the same; expected memory of its own, or x or dy itself",
    )
)


@small
def check_apart_or_same(out, other):
    if out is not None:  # noqa: SIM102 - as above
        if _begin(out) != _begin(other):
            _check_apart_but_same(out, other)


@small
def target(out, x):
    """Where the result goes: `out`, which may be x itself."""
    if out is None:
        return np.empty(x.shape, x.dtype)
    if out.shape != x.shape:
        raise ValueError("out has another shape than x; expected the shape of x")
    if _begin(out) % out.itemsize != 0:
        raise ValueError("out is misaligned in memory; expected an ordinary array, as numpy.empty makes it")
    check_apart_or_same(out, x)
    return out


@small
def last_length(x, normalized_shape):
    """Of a row, which is the last axis."""
    if x.shape[x.ndim - 1] != normalized_shape:
        raise ValueError("normalized_shape is not how the shape of x ends; expected the length of its last axis")
    return x.shape[x.ndim - 1]


@small
def last_lengths(x, normalized_shape):
    """Of a row, which is the last axes."""
    first, n = x.ndim - len(normalized_shape), 1
    for a in range(len(normalized_shape)):
        if x.shape[first + a] != normalized_shape[a]:
            raise ValueError("normalized_shape is not how the shape of x ends; expected the lengths of its last axes")
        n *= x.shape[first + a]
    return n


@small
def prepared_rows(x, shape, weight, bias, eps, out):
    """The result's memory, after everything has been checked; shape: of a weight."""
    check_eps(eps)
    check_weight(weight, shape)
    check_bias(bias, shape)
    check_apart(out, weight)
    check_apart(out, bias)
    return target(out, x)


@small
def prepared_channels(x, channel, affine, running, eps, momentum, out):
    """As `prepared_rows`; affine: weight and bias."""
    check_eps(eps)
    if not math.isfinite(momentum):
        raise ValueError("momentum is not finite; expected a finite number")
    shape = (x.shape[channel],)
    check_weight(affine[0], shape)
    check_bias(affine[1], shape)
    check_mean(running[0], shape)
    check_var(running[1], shape)
    check_apart(out, affine[0])
    check_apart(out, affine[1])
    check_apart(out, running[0])
    check_apart(out, running[1])
    return target(out, x)


@small
def prepared_backward(dy, x, shape, weight, bias, mean, rstd, out):
    """The memory of dx, which may be that of x or dy; shape: of a weight."""
    if dy.shape != x.shape:
        raise ValueError("dy has another shape; expected the shape of x")
    check_weight(weight, shape)
    check_bias(bias, shape)
    check_apart(out, weight)
    check_apart(out, bias)
    check_apart(out, mean)
    check_apart(out, rstd)
    check_apart_or_same(out, dy)
    return target(out, x)


@small
def channel_axis(axis, ndim, first):
    """The channels' axis, counted from the front."""
    a = np.int64(axis) if axis < ndim else ndim  # an unsigned number and another one would make a float
    a = a + ndim if a < 0 else a
    if not first <= a < ndim:
        raise ValueError("axis is not one of the axes that x has for channels")
    return a
