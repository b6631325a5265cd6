"""Loops over one contiguous run of elements: two kinds of sums, one way forward, one way back.

`i` is the run's first element in memory and `n` its length.  Arguments described as "Vec, memory or None" are one value
for the whole run, or one a column read from place `j` on, or absent (see `simd`).

The sums of forward are about a shift, the median of three elements of the group: a difference from it is exact or
nearly so, so the sums do not suffer from a large mean, a constant group gives exactly zero, and partial sums merge by
addition (Chan, Golub and LeVeque 1983, with the division left to the end).  They are kept in float64; float32 terms are
added up a few at a time before they are widened, which takes half the time of widening each.  Where float32 does not
do, as `trusted` tells, the caller asks for the same sums in float64 from the start, by a shift of that type.  The sums
of backward are of normalized values, which need no such care.
"""

import numpy as np

from fastbn.kernels.jit import tile
from fastbn.kernels.simd import (
    LANES,
    at,
    at_part,
    either,
    gap,
    keep,
    like,
    load,
    load_part,
    of_row,
    plus,
    store,
    store_part,
    stream,
    times,
    wide,
)

ROWS_AT_ONCE = 8  # whose terms are added up in each column before they are widened
FEW = 32  # terms: fewer are summed in float64 right away
_LEAST_SQUARE = 1e-30  # on the average: the squares of a float32 lose digits below 1e-38
_MOST_CANCELLED = 8.0


@tile
def trusted(s, q, n, centered):
    """Whether float32 was enough for the sums of n differences d and of their squares.

    It is not where squares leave its range, and where the shift is so far from the mean that most of q cancels.
    """
    return n * _LEAST_SQUARE <= q < np.inf and (not centered or n * q <= _MOST_CANCELLED * (n * q - s * s))


@tile
def _difference(x, i, m, shift):
    return keep(like(load_part(x, i, m), shift) - shift, m)


@tile
def moments(x, i, n, shift, s, q):
    """(s, q) plus the sums of d and d^2 over a run, d = x - shift in the type of the shift; s, q: Vecs of float64."""
    end = i + n
    while i + 4 * LANES <= end:
        a, b = _difference(x, i, None, shift), _difference(x, i + LANES, None, shift)
        c, d = _difference(x, i + 2 * LANES, None, shift), _difference(x, i + 3 * LANES, None, shift)
        s += wide((a + b) + (c + d))
        q += wide((a * a + b * b) + (c * c + d * d))
        i += 4 * LANES
    while i + LANES <= end:
        d = _difference(x, i, None, shift)
        s += wide(d)
        q += wide(d * d)
        i += LANES
    if i < end:
        d = _difference(x, i, end - i, shift)
        s += wide(d)
        q += wide(d * d)
    return s, q


@tile
def _terms(dy, x, i, m, f, hi, a, t):
    """g = dy f and g h, where h = (x - hi) a + t; hi, a, t: Vecs; f: a Vec or None."""
    g = times(load_part(dy, i, m), f)
    return g, keep(g * ((load_part(x, i, m) - hi) * a + t), m)


@tile
def _terms_of_run(dy, x, i, m, f, hi, a, t, j):
    return _terms(dy, x, i, m, at_part(f, j, m), at_part(hi, j, m), at_part(a, j, m), at_part(t, j, m))


@tile
def products(dy, x, i, n, f, hi, a, t, j, p, q):
    """(p, q) plus the sums of g = dy f and of g h over a run, h = (x - hi) a + t; p, q: Vecs of float64.

    f: memory or None; hi, a, t: Vec or memory.
    """
    end = i + n
    while i + 4 * LANES <= end:
        g0, h0 = _terms_of_run(dy, x, i, None, f, hi, a, t, j)
        g1, h1 = _terms_of_run(dy, x, i + LANES, None, f, hi, a, t, j + LANES)
        g2, h2 = _terms_of_run(dy, x, i + 2 * LANES, None, f, hi, a, t, j + 2 * LANES)
        g3, h3 = _terms_of_run(dy, x, i + 3 * LANES, None, f, hi, a, t, j + 3 * LANES)
        p += wide((g0 + g1) + (g2 + g3))
        q += wide((h0 + h1) + (h2 + h3))
        i += 4 * LANES
        j += 4 * LANES
    while i + LANES <= end:
        g, h = _terms_of_run(dy, x, i, None, f, hi, a, t, j)
        p += wide(g)
        q += wide(h)
        i += LANES
        j += LANES
    if i < end:
        g, h = _terms_of_run(dy, x, i, end - i, f, hi, a, t, j)
        p += wide(g)
        q += wide(h)
    return p, q


@tile
def _add_moments(x, i, stride, rows, m, shift, s, q, j):
    c = load_part(shift, j, m)
    d = like(load_part(x, i + j, m), c) - c
    sj, qj = d, d * d
    for r in range(1, rows):
        d = like(load_part(x, i + r * stride + j, m), c) - c
        sj += d
        qj += d * d
    store_part(s, j, load_part(s, j, m) + wide(sj), m)
    store_part(q, j, load_part(q, j, m) + wide(qj), m)


@tile
def _add_moments_of(x, i, stride, rows, n, shift, s, q):
    whole = n - n % LANES
    for j in range(0, whole, LANES):
        _add_moments(x, i, stride, rows, None, shift, s, q, j)
    if whole < n:
        _add_moments(x, i, stride, rows, n - whole, shift, s, q, whole)


