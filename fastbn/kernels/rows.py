"""Layer and RMS norm: rows, each of whose elements has its own weight.

The same bits as `runs`, in fewer steps a row.  Masks are left to `runs.forward`.
"""

from numba import prange

from fastbn.kernels.jit import driver, entry, inlined
from fastbn.kernels.loops import FEW, moments, normalize, trusted
from fastbn.kernels.plans import Runs, RunsForward, read
from fastbn.kernels.runs import (
    NO_EXTRAS,
    PIECE,
    _lead,
    _near,
    beginnings,
    in_arrays,
    in_memory,
    median,
    some_groups,
)
from fastbn.kernels.simd import address, either, narrow, rounded, splat, splat64, total


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
def forward(plan, x, y, we, be, eps, mean, var, extras):
    """As `runs.forward`, of one chunk and one part a group, without a mask."""
    for unit in prange(read(plan, Runs, RunsForward)[1].units):
        view, how = read(plan, Runs, RunsForward)
        residual, activation, _, dy, _, summed = either(extras, NO_EXTRAS)
        affine, of_elements = (address(we), address(be)), beginnings((residual, activation, None, dy))
        beside, kept = (of_elements, None, address(summed)), in_arrays(mean, var)
        memory, some = (address(x), address(y)), (view, how, unit * how.groups)
        some_groups(_moments_of_row, _write_row, memory, some, affine, eps, beside, kept)


@entry
def forward_at(plan, x, y, affine, eps, mean, var, activation):
    """`forward` by addresses, see `runs.forward_at`."""
    view, how = read(plan, Runs, RunsForward)
    beside = beginnings((None, activation, None, None)), None, None
    for first in range(0, view.groups, how.groups):
        some, kept = (view, how, first), in_memory(mean, var)
        some_groups(_moments_of_row, _write_row, (x, y), some, affine, eps, beside, kept)
