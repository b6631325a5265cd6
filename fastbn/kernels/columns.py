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
piece): `forward` and `backward` do a panel of `panel` columns while it is in the cache; `reduce`, `finish` and `apply`,
one after the other, work on pieces of `piece` folded rows.  Pieces depend on the shape alone and are added up in order
either way, so which one is taken makes no difference to any bit.
"""

import numpy as np
from numba import prange

from fastbn.kernels.jit import driver, tile
from fastbn.kernels.runs import pick, slopes, statistics
from fastbn.kernels.simd import address, advance, either, element, of_row, splat64, total
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
def _add(own, sums, n):
    for c in range(n):
        own[c] += sums[c]


@tile
def _clear(sums, n):
    for c in range(n):
        sums[c] = 0.0


# Forward --------------------------------------------------------------------------------------------------------------


@tile
def _shifts(x, view, block, c0, n, centered, shift):
    """For n columns from c0 on the first element of the column's group, or zero."""
    rows, width, _, span, _, _, _, _ = view
    first = c0
    for j in range(0, n, span):
        value = element(x, block * rows * width + first) if centered else 0.0
        for c in range(j, j + span):
            shift[c] = value
        first = first + span if first + span < width else 0


@tile
def _reduce(x, view, block, p, c0, n, shift, s, q):
    """The sums of d and d^2 down n columns of one piece, from c0 on."""
    rows, width, fold, _, _, _, _, _ = view
    stride = width * fold
    r0, r1, whole, rest = _piece(view, p)
    _clear(s, n)
    _clear(q, n)
    i = block * rows * width + r0 * stride + c0
    add_moments(x, i, stride, whole - r0, n, shift, s, q)
    if whole < r1 and rest > c0:
        add_moments(x, i + (whole - r0) * stride, stride, r1 - whole, min(rest - c0, n), shift, s, q)


