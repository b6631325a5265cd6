"""State that is updated in place, as a whole: running statistics, counters, gradients, what a state dict brings.

An exception may come between any two steps of Python: Ctrl-C, or what a signal's handler raises.  So all that belongs
together is written by one call that is compiled, before which nothing has been written and after which all is.
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn._quiet import quiet
from fastbn.engine.entries import entry_point
from fastbn.kernels import statistics

Array = NDArray[Any]

Running = tuple[Array | None, Array | None, Array | None]
"""running_mean and running_var, of any float dtype, strides and byte order; num_batches_tracked."""

NO_COUNTER = np.empty(0, np.int64)  # for the kernel, in the place of one
_kernels: dict[np.dtype[Any], Callable[..., None]] = {}  # by the dtype of running arrays


def commit(targets: Iterable[Array], values: Iterable[Any]) -> None:
    """Write every value into its target; each has the shape and dtype of its target already, so that none can fail.

    The loop itself runs in C, where no signal's handler is called.
    """
    deque(map(np.ndarray.__setitem__, targets, repeat(...), values), maxlen=0)


def commit_pairs(pairs: Iterable[tuple[Array, Any]]) -> None:
    """As `commit`, of (target, value) pairs, of which there may be none."""
    pairs = list(pairs)
    commit([target for target, _ in pairs], [value for _, value in pairs])


def update(
    running: Running, mean: Array, var: Array, factor: Any, momentum: float, eps: float = -1.0, batches: int = 1
) -> None:
    """Take the statistics of a batch into running ones; then put rstd in the place of var unless eps is negative.

    mean, var: float64, contiguous.  factor: a number, or one a channel; var times it is the unbiased variance.
    batches: how many the counter, if there is one, counts.
    """
    running_mean, running_var, counter = running
    blend = kernel(running_mean, running_var) if type(factor) is float else None
    if blend is not None:
        count = NO_COUNTER if counter is None else counter
        blend(mean, var, factor, momentum, eps, batches, running_mean, running_var, count)
        return
    with quiet():
        new: list[Any] = [] if running_mean is None else [(running_mean, _blended(running_mean, mean, momentum))]
        if running_var is not None:
            new.append((running_var, _blended(running_var, var * factor, momentum)))
        if counter is not None:
            new.append((counter, counter + batches))
    commit_pairs(new)
    if eps >= 0:
        statistics.take_roots(var, eps)


def kernel(mean: Array | None, var: Array | None) -> Callable[..., None] | None:
    """`statistics.update`, if it takes running arrays like these as they are."""
    if type(mean) is not np.ndarray or type(var) is not np.ndarray or mean.dtype != var.dtype:
        return None
    if not (mean.flags.carray and var.flags.carray):
        return None
    dtype = mean.dtype
    if dtype not in _kernels and (dtype == np.float32 or dtype == np.float64):
        of_batch = np.empty(0), np.empty(0), 1.0, 1.0, 1.0, 1
        _kernels[dtype] = entry_point(statistics.update, (*of_batch, mean.ravel(), var.ravel(), NO_COUNTER))
    return _kernels.get(dtype)


def _blended(running: Array, batch: Array, momentum: float) -> Array:
    values = np.asarray(running).astype(np.float64)
    values *= 1 - momentum
    values += momentum * batch
    return values.astype(running.dtype)
