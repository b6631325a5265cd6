"""Sums of the elements that count, as a mask or weights tell, and exact sums of wide integers.

x is (outer, groups, inner) in the order of memory (see `plans.Selected`), and every group has its own sums.  What tells
how often an element counts is memory w: floats, or bytes of a mask.  It may be broadcast to x: w_outer, w_group and
w_inner say how far its elements lie apart that belong to adjacent ones of x.  `kinds` marks x and w, in this order, as
in `pixels`, and whether w changes along a run (1) or has one number for it (None).

Sums of floats are about a shift, as in `loops`, all in float64.  What counts for nothing may be anything, NaN included.
A work item is some rows of a part of the columns, or some runs of a group; how it is cut depends on the shape alone.
"""

import numpy as np
from numba import prange

from fastbn.kernels.jit import driver, inlined, tile
from fastbn.kernels.numbers import add_split, split_numbers, take
from fastbn.kernels.plans import Selected, named
from fastbn.kernels.simd import (
    LANES,
    address,
    advance,
    keep,
    less,
    load_part,
    of_row,
    splat64,
    store_part,
    total,
)

UNIT = 32768  # elements of runs: some microseconds of work; and of columns
NEAR = 8192  # so many, which are read 16 columns at a time, while they are in the nearest cache,
LEAST_ROWS = 64  # of at least so many rows,
PANEL = 4096  # and at most so many columns

_split_numbers = tile(split_numbers)


# Floats ---------------------------------------------------------------------------------------------------------------


@inlined
def _weights(w, kind, spread, k, m, model):
    """How often each of at most 16 elements counts, as a Vec of float64."""
    if spread is None:
        return keep(splat64(np.float64(w[k])), m)
    return take(w, kind, k, m, model)


@inlined
def _add(arrays, kinds, i, k, m, shift, sums):
    """`sums`, of w, w d and w d^2, plus those of at most 16 elements; d: the distance from the shift."""
    x, w, model = arrays
    n, s, q = sums
    u = _weights(w, kinds[1], kinds[2], k, m, model)
    d = less(0.0, u, take(x, kinds[0], i, m, model) - shift, 0.0)
    v = u * d
    return n + u, s + v, q + v * d


@inlined
def _add_run(arrays, kinds, i, k, step, length, shift, sums):
    end = i + length
    while i + LANES <= end:
        sums = _add(arrays, kinds, i, k, None, shift, sums)
        i += LANES
        k += LANES * step
    if i < end:
        sums = _add(arrays, kinds, i, k, end - i, shift, sums)
    return sums


@driver
def weighted_runs(units, plan, x, w, kinds, shifts, sums):
    """The sums of every work item: three numbers for each (some outer ones, group, piece)."""
    for u in prange(units):
        view = named(plan, Selected)
        piece, g, b = u % view.pieces, u // view.pieces % view.groups, u // (view.pieces * view.groups)
        first = piece * UNIT
        length = min(UNIT, view.inner - first)
        model = address(shifts)
        arrays = address(x), address(w), model
        n, s, q = splat64(0.0), splat64(0.0), splat64(0.0)
        for o in range(b * view.of_unit, min((b + 1) * view.of_unit, view.outer)):
            i = (o * view.groups + g) * view.inner + first
            k = o * view.w_outer + g * view.w_group + first * view.w_inner
            n, s, q = _add_run(arrays, kinds, i, k, view.w_inner, length, of_row(model, g), (n, s, q))
        sums[3 * u], sums[3 * u + 1], sums[3 * u + 2] = total(n), total(s), total(q)


@inlined
def _add_columns(arrays, kinds, rows, j, m, view, sums):
    """The sums of at most 16 columns from j on, to where those of all columns of these rows are."""
    width = view.groups * view.inner
    shift = load_part(arrays[2], j, m)
    n, s, q = splat64(0.0), splat64(0.0), splat64(0.0)
    for r in range(rows[0], rows[1]):
        k = r * view.w_outer + j * view.w_inner
        n, s, q = _add(arrays, kinds, r * width + j, k, m, shift, (n, s, q))
    store_part(sums, j, n, m)
    store_part(sums, width + j, s, m)
    store_part(sums, 2 * width + j, q, m)


