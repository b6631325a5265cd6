"""Loops over one contiguous run of elements: two kinds of sums, one way forward, one way back.

`i` is the run's first element in memory and `n` its length.  Arguments described as "Vec, memory or None" are one value
for the whole run, or one a column read from place `j` on, or absent (see `simd`).  `where` is memory or None: elements
for which it is 0 add nothing to sums, and their results are 0.

The sums of forward are about a shift, the median of three elements of the group: a difference from it is exact or
nearly so, so the sums do not suffer from a large mean, a constant group gives exactly zero, and partial sums merge by
addition (Chan, Golub and LeVeque 1983, with the division left to the end).  They are kept in float64; float32 terms are
added up a few at a time before they are widened, which takes less than half the time of widening each.  Where float32
does not do, as `trusted` tells, the caller asks for the same sums in float64 from the start, by a shift of that type.
The sums of backward are of normalized values, which need no such care.
"""

import numpy as np

from fastbn.kernels.activations import activate
from fastbn.kernels.jit import inlined, tile
from fastbn.kernels.simd import (
    LANES,
    at_part,
    chosen,
    fetch,
    fetch_early,
    gap,
    keep,
    like,
    load_part,
    of_row,
    plus,
    splat,
    store,
    store_part,
    stream,
    times,
    wide,
)

ROWS_AT_ONCE = 8  # whose terms are added up in each column before they are widened
AHEAD = 1024  # elements
FEW = 32  # terms of a run: fewer are summed in float64 right away
_LEAST_SQUARE = 1e-30  # on the average: the squares of a float32 lose digits below 1e-38
_MOST_CANCELLED = 8.0


@tile
def expect(memory, i, n):
    """Fetch the beginning of a run of n elements that comes next."""
    for k in range(0, min(n, AHEAD), 2 * LANES):
        fetch(memory, i + k)


@tile
def look_ahead(memory, i, ahead):
    """Fetch 32 elements that lie AHEAD of i to the nearest cache, those at any other distance to a core's own."""
    if ahead == AHEAD:
        fetch(memory, i + ahead)
    else:
        fetch_early(memory, i + ahead)


@inlined
def trusted(s, q, n, centered):
    """Whether float32 was enough for the sums of n differences d and of their squares.

    It is not where squares leave its range, and where the shift is so far from the mean that most of q cancels.
    """
    return n * _LEAST_SQUARE <= q < np.inf and (not centered or n * q <= _MOST_CANCELLED * (n * q - s * s))


@tile
def _difference(x, where, i, m, shift):
    return keep(chosen(like(load_part(x, i, m), shift) - shift, where, i, m), m)


@tile
def _four_differences(x, where, i, third, fourth, shift):
    """The sums of four Vecs of differences, and of their squares; third, fourth: elements of these, or None for 16."""
    a, b = _difference(x, where, i, None, shift), _difference(x, where, i + LANES, None, shift)
    c, d = _difference(x, where, i + 2 * LANES, third, shift), _difference(x, where, i + 3 * LANES, fourth, shift)
    return (a + b) + (c + d), (a * a + b * b) + (c * c + d * d)


@inlined
def moments(x, where, i, n, shift, s, q, ahead):
    """(s, q) plus the sums of d and d^2 over a run, d = x - shift in the type of the shift; s, q: Vecs of float64.

    ahead: how many elements further on memory is fetched, or 0.
    """
    end = i + n
    while i + 8 * LANES <= end:
        if ahead:
            fetch(x, i + ahead)
            fetch(x, i + ahead + 2 * LANES)
            fetch(x, i + ahead + 4 * LANES)
            fetch(x, i + ahead + 6 * LANES)
        first, squares = _four_differences(x, where, i, None, None, shift)
        second, more_squares = _four_differences(x, where, i + 4 * LANES, None, None, shift)
        s += wide(first + second)
        q += wide(squares + more_squares)
        i += 8 * LANES
    if i + 4 * LANES <= end:
        first, squares = _four_differences(x, where, i, None, None, shift)
        s += wide(first)
        q += wide(squares)
        i += 4 * LANES
    if i + 2 * LANES < end:
        third, fourth = min(end - i - 2 * LANES, LANES), max(end - i - 3 * LANES, 0)
        first, squares = _four_differences(x, where, i, third, fourth, shift)
        s += wide(first)
        q += wide(squares)
        return s, q
    while i + LANES <= end:
        d = _difference(x, where, i, None, shift)
        s += wide(d)
        q += wide(d * d)
        i += LANES
    if i < end:
        d = _difference(x, where, i, end - i, shift)
        s += wide(d)
        q += wide(d * d)
    return s, q


