"""Small arrays, told by where they lie: for callers to whom an array costs as much as its elements do.

Addresses, lengths and types are the caller's to check.
"""

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from fastbn.kernels import runs, statistics
from fastbn.kernels.jit import whole
from fastbn.kernels.plans import Runs, RunsForward, RunsScale
from fastbn.kernels.simd import address, advance

_FORWARD, _SCALE = (len(Runs._fields) + len(more._fields) for more in (RunsForward, RunsScale))


@intrinsic
def memory(typing, place, dtype):
    """The memory that begins at an address, of elements of a dtype; None stays None."""
    if isinstance(place, types.NoneType):
        return place(place, dtype), lambda context, builder, sig, args: args[0]
    pointer = types.CPointer(dtype.dtype)

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(types.int64, dtype), codegen


@whole
def forward(dtype, compute, numbers, x, y, w, b, we, be, eps, saved, activation):
    """`runs.forward` by addresses, that of the plan's numbers among them.

    dtype: of x and y.  compute: of weights and biases.  saved: float64 (2 groups,), for the means, then the variances.
    """
    plan = carray(memory(numbers, np.int64), _FORWARD)
    affine = memory(w, compute), memory(b, compute), memory(we, compute), memory(be, compute)
    means = address(saved)
    variances = advance(means, saved.size // 2)
    runs.forward_at(plan, memory(x, dtype), memory(y, dtype), *affine, eps, means, variances, activation)


@whole
def take_in(dtype, saved, factor, momentum, running_mean, running_var):
    """`statistics.update` by addresses; saved: what `forward` has left there."""
    groups, no_counter = saved.size // 2, np.empty(0, np.int64)
    kept = carray(memory(running_mean, dtype), groups), carray(memory(running_var, dtype), groups)
    statistics.update(saved[:groups], saved[groups:], factor, momentum, -1.0, 0, *kept, no_counter)


@whole
def scale(dtype, compute, of_statistics, numbers, x, y, w, b, eps, mean, var, activation):
    """`runs.scale` by addresses; of_statistics: the dtype of mean and var."""
    plan = carray(memory(numbers, np.int64), _SCALE)
    affine, given = (memory(w, compute), memory(b, compute)), (memory(mean, of_statistics), memory(var, of_statistics))
    runs.scale_at(plan, memory(x, dtype), memory(y, dtype), *affine, eps, *given, activation)
