"""Data before a network sees it: every element by the statistics of its channel, and exact sums of integers.

y = (x - hi) a + t, in the type of hi, a and t, which have a number a channel.  `kinds` marks x and y, in this order:
None where the elements are floats, a number where they are integers (see `numbers`).  Elements do not depend on each
other, so how the work is cut makes no difference to any bit; integer sums are exact.
"""

import numpy as np
from numba import prange

from fastbn.kernels.jit import driver, inlined, tile
from fastbn.kernels.numbers import (
    COLUMNS,
    MOST_ROWS,
    add_columns,
    fitted,
    flow,
    planes3,
    planes4,
    put,
    take,
    take_apart,
    woven3,
    woven4,
)
from fastbn.kernels.plans import Moved, Planes, Repeating, SumsOfColumns, SumsOfRuns, named
from fastbn.kernels.simd import LANES, address, advance, at, at_part, fetch, gap, of_row

UNIT = 32768  # elements: some microseconds of work,
POSITIONS = 8192  # and so many positions where channels change their place
AHEAD = 4096  # elements that x is fetched ahead where y is written past the cache
NEAR = 32768  # bytes of a block of rows, whose columns are summed in turn while it is in the nearest cache
FOREVER = 1 << 62


# Every element by the statistics of its channel -----------------------------------------------------------------------


@tile
def _scaled(v, hi, a, t):
    return (v - hi) * a + t


@inlined
def _part(x, y, kinds, i, k, m, of, j):
    """At most 16 elements: y[k : k + m] from x[i : i + m]."""
    hi, a, t = of
    v = take(x, kinds[0], i, m, hi[1])
    v = _scaled(v, at_part(hi[0], j, m), at_part(a, j, m), at_part(t, j, m))
    put(y, kinds[1], k, fitted(v, y, kinds[1]), m)


@inlined
def _run(x, y, kinds, run, of, period, past_cache):
    """A run of y from the same one of x.

    run: where it begins, how long it is, and the place in `of` that belongs to its beginning.  of: hi, with memory of
    its type, and a and t: Vecs, or memory, where `period` columns repeat, the first 32 of which are there a second
    time.
    """
    (i, n, j), (hi, a, t) = run, of
    whole, target = kinds
    end = i + n
    line = min(i + gap(y, i), end) if past_cache else i
    while i < line:
        m = min(line - i, LANES)
        _part(x, y, kinds, i, i, m, of, j)
        i, j = i + m, j + m
        j = j if j < period else j - period
    while i + 2 * LANES <= end:
        v = take(x, whole, i, None, hi[1])
        v = fitted(_scaled(v, at(hi[0], j), at(a, j), at(t, j)), y, target)
        j += LANES
        w = take(x, whole, i + LANES, None, hi[1])
        w = fitted(_scaled(w, at(hi[0], j), at(a, j), at(t, j)), y, target)
        j += LANES
        if past_cache:
            fetch(x, i + AHEAD)
            flow(y, target, i, v, w)
        else:
            put(y, target, i, v, None)
            put(y, target, i + LANES, w, None)
        i += 2 * LANES
        j = j if j < period else j - period
    while i < end:
        m = min(end - i, LANES)
        _part(x, y, kinds, i, i, m, of, j)
        i, j = i + m, j + m


@driver
def runs(units, plan, x, y, kinds, hi, a, t):
    """x of (any, channels, length), y alike; plan: the numbers of `Planes`."""
    for u in prange(units):
        channels, length, pieces, past_cache = named(plan, Planes)
        r, p = u // pieces, u % pieces
        c, start = r % channels, p * UNIT
        ph = address(hi)
        of = (of_row(ph, c), ph), of_row(address(a), c), of_row(address(t), c)
        run = r * length + start, min(UNIT, length - start), 0
        _run(address(x), address(y), kinds, run, of, FOREVER, past_cache)


@driver
def columns(units, plan, x, y, kinds, hi, a, t):
    """x and y of `size` elements whose channels repeat; plan: the numbers of `Repeating`.

    hi, a, t: `period` numbers, at least 64, and the first 32 of them once more.
    """
    for u in prange(units):
        size, period, past_cache = named(plan, Repeating)
        start = u * UNIT
        ph = address(hi)
        of = (ph, ph), address(a), address(t)
        run = start, min(UNIT, size - start), start % period
        _run(address(x), address(y), kinds, run, of, period, past_cache)


# Channels to another place --------------------------------------------------------------------------------------------


@inlined
def _apart(x, y, kinds, i, k, m, shape, of):
    """At most 16 positions of channels that lie side by side in x, and as planes in y; shape: length and channels."""
    (length, channels), (hi, a, t) = shape, of
    for c in range(channels):
        v = take_apart(x, kinds[0], i + c, channels, m, hi)
        v = _scaled(v, of_row(hi, c), of_row(a, c), of_row(t, c))
        put(y, kinds[1], k + c * length, fitted(v, y, kinds[1]), m)