@tile
def _terms(arrays, i, m, of):
    """g = dy f and g h, where h = (x - hi) a + t; arrays: dy, x and where; of: f, hi, a and t, f and t may be None."""
    dy, x, where = arrays
    f, hi, a, t = of
    g = times(load_part(dy, i, m), f)
    h = g * plus((load_part(x, i, m) - hi) * a, t)
    return chosen(g, where, i, m), keep(chosen(h, where, i, m), m)


@tile
def _terms_of_run(arrays, i, m, of, j):
    f, hi, a, t = of
    return _terms(arrays, i, m, (at_part(f, j, m), at_part(hi, j, m), at_part(a, j, m), at_part(t, j, m)))


@inlined
def products(arrays, i, n, of, j, sums, ahead):
    """`sums` plus the sums of g = dy f and of g h over a run, h = (x - hi) a + t: two Vecs of float64.

    arrays: dy, x and where.  of: f, memory or None; hi and a, Vecs or memory; t, memory, or None where it is one
    number: the sum of g, so many times, can be added to that of g h.  ahead: as in `moments`.
    """
    dy, x, _ = arrays
    p, q = sums
    end = i + n
    while i + 4 * LANES <= end:
        if ahead:
            fetch(dy, i + ahead)
            fetch(dy, i + ahead + 2 * LANES)
            fetch(x, i + ahead)
            fetch(x, i + ahead + 2 * LANES)
        g0, h0 = _terms_of_run(arrays, i, None, of, j)
        g1, h1 = _terms_of_run(arrays, i + LANES, None, of, j + LANES)
        g2, h2 = _terms_of_run(arrays, i + 2 * LANES, None, of, j + 2 * LANES)
        g3, h3 = _terms_of_run(arrays, i + 3 * LANES, None, of, j + 3 * LANES)
        p += wide((g0 + g1) + (g2 + g3))
        q += wide((h0 + h1) + (h2 + h3))
        i += 4 * LANES
        j += 4 * LANES
    while i + LANES <= end:
        g, h = _terms_of_run(arrays, i, None, of, j)
        p += wide(g)
        q += wide(h)
        i += LANES
        j += LANES
    if i < end:
        g, h = _terms_of_run(arrays, i, end - i, of, j)
        p += wide(g)
        q += wide(h)
    return p, q


@tile
def _add(sums, j, vec, m):
    """sums[j : j + m] += vec, in float64."""
    store_part(sums, j, load_part(sums, j, m) + wide(vec), m)


@inlined
def _over_rows(step, rows, row, lead, args):
    """Take n columns of rows that are `stride` apart, `lead` and then 16 by 16, ROWS_AT_ONCE rows at a time.

    rows: where the first one begins, stride, how many there are, and n.  step((i, stride, rows), m, row, j, args) is
    for m columns (None: 16) from j on of some rows, the first of which begins at i; `row` is the number of the first
    one.
    """
    i, stride, count, n = rows
    whole, many = n - (n - lead) % LANES, np.int64(ROWS_AT_ONCE)
    r = 0
    while r < count:
        k = i + r * stride
        if r + many <= count:  # to LLVM a constant, for which it unrolls the loop over rows
            for j in range(lead, whole, LANES):
                step((k, stride, many), None, row + r, j, args)
        else:
            for j in range(lead, whole, LANES):
                step((k, stride, count - r), None, row + r, j, args)
        for j, m in ((0, lead), (whole, n - whole)):
            if m > 0:
                step((k, stride, min(count - r, many)), m, row + r, j, args)
        r += many


