"""Groups that are columns of a row-major block: channels last, few elements a plane, norm over the channel axis.

x is seen as `blocks` of (rows, width) in memory order.  Group g of a block shares its statistics over `span` adjacent
columns and all rows; column c has weight number c // repeat, or every row has its own:

    batch norm, channels last         (1, N*S, C)    span 1, repeat 1
    batch norm, few elements a plane  (1, N, C*S)    span S, repeat S
    group norm, channels last         (N, S, C)      span C/G, repeat 1
    instance norm, channels last      (N, S, C)      span 1, repeat 1
    layer norm, channels first        (N, C, S)      span 1, a weight a row

Narrow rows are taken `fold` at a time, as one row of fold*width columns (the last one may be shorter); a group then
gathers the columns that stand for the same channel.  `view` is (rows, width, fold, span, repeat, weights, panel,
piece): `forward` and `backward` do a panel of `panel` columns while it is in the cache; `reduce`, `finish` and `scale`,
one after the other, work on pieces of `piece` folded rows.  Pieces depend on the shape alone and are added up in order
either way, so which one is taken makes no difference to any bit.
"""

import numpy as np
from numba import prange

from fastbn.kernels.jit import driver, tile
from fastbn.kernels.runs import (
    FAR,
    NOTHING,
    beginnings,
    completed,
    hold,
    last_first,
    lined_up,
    pick,
    rooted,
    slopes,
    some_element,
    statistics,
    weighed,
)
from fastbn.kernels.simd import (
    LANES,
    address,
    advance,
    either,
    gap,
    less,
    load_part,
    narrow,
    of_row,
    rounded,
    splat64,
    store_part,
    total,
    wide,
)
from fastbn.kernels.tile import add_moments, add_products, gradient, normalize, products, trusted

AT_ONCE = 1024  # columns, if there are many: what these are scaled by stays in the cache
MANY = 128  # columns, of which it pays to take some on their own so that the others begin at a cache line
FEW = 128  # terms of a group in a piece: fewer are summed in float64 right away, for they make few sums of eight


