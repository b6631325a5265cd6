"""Rows whose elements have weights of their own, of layer and RMS norm, and how they are normalized.

From a row's sums to its result is a chain of some sixty steps that wait for each other, as long as a hundred elements
take.  So the sums of some rows come first, then their statistics, then their results: the rows' chains overlap.  The
bits are those of `runs.forward`, which does the same a row at a time, and masks.
"""

import numpy as np
from numba import prange

from fastbn.kernels.jit import driver, entry, inlined
from fastbn.kernels.loops import FEW, moments, normalize, trusted
from fastbn.kernels.plans import RowsForward, Runs, read
from fastbn.kernels.runs import (
    NO_EXTRAS,
    PIECE,
    _in_lines,
    _lead,
    _near,
    beginnings,
    median,
    rooted,
    statistics,
)
from fastbn.kernels.simd import ROOM, address, advance, either, narrow, room, rounded, splat, splat64, total

MOST = ROOM // 4  # rows at a time


@inlined
def _sums_of_piece(x, i, n, shift, centered, ahead):
    zero = splat64(0.0)
    if narrow(x) and n >= FEW:
        s, q = moments(x, None, i, n, splat(x, shift), zero, zero, ahead)
        s, q = total(s), total(q)
        if trusted(s, q, n, centered):
            return s, q
    s, q = moments(x, None, i, n, splat64(shift), zero, zero, 0)
    return total(s), total(q)


@inlined
def _write(x, y, row, of, extras, past_cache):
    """Normalize a row, from its last piece back to the first, for what was read last is still in the cache.

    row: where it begins, its length, and the place of its first weight.  of: hi, a, t and memory or None, for weights
    and biases, see `normalize`.
    """
    i, n, f = row
    for p in range((n - 1) // PIECE, -1, -1):
        e = p * PIECE
        m = min(n - e, PIECE)
        normalize(x, y, (i + e, m, f + e), of, extras, past_cache, None, _lead(y, i + e, m))


@inlined
def _add_up(x, summed, i, n, past_cache):
    """Write a row of the sum of the two arrays that x is, if it is wanted."""
    if summed is not None:
        as_it_is = splat(x, 0.0), splat(x, 1.0), splat(x, 0.0), None, None
        _write(x, summed, (i, n, 0), as_it_is, beginnings(None), past_cache)


@inlined
def _some(x, y, view, how, first, affine, eps, extras, found):
    """Normalize some rows from a first one on; how many.

    affine: memory or None, for weights and biases.  extras: what `beginnings` makes; and summed, as of `runs.forward`.
    found: takes mean, variance and 1 / sqrt(variance + eps) of each.
    """
    n, weights, (of_elements, summed), (m, v, r) = view.length, view.weights, extras, found
    many, ahead, past_cache = min(how.rows, view.groups - first), max(_near(view, n, 1), how.ahead), how.past_cache
    if past_cache < 0:
        past_cache = -past_cache if _in_lines(y, n) else 0
    past = min(past_cache, 1) if how.ahead > 0 else past_cache
    for k in range(many):
        i, s, q = (first + k) * n, 0.0, 0.0
        shift = median(x, i, i + n // 2, i + n - 1) if how.centered else 0.0
        for e in range(0, n, PIECE):
            ds, dq = _sums_of_piece(x, i + e, min(n - e, PIECE), shift, how.centered, ahead)
            s += ds
            q += dq
        m[k], v[k], r[k] = s, q, shift
    for k in range(many):
        m[k], v[k] = statistics(r[k], m[k], v[k], np.float64(n), how.centered)
        r[k] = rooted(v[k], eps)
    for k in range(many):
        i = (first + k) * n
        _add_up(x, summed, i, n, past_cache)  # before y, which may be where x is
        hi = rounded(x, m[k])
        t = 0.0 - (m[k] - hi) * r[k]
        of = splat(x, hi), splat(x, r[k]), splat(x, t), affine[0], affine[1]
        _write(x, y, (i, n, i % weights if weights != n else 0), of, of_elements, past)
    return many


@driver
def forward(plan, x, y, w, b, we, be, eps, mean, var, extras):
    """As `runs.forward`, without a mask, each parallel work item being some rows.

    plan: the numbers of `Runs`, of one chunk and one part, and `RowsForward`.  w, b: None.
    """
    for unit in prange(read(plan, Runs, RowsForward)[1].units):
        view, how = read(plan, Runs, RowsForward)
        residual, activation, _, dy, _, summed = either(extras, NO_EXTRAS)
        affine, beside = (address(we), address(be)), (beginnings((residual, activation, None, dy)), address(summed))
        m, first = room(), unit * how.rows
        v, r = advance(m, MOST), advance(m, 2 * MOST)
        for k in range(_some(address(x), address(y), view, how, first, affine, eps, beside, (m, v, r))):
            if mean.size > 0:
                mean[first + k] = m[k]
            if var.size > 0:
                var[first + k] = r[k] if how.rooted else v[k]


@entry
def forward_at(plan, x, y, w, b, we, be, eps, mean, var, activation):
    """`forward` by addresses, see `runs.forward_at`."""
    view, how = read(plan, Runs, RowsForward)
    m = room()
    v, r = advance(m, MOST), advance(m, 2 * MOST)
    beside = beginnings((None, activation, None, None)), None
    for first in range(0, view.groups, how.rows):
        for k in range(_some(x, y, view, how, first, (we, be), eps, beside, (m, v, r))):
            if mean is not None:
                mean[first + k] = m[k]
            if var is not None:
                var[first + k] = r[k] if how.rooted else v[k]
