"""What is done to statistics of a forward, a number a group: running averages, and rstd in the place of a variance."""

import numpy as np

from fastbn.kernels.jit import whole


@whole
def update(mean, var, factor, momentum, eps, batches, running_mean, running_var, counter):
    """Take a batch into the running arrays and the counter, then put rstd in the place of var unless eps is negative.

    running <- (1 - momentum) running + momentum batch in float64, where the batch's variance is var * factor; `float`
    widens in plain Python, too.  What is not there has no elements.  Python runs no signal handler before a compiled
    call has returned, so nothing that a handler raises can come between these arrays.
    """
    for c in range(running_mean.size):
        running_mean[c] = float(running_mean[c]) * (1.0 - momentum) + momentum * mean[c]
    for c in range(running_var.size):
        running_var[c] = float(running_var[c]) * (1.0 - momentum) + momentum * (var[c] * factor)
    for c in range(counter.size):
        counter[c] += batches
    if eps >= 0.0:
        for c in range(var.size):
            var[c] = 1.0 / np.sqrt(var[c] + eps)


@whole
def take_roots(var, eps):
    """Put 1/sqrt(var + eps) in the place of var."""
    for c in range(var.size):
        var[c] = 1.0 / np.sqrt(var[c] + eps)