@inlined
def _plane(y, target, k, v, w, of, c, past_cache):
    """32 positions of channel c, given as two Vecs."""
    hi, a, t = of
    h, s, b = of_row(hi, c), of_row(a, c), of_row(t, c)
    v, w = fitted(_scaled(v, h, s, b), y, target), fitted(_scaled(w, h, s, b), y, target)
    if past_cache:
        flow(y, target, k, v, w)
    else:
        put(y, target, k, v, None)
        put(y, target, k + LANES, w, None)


@inlined
def _three_planes(x, y, kinds, i, k, length, of, past_cache):
    if past_cache:
        fetch(x, i + AHEAD)
        fetch(x, i + AHEAD + 2 * LANES)
        fetch(x, i + AHEAD + 4 * LANES)
    v, w = planes3(x, kinds[0], i, of[0]), planes3(x, kinds[0], i + 3 * LANES, of[0])
    _plane(y, kinds[1], k, v[0], w[0], of, 0, past_cache)
    _plane(y, kinds[1], k + length, v[1], w[1], of, 1, past_cache)
    _plane(y, kinds[1], k + 2 * length, v[2], w[2], of, 2, past_cache)


@inlined
def _four_planes(x, y, kinds, i, k, length, of, past_cache):
    if past_cache:
        fetch(x, i + AHEAD)
        fetch(x, i + AHEAD + 2 * LANES)
        fetch(x, i + AHEAD + 4 * LANES)
        fetch(x, i + AHEAD + 6 * LANES)
    v, w = planes4(x, kinds[0], i, of[0]), planes4(x, kinds[0], i + 4 * LANES, of[0])
    _plane(y, kinds[1], k, v[0], w[0], of, 0, past_cache)
    _plane(y, kinds[1], k + length, v[1], w[1], of, 1, past_cache)
    _plane(y, kinds[1], k + 2 * length, v[2], w[2], of, 2, past_cache)
    _plane(y, kinds[1], k + 3 * length, v[3], w[3], of, 3, past_cache)


@driver
def to_first(units, plan, x, y, kinds, hi, a, t):
    """x of (n, length, channels), y of (n, channels, length); plan: the numbers of `Moved`.

    past_cache: only where all planes begin at the same place of a cache line.
    """
    for u in prange(units):
        length, channels, blocks, past_cache = named(plan, Moved)
        of = address(hi), address(a), address(t)
        px, py = address(x), address(y)
        sample, q = u // blocks, u % blocks * POSITIONS
        end = min(q + POSITIONS, length)
        x0, y0 = sample * length * channels, sample * length * channels
        if past_cache:
            line = min(q + gap(py, y0 + q), end)
            if line > q:
                _apart(px, py, kinds, x0 + q * channels, y0 + q, line - q, (length, channels), of)
            q = line
        if channels == 3:
            while q + 2 * LANES <= end:
                _three_planes(px, py, kinds, x0 + q * 3, y0 + q, length, of, past_cache)
                q += 2 * LANES
        elif channels == 4:
            while q + 2 * LANES <= end:
                _four_planes(px, py, kinds, x0 + q * 4, y0 + q, length, of, past_cache)
                q += 2 * LANES
        while q < end:
            m = min(end - q, LANES)
            _apart(px, py, kinds, x0 + q * channels, y0 + q, m, (length, channels), of)
            q += m


@inlined
def _beside(x, y, kinds, i, k, m, shape, of):
    """m positions of channels that are planes in x, and lie side by side in y; shape: length and channels."""
    (length, channels), (hi, a, t) = shape, of
    for p in range(m):
        for c in range(0, channels, LANES):
            some = min(channels - c, LANES)
            v = take_apart(x, kinds[0], i + p + c * length, length, some, hi)
            v = _scaled(v, at_part(hi, c, some), at_part(a, c, some), at_part(t, c, some))
            put(y, kinds[1], k + p * channels + c, fitted(v, y, kinds[1]), some)


@inlined
def _channel(x, y, kinds, i, of, c):
    """16 positions of channel c."""
    hi, a, t = of
    v = _scaled(take(x, kinds[0], i, None, hi), of_row(hi, c), of_row(a, c), of_row(t, c))
    return fitted(v, y, kinds[1])


@inlined
def _both(y, target, k, v, w, past_cache):
    if past_cache:
        flow(y, target, k, v, w)
    else:
        put(y, target, k, v, None)
        put(y, target, k + LANES, w, None)