@tile
def _finish(view, block, c0, n, shift, s, q, centered, mean, var):
    """Mean and variance of the groups in n columns from c0 on."""
    rows, width, _, span, _, _, _, _ = view
    for g in range(c0 // span, min(c0 + n, width) // span):
        gs, gq = 0.0, 0.0
        for first in range(g * span - c0, n, width):
            for c in range(first, first + span):
                gs += s[c]
                gq += q[c]
        k = block * (width // span) + g
        mean[k], var[k] = statistics(shift[g * span - c0], gs, gq, rows * span, centered)


@tile
def _coefficients(view, block, c0, n, w, b, eps, mean, var, hi, a, t):
    """What `normalize` takes for n columns from c0 on."""
    _, width, _, span, repeat, _, _, _ = view
    groups = width // span
    g, i = c0 // span, c0 // repeat
    for j in range(0, n, span):
        m, r = mean[block * groups + g], 1.0 / np.sqrt(var[block * groups + g] + eps)
        for first in range(j, j + span, repeat):
            scale = r * pick(w, i, 1.0)
            hi[first] = m
            rest = pick(b, i, 0.0) - (m - np.float64(hi[first])) * scale
            for c in range(first, first + repeat):
                hi[c] = m
                a[c] = scale
                t[c] = rest
            i += 1
        g += 1
        if g == groups:
            g, i = 0, 0


@tile
def _apply(x, y, view, block, p, c0, n, hi, a, t, rw, rb, past_cache):
    """Normalize n columns from c0 on of one piece; rw, rb: a weight and bias a row, or None."""
    rows, width, fold, _, _, _, _, _ = view
    r0, r1, whole, rest = _piece(view, p)
    for r in range(r1 - 1, r0 - 1, -1):  # backwards: what was read last is still in the cache
        m = n if r < whole else min(rest - c0, n)
        i = block * rows * width + r * width * fold + c0
        if m > 0:
            normalize(x, y, i, m, hi, a, t, of_row(rw, r), of_row(rb, r), 0, past_cache)


@driver
def forward(units, x, y, view, w, b, rw, rb, eps, centered, past_cache, mean, var, like):
    """y, mean and variance of x (flat arrays), a panel a unit.

    w, b: a weight and bias a channel, rw, rb: a row, or None.  mean, var: float64 (blocks * groups,).  like: any array
    of the type computed in.
    """
    pieces, panels = _counts(view)
    for unit in prange(units):
        px, py, pw, pb, prw, prb = address(x), address(y), address(w), address(b), address(rw), address(rb)
        pm, pv = address(mean), address(var)
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        n = c1 - c0
        scratch, columns = np.empty(5 * n), np.empty(3 * n, like.dtype)
        shift, s, q = address(scratch), advance(address(scratch), n), advance(address(scratch), 2 * n)
        ps, pq = advance(address(scratch), 3 * n), advance(address(scratch), 4 * n)
        hi, a, t = address(columns), advance(address(columns), n), advance(address(columns), 2 * n)
        _shifts(px, view, block, c0, n, centered, shift)
        _clear(s, 2 * n)
        for p in range(pieces):
            _reduce(px, view, block, p, c0, n, shift, ps, pq)
            _add(s, ps, 2 * n)
        _finish(view, block, c0, n, shift, s, q, centered, pm, pv)
        _coefficients(view, block, c0, n, pw, pb, eps, pm, pv, hi, a, t)
        for p in range(pieces - 1, -1, -1):
            _apply(px, py, view, block, p, c0, n, hi, a, t, prw, prb, past_cache)
        _keep(scratch, columns)


@tile
def _keep(scratch, columns):
    """Hold arrays alive up to here: their addresses do not."""
    return scratch.size + columns.size


@driver
def reduce(units, x, view, centered, sums):
    """The sums of every piece: float64 (pieces of all blocks * 2 * columns,)."""
    pieces, _ = _counts(view)
    n = view[1] * view[2]
    for u in prange(units):
        shift = np.empty(n)
        s = advance(address(sums), u * 2 * n)
        _shifts(address(x), view, u // pieces, 0, n, centered, address(shift))
        _reduce(address(x), view, u // pieces, u % pieces, 0, n, address(shift), s, advance(s, n))
        _keep(shift, sums)


@driver
def finish(units, x, view, centered, sums, mean, var):
    """Mean and variance from the sums of the pieces, a panel a unit."""
    pieces, panels = _counts(view)
    columns = view[1] * view[2]
    for unit in prange(units):
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        n = c1 - c0
        scratch = np.zeros(3 * n)
        shift, s, q = address(scratch), advance(address(scratch), n), advance(address(scratch), 2 * n)
        _shifts(address(x), view, block, c0, n, centered, shift)
        for p in range(block * pieces, (block + 1) * pieces):
            piece = advance(address(sums), p * 2 * columns + c0)
            _add(s, piece, n)
            _add(q, advance(piece, columns), n)
        _finish(view, block, c0, n, shift, s, q, centered, address(mean), address(var))
        _keep(scratch, sums)


@driver
def coefficients(units, view, w, b, eps, mean, var, columns):
    """What `apply` takes, (blocks * 3 * columns,) in the type computed in, from mean and variance; a block a unit."""
    n = view[1] * view[2]
    for block in prange(units):
        hi = advance(address(columns), block * 3 * n)
        a, t = advance(hi, n), advance(hi, 2 * n)
        _coefficients(view, block, 0, n, address(w), address(b), eps, address(mean), address(var), hi, a, t)


@driver
def apply(units, x, y, view, rw, rb, past_cache, columns):
    """y from the coefficients, a piece a unit, the last first."""
    pieces, _ = _counts(view)
    n = view[1] * view[2]
    for u in prange(units):
        block, p = (units - 1 - u) // pieces, (units - 1 - u) % pieces
        hi = advance(address(columns), block * 3 * n)
        a, t = advance(hi, n), advance(hi, 2 * n)
        _apply(address(x), address(y), view, block, p, 0, n, hi, a, t, address(rw), address(rb), past_cache)


# Backward -------------------------------------------------------------------------------------------------------------


@tile
def _means(view, block, c0, n, mean, means):
    """The mean of the group of each of n columns from c0 on."""
    _, width, _, span, _, _, _, _ = view
    groups = width // span
    g = c0 // span
    for j in range(0, n, span):
        for c in range(j, j + span):
            means[c] = mean[block * groups + g]
        g = g + 1 if g + 1 < groups else 0


@tile
def _reduce_back(dy, x, view, block, p, c0, n, means, rw, s, q):
    """The sums of dy rw and dy rw (x - mean) down n columns of one piece, from c0 on."""
    rows, width, fold, _, _, _, _, _ = view
    stride = width * fold
    r0, r1, whole, rest = _piece(view, p)
    _clear(s, n)
    _clear(q, n)
    i = block * rows * width + r0 * stride + c0
    add_products(dy, x, i, stride, whole - r0, n, means, None, rw, rw, r0, s, q)
    if whole < r1 and rest > c0:
        i += (whole - r0) * stride
        add_products(dy, x, i, stride, r1 - whole, min(rest - c0, n), means, None, rw, rw, whole, s, q)


@tile
def _finish_back(view, block, c0, n, s, q, w, centered, mean, rstd, grads, columns):
    """What `gradient` takes for n columns from c0 on, and what they add to dbias and, behind it, to dweight.

    grads: float64, a channel each, or None.  columns: five numbers a column.
    """
    rows, width, _, span, repeat, weights, _, _ = view
    hi, u, v, r = columns, advance(columns, n), advance(columns, 2 * n), advance(columns, 3 * n)
    wc = advance(columns, 4 * n)
    parts = span // repeat
    for g in range(c0 // span, min(c0 + n, width) // span):
        k = block * (width // span) + g
        gs, gq = 0.0, 0.0
        for first in range(g * span - c0, n, width):
            for part in range(parts):
                ps, pq = 0.0, 0.0
                for c in range(first + part * repeat, first + (part + 1) * repeat):
                    ps += s[c]
                    pq += q[c]
                weight = pick(w, g * parts + part, 1.0)
                gs += weight * ps
                gq += weight * pq
                if grads is not None:
                    grads[g * parts + part] += ps
                    grads[weights + g * parts + part] += pq * rstd[k]
        gv, gu = slopes(gs, gq, rows * span, rstd[k], centered)
        for first in range(g * span - c0, n, width):
            hi[first] = mean[k]
            rest = gv - (mean[k] - np.float64(hi[first])) * gu
            for part in range(parts):
                weight = pick(w, g * parts + part, 1.0)
                for c in range(first + part * repeat, first + (part + 1) * repeat):
                    hi[c] = mean[k]
                    u[c] = gu
                    v[c] = rest
                    r[c] = rstd[k]
                    wc[c] = weight


@tile
def _apply_back(dy, x, dx, view, block, p, c0, n, columns, rw, mean, rstd, row_grads, past_cache):
    """The gradient of n columns from c0 on of one piece, and what its rows add to dbias and, behind it, to dweight.

    row_grads: float64, a row each, or None.
    """
    rows, width, fold, _, _, _, _, _ = view
    hi, u, v, rs = columns, advance(columns, n), advance(columns, 2 * n), advance(columns, 3 * n)
    w = advance(columns, 4 * n)
    r0, r1, whole, rest = _piece(view, p)
    for r in range(r1 - 1, r0 - 1, -1):
        m = n if r < whole else min(rest - c0, n)
        i = block * rows * width + r * width * fold + c0
        if row_grads is not None:
            s, q = products(dy, x, i, m, mean, None, rstd, block * width + c0, splat64(0.0), splat64(0.0))
            row_grads[r], row_grads[rows + r] = total(s), total(q)
        if m > 0:
            gradient(dy, x, dx, i, m, hi, u, v, rs, either(of_row(rw, r), w), 0, past_cache)


@driver
def backward(units, dy, x, dx, view, w, rw, centered, past_cache, mean, rstd, grads, row_grads, like):
    """dx, and what the blocks add to dbias and dweight: a channel in `grads`, or a row in `row_grads` (else None).

    A unit is a panel.  grads: float64 zeros (blocks, 2, weights); row_grads: float64 (blocks * panels, 2, rows).
    """
    pieces, panels = _counts(view)
    for unit in prange(units):
        pdy, px, pdx, pw, prw = address(dy), address(x), address(dx), address(w), address(rw)
        pm, pr = address(mean), address(rstd)
        block = unit // panels
        c0, c1 = _panel(view, unit % panels)
        n = c1 - c0
        scratch, columns = np.empty(5 * n), np.empty(5 * n, like.dtype)
        means, s, q = address(scratch), advance(address(scratch), n), advance(address(scratch), 2 * n)
        ps, pq = advance(address(scratch), 3 * n), advance(address(scratch), 4 * n)
        own, row = advance(address(grads), block * 2 * view[5]), advance(address(row_grads), unit * 2 * view[0])
        _means(view, block, c0, n, pm, means)
        _clear(s, 2 * n)
        for p in range(pieces):
            _reduce_back(pdy, px, view, block, p, c0, n, means, prw, ps, pq)
            _add(s, ps, 2 * n)
        _finish_back(view, block, c0, n, s, q, pw, centered, pm, pr, own, address(columns))
        for p in range(pieces - 1, -1, -1):
            _apply_back(pdy, px, pdx, view, block, p, c0, n, address(columns), prw, pm, pr, row, past_cache)
        _keep(scratch, columns)


@driver
def reduce_back(units, dy, x, view, rw, mean, sums):
    """The sums of every piece: float64 (pieces of all blocks * 2 * columns,)."""
    pieces, _ = _counts(view)
    n = view[1] * view[2]
    for k in prange(units):
        means = np.empty(n)
        s = advance(address(sums), k * 2 * n)
        _means(view, k // pieces, 0, n, address(mean), address(means))
        place = k // pieces, k % pieces
        _reduce_back(
            address(dy), address(x), view, place[0], place[1], 0, n, address(means), address(rw), s, advance(s, n)
        )
        _keep(means, sums)


@driver
def finish_back(units, view, w, centered, sums, mean, rstd, grads, columns):
    """grads, and what `apply_back` takes: panel after panel 5 numbers a column, in the type computed in."""
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
        own, panel = advance(address(grads), block * 2 * view[5]), advance(address(columns), 5 * (block * width + c0))
        _finish_back(view, block, c0, n, s, q, address(w), centered, address(mean), address(rstd), own, panel)
        _keep(scratch, sums)


@driver
def apply_back(units, dy, x, dx, view, rw, past_cache, mean, rstd, row_grads, columns):
    """dx and row_grads from the coefficients, a piece a unit, the last first."""
    pieces, panels = _counts(view)
    width = view[1] * view[2]
    for k in prange(units):
        pdy, px, pdx, prw, pm, pr = address(dy), address(x), address(dx), address(rw), address(mean), address(rstd)
        block, p = (units - 1 - k) // pieces, (units - 1 - k) % pieces
        for panel in range(panels):
            c0, c1 = _panel(view, panel)
            own = advance(address(columns), 5 * (block * width + c0))
            row = advance(address(row_grads), (block * panels + panel) * 2 * view[0])
            _apply_back(pdy, px, pdx, view, block, p, c0, c1 - c0, own, prw, pm, pr, row, past_cache)
