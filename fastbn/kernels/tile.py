"""Loops over one contiguous run of elements: two kinds of sums, one way forward, one way back.

`i` is the run's first element in memory and `n` its length.  Arguments described as "Vec, memory or None" are one value
for the whole run, or one a column read from place `j` on, or absent (see `simd`).

The sums are float64 and about a shift, an element of the group itself: a difference from it is exact or nearly so, so
the sums do not suffer from a large mean, a constant group gives exactly zero, and partial sums merge by addition
(Chan, Golub and LeVeque 1983, with the division left to the end).
"""

from fastbn.kernels.jit import tile
from fastbn.kernels.simd import (
    LANES,
    at,
    at_part,
    gap,
    keep,
    load,
    load_part,
    minus,
    of_row,
    plus,
    store,
    store_part,
    stream,
    times,
    wide,
)


@tile
def moments(x, i, n, shift, s, q):
    """(s, q) plus the sums of d and d^2 over a run, d = x - shift; Vecs of float64."""
    end = i + n
    while i + LANES <= end:
        d = wide(load(x, i)) - shift
        s += d
        q += d * d
        i += LANES
    if i < end:
        d = keep(wide(load_part(x, i, end - i)) - shift, end - i)
        s += d
        q += d * d
    return s, q


@tile
def products(dy, x, i, n, mean, f, g, j, p, q):
    """(p, q) plus the sums of dy f and dy g (x - mean) over a run; mean, f, g: Vec, memory or None."""
    end = i + n
    while i + LANES <= end:
        v = wide(load(dy, i))
        p += times(v, wide(at(f, j)))
        q += times(v, wide(at(g, j))) * (wide(load(x, i)) - at(mean, j))
        i += LANES
        j += LANES
    if i < end:
        m = end - i
        v = wide(load_part(dy, i, m))
        p += times(v, wide(at_part(f, j, m)))
        q += keep(times(v, wide(at_part(g, j, m))) * (wide(load_part(x, i, m)) - at_part(mean, j, m)), m)
    return p, q


ROWS_AT_ONCE = 8  # rows a column's sums stay in registers for


@tile
def add_moments(x, i, stride, rows, n, shift, s, q):
    """s, q plus the sums down each of n columns of d and d^2, d = x - shift; shift, s, q: float64.

    The rows are `stride` apart.  Row follows row in every column's sum, however many are taken at once.
    """
    for r0 in range(0, rows, ROWS_AT_ONCE):
        r1 = min(r0 + ROWS_AT_ONCE, rows)
        for j in range(0, n - n % LANES, LANES):
            c, sj, qj = load(shift, j), load(s, j), load(q, j)
            for r in range(r0, r1):
                d = wide(load(x, i + r * stride + j)) - c
                sj += d
                qj += d * d
            store(s, j, sj)
            store(q, j, qj)
        if n % LANES:
            j, m = n - n % LANES, n % LANES
            c, sj, qj = load_part(shift, j, m), load_part(s, j, m), load_part(q, j, m)
            for r in range(r0, r1):
                d = wide(load_part(x, i + r * stride + j, m)) - c
                sj += d
                qj += d * d
            store_part(s, j, sj, m)
            store_part(q, j, qj, m)


@tile
def add_products(dy, x, i, stride, rows, n, mean, row_mean, f, g, row, p, q):
    """p, q plus the sums down each of n columns of dy f and dy g (x - mean - row_mean); p, q: float64.

    mean: float64, one a column, or None; row_mean, f, g: one a row from `row` on, or None.
    """
    for r0 in range(0, rows, ROWS_AT_ONCE):
        r1 = min(r0 + ROWS_AT_ONCE, rows)
        for j in range(0, n - n % LANES, LANES):
            c, pj, qj = at(mean, j), load(p, j), load(q, j)
            for r in range(r0, r1):
                v, d = wide(load(dy, i + r * stride + j)), wide(load(x, i + r * stride + j))
                pj += times(v, wide(of_row(f, row + r)))
                qj += times(v, wide(of_row(g, row + r))) * minus(minus(d, c), of_row(row_mean, row + r))
            store(p, j, pj)
            store(q, j, qj)
        if n % LANES:
            j, m = n - n % LANES, n % LANES
            c, pj, qj = at_part(mean, j, m), load_part(p, j, m), load_part(q, j, m)
            for r in range(r0, r1):
                v, d = wide(load_part(dy, i + r * stride + j, m)), wide(load_part(x, i + r * stride + j, m))
                pj += times(v, wide(of_row(f, row + r)))
                qj += times(v, wide(of_row(g, row + r))) * minus(minus(d, c), of_row(row_mean, row + r))
            store_part(p, j, pj, m)
            store_part(q, j, qj, m)


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