@inlined
def _weave_three(x, y, kinds, i, k, length, of, past_cache):
    j = i + LANES
    v = woven3(
        (
            _channel(x, y, kinds, i, of, 0),
            _channel(x, y, kinds, i + length, of, 1),
            _channel(x, y, kinds, i + 2 * length, of, 2),
        )
    )
    w = woven3(
        (
            _channel(x, y, kinds, j, of, 0),
            _channel(x, y, kinds, j + length, of, 1),
            _channel(x, y, kinds, j + 2 * length, of, 2),
        )
    )
    _both(y, kinds[1], k, v[0], v[1], past_cache)
    _both(y, kinds[1], k + 2 * LANES, v[2], w[0], past_cache)
    _both(y, kinds[1], k + 4 * LANES, w[1], w[2], past_cache)


@inlined
def _weave_four(x, y, kinds, i, k, length, of, past_cache):
    v = woven4(
        (
            _channel(x, y, kinds, i, of, 0),
            _channel(x, y, kinds, i + length, of, 1),
            _channel(x, y, kinds, i + 2 * length, of, 2),
            _channel(x, y, kinds, i + 3 * length, of, 3),
        )
    )
    _both(y, kinds[1], k, v[0], v[1], past_cache)
    _both(y, kinds[1], k + 2 * LANES, v[2], v[3], past_cache)


@driver
def to_last(units, plan, x, y, kinds, hi, a, t):
    """x of (n, channels, length), y of (n, length, channels); plan: as of `to_first`."""
    for u in prange(units):
        length, channels, blocks, past_cache = named(plan, Moved)
        of = address(hi), address(a), address(t)
        px, py = address(x), address(y)
        sample, q = u // blocks, u % blocks * POSITIONS
        end = min(q + POSITIONS, length)
        x0, y0 = sample * length * channels, sample * length * channels
        first = q
        while past_cache and q < end and gap(py, y0 + q * channels) > 0:
            q += 1
            if q - first >= LANES:  # no position begins at a cache line
                past_cache = 0
                q = first
        _beside(px, py, kinds, x0 + first, y0 + first * channels, q - first, (length, channels), of)
        if channels == 3:
            while q + 2 * LANES <= end:
                _weave_three(px, py, kinds, x0 + q, y0 + q * 3, length, of, past_cache)
                q += 2 * LANES
        elif channels == 4:
            while q + LANES <= end:
                _weave_four(px, py, kinds, x0 + q, y0 + q * 4, length, of, past_cache)
                q += LANES
        _beside(px, py, kinds, x0 + q, y0 + q * channels, end - q, (length, channels), of)


# Exact sums -----------------------------------------------------------------------------------------------------------


@inlined
def _add_rows(x, i, stride, rows, width, sums):
    """Add to the sums of `width` columns, and behind them to those of squares, what these rows hold."""
    squares = advance(sums, width)
    whole = width - width % COLUMNS
    step = min(MOST_ROWS, max(8, NEAR // stride))
    for r in range(0, rows, step):
        some = min(step, rows - r)
        k = i + r * stride
        for c in range(0, whole, COLUMNS):
            add_columns(x, k + c, stride, some, advance(sums, c), advance(squares, c))
        for c in range(whole, width):
            s, q = 0, 0
            for e in range(some):
                v = np.int64(x[k + e * stride + c])
                s += v
                q += v * v
            sums[c] += s
            squares[c] += q


@driver
def sums_of_columns(units, plan, x, sums):
    """Sums and sums of squares of integers down columns; plan: the numbers of `SumsOfColumns`; sums: zeros."""
    for u in prange(units):
        rows, width, of_unit = named(plan, SumsOfColumns)
        first = u * of_unit
        _add_rows(
            address(x), first * width, width, min(of_unit, rows - first), width, advance(address(sums), 2 * width * u)
        )


@inlined
def _sum_run(x, i, n):
    """The sum of a run of integers, and that of their squares."""
    rows = n // COLUMNS
    lanes = np.zeros(2 * COLUMNS, np.int64)
    _add_rows(x, i, COLUMNS, rows, COLUMNS, address(lanes))
    s, q = np.int64(0), np.int64(0)
    for k in range(i + rows * COLUMNS, i + n):
        v = np.int64(x[k])
        s += v
        q += v * v
    for c in range(COLUMNS):
        s += lanes[c]
        q += lanes[COLUMNS + c]
    return s, q


@driver
def sums_of_runs(units, plan, x, sums):
    """Sums and sums of squares of runs of integers; plan: the numbers of `SumsOfRuns`; sums: two a work item."""
    for u in prange(units):
        length, pieces = named(plan, SumsOfRuns)
        start = u % pieces * UNIT
        s, q = _sum_run(address(x), u // pieces * length + start, min(UNIT, length - start))
        sums[2 * u], sums[2 * u + 1] = s, q
