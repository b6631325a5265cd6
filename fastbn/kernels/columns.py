"""Groups that are columns of a row-major block: channels last, few elements a plane, norm over the channel axis.

x is seen as `blocks` of (rows, width) in memory order.  Group g of a block shares its statistics over `span` adjacent
columns and all rows; column c has weight number c // repeat, modulo the number of weights, or every row has its own:

    batch norm, channels last         (1, N*S, C)    span 1, repeat 1
    batch norm, few elements a plane  (1, N, C*S)    span S, repeat S
    group norm, channels last         (N, S, C)      span C/G, repeat 1
    instance norm, channels last      (N, S, C)      span 1, repeat 1
    layer norm, channels first        (N, C, S)      span 1, a weight a row

Narrow rows are taken `fold` at a time, as one row of fold*width columns (the last one may be shorter); a group then
gathers the columns that stand for the same channel.  `view` is (rows, width, fold, span, repeat, weights, panel,
piece): `forward` and `backward` do a panel of `panel` columns while it is in the cache; `reduce`, `finish` and `apply`,
one after the other, work on pieces of `piece` folded rows.  Pieces depend on the shape alone and are added up in order
either way, so which one is taken makes no difference to any bit.
"""

import numpy as np
from numba import prange

from fastbn.kernels.jit import driver, tile
from fastbn.kernels.runs import pick, slopes, statistics
from fastbn.kernels.simd import either, element, of_row, splat64, total
from fastbn.kernels.tile import add_moments, add_products, gradient, normalize, products


