"""What is done to numbers of groups: running averages, rstd in the place of a variance, sums of pieces added up."""

import numpy as np
from numba import prange

from fastbn.kernels.jit import driver, whole


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


@driver
def add_chunks(units, of_pieces, count, pieces, chunk, shift, s, q):
    """The shift and sums of every group from those of the pieces of its chunks, each of which has a shift of its own.

    of_pieces: of (chunks, groups, pieces, 3), flat; chunk: how many elements one has.
    """
    for g in prange(units):
        own, s_of_all, q_of_all = of_pieces[3 * g * pieces], 0.0, 0.0
        for j in range(count):
            first = (j * units + g) * pieces
            d, s_of_chunk, q_of_chunk = of_pieces[3 * first] - own, 0.0, 0.0
            for p in range(first, first + pieces):
                s_of_chunk += of_pieces[3 * p + 1]
                q_of_chunk += of_pieces[3 * p + 2]
            s_of_all += s_of_chunk + chunk * d
            q_of_all += q_of_chunk + d * (2.0 * s_of_chunk + chunk * d)
        shift[g], s[g], q[g] = own, s_of_all, q_of_all


@driver
def add_columns_of_pieces(units, of_pieces, pieces, fold, groups, span, s, q):
    """The sums of every group of a block from those of the columns of its pieces: (blocks, pieces, 2, columns)."""
    for block in prange(units):
        n = fold * groups * span
        for k in range(2):
            of_columns = np.zeros(n)
            for p in range(pieces):
                first = ((block * pieces + p) * 2 + k) * n
                for c in range(n):
                    of_columns[c] += of_pieces[first + c]
            target = s if k == 0 else q
            for g in range(groups):
                total = 0.0
                for f in range(fold):
                    for c in range(span):
                        total += of_columns[(f * groups + g) * span + c]
                target[block * groups + g] = total