@inlined
def _expect_next(memory, rows, j):
    """Fetch a part of as many rows after these, in the order of memory, as j goes along a row."""
    i, stride, count = rows
    for k in range(0, count * LANES, 2 * LANES):
        fetch(memory, i + count * (stride + j) + k)


@inlined
def _add_moments(rows, m, row, j, args):
    x, where, shift, s, q, far = args
    i, stride, count = rows
    if far:
        _expect_next(x, rows, j)
    c = load_part(shift, j, m)
    d = chosen(like(load_part(x, i + j, m), c) - c, where, i + j, m)
    sj, qj = d, d * d
    for r in range(1, count):
        k = i + r * stride + j
        d = chosen(like(load_part(x, k, m), c) - c, where, k, m)
        sj += d
        qj += d * d
    _add(s, j, sj, m)
    _add(q, j, qj, m)


@tile
def add_moments(x, where, rows, shift, sums, lead, far):
    """`sums`, two of float64, plus those down each column of d and d^2, d = x - shift in the type of the shifts.

    rows: where the first one begins, how far they are apart, and how many rows and columns there are.  lead: how many
    columns come before a cache line.  far: whether x is not in a core's own cache, so that it is fetched in time.
    """
    _, stride, _, n = rows
    s, q = sums
    _over_rows(_add_moments, rows, 0, lead, (x, where, shift, s, q, far and n == stride))


@inlined
def _add_products(rows, m, row, j, args):
    arrays, f, hi, a, p, q, far = args
    dy, x, _ = arrays
    i, stride, count = rows
    if far:
        _expect_next(dy, rows, j)
        _expect_next(x, rows, j)
    hj, aj = load_part(hi, j, m), load_part(a, j, m)
    pj, qj = _terms(arrays, i + j, m, (of_row(f, row), hj, aj, None))
    for r in range(1, count):
        g, h = _terms(arrays, i + r * stride + j, m, (of_row(f, row + r), hj, aj, None))
        pj += g
        qj += h
    _add(p, j, pj, m)
    _add(q, j, qj, m)


@tile
def add_products(arrays, rows, of, row, sums, lead, far):
    """`sums`, two of float64, plus those down each column of g = dy f and of g h, h = (x - hi) a.

    arrays: dy, x and where.  of: f, memory, one a row from `row` on, or None; hi and a, memory, one a column.  rows,
    lead, far: as in `add_moments`.
    """
    _, stride, _, n = rows
    f, hi, a = of
    p, q = sums
    _over_rows(_add_products, rows, row, lead, (arrays, f, hi, a, p, q, far and n == stride))


@tile
def _both_terms(arrays, i, m, f, of):
    """`_terms` as they are added up down columns, and along rows; of: hi, a and t."""
    hi, a, t = of
    g, h = _terms(arrays, i, m, (None, hi, a, t))
    fg, fh = _terms(arrays, i, m, (f, hi, a, None))
    return g, h, fg, fh


@tile
def _of_row(of, r):
    """hi, a and t of row r."""
    hi, a, t = of
    return of_row(hi, r), of_row(a, r), of_row(t, r)


@tile
def _cross(arrays, rows, m, f, of, sums, along, j):
    i, stride, count, _ = rows
    p, q = sums
    fj = at_part(f, j, m)
    pj, qj = splat(arrays[1], 0.0), splat(arrays[1], 0.0)
    for r in range(count):
        g, h, fg, fh = _both_terms(arrays, i + r * stride + j, m, fj, _of_row(of, r))
        pj += g
        qj += h
        if along is not None:
            _add(along, 2 * r * LANES, fg, None)
            _add(along, (2 * r + 1) * LANES, fh, None)
    _add(p, j, pj, m)
    _add(q, j, qj, m)