@tile
def add_moments(x, i, stride, rows, n, shift, s, q):
    """s, q plus the sums down each of n columns of d and d^2, d = x - shift in the type of the shifts; s, q: float64.

    The rows are `stride` apart.
    """
    whole = rows - rows % ROWS_AT_ONCE
    for r in range(0, whole, ROWS_AT_ONCE):
        _add_moments_of(x, i + r * stride, stride, ROWS_AT_ONCE, n, shift, s, q)  # a constant: the loop is unrolled
    if whole < rows:
        _add_moments_of(x, i + whole * stride, stride, rows - whole, n, shift, s, q)


@tile
def _add_products(dy, x, i, stride, rows, m, f, hi, a, t, row_hi, row_a, row_t, row, p, q, j):
    hj, aj, tj = at_part(hi, j, m), at_part(a, j, m), at_part(t, j, m)
    pj, qj = _terms(
        dy,
        x,
        i + j,
        m,
        of_row(f, row),
        either(hj, of_row(row_hi, row)),
        either(aj, of_row(row_a, row)),
        either(tj, of_row(row_t, row)),
    )
    for r in range(1, rows):
        k = row + r
        g, h = _terms(
            dy,
            x,
            i + r * stride + j,
            m,
            of_row(f, k),
            either(hj, of_row(row_hi, k)),
            either(aj, of_row(row_a, k)),
            either(tj, of_row(row_t, k)),
        )
        pj += g
        qj += h
    store_part(p, j, load_part(p, j, m) + wide(pj), m)
    store_part(q, j, load_part(q, j, m) + wide(qj), m)


@tile
def _add_products_of(dy, x, i, stride, rows, n, f, hi, a, t, row_hi, row_a, row_t, row, p, q):
    whole = n - n % LANES
    for j in range(0, whole, LANES):
        _add_products(dy, x, i, stride, rows, None, f, hi, a, t, row_hi, row_a, row_t, row, p, q, j)
    if whole < n:
        _add_products(dy, x, i, stride, rows, n - whole, f, hi, a, t, row_hi, row_a, row_t, row, p, q, whole)


@tile
def add_products(dy, x, i, stride, rows, n, f, hi, a, t, row_hi, row_a, row_t, row, p, q):
    """p, q plus the sums down each of n columns of g = dy f and of g h, h = (x - hi) a + t; p, q: float64.

    hi, a, t: memory, one a column, or None; then row_hi, row_a, row_t have one a row from `row` on, as f, or f is None.
    """
    down = row_hi, row_a, row_t
    whole = rows - rows % ROWS_AT_ONCE
    for r in range(0, whole, ROWS_AT_ONCE):
        _add_products_of(dy, x, i + r * stride, stride, ROWS_AT_ONCE, n, f, hi, a, t, *down, row + r, p, q)
    if whole < rows:
        _add_products_of(dy, x, i + whole * stride, stride, rows - whole, n, f, hi, a, t, *down, row + whole, p, q)


@tile
def _normal(x, hi, a, t, w, b):
    return plus(times((x - hi) * a + t, w), b)


@tile
def _normalize_part(x, y, i, n, hi, a, t, w, b, j):
    v = _normal(
        load_part(x, i, n), at_part(hi, j, n), at_part(a, j, n), at_part(t, j, n), at_part(w, j, n), at_part(b, j, n)
    )
    store_part(y, i, v, n)


@tile
def normalize(x, y, i, n, hi, a, t, w, b, j, past_cache):
    """y = ((x - hi) a + t) w + b over a run; hi, a, t: Vec or memory; w, b: Vec, memory or None.

    hi is the mean rounded to the type computed in; what the rounding left out comes back through t.
    """
    end = i + n
    if past_cache:
        m = min(gap(y, i), n)
        _normalize_part(x, y, i, m, hi, a, t, w, b, j)
        i += m
        j += m
    while i + LANES <= end:
        v = _normal(load(x, i), at(hi, j), at(a, j), at(t, j), at(w, j), at(b, j))
        if past_cache:
            stream(y, i, v)
        else:
            store(y, i, v)
        i += LANES
        j += LANES
    if i < end:
        _normalize_part(x, y, i, end - i, hi, a, t, w, b, j)


@tile
def _slope(dy, x, hi, u, v, r, w):
    return (times(dy, w) - v - (x - hi) * u) * r


@tile
def _gradient_part(dy, x, dx, i, n, hi, u, v, r, w, j):
    d = _slope(
        load_part(dy, i, n),
        load_part(x, i, n),
        at_part(hi, j, n),
        at_part(u, j, n),
        at_part(v, j, n),
        at_part(r, j, n),
        at_part(w, j, n),
    )
    store_part(dx, i, d, n)


@tile
def gradient(dy, x, dx, i, n, hi, u, v, r, w, j, past_cache):
    """dx = (dy w - v - (x - hi) u) r over a run; hi, u, v, r: Vec or memory; w: Vec, memory or None."""
    end = i + n
    if past_cache:
        m = min(gap(dx, i), n)
        _gradient_part(dy, x, dx, i, m, hi, u, v, r, w, j)
        i += m
        j += m
    while i + LANES <= end:
        d = _slope(load(dy, i), load(x, i), at(hi, j), at(u, j), at(v, j), at(r, j), at(w, j))
        if past_cache:
            stream(dx, i, d)
        else:
            store(dx, i, d)
        i += LANES
        j += LANES
    if i < end:
        _gradient_part(dy, x, dx, i, end - i, hi, u, v, r, w, j)