@driver
def weighted_columns(units, plan, x, w, kinds, shifts, sums):
    """The sums of every column of some rows; shifts: one a column.  sums: of (blocks of rows, 3, columns)."""
    for u in prange(units):
        view = named(plan, Selected)
        block, panel = u // view.pieces, u % view.pieces
        width = view.groups * view.inner
        rows = block * view.of_unit, min((block + 1) * view.of_unit, view.outer)
        arrays = address(x), address(w), address(shifts)
        own = advance(address(sums), 3 * width * block)
        j, end = panel * PANEL, min((panel + 1) * PANEL, width)
        while j + LANES <= end:
            _add_columns(arrays, kinds, rows, j, None, view, own)
            j += LANES
        if j < end:
            _add_columns(arrays, kinds, rows, j, end - j, view, own)


@tile
def _weight_of(w, view, g, e):
    return w[e // view.inner * view.w_outer + g * view.w_group + e % view.inner * view.w_inner]


@tile
def _element_of(arrays, kind, view, g, e):
    i = (e // view.inner * view.groups + g) * view.inner + e % view.inner
    return total(take(arrays[0], kind, i, 1, arrays[2]))


@driver
def shifts_of_groups(units, plan, x, w, kinds, shifts):
    """The median of the first, a middle and the last element of every group that count; 0 where none does."""
    for g in prange(units):
        view = named(plan, Selected)
        arrays = address(x), address(w), address(shifts)
        pw, last = arrays[1], view.outer * view.inner - 1
        first, middle = 0, view.outer * view.inner // 2
        while first <= last and _weight_of(pw, view, g, first) == 0:
            first += 1
        while last > first and _weight_of(pw, view, g, last) == 0:
            last -= 1
        middle = max(first, min(middle, last))
        while middle < last and _weight_of(pw, view, g, middle) == 0:
            middle += 1
        shift = 0.0
        if first <= last:
            a = _element_of(arrays, kinds[0], view, g, first)
            b = _element_of(arrays, kinds[0], view, g, middle)
            c = _element_of(arrays, kinds[0], view, g, last)
            shift = max(min(a, b), min(max(a, b), c))
        shifts[g] = shift


# Integers -------------------------------------------------------------------------------------------------------------


@driver
def split_runs(units, plan, x, w, kinds, sums):
    """What `add_split` adds up, of every work item as of `weighted_runs`; w: memory or None."""
    for u in prange(units):
        view = named(plan, Selected)
        piece, g, b = u % view.pieces, u // view.pieces % view.groups, u // (view.pieces * view.groups)
        first = piece * UNIT
        length = min(UNIT, view.inner - first)
        whole = length // LANES * LANES
        px, pw = address(x), address(w)
        lanes = np.zeros(9 * LANES, np.int64)
        own, strides = address(lanes), (LANES, LANES * view.w_inner)
        for o in range(b * view.of_unit, min((b + 1) * view.of_unit, view.outer)):
            i = (o * view.groups + g) * view.inner + first
            k = o * view.w_outer + g * view.w_group + first * view.w_inner
            add_split(px, pw, kinds[2], (i, k), strides, length // LANES, None, own)
            if whole < length:
                rest = i + whole, k + whole * view.w_inner
                add_split(px, pw, kinds[2], rest, strides, 1, length - whole, own)
        numbers = _split_numbers(x.itemsize)
        for j in range(numbers):
            added = np.int64(0)
            for lane in range(LANES):
                added += lanes[j * LANES + lane]
            sums[u * numbers + j] = added


@driver
def split_columns(units, plan, x, w, kinds, sums):
    """The same of every column of some rows; sums: zeros, of (blocks of rows, 16 columns, numbers, 16)."""
    for u in prange(units):
        view = named(plan, Selected)
        block, panel = u // view.pieces, u % view.pieces
        width = view.groups * view.inner
        first = block * view.of_unit
        rows = min(view.of_unit, view.outer - first)
        px, pw, strides = address(x), address(w), (width, view.w_outer)
        numbers = _split_numbers(x.itemsize)
        own = advance(address(sums), block * ((width + LANES - 1) // LANES) * numbers * LANES)
        for j in range(panel * PANEL, min((panel + 1) * PANEL, width), LANES):
            place = first * width + j, first * view.w_outer + j * view.w_inner
            target = advance(own, j * numbers)
            if j + LANES <= width:
                add_split(px, pw, kinds[2], place, strides, rows, None, target)
            else:
                add_split(px, pw, kinds[2], place, strides, rows, width - j, target)