@tile
def _cross_four(arrays, rows, f, of, sums, along, j, ahead):
    """`_cross` of four Vecs of columns, of which a row's terms are added up before they are widened."""
    i, stride, count, _ = rows
    p, q = sums
    dy, x, _ = arrays
    x_ahead, dy_ahead = ahead
    zero = splat(x, 0.0)
    j1, j2, j3 = j + LANES, j + 2 * LANES, j + 3 * LANES
    f0, f1, f2, f3 = at_part(f, j, None), at_part(f, j1, None), at_part(f, j2, None), at_part(f, j3, None)
    p0, p1, p2, p3, q0, q1, q2, q3 = zero, zero, zero, zero, zero, zero, zero, zero
    for r in range(count):
        own, k = _of_row(of, r), i + r * stride
        if x_ahead:
            look_ahead(x, k + j, x_ahead)
            look_ahead(x, k + j2, x_ahead)
            look_ahead(dy, k + j, dy_ahead)
            look_ahead(dy, k + j2, dy_ahead)
        g0, h0, fg0, fh0 = _both_terms(arrays, k + j, None, f0, own)
        g1, h1, fg1, fh1 = _both_terms(arrays, k + j1, None, f1, own)
        g2, h2, fg2, fh2 = _both_terms(arrays, k + j2, None, f2, own)
        g3, h3, fg3, fh3 = _both_terms(arrays, k + j3, None, f3, own)
        p0, p1, p2, p3 = p0 + g0, p1 + g1, p2 + g2, p3 + g3
        q0, q1, q2, q3 = q0 + h0, q1 + h1, q2 + h2, q3 + h3
        if along is not None:
            _add(along, 2 * r * LANES, (fg0 + fg1) + (fg2 + fg3), None)
            _add(along, (2 * r + 1) * LANES, (fh0 + fh1) + (fh2 + fh3), None)
    _add(p, j, p0, None)
    _add(p, j1, p1, None)
    _add(p, j2, p2, None)
    _add(p, j3, p3, None)
    _add(q, j, q0, None)
    _add(q, j1, q1, None)
    _add(q, j2, q2, None)
    _add(q, j3, q3, None)


@tile
def cross_products(arrays, rows, f, of, sums, along, ahead):
    """The sums of dy and dy h down columns and, if wanted, of g = dy f and g (h - t) along rows, in one reading.

    arrays: dy, x and where.  rows: as in `add_moments`.  f: memory, one a column, or None.  of: hi, a and t, memory,
    one a row.  sums: two of float64, one a column, that are added to.  along: float64, for each of at most ROWS_AT_ONCE
    rows the lanes of both sums, to which the same is added in the same order as by `products`; or None.  ahead: 0, or
    how many elements further on x is fetched, and then dy, for which it may be 0 where dy is fetched at another time.
    """
    n = rows[3]
    j = 0
    while j + 4 * LANES <= n:
        _cross_four(arrays, rows, f, of, sums, along, j, ahead)
        j += 4 * LANES
    while j + LANES <= n:
        _cross(arrays, rows, None, f, of, sums, along, j)
        j += LANES
    if j < n:
        _cross(arrays, rows, n - j, f, of, sums, along, j)


@tile
def _normal(x, i, m, of, j, extras):
    hi, a, t, w, b = of
    residual, activation, where, dy = extras
    d = load_part(x, i, m) - at_part(hi, j, m)
    z = plus(times(d * at_part(a, j, m) + at_part(t, j, m), at_part(w, j, m)), at_part(b, j, m))
    z = plus(z, at_part(residual, i, m))
    return chosen(activate(z, activation, at_part(dy, i, m)), where, i, m)


