"""Rows whose elements have weights of their own, of layer and RMS norm: as `runs`, in fewer steps for each.

The bits are the same.  Masks are left to `runs.forward`.
"""

from numba import prange

from fastbn.kernels.jit import driver, entry, inlined
from fastbn.kernels.loops import FEW, moments, normalize, trusted
from fastbn.kernels.plans import Runs, RunsForward, read
from fastbn.kernels.runs import MOST, NO_EXTRAS, PIECE, _lead, _near, beginnings, median, some_groups
from fastbn.kernels.simd import address, advance, either, narrow, room, rounded, splat, splat64, total


@inlined
def _moments_of_piece(x, i, n, shift, centered, ahead):
    if narrow(x) and n >= FEW:
        s, q = moments(x, None, i, n, splat(x, shift), splat64(0.0), splat64(0.0), ahead)
        s, q = total(s), total(q)
        if trusted(s, q, n, centered):
            return s, q
    s, q = moments(x, None, i, n, splat64(shift), splat64(0.0), splat64(0.0), 0)
    return total(s), total(q)


@inlined
def _moments_of_row(x, view, how, g, of_elements):
    n = view.length
    i, s, q, ahead = g * n, 0.0, 0.0, max(_near(view, n, 1), how.ahead)
    shift = median(x, i, i + n // 2, i + n - 1) if how.centered else 0.0
    for e in range(0, n, PIECE):
        ds, dq = _moments_of_piece(x, i + e, min(n - e, PIECE), shift, how.centered, ahead)
        s += ds
        q += dq
    return shift, s, q


@inlined
def _write_pieces(x, y, row, of, extras, past_cache):
    """row: where it begins, its length, and the place of its first weight.  of, extras: as of `normalize`."""
    i, n, f = row
    for p in range((n - 1) // PIECE, -1, -1):  # backwards: what was read last is still in the cache
        e = p * PIECE
        m = min(n - e, PIECE)
        normalize(x, y, (i + e, m, f + e), of, extras, past_cache, None, _lead(y, i + e, m))


@inlined
def _add_up(x, summed, i, n, past_cache):
    """Write a row of the sum of the two arrays that x is, if it is wanted."""
    if summed is not None:
        as_it_is = splat(x, 0.0), splat(x, 1.0), splat(x, 0.0), None, None
        _write_pieces(x, summed, (i, n, 0), as_it_is, beginnings(None), past_cache)


@inlined
def _write_row(memory, view, how, g, statistics, affine, of_elements, past_cache):
    (x, y, summed), (mean, rstd), (we, be), n, weights = memory, statistics, affine, view.length, view.weights
    i, hi = g * n, rounded(x, mean)
    _add_up(x, summed, i, n, past_cache)  # before y, which may be where x is
    of = splat(x, hi), splat(x, rstd), splat(x, 0.0 - (mean - hi) * rstd), we, be
    past = min(past_cache, 1) if how.ahead > 0 else past_cache
    _write_pieces(x, y, (i, n, i % weights if weights != n else 0), of, of_elements, past)


@driver
def forward(plan, x, y, w, b, we, be, eps, mean, var, extras):
    """As `runs.forward`, of one chunk and one part a group, without a mask; w, b: None."""
    for unit in prange(read(plan, Runs, RunsForward)[1].units):
        view, how = read(plan, Runs, RunsForward)
        residual, activation, _, dy, _, summed = either(extras, NO_EXTRAS)
        of_elements, m, first = beginnings((residual, activation, None, dy)), room(), unit * how.groups
        affine, beside = (address(we), address(be)), (of_elements, None, address(summed))
        v, r = advance(m, MOST), advance(m, 2 * MOST)
        memory, found = (address(x), address(y)), (m, v, r)
        for k in range(some_groups(_moments_of_row, _write_row, memory, view, how, first, affine, eps, beside, found)):
            if mean.size > 0:
                mean[first + k] = m[k]
            if var.size > 0:
                var[first + k] = r[k] if how.rooted else v[k]


@entry
def forward_at(plan, x, y, w, b, we, be, eps, mean, var, activation):
    """`forward` by addresses, see `runs.forward_at`."""
    view, how = read(plan, Runs, RunsForward)
    m = room()
    v, r = advance(m, MOST), advance(m, 2 * MOST)
    affine, beside, found = (we, be), (beginnings((None, activation, None, None)), None, None), (m, v, r)
    for first in range(0, view.groups, how.groups):
        for k in range(some_groups(_moments_of_row, _write_row, (x, y), view, how, first, affine, eps, beside, found)):
            if mean is not None:
                mean[first + k] = m[k]
            if var is not None:
                var[first + k] = r[k] if how.rooted else v[k]
