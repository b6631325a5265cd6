"""Small arrays, told by where they lie: for callers to whom an array costs as much as its elements do.

Addresses, lengths and types are the caller's to check.
"""

import numpy as np
from numba import carray, types
from numba.extending import intrinsic, overload

from fastbn.kernels import rows, runs, statistics
from fastbn.kernels.jit import tile, whole
from fastbn.kernels.plans import RowsBackward, Runs, RunsBackward, RunsForward, RunsScale, named
from fastbn.kernels.simd import address, advance

_FORWARD, _SCALE, _BACKWARD, _ROWS_BACKWARD = (
    len(Runs._fields) + len(more._fields) for more in (RunsForward, RunsScale, RunsBackward, RowsBackward)
)
_backward, _rows_backward, _collect = runs.backward.serial, runs.rows_backward.serial, runs.collect_rows.serial


@intrinsic
def memory(typing, place, dtype):
    """The memory that begins at an address, of elements of a dtype; None stays None."""
    if isinstance(place, types.NoneType):
        return place(place, dtype), lambda context, builder, sig, args: args[0]
    pointer = types.CPointer(dtype.dtype)

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(types.int64, dtype), codegen


def vector(place, dtype, count):
    """An array at an address; None stays None."""


@overload(vector)
def _vector(place, dtype, count):
    if isinstance(place, types.NoneType):
        return lambda place, dtype, count: None
    return lambda place, dtype, count: carray(memory(place, dtype), count)


def means(saved, uncentered):
    """Those that were saved, if `uncentered` is None."""


@overload(means)
def _means(saved, uncentered):
    if isinstance(uncentered, types.NoneType):
        return lambda saved, uncentered: saved[: saved.size // 2]
    return lambda saved, uncentered: None


def normalize(plan, places, affine, eps, saved, activation):
    """`rows.forward_at` where elements have weights of their own, else `runs.forward_at`."""


@overload(normalize)
def _normalize(plan, places, affine, eps, saved, activation):
    if all(isinstance(weights, types.NoneType) for weights in affine.types[2:]):
        return lambda plan, places, affine, eps, saved, activation: runs.forward_at(
            plan, *places, *affine, eps, *saved, activation
        )
    return lambda plan, places, affine, eps, saved, activation: rows.forward_at(
        plan, *places, affine[2:], eps, *saved, activation
    )


@whole
def forward(dtype, compute, numbers, x, y, w, b, we, be, eps, saved, activation):
    """`runs.forward`, or `rows.forward`, by addresses, that of the plan's numbers among them.

    dtype: of x and y.  compute: of weights and biases.  saved: float64 (2 groups,), for the means, then the variances.
    """
    plan = carray(memory(numbers, np.int64), _FORWARD)
    affine = memory(w, compute), memory(b, compute), memory(we, compute), memory(be, compute)
    means = address(saved)
    found = means, advance(means, saved.size // 2)
    normalize(plan, (memory(x, dtype), memory(y, dtype)), affine, eps, found, activation)


@whole
def take_in(dtype, saved, factor, momentum, eps, running_mean, running_var):
    """`statistics.update` by addresses; saved: what `forward` has left there."""
    groups, no_counter = saved.size // 2, np.empty(0, np.int64)
    kept = carray(memory(running_mean, dtype), groups), carray(memory(running_var, dtype), groups)
    statistics.update(saved[:groups], saved[groups:], factor, momentum, eps, 0, *kept, no_counter)


@whole
def scale(dtype, compute, of_statistics, numbers, x, y, w, b, eps, mean, var, activation):
    """`runs.scale` by addresses; of_statistics: the dtype of mean and var."""
    plan = carray(memory(numbers, np.int64), _SCALE)
    affine, given = (memory(w, compute), memory(b, compute)), (memory(mean, of_statistics), memory(var, of_statistics))
    runs.scale_at(plan, memory(x, dtype), memory(y, dtype), *affine, eps, *given, activation)


@tile
def _roots(saved, eps):
    groups = saved.size // 2
    rstd = np.empty(groups)
    for g in range(groups):
        rstd[g] = 1.0 / np.sqrt(saved[groups + g] + eps)
    return rstd


@whole
def backward(dtype, compute, numbers, blocks, dy, x, dx, w, eps, saved, dweight, dbias):
    """`runs.backward` by addresses, with what `forward` has saved; blocks: of gradients of the weights."""
    plan = carray(memory(numbers, np.int64), _BACKWARD)
    view = named(plan, Runs)
    size, groups = view.chunks * view.groups * view.parts * view.length, view.groups
    arrays = carray(memory(dy, dtype), size), carray(memory(x, dtype), size), carray(memory(dx, dtype), size)
    grads = np.empty((blocks, 2, view.weights))
    weight = vector(w, compute, view.weights)
    _backward(plan, *arrays, weight, saved[:groups], _roots(saved, eps), grads, None)
    _collect(1, grads, carray(memory(dweight, compute), view.weights), carray(memory(dbias, compute), view.weights))


@whole
def rows_backward(dtype, compute, numbers, blocks, dy, x, dx, w, eps, saved, dweight, dbias, uncentered):
    """As `backward`, of `runs.rows_backward`; uncentered: None, or the means are not taken away."""
    plan = carray(memory(numbers, np.int64), _ROWS_BACKWARD)
    view = named(plan, Runs)
    size = view.chunks * view.groups * view.parts * view.length
    arrays = carray(memory(dy, dtype), size), carray(memory(x, dtype), size), carray(memory(dx, dtype), size)
    grads, like = np.empty((blocks, 2, view.weights)), carray(memory(dweight, compute), 0)
    weight = vector(w, compute, view.weights)
    mean = means(saved, uncentered)
    _rows_backward(plan, *arrays, weight, mean, _roots(saved, eps), grads, like, None)
    _collect(1, grads, carray(memory(dweight, compute), view.weights), carray(memory(dbias, compute), view.weights))