@tile
def _piece(view, p):
    """The folded rows r0 to r1 of piece p; those before `whole` are full, one after them has `rest` columns."""
    rows, width, fold, _, _, _, _, piece = view
    r0 = p * piece
    r1 = min(r0 + piece, (rows + fold - 1) // fold)
    whole = min(r1, rows // fold)
    return r0, r1, whole, (rows - whole * fold) * width


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


@tile
def _add(own, sums):
    for c in range(own.size):
        own[c] += sums[c]


@tile
def _clear(sums):
    for c in range(sums.size):
        sums[c] = 0.0


@tile
def _part(flat, k, n):
    """Part k of a flat array of parts of n numbers."""
    return flat[k * n : (k + 1) * n]


@tile
def _three(flat, n):
    """A flat array as three of n numbers."""
    return flat[:n], flat[n : 2 * n], flat[2 * n :]


@tile
def _five(flat, n):
    """A flat array as five of n numbers."""
    return flat[:n], flat[n : 2 * n], flat[2 * n : 3 * n], flat[3 * n : 4 * n], flat[4 * n :]


# Forward --------------------------------------------------------------------------------------------------------------


@tile
def _shifts(x, view, block, c0, centered, shift):
    """For every column from c0 on the first element of its group, or zero."""
    rows, width, _, span, _, _, _, _ = view
    for j in range(shift.size):
        first = block * rows * width + (c0 + j) % width // span * span
        shift[j] = element(x, first) if centered else 0.0


@tile
def _reduce(x, view, block, p, c0, shift, s, q):
    """The sums of d and d^2 down the columns of one piece, from c0 on."""
    rows, width, fold, _, _, _, _, _ = view
    stride, n = width * fold, s.size
    r0, r1, whole, rest = _piece(view, p)
    _clear(s)
    _clear(q)
    i = block * rows * width + r0 * stride + c0
    add_moments(x, i, stride, whole - r0, n, shift, s, q)
    if whole < r1 and rest > c0:
        add_moments(x, i + (whole - r0) * stride, stride, r1 - whole, min(rest - c0, n), shift, s, q)


@tile
def _finish(view, block, c0, shift, s, q, centered, mean, var):
    """Mean and variance of the groups in the columns from c0 on."""
    rows, width, _, span, _, _, _, _ = view
    for g in range(c0 // span, min(c0 + s.size, width) // span):
        gs, gq = 0.0, 0.0
        for first in range(g * span - c0, s.size, width):
            for c in range(first, first + span):
                gs += s[c]
                gq += q[c]
        k = block * (width // span) + g
        mean[k], var[k] = statistics(shift[g * span - c0], gs, gq, rows * span, centered)


@tile
def _coefficients(view, block, c0, w, b, eps, mean, var, hi, a, t):
    """What `normalize` takes for the columns from c0 on."""
    _, width, _, span, repeat, weights, _, _ = view
    for j in range(hi.size):
        c = (c0 + j) % width
        g = block * (width // span) + c // span
        k = c // repeat % weights
        scale = 1.0 / np.sqrt(var[g] + eps) * pick(w, k, 1.0)
        hi[j] = mean[g]
        a[j] = scale
        t[j] = pick(b, k, 0.0) - (mean[g] - np.float64(hi[j])) * scale


@tile
def _apply(x, y, view, block, p, c0, hi, a, t, rw, rb, past_cache):
    """Normalize the columns from c0 on of one piece; rw, rb: a weight and bias a row, or None."""
    rows, width, fold, _, _, _, _, _ = view
    r0, r1, whole, rest = _piece(view, p)
    for r in range(r1 - 1, r0 - 1, -1):  # backwards: what was read last is still in the cache
        n = hi.size if r < whole else min(rest - c0, hi.size)
        i = block * rows * width + r * width * fold + c0
        if n > 0:
            normalize(x, y, i, n, hi, a, t, of_row(rw, r), of_row(rb, r), 0, past_cache)


@driver
def forward(units, x, y, view, w, b, rw, rb, eps, centered, past_cache, mean, var, like):
    """y, mean and variance of x (flat arrays), a panel a unit.

    w, b: a weight and bias a channel, rw, rb: a row, or None.  mean, var: float64 (blocks * groups,).  like: any array
    of the type computed in.
    """
    pieces, panels = _counts(view)
    for unit in prange(units):
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        n = c1 - c0
        scratch, columns = np.empty(5 * n), np.empty(3 * n, like.dtype)
        shift, s, q, ps, pq = _five(scratch, n)
        hi, a, t = _three(columns, n)
        _shifts(x, view, block, c0, centered, shift)
        _clear(s)
        _clear(q)
        for p in range(pieces):
            _reduce(x, view, block, p, c0, shift, ps, pq)
            _add(s, ps)
            _add(q, pq)
        _finish(view, block, c0, shift, s, q, centered, mean, var)
        _coefficients(view, block, c0, w, b, eps, mean, var, hi, a, t)
        for p in range(pieces - 1, -1, -1):
            _apply(x, y, view, block, p, c0, hi, a, t, rw, rb, past_cache)


@driver
def reduce(units, x, view, centered, sums):
    """The sums of every piece: float64 (pieces of all blocks * 2 * columns,)."""
    pieces, _ = _counts(view)
    n = view[1] * view[2]
    for u in prange(units):
        shift = np.empty(n)
        _shifts(x, view, u // pieces, 0, centered, shift)
        _reduce(x, view, u // pieces, u % pieces, 0, shift, _part(sums, 2 * u, n), _part(sums, 2 * u + 1, n))


@driver
def finish(units, x, view, centered, sums, mean, var):
    """Mean and variance from the sums of the pieces, a panel a unit."""
    pieces, panels = _counts(view)
    n = view[1] * view[2]
    for unit in prange(units):
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        scratch = np.empty(3 * (c1 - c0))
        shift, s, q = _three(scratch, c1 - c0)
        _shifts(x, view, block, c0, centered, shift)
        _clear(s)
        _clear(q)
        for p in range(block * pieces, (block + 1) * pieces):
            _add(s, _part(sums, 2 * p, n)[c0:c1])
            _add(q, _part(sums, 2 * p + 1, n)[c0:c1])
        _finish(view, block, c0, shift, s, q, centered, mean, var)


@driver
def coefficients(units, view, w, b, eps, mean, var, columns):
    """What `apply` takes, (blocks * 3 * columns,) in the type computed in, from mean and variance; a block a unit."""
    n = view[1] * view[2]
    for block in prange(units):
        hi, a, t = _three(_part(columns, block, 3 * n), n)
        _coefficients(view, block, 0, w, b, eps, mean, var, hi, a, t)


@driver
def apply(units, x, y, view, rw, rb, past_cache, columns):
    """y from the coefficients, a piece a unit, the last first."""
    pieces, _ = _counts(view)
    n = view[1] * view[2]
    for u in prange(units):
        block, p = (units - 1 - u) // pieces, (units - 1 - u) % pieces
        hi, a, t = _three(_part(columns, block, 3 * n), n)
        _apply(x, y, view, block, p, 0, hi, a, t, rw, rb, past_cache)


# Backward -------------------------------------------------------------------------------------------------------------


@tile
def _means(view, block, c0, mean, means):
    """The mean of every column's group, from column c0 on."""
    _, width, _, span, _, _, _, _ = view
    for j in range(means.size):
        means[j] = mean[block * (width // span) + (c0 + j) % width // span]


@tile
def _reduce_back(dy, x, view, block, p, c0, means, rw, s, q):
    """The sums of dy rw and dy rw (x - mean) down the columns of one piece, from c0 on."""
    rows, width, fold, _, _, _, _, _ = view
    stride, n = width * fold, s.size
    r0, r1, whole, rest = _piece(view, p)
    _clear(s)
    _clear(q)
    i = block * rows * width + r0 * stride + c0
    add_products(dy, x, i, stride, whole - r0, n, means, None, rw, rw, r0, s, q)
    if whole < r1 and rest > c0:
        i += (whole - r0) * stride
        add_products(dy, x, i, stride, r1 - whole, min(rest - c0, n), means, None, rw, rw, whole, s, q)


@tile
def _finish_back(view, block, c0, s, q, w, centered, mean, rstd, grads, columns):
    """What `gradient` takes for the columns from c0 on, and what they add to dbias and dweight a channel."""
    rows, width, _, span, repeat, weights, _, _ = view
    n = s.size
    hi, u, v, r, wc = _five(columns, n)
    for g in range(c0 // span, min(c0 + n, width) // span):
        k = block * (width // span) + g
        gs, gq = 0.0, 0.0
        for first in range(g * span - c0, n, width):
            for c in range(first, first + span):
                i = (c0 + c) % width // repeat % weights
                gs += pick(w, i, 1.0) * s[c]
                gq += pick(w, i, 1.0) * q[c]
                if grads.shape[0] > 0:
                    grads[block, 0, i] += s[c]
                    grads[block, 1, i] += q[c] * rstd[k]
        gv, gu = slopes(gs, gq, rows * span, rstd[k], centered)
        for first in range(g * span - c0, n, width):
            for c in range(first, first + span):
                hi[c] = mean[k]
                u[c] = gu
                v[c] = gv - (mean[k] - np.float64(hi[c])) * gu
                r[c] = rstd[k]
                wc[c] = pick(w, (c0 + c) % width // repeat % weights, 1.0)


@tile
def _apply_back(dy, x, dx, view, block, p, c0, columns, rw, mean, rstd, row_grads, slot, past_cache):
    """The gradient of the columns from c0 on of one piece, and what its rows add to row_grads[slot], if not None."""
    rows, width, fold, _, _, _, _, _ = view
    n = columns.size // 5
    hi, u, v, rs, w = _five(columns, n)
    r0, r1, whole, rest = _piece(view, p)
    for r in range(r1 - 1, r0 - 1, -1):
        m = n if r < whole else min(rest - c0, n)
        i = block * rows * width + r * width * fold + c0
        if row_grads is not None:
            s, q = products(dy, x, i, m, mean, None, rstd, block * width + c0, splat64(0.0), splat64(0.0))
            row_grads[slot, 0, r], row_grads[slot, 1, r] = total(s), total(q)
        if m > 0:
            gradient(dy, x, dx, i, m, hi, u, v, rs, either(of_row(rw, r), w), 0, past_cache)


@driver
def backward(units, dy, x, dx, view, w, rw, centered, past_cache, mean, rstd, grads, row_grads, like):
    """dx, and what the blocks add to dbias and dweight: a channel in `grads`, or a row in `row_grads` (else None).

    A unit is a panel.  grads: float64 zeros (blocks or 0, 2, weights); row_grads: float64 (blocks * panels, 2, rows).
    """
    pieces, panels = _counts(view)
    for unit in prange(units):
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        n = c1 - c0
        scratch, columns = np.empty(5 * n), np.empty(5 * n, like.dtype)
        means, s, q, ps, pq = _five(scratch, n)
        _means(view, block, c0, mean, means)
        _clear(s)
        _clear(q)
        for p in range(pieces):
            _reduce_back(dy, x, view, block, p, c0, means, rw, ps, pq)
            _add(s, ps)
            _add(q, pq)
        _finish_back(view, block, c0, s, q, w, centered, mean, rstd, grads, columns)
        for p in range(pieces - 1, -1, -1):
            _apply_back(dy, x, dx, view, block, p, c0, columns, rw, mean, rstd, row_grads, unit, past_cache)


@driver
def reduce_back(units, dy, x, view, rw, mean, sums):
    """The sums of every piece: float64 (pieces of all blocks * 2 * columns,)."""
    pieces, _ = _counts(view)
    n = view[1] * view[2]
    for k in prange(units):
        means = np.empty(n)
        _means(view, k // pieces, 0, mean, means)
        s, q = _part(sums, 2 * k, n), _part(sums, 2 * k + 1, n)
        _reduce_back(dy, x, view, k // pieces, k % pieces, 0, means, rw, s, q)


@driver
def finish_back(units, view, w, centered, sums, mean, rstd, grads, columns):
    """grads, and what `apply_back` takes: panel after panel 5 numbers a column, in the type computed in."""
    pieces, panels = _counts(view)
    n = view[1] * view[2]
    for unit in prange(units):
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        s, q = np.zeros(c1 - c0), np.zeros(c1 - c0)
        for p in range(block * pieces, (block + 1) * pieces):
            _add(s, _part(sums, 2 * p, n)[c0:c1])
            _add(q, _part(sums, 2 * p + 1, n)[c0:c1])
        own = columns[5 * (block * n + c0) : 5 * (block * n + c1)]
        _finish_back(view, block, c0, s, q, w, centered, mean, rstd, grads, own)


@driver
def apply_back(units, dy, x, dx, view, rw, past_cache, mean, rstd, row_grads, columns):
    """dx and row_grads from the coefficients, a piece a unit, the last first."""
    pieces, panels = _counts(view)
    n = view[1] * view[2]
    for k in prange(units):
        block, p = (units - 1 - k) // pieces, (units - 1 - k) % pieces
        for panel in range(panels):
            c0, c1 = _panel(view, panel)
            own = columns[5 * (block * n + c0) : 5 * (block * n + c1)]
            slot = block * panels + panel
            _apply_back(dy, x, dx, view, block, p, c0, own, rw, mean, rstd, row_grads, slot, past_cache)
