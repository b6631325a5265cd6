# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""What compiled calls handle: arrays that are borrowed, their elements, vectors, lengths and activations.

The functions of `_compiled` beside those that take types are compiled by Numba within the user's function that calls an
operation.
"""

import math
from inspect import isfunction

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic, overload, register_jitable

from fastbn._compiled import INLINED, OPTIONS
from fastbn.engine import integers
from fastbn.kernels import runs
from fastbn.kernels.activations import LeakyRelu, packed
from fastbn.kernels.simd import address

_RECORD = packed(LeakyRelu()).dtype


def jitable(function):
    """A function that compiled code may call."""
    return register_jitable(**OPTIONS)(function)


def small(function):
    """One that is inlined, before references are counted."""
    return register_jitable(**INLINED)(function)


for _function in (
    runs.pieces,
    *(f for f in vars(integers).values() if isfunction(f) and f.__module__ == integers.__name__),
):
    small(_function)


# Arrays ---------------------------------------------------------------------------------------------------------------


@intrinsic
def borrowed(typing, array):
    """An array that does not own its memory, whose owner is the caller's; None stays None.

    References are counted by atomic operations. Counting those of every array would take longer than a short row does,
    and far longer where other threads count the same ones.
    """
    if isinstance(array, types.NoneType | types.Omitted):
        return types.none(array), lambda context, builder, sig, args: context.get_dummy_value()

    def codegen(context, builder, sig, args):
        own = context.make_array(sig.args[0])(context, builder, args[0])
        for field in ("meminfo", "parent"):
            setattr(own, field, ir.Constant(getattr(own, field).type, None))
        return own._getvalue()

    return array(array), codegen


@small
def result(out, y):
    """What an operation returns: `out` with its owner, if it is given."""
    if out is None:
        return y
    return out


def elements(array, count):
    """An array's elements as one axis; borrowed."""


@overload(elements, jit_options=INLINED)
def _elements(array, count):
    return lambda array, count: carray(address(array), count)


@small
def two(x, y):
    return elements(x, x.size), elements(y, x.size)


@small
def three(dy, x, dx):
    return elements(dy, x.size), elements(x, x.size), elements(dx, x.size)


def flat(values, like):
    """A vector of any shape with one axis, in the dtype of `like`, to be held while it is used; None stays None."""


@overload(flat, jit_options=INLINED)
def _flat(values, like):
    if isinstance(values, types.NoneType | types.Omitted):
        return lambda values, like: None
    if values.dtype == like.dtype:
        return lambda values, like: carray(address(values), values.size)
    if values.ndim == 0:
        return lambda values, like: np.full(1, values[()], like.dtype)
    return lambda values, like: values.reshape(-1).astype(like.dtype)


@small
def hold(values):
    """Keep a vector alive up to here; the caller of an operation keeps its own."""
    return 0 if values is None else values.size


def shaped(values, shape):
    """An array of these elements with another shape."""


@overload(shaped, jit_options=INLINED)
def _shaped(values, shape):
    if len(shape) == 0:

        def scalar(values, shape):
            result = np.empty((), values.dtype)
            result[()] = values[0]
            return result

        return scalar
    return lambda values, shape: values.reshape(shape)


def in_dtype(gradient, weight):
    """A weight's gradient in the dtype of the weight, if there is one."""


@overload(in_dtype, jit_options=OPTIONS)
def _in_dtype(gradient, weight):
    if isinstance(weight, types.NoneType | types.Omitted) or weight.dtype == gradient.dtype:
        return lambda gradient, weight: gradient
    return lambda gradient, weight: gradient.astype(weight.dtype)


@small
def nothing(activation):
    return None


def constant(record):
    """A function that returns a constant whatever it is given."""

    @jitable
    def returned(activation):
        return record

    return returned


@jitable
def leaky_relu(activation):
    slope = np.float64(activation[1]) + 0.0  # of -0.0, too, 0.0, as from Python
    if not math.isfinite(slope):
        raise ValueError("the slope of 'leaky_relu' is not finite; expected a finite number")
    record = np.empty(1, _RECORD)
    record[0]["LeakyRelu"] = slope
    return record


@jitable
def named_leaky_relu(activation):
    if activation[0] != "leaky_relu":
        raise ValueError("activation is a pair, but not ('leaky_relu', slope); expected that, or a name")
    return leaky_relu(activation)


# Lengths --------------------------------------------------------------------------------------------------------------


@small
def around(shape, axis):
    """The number of elements before and behind an axis."""
    before, behind = 1, 1
    for a in range(axis):
        before *= shape[a]
    for a in range(axis + 1, len(shape)):
        behind *= shape[a]
    return before, behind


@small
def same(value):
    return value


def product(shape):
    """Of lengths; there may be none."""


@overload(product, jit_options=INLINED)
def _product(shape):
    if len(shape) == 0:
        return lambda shape: 1

    def multiplied(shape):
        n = 1
        for length in shape:
            n *= length
        return n

    return multiplied


@small
def statistic_of(shape):
    """One number for every group, NaN unless it is computed."""
    return np.full(product(shape), np.nan)


@small
def statistics_of(shape):
    return statistic_of(shape), statistic_of(shape)