@inlined
def normalize(x, y, run, of, extras, past_cache, period=None, lead=0):
    """y = activation(z), z = ((x - hi) a + t) w + b + residual, over a run.

    run: where it begins, how long it is, and the place in `of` that belongs to its beginning.
    of: hi, a and t, Vecs or memory; w and b, Vecs, memory or None.  hi is the mean rounded to the type computed in;
    what the rounding left out comes back through t.
    extras: residual, memory or None; activation; where; dy, memory or None: given the gradient of activation(z), y is
    that of z.
    past_cache: 0, or y is written past the cache, and x fetched so many elements ahead.
    period: None, or the columns repeat after so many, of which the first 32 are there a second time.
    lead: how many elements come before a cache line of x or y, where it is better to begin there.
    """
    i, n, j = run
    end = i + n
    residual, _, _, dy = extras
    line = min(i + gap(y, i), end) if past_cache else i + lead
    while i < line:
        m = min(line - i, LANES)
        store_part(y, i, _normal(x, i, m, of, j, extras), m)
        i += m
        j += m
    if past_cache:
        while i + 2 * LANES <= end:
            look_ahead(x, i, past_cache)
            look_ahead(residual, i, past_cache)
            look_ahead(dy, i, past_cache)
            first = _normal(x, i, None, of, j, extras)
            stream(y, i, first, _normal(x, i + LANES, None, of, j + LANES, extras))
            i += 2 * LANES
            j += 2 * LANES
            if period is not None:
                j = j if j < period else j - period
    while i + 2 * LANES <= end:
        first = _normal(x, i, None, of, j, extras)
        second = _normal(x, i + LANES, None, of, j + LANES, extras)
        store(y, i, first)
        store(y, i + LANES, second)
        i += 2 * LANES
        j += 2 * LANES
    while i + LANES <= end:
        store(y, i, _normal(x, i, None, of, j, extras))
        i += LANES
        j += LANES
    if i < end:
        store_part(y, i, _normal(x, i, end - i, of, j, extras), end - i)


@tile
def _slope(dy, x, i, m, of, j, extras):
    hi, u, v, r, w = of
    dsum, where = extras
    g = times(load_part(dy, i, m), at_part(w, j, m))
    d = (g - at_part(v, j, m) - (load_part(x, i, m) - at_part(hi, j, m)) * at_part(u, j, m)) * at_part(r, j, m)
    return chosen(plus(d, at_part(dsum, i, m)), where, i, m)


@inlined
def gradient(arrays, run, of, extras, past_cache, period=None, lead=0):
    """dx = (dy w - v - (x - hi) u) r + dsum over a run.

    arrays: dy, x and dx.  of: hi, u, v and r, Vecs or memory; w, a Vec, memory or None.  extras: dsum, memory or None;
    where.  run, past_cache, period, lead: as in `normalize`.
    """
    dy, x, dx = arrays
    i, n, j = run
    end = i + n
    line = min(i + gap(dx, i), end) if past_cache else i + lead
    while i < line:
        m = min(line - i, LANES)
        store_part(dx, i, _slope(dy, x, i, m, of, j, extras), m)
        i += m
        j += m
    if past_cache:
        while i + 2 * LANES <= end:
            look_ahead(dy, i, past_cache)
            look_ahead(x, i, past_cache)
            first = _slope(dy, x, i, None, of, j, extras)
            stream(dx, i, first, _slope(dy, x, i + LANES, None, of, j + LANES, extras))
            i += 2 * LANES
            j += 2 * LANES
            if period is not None:
                j = j if j < period else j - period
    while i + LANES <= end:
        store(dx, i, _slope(dy, x, i, None, of, j, extras))
        i += LANES
        j += LANES
    if i < end:
        store_part(dx, i, _slope(dy, x, i, end - i, of, j, extras), end - i)


@tile
def pour(source, target, i, n):
    """target[i : i + n] = source[:n], past the cache."""
    first = min(gap(target, i), n)
    last = n - (n - first) % (2 * LANES)
    for k in range(first, last, 2 * LANES):
        stream(target, i + k, load_part(source, k, None), load_part(source, k + LANES, None))
    for begin, end in ((0, first), (last, n)):
        for k in range(begin, end, LANES):
            m = min(end - k, LANES)
            store_part(target, i + k, load_part(source, k, m), m)