@tile
def _part(view, p, parts):
    """The folded rows r0 to r1 of one of so many parts of about the same size; see `_piece`."""
    rows, _, fold, _, _, _, _, _ = view
    folded = (rows + fold - 1) // fold
    return _rows(view, folded * p // parts, folded * (p + 1) // parts)


@tile
def _piece(view, p):
    """The folded rows r0 to r1 of piece p; those before `whole` are full, one after them has `rest` columns."""
    rows, _, fold, _, _, _, _, piece = view
    return _rows(view, p * piece, min((p + 1) * piece, (rows + fold - 1) // fold))


@tile
def _rows(view, r0, r1):
    rows, width, fold, _, _, _, _, _ = view
    whole = min(r1, rows // fold)
    return r0, r1, whole, (rows - whole * fold) * width


@tile
def _run(view, block, span, c0, n, r):
    """Where n columns from c0 on of row r of some begin, see `_piece`, and how many of them there are, if any."""
    rows, width, fold, _, _, _, _, _ = view
    _, _, whole, rest = span
    return block * rows * width + r * width * fold + c0, n if r < whole else min(rest - c0, n)


@tile
def _counts(view):
    """Pieces and panels of a block."""
    rows, width, fold, _, _, _, panel, piece = view
    return ((rows + fold - 1) // fold + piece - 1) // piece, (width * fold + panel - 1) // panel


@tile
def _panel(view, k):
    """The columns c0 to c1 of panel k."""
    _, width, fold, _, _, _, panel, _ = view
    return k * panel, min((k + 1) * panel, width * fold)


def apart(n):
    """How far arrays lie apart that have a number for each of n columns and the first 32 once more, see `_begin`."""
    return (n + 4 * LANES - 1) // LANES * LANES


_apart = tile(apart)


@tile
def _array(columns, n, k):
    """The k-th of such arrays."""
    return advance(columns, k * _apart(n))


@tile
def _lead(x, view, block, c0, n):
    """How many of n columns from c0 on come before a cache line, if that is the same in all rows, else 0; under 16.

    Loads across two lines take twice the time; and for a column, it makes no difference in which lane it is.
    """
    rows, width, fold, _, _, _, _, _ = view
    i = block * rows * width + c0
    lead = gap(x, i)
    return lead % LANES if n >= MANY and lead == gap(x, i + width * fold) else 0


@tile
def _begin(array, lead):
    """Where numbers of columns begin in an array, for the one after `lead` to be at a cache line."""
    return advance(lined_up(array), LANES - lead)


@tile
def _repeat(columns, own, n):
    """Let the columns repeat after the first `own` of n, and 32 more."""
    for c in range(own, n + 2 * LANES):
        columns[c] = columns[c - own]


@tile
def _repeats(view, n):
    """Whether n columns are whole rows, of which a run may be made."""
    return n == view[1] * view[2] and n >= 2 * LANES


@tile
def _far(view):
    """Whether a block is more than a core's own cache holds."""
    return view[0] * view[1] >= FAR


@tile
def _add(own, sums, n):
    for c in range(n):
        own[c] += sums[c]


@tile
def _keep(sums, u, n, s, q):
    """Put the sums of piece u where they are wanted."""
    for c in range(n):
        sums[u * 2 * n + c] = s[c]
    for c in range(n):
        sums[(u * 2 + 1) * n + c] = q[c]


@tile
def _clear(sums, n):
    for c in range(n):
        sums[c] = 0.0


# Forward --------------------------------------------------------------------------------------------------------------


@tile
def _medians(x, i, j, k, n, shift):
    """For each of n columns the median of three elements, those of column 0 being i, j and k."""
    for c in range(0, n, LANES):
        m = min(n - c, LANES)
        a, b, d = load_part(x, i + c, m), load_part(x, j + c, m), load_part(x, k + c, m)
        low, high = less(a, b, a, b), less(a, b, b, a)
        high = less(high, d, high, d)
        store_part(shift, c, wide(less(low, high, high, low)), m)


@tile
def _shifts(x, where, view, block, c0, n, centered, shift, narrow_shift):
    """For n columns from c0 on an element of the column's group, or zero, in float64 and as computed with."""
    rows, width, _, span, _, _, _, _ = view
    own, i = min(n, width), block * rows * width + c0
    if not centered:
        _clear(shift, own)
    elif span == 1 and where is None:
        _medians(x, i, i + rows // 2 * width, i + (rows - 1) * width, own, shift)
    else:
        for j in range(0, own, span):
            value, found = 0.0, False
            for c in range(j, j + span):
                if not found:
                    value, found = some_element(x, where, i + c, rows, width)
            for c in range(j, j + span):
                shift[c] = value
    for c in range(own, n):
        shift[c] = shift[c - own]
    for c in range(n):
        narrow_shift[c] = shift[c]


@tile
def _sums(x, where, view, block, p, c0, n, lead, shift, s, q):
    rows, width, fold, _, _, _, _, _ = view
    stride = width * fold
    r0, r1, whole, rest = _piece(view, p)
    _clear(s, n)
    _clear(q, n)
    i = block * rows * width + r0 * stride + c0
    add_moments(x, where, i, stride, whole - r0, n, shift, s, q, lead, _far(view))
    if whole < r1 and rest > c0:
        m = min(rest - c0, n)
        i += (whole - r0) * stride
        add_moments(x, where, i, stride, r1 - whole, m, shift, s, q, min(lead, m), False)


@tile
def _doubtful(s, q, n, terms, centered):
    """Whether there is a column of which float32 was not enough for the sums."""
    doubtful = False
    for c in range(n):
        doubtful |= not trusted(s[c], q[c], terms, centered)
    return doubtful


@tile
def _reduce(x, where, view, block, p, c0, n, lead, centered, in_float64, shift, narrow_shift, s, q):
    """The sums of d and d^2 down n columns of one piece, from c0 on; the shifts come in both types."""
    r0, r1, _, _ = _piece(view, p)
    terms = r1 - r0
    if not narrow(x) or terms * view[2] * view[3] < FEW or in_float64 or where is not None:
        _sums(x, where, view, block, p, c0, n, lead, shift, s, q)
        return
    _sums(x, where, view, block, p, c0, n, lead, narrow_shift, s, q)
    if _doubtful(s, q, n, terms, centered):
        scratch = np.empty(2 * n)
        exact_s, exact_q = address(scratch), advance(address(scratch), n)
        _sums(x, where, view, block, p, c0, n, lead, shift, exact_s, exact_q)
        for c in range(n):
            if not trusted(s[c], q[c], terms, centered):
                s[c], q[c] = exact_s[c], exact_q[c]
        hold(scratch)


@tile
def _fold(sums, own, n):
    """Add up the columns that stand for the same: n of them repeat after `own`."""
    for first in range(own, n, own):
        for c in range(own):
            sums[c] += sums[first + c]


@tile
def _gather(sums, n, length):
    """Add up n columns, `length` at a time, so that the totals come to stand first."""
    if length >= LANES:
        for k in range(n // length):
            lanes = splat64(0.0)
            for c in range(k * length, (k + 1) * length, LANES):
                lanes += load_part(sums, c, min((k + 1) * length - c, LANES))
            sums[k] = total(lanes)
    elif length > 1:
        for k in range(n // length):
            whole = 0.0
            for c in range(k * length, (k + 1) * length):
                whole += sums[c]
            sums[k] = whole


@tile
def _finish(view, block, c0, n, shift, s, q, counts, centered, mean, var):
    """Mean and variance of the groups in n columns from c0 on; the sums are used up."""
    rows, width, _, span, _, _, _, _ = view
    own, first = min(n, width), (block * width + c0) // span
    for sums in (s, q):
        _fold(sums, own, n)
        _gather(sums, own, span)
    if span > 1:
        for g in range(own // span):
            shift[g] = shift[g * span]
    for g in range(own // span):
        terms = pick(counts, first + g, np.float64(rows * span))
        mean[first + g], var[first + g] = statistics(shift[g], s[g], q[g], terms, centered)


@tile
def _want(view, block, c0, n, var, roots, eps, wanted):
    """Variances, or rstd, of the groups in n columns from c0 on; `wanted` may be `var` itself."""
    _, width, _, span, _, _, _, _ = view
    first = (block * width + c0) // span
    for g in range(first, first + min(n, width) // span):
        wanted[g] = rooted(var[g], eps) if roots else var[g]


@tile
def _coefficients(view, block, c0, n, w, b, eps, mean, var, columns):
    """What `normalize` takes for n columns from c0 on, three arrays; eps None: `var` is rstd; mean None: zeros."""
    _, width, _, span, repeat, _, _, _ = view
    hi, a, t = columns, _array(columns, n, 1), _array(columns, n, 2)
    own = min(n, width)
    g, i = (block * width + c0) // span, c0 // repeat
    if span == 1:  # one loop at a time: LLVM makes vectors of these
        for c in range(own):
            m, scale = pick(mean, g + c, 0.0), rooted(pick(var, g + c, 1.0), eps) * pick(w, i + c, 1.0)
            a[c], t[c] = scale, (rounded(hi, m) - m) * scale
        for c in range(own):
            hi[c] = pick(mean, g + c, 0.0)
        for c in range(own):
            t[c] = pick(b, i + c, 0.0) + np.float64(t[c])
    else:
        for j in range(0, own, span):
            m, r = pick(mean, g, 0.0), rooted(pick(var, g, 1.0), eps)
            for first in range(j, j + span, repeat):
                scale = r * pick(w, i, 1.0)
                rest = pick(b, i, 0.0) - (m - rounded(hi, m)) * scale
                for c in range(first, first + repeat):
                    hi[c], a[c], t[c] = m, scale, rest
                i += 1
            g += 1
    for k in range(3):
        _repeat(_array(columns, n, k), own, n)


@tile
def _apply(x, y, view, block, span, c0, n, lead, hi, a, t, rw, rb, more, past_cache):
    """Normalize n columns from c0 on of some rows, see `_piece`; rw, rb: a weight and bias a row, or None."""
    rows, width, _, _, _, _, _, _ = view
    r0, r1, whole, rest = span
    if past_cache and rw is None and rb is None and _repeats(view, n) and r1 > r0:
        i = block * rows * width + r0 * n
        m = (whole - r0) * n + (rest if whole < r1 else 0)
        normalize(x, y, i, m, hi, a, t, None, None, 0, more, past_cache, n)
        return
    at_once = n if past_cache else AT_ONCE
    for c in range(0, n, at_once):
        for r in range(r0, r1):
            i, m = _run(view, block, span, c0 + c, min(at_once, n - c), r)
            own = advance(hi, c), advance(a, c), advance(t, c), of_row(rw, r), of_row(rb, r)
            normalize(x, y, i, m, *own, 0, more, past_cache, None, min(lead, m))


@tile
def _geometry(plan):
    """The eight of `view`, with which a plan begins."""
    return plan[0], plan[1], plan[2], plan[3], plan[4], plan[5], plan[6], plan[7]


@driver
def forward(plan, x, y, w, b, rw, rb, eps, mean, var, like, rest):
    """y, mean and variance of x (flat arrays), a panel a unit.

    plan: int64, the eight of `view`, the number of units, whether groups are centered, whether `var` takes rstd,
    `past_cache`.
    w, b: a weight and bias a channel, rw, rb: a row, or None.  mean, var: float64 (blocks * groups,).  like: any array
    of the type computed in.  rest: None, or as in `runs.forward`.
    """
    for unit in prange(plan[8]):
        view, centered, past_cache = _geometry(plan), plan[9], plan[11]
        pieces, panels = _counts(view)
        residual, activation, where, dy, counts, _ = either(rest, (None, None, None, None, None, None))
        also = beginnings((residual, activation, where, dy))
        px, py, pw, pb, prw, prb = address(x), address(y), address(w), address(b), address(rw), address(rb)
        pm, pv = address(mean), address(var)
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        n = c1 - c0
        scratch, columns = np.empty(5 * _apart(n)), np.empty(3 * _apart(n) + LANES, like.dtype)
        lead = _lead(px, view, block, c0, n)
        shift, hi = _begin(scratch, lead), _begin(columns, lead)
        s, q, ps, pq = _array(shift, n, 1), _array(shift, n, 2), _array(shift, n, 3), _array(shift, n, 4)
        a, t = _array(hi, n, 1), _array(hi, n, 2)
        _shifts(px, also[2], view, block, c0, n, centered, shift, hi)
        for p in range(pieces):
            own_s, own_q = (ps, pq) if p > 0 else (s, q)
            _reduce(px, also[2], view, block, p, c0, n, lead, centered, False, shift, hi, own_s, own_q)
            if p > 0:
                _add(s, ps, n)
                _add(q, pq, n)
        _finish(view, block, c0, n, shift, s, q, address(counts), centered, pm, pv)
        _coefficients(view, block, c0, n, pw, pb, eps, pm, pv, hi)
        _want(view, block, c0, n, pv, plan[10], eps, pv)
        for p in range(pieces - 1, -1, -1):
            _apply(px, py, view, block, _piece(view, p), c0, n, lead, hi, a, t, prw, prb, also, past_cache)
        hold(scratch)
        hold(columns)


@driver
def reduce(units, x, where, view, centered, in_float64, sums, like):
    """The sums of every piece: float64 (pieces of all blocks * 2 * columns,)."""
    pieces, _ = _counts(view)
    n = view[1] * view[2]
    for u in prange(units):
        scratch, columns = np.empty(3 * _apart(n)), np.empty(_apart(n), like.dtype)
        px, pwhere, block = address(x), address(where), u // pieces
        lead = _lead(px, view, block, 0, n)
        shift, narrow_shift = _begin(scratch, lead), _begin(columns, lead)
        s, q = _array(shift, n, 1), _array(shift, n, 2)
        _shifts(px, pwhere, view, block, 0, n, centered, shift, narrow_shift)
        _reduce(px, pwhere, view, block, u % pieces, 0, n, lead, centered, in_float64, shift, narrow_shift, s, q)
        _keep(address(sums), u, n, s, q)
        hold(scratch)
        hold(columns)


@driver
def shifts(units, x, where, view, shift):
    """What the sums of every column are about: float64 (blocks * columns,); a block a unit."""
    n = view[1] * view[2]
    for block in prange(units):
        own = advance(address(shift), block * n)
        _shifts(address(x), address(where), view, block, 0, n, True, own, own)


@driver
def finish(units, x, where, view, centered, sums, counts, mean, var, roots, eps, wanted):
    """Mean and variance from the sums of the pieces, a panel a unit; wanted: takes the variance, or rstd if `roots`."""
    pieces, panels = _counts(view)
    columns = view[1] * view[2]
    for unit in prange(units):
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        n = c1 - c0
        scratch = np.zeros(3 * n)
        shift, s, q = address(scratch), advance(address(scratch), n), advance(address(scratch), 2 * n)
        _shifts(address(x), address(where), view, block, c0, n, centered, shift, shift)
        for p in range(block * pieces, (block + 1) * pieces):
            piece = advance(address(sums), p * 2 * columns + c0)
            _add(s, piece, n)
            _add(q, advance(piece, columns), n)
        _finish(view, block, c0, n, shift, s, q, address(counts), centered, address(mean), address(var))
        _want(view, block, c0, n, address(var), roots, eps, address(wanted))
        hold(scratch)


@driver
def scale(plan, x, y, w, b, rw, rb, eps, mean, var, like, more):
    """y from given mean and variance, float32 or float64, one a group; eps None: `var` is rstd.

    plan: int64, the eight of `view`, the number of units, of threads, the parts of a block, `past_cache`.  A unit is a
    part.
    """
    for u in prange(plan[8]):
        view, parts, past_cache = _geometry(plan), plan[10], plan[11]
        k = last_first(u, plan[8], plan[9])
        block, part = k // parts, k % parts
        n = view[1] * view[2]
        scratch = np.empty(3 * _apart(n) + LANES, like.dtype)
        lead = _lead(address(x), view, block, 0, n)
        columns = _begin(scratch, lead)
        _coefficients(view, block, 0, n, address(w), address(b), eps, address(mean), address(var), columns)
        rows, row, also = _part(view, part, parts), (address(rw), address(rb)), beginnings(more)
        hi, a, t = columns, _array(columns, n, 1), _array(columns, n, 2)
        _apply(address(x), address(y), view, block, rows, 0, n, lead, hi, a, t, *row, also, past_cache)
        hold(scratch)


# Backward -------------------------------------------------------------------------------------------------------------


@tile
def _normalized(view, block, c0, n, mean, rstd, columns):
    """What `add_products` takes for n columns from c0 on, three arrays: hi, a and t."""
    _, width, _, span, _, _, _, _ = view
    hi, a, t = columns, _array(columns, n, 1), _array(columns, n, 2)
    own, first = min(n, width), (block * width + c0) // span
    if span == 1:
        for c in range(own):
            a[c] = rstd[first + c]
        for c in range(own):
            hi[c] = mean[first + c]
        for c in range(own):
            t[c] = (np.float64(hi[c]) - mean[first + c]) * rstd[first + c]
    else:
        for g in range(own // span):
            m, r = mean[first + g], rstd[first + g]
            for c in range(g * span, (g + 1) * span):
                hi[c], a[c] = m, r
                t[c] = (np.float64(hi[c]) - m) * r
    for k in range(3):
        _repeat(_array(columns, n, k), own, n)


@tile
def _reduce_back(dy, x, where, view, block, p, c0, n, lead, columns, rw, s, q):
    """The sums of g = dy rw and g h, h normalized x, down n columns of one piece, from c0 on."""
    rows, width, fold, _, _, _, _, _ = view
    stride = width * fold
    r0, r1, whole, rest = _piece(view, p)
    _clear(s, n)
    _clear(q, n)
    i = block * rows * width + r0 * stride + c0
    hi, a, t = columns, _array(columns, n, 1), _array(columns, n, 2)
    add_products(dy, x, where, i, stride, whole - r0, n, rw, hi, a, r0, s, q, lead, _far(view))
    if whole < r1 and rest > c0:
        i += (whole - r0) * stride
        m = min(rest - c0, n)
        add_products(dy, x, where, i, stride, r1 - whole, m, rw, hi, a, whole, s, q, min(lead, m), False)
    for c in range(n):
        q[c] = completed(s[c], q[c], np.float64(t[c]))


@tile
def _finish_back(view, block, c0, n, s, q, w, counts, centered, mean, rstd, grads, columns):
    """What `gradient` takes for n columns from c0 on, and what they add to dbias and, behind it, to dweight.

    The sums are used up.  grads: float64, a channel each, or None.  columns: six arrays, of which `_normalized` has set
    three.
    """
    rows, width, _, span, repeat, weights, _, _ = view
    hi, v, u, wc = columns, _array(columns, n, 3), _array(columns, n, 4), _array(columns, n, 5)
    own, first, i = min(n, width), (block * width + c0) // span, c0 // repeat
    channels, groups = own // repeat, own // span
    for sums in (s, q):
        _fold(sums, own, n)
        _gather(sums, own, repeat)
    if grads is not None:
        for c in range(channels):
            grads[i + c] = s[c]
        for c in range(channels):
            grads[weights + i + c] = q[c]
    for sums in (s, q):
        for c in range(channels):
            sums[c] *= pick(w, i + c, 1.0)
        _gather(sums, channels, span // repeat)
    for g in range(groups):
        terms = pick(counts, first + g, np.float64(rows * span))
        s[g], q[g] = slopes(s[g], q[g], terms, rstd[first + g], centered)
    if span == 1:
        for c in range(own):
            u[c] = q[c]
        for c in range(own):
            v[c] = s[c] - (mean[first + c] - np.float64(hi[c])) * q[c]
        for c in range(own):
            wc[c] = pick(w, i + c, 1.0)
    else:
        for g in range(groups):
            rest = s[g] - (mean[first + g] - np.float64(hi[g * span])) * q[g]
            for c in range(g * span, (g + 1) * span):
                u[c], v[c] = q[g], rest
        for k in range(channels):
            weight = pick(w, i + k, 1.0)
            for c in range(k * repeat, (k + 1) * repeat):
                wc[c] = weight
    for k in range(3, 6):
        _repeat(_array(columns, n, k), own, n)


@tile
def _apply_back(dy, x, dx, view, block, p, c0, n, lead, columns, rw, row_grads, more, past_cache):
    """The gradient of n columns from c0 on of one piece, and what its rows add to dbias and, behind it, to dweight.

    row_grads: float64, a row each, or None.
    """
    rows, width, _, _, _, _, _, _ = view
    hi, a, t = columns, _array(columns, n, 1), _array(columns, n, 2)
    v, u, w = _array(columns, n, 3), _array(columns, n, 4), _array(columns, n, 5)
    span = _piece(view, p)
    r0, r1, whole, rest = span
    if past_cache and rw is None and row_grads is None and _repeats(view, n):
        i = block * rows * width + r0 * n
        m = (whole - r0) * n + (rest if whole < r1 else 0)
        gradient(dy, x, dx, i, m, hi, u, v, a, w, 0, more, past_cache, n)
        return
    if row_grads is not None:
        for r in range(r0, r1):
            i, m = _run(view, block, span, c0, n, r)
            s, q = products(dy, x, more[1], i, m, None, hi, a, t, 0, splat64(0.0), splat64(0.0), 0)
            row_grads[r], row_grads[rows + r] = total(s), total(q)
    at_once = n if past_cache else AT_ONCE
    for c in range(0, n, at_once):
        for r in range(r0, r1):
            i, m = _run(view, block, span, c0 + c, min(at_once, n - c), r)
            own = advance(hi, c), advance(u, c), advance(v, c), advance(a, c)
            weight = either(of_row(rw, r), advance(w, c))
            gradient(dy, x, dx, i, m, *own, weight, 0, more, past_cache, None, min(lead, m))


@tile
def _prepare(view, block, c0, n, w, b, mean, rstd, given, columns):
    """What `_differentiate` takes, three arrays, if it is to do anything."""
    if given is not None:
        _coefficients(view, block, c0, n, w, address(b), None, mean, rstd, columns)


@tile
def _differentiate(dy, x, view, block, p, c0, n, lead, hi, rw, chain, given):
    """Compute dy of n columns of a piece, the gradient of what is normalized, from that of the activation's result.

    given: that gradient, or None where dy is there already; chain: a bias a channel and a row, residual, packed
    activation and where, or None each.
    """
    if given is not None:
        _, rb, residual, activation, where = chain
        also = beginnings((residual, activation, where, given))
        rest = _array(hi, n, 1), _array(hi, n, 2), rw, address(rb)
        _apply(x, dy, view, block, _piece(view, p), c0, n, lead, hi, *rest, also, 0)


@driver
def backward(plan, dy, x, dx, w, rw, mean, rstd, grads, row_grads, like, rest):
    """dx, and what the blocks add to dbias and dweight: a channel in `grads`, or a row in `row_grads` (else None).

    plan: int64, the eight of `view`, the number of units, whether groups are centered, `past_cache`.  A unit is a
    panel.  grads: float64 (blocks, 2, weights); row_grads: float64 (blocks * panels, 2, rows).  rest: as in
    `runs.backward`.
    """
    for unit in prange(plan[8]):
        view, centered, past_cache = _geometry(plan), plan[9], plan[10]
        pieces, panels = _counts(view)
        b, rb, residual, activation, where, given, dsum, counts = either(rest, NOTHING)
        chain = b, rb, residual, activation, where
        pdy, px, pdx, pw, prw = address(dy), address(x), address(dx), address(w), address(rw)
        pm, pr = address(mean), address(rstd)
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        n = c1 - c0
        scratch, columns = np.empty(4 * _apart(n)), np.empty(9 * _apart(n) + LANES, like.dtype)
        lead = _lead(px, view, block, c0, n)
        s, hi = _begin(scratch, lead), _begin(columns, lead)
        q, ps, pq, behind = _array(s, n, 1), _array(s, n, 2), _array(s, n, 3), _array(hi, n, 6)
        own, row = advance(address(grads), block * 2 * view[5]), advance(address(row_grads), unit * 2 * view[0])
        also = weighed((dsum, where))
        _prepare(view, block, c0, n, pw, b, pm, pr, given, behind)
        _normalized(view, block, c0, n, pm, pr, hi)
        for p in range(pieces):
            own_s, own_q = (ps, pq) if p > 0 else (s, q)
            _differentiate(pdy, px, view, block, p, c0, n, lead, behind, prw, chain, given)
            _reduce_back(pdy, px, also[1], view, block, p, c0, n, lead, hi, prw, own_s, own_q)
            if p > 0:
                _add(s, ps, n)
                _add(q, pq, n)
        _finish_back(view, block, c0, n, s, q, pw, address(counts), centered, pm, pr, own, hi)
        for p in range(pieces - 1, -1, -1):
            _apply_back(pdy, px, pdx, view, block, p, c0, n, lead, hi, prw, row, also, past_cache)
        hold(scratch)
        hold(columns)


@driver
def reduce_back(units, dy, x, where, view, rw, mean, rstd, sums, like):
    """The sums of every piece, as `reduce`."""
    pieces, _ = _counts(view)
    n = view[1] * view[2]
    for k in prange(units):
        scratch, columns = np.empty(2 * _apart(n)), np.empty(3 * _apart(n) + LANES, like.dtype)
        px, block = address(x), k // pieces
        lead = _lead(px, view, block, 0, n)
        s, hi = _begin(scratch, lead), _begin(columns, lead)
        q = _array(s, n, 1)
        _normalized(view, block, 0, n, address(mean), address(rstd), hi)
        _reduce_back(address(dy), px, address(where), view, block, k % pieces, 0, n, lead, hi, address(rw), s, q)
        _keep(address(sums), k, n, s, q)
        hold(scratch)
        hold(columns)


@tile
def _of_panel(columns, view, unit, lead):
    """Where the six arrays of a panel begin in those of all of them."""
    return advance(_array(lined_up(columns), view[6], 6 * unit), LANES - lead)


@driver
def finish_back(units, x, view, w, centered, sums, counts, mean, rstd, grads, columns):
    """grads, and what `apply_back` takes: panel after panel six arrays, in the type computed in, as lined up there."""
    pieces, panels = _counts(view)
    width = view[1] * view[2]
    for unit in prange(units):
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        n = c1 - c0
        scratch = np.zeros(2 * n)
        s, q = address(scratch), advance(address(scratch), n)
        for p in range(block * pieces, (block + 1) * pieces):
            piece = advance(address(sums), p * 2 * width + c0)
            _add(s, piece, n)
            _add(q, advance(piece, width), n)
        own = advance(address(grads), block * 2 * view[5])
        panel = _of_panel(columns, view, unit, _lead(address(x), view, block, c0, n))
        _normalized(view, block, c0, n, address(mean), address(rstd), panel)
        given = address(w), address(counts), centered, address(mean), address(rstd)
        _finish_back(view, block, c0, n, s, q, *given, own, panel)
        hold(scratch)


@driver
def apply_back(units, threads, dy, x, dx, view, rw, past_cache, row_grads, columns, more):
    """dx and row_grads from the coefficients, a piece a unit."""
    pieces, panels = _counts(view)
    for u in prange(units):
        k = last_first(u, units, threads)
        pdy, px, pdx, prw = address(dy), address(x), address(dx), address(rw)
        block, p = k // pieces, k % pieces
        for panel in range(panels):
            c0, c1 = _panel(view, panel)
            lead = _lead(px, view, block, c0, c1 - c0)
            own = _of_panel(columns, view, block * panels + panel, lead)
            row = advance(address(row_grads), (block * panels + panel) * 2 * view[0])
            _apply_back(pdy, px, pdx, view, block, p, c0, c1 - c0, lead, own, prw, row, weighed(more), past_cache)
