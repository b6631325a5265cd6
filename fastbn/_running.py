"""State that is updated in place, as a whole: running statistics, counters, gradients, what a state dict brings.

An exception may come between any two steps of Python: Ctrl-C, or what a signal's handler raises.  So all that belongs
together is written by one call that is compiled, before which nothing has been written and after which all is.
"""

from collections import deque
from collections.abc import Iterable
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn._quiet import quiet
from fastbn.kernels import statistics

Array = NDArray[Any]

Running = tuple[Array | None, Array | None, Array | None]
"""running_mean and running_var, of any float dtype, strides and byte order; num_batches_tracked."""

_NO_COUNTER = np.empty(0, np.int64)
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


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
    if type(factor) is float and _direct(running_mean, running_var):
        of_batch = mean, var, factor, momentum, eps, batches
        statistics.update(*of_batch, running_mean, running_var, _NO_COUNTER if counter is None else counter.ravel())
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


def _direct(mean: Array | None, var: Array | None) -> bool:
    """Whether the kernel takes the arrays as they are."""
    if type(mean) is not np.ndarray or type(var) is not np.ndarray or mean.dtype != var.dtype:
        return False
    return (mean.dtype == _FLOAT32 or mean.dtype == _FLOAT64) and mean.flags.carray and var.flags.carray


def _blended(running: Array, batch: Array, momentum: float) -> Array:
    values = np.asarray(running).astype(np.float64)
    values *= 1 - momentum
    values += momentum * batch
    return values.astype(running.dtype)
