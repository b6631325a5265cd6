"""Groups that are columns of a row-major block: channels last, few elements a plane, norm over the channel axis.

x is seen as `blocks` of (rows, width) in memory order.  Group g of a block shares its statistics over `span` adjacent
columns and all rows; column c has weight number c // repeat, or every row has its own:

    batch norm, channels last         (1, N*S, C)    span 1, repeat 1
    batch norm, few elements a plane  (1, N, C*S)    span S, repeat S
    group norm, channels last         (N, S, C)      span C/G, repeat 1
    instance norm, channels last      (N, S, C)      span 1, repeat 1
    layer norm, channels first        (N, C, S)      span 1, a weight a row

Narrow rows are taken `fold` at a time, as one row of fold*width columns (the last one may be shorter); a group then
gathers the columns that stand for the same channel.  All this stands in `view` (`plans.Columns`).  `forward` and
`backward` do a panel of `panel` columns while it is in the cache; `forward_in_steps` and `backward_in_steps` share out
pieces of `piece` folded rows, first for the sums and then for the result.  Pieces depend on the shape alone and are
added up in order either way, so which one is taken makes no difference to any bit.

Most functions take a `Panel`, the columns that they work on, with what is kept for each of these in arrays of float64,
or of the type computed in.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from fastbn.kernels.jit import driver, tile
from fastbn.kernels.loops import ROWS_AT_ONCE, add_moments, add_products, gradient, normalize, products, trusted
from fastbn.kernels.plans import Columns, ColumnsBackward, ColumnsForward, ColumnsScale, named, read
from fastbn.kernels.runs import (
    NO_EXTRAS,
    NO_GRADIENT_EXTRAS,
    beginnings,
    collect_some,
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

AT_ONCE = 1024  # columns, if there are many: what these are scaled by stays in the cache
MANY = 128  # columns, of which it pays to take some on their own so that the others begin at a cache line
FAR_BLOCK = 1 << 19  # elements of a block: more than a core's own cache holds, in a program at least
PART = 32768  # elements that are written at once, the last first: some of these are in a core's own cache yet
FEW = 128  # terms of a group in a piece: fewer are summed in float64 right away, for they make few sums of eight


class Panel(NamedTuple):
    """n columns of a block from column `first` on, `lead` of which come before a cache line, if that pays."""

    block: int
    first: int
    n: int
    lead: int


class Rows(NamedTuple):
    """The folded rows `begin` to `end`: those before `whole` are full, one after them has `rest` columns."""

    begin: int
    end: int
    whole: int
    rest: int


@tile
def _part(view, p, parts):
    """The folded rows of one of so many parts of about the same size."""
    folded = (view.rows + view.fold - 1) // view.fold
    return _rows(view, folded * p // parts, folded * (p + 1) // parts)


@tile
def _piece(view, p):
    """The folded rows of piece p."""
    return _rows(view, p * view.piece, min((p + 1) * view.piece, (view.rows + view.fold - 1) // view.fold))


@tile
def _rows(view, begin, end):
    whole = min(end, view.rows // view.fold)
    return Rows(begin, end, whole, (view.rows - whole * view.fold) * view.width)


@tile
def _start(view, panel, r):
    """Where folded row r of the panel begins in x."""
    return (panel.block * view.rows + r * view.fold) * view.width + panel.first


@tile
def _there(panel, rows, r, c, n):
    """How many of n columns of a panel, from its column c on, there are in folded row r, if any."""
    return n if r < rows.whole else min(rows.rest - panel.first - c, n)


@tile
def _counts(view):
    """Pieces and panels of a block."""
    folded = (view.rows + view.fold - 1) // view.fold
    return (folded + view.piece - 1) // view.piece, (view.width * view.fold + view.panel - 1) // view.panel


@tile
def _whole_block(x, view, block):
    """All columns of a block."""
    return _with_lead(x, view, block, 0, view.width * view.fold)


@tile
def _panel(x, view, block, k):
    """The k-th panel of a block."""
    first = k * view.panel
    return _with_lead(x, view, block, first, min(first + view.panel, view.width * view.fold) - first)


@tile
def _with_lead(x, view, block, first, n):
    """n columns from `first` on; `lead`: those before a cache line, if that is the same in all rows, else 0; under 16.

    Loads across two lines take twice the time; and for a column, it makes no difference in which lane it is.
    """
    i = block * view.rows * view.width + first
    lead = gap(x, i)
    return Panel(block, first, n, lead % LANES if n >= MANY and lead == gap(x, i + view.width * view.fold) else 0)


def apart(n):
    """How far arrays lie apart that have a number for each of n columns and the first 32 once more, see `_begin`."""
    return (n + 4 * LANES - 1) // LANES * LANES


_apart = tile(apart)


@tile
def _array(columns, n, k):
    """The k-th of such arrays."""
    return advance(columns, k * _apart(n))


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
    return n == view.width * view.fold and n >= 2 * LANES


@tile
def _far(view):
    """Whether a block is more than a core's own cache holds."""
    return view.rows * view.width >= FAR_BLOCK


@tile
def _add(own, sums, n):
    for c in range(n):
        own[c] += sums[c]


@tile
def _put(sums, u, n, own):
    """Put the two sums of piece u of so many columns where those of all pieces are."""
    s, q = own
    for c in range(n):
        sums[u * 2 * n + c] = s[c]
    for c in range(n):
        sums[(u * 2 + 1) * n + c] = q[c]


@tile
def _clear(sums, n):
    for c in range(n):
        sums[c] = 0.0


@tile
def _blocks(view, how):
    """How many blocks there are, whose panels are the units."""
    return how.units // _counts(view)[1]


@tile
def _in_steps(view, how, threads):
    """Blocks; pieces of one; and parts of one, each of which is written at once."""
    blocks, folded = _blocks(view, how), (view.rows + view.fold - 1) // view.fold
    least = (4 * threads + blocks - 1) // blocks
    return blocks, _counts(view)[0], min(max(least, view.rows * view.width // PART), folded)


@tile
def _of_block(arrays, n, count, block, lead):
    """Where `count` arrays of n columns begin among those of all blocks, or of all pieces; see `_begin`."""
    return advance(lined_up(arrays), block * count * _apart(n) + LANES - lead)


@tile
def _add_pieces(sums, block, pieces, panel):
    """Both sums of a block from those of its pieces, in the place of the first one's."""
    n = panel.n
    own = _of_block(sums, n, 2, block * pieces, panel.lead)
    for p in range(1, pieces):
        piece = advance(own, p * 2 * _apart(n))
        _add(own, piece, n)
        _add(_array(own, n, 1), _array(piece, n, 1), n)
    return own, _array(own, n, 1)


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
def _shifts(x, where, view, panel, centered, shift, narrow_shift):
    """For every column an element of the column's group, or zero, in float64 and as computed with."""
    rows, width, span, n = view.rows, view.width, view.span, panel.n
    own, i = min(n, width), panel.block * rows * width + panel.first
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
def _sums(x, where, view, panel, rows, shift, sums):
    stride, lead = view.width * view.fold, panel.lead
    _clear(sums[0], panel.n)
    _clear(sums[1], panel.n)
    full = _start(view, panel, rows.begin), stride, rows.whole - rows.begin, panel.n
    add_moments(x, where, full, shift, sums, lead, _far(view))
    if rows.whole < rows.end and rows.rest > panel.first:
        m = min(rows.rest - panel.first, panel.n)
        last = _start(view, panel, rows.whole), stride, rows.end - rows.whole, m
        add_moments(x, where, last, shift, sums, min(lead, m), _far(view))  # of the same types: one function


@tile
def _doubtful(s, q, n, terms, centered):
    """Whether there is a column of which float32 was not enough for the sums."""
    doubtful = False
    for c in range(n):
        doubtful |= not trusted(s[c], q[c], terms, centered)
    return doubtful


@tile
def _reduce(x, where, view, panel, rows, how, shifts, sums):
    """The sums of d and d^2 down the columns of a panel in some rows.

    how: whether groups are centered, and whether all is summed in float64.  shifts: in float64, and as computed with.
    sums: where to put both.
    """
    (centered, in_float64), (shift, narrow_shift), (s, q) = how, shifts, sums
    n, terms = panel.n, rows.end - rows.begin
    if not narrow(x) or terms * view.fold * view.span < FEW or in_float64 or where is not None:
        _sums(x, where, view, panel, rows, shift, sums)
        return
    _sums(x, where, view, panel, rows, narrow_shift, sums)
    if _doubtful(s, q, n, terms, centered):
        scratch = np.empty(2 * n)
        exact_s, exact_q = address(scratch), advance(address(scratch), n)
        _sums(x, where, view, panel, rows, shift, (exact_s, exact_q))
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
def _finish(view, panel, shift, sums, counts, centered, mean, var):
    """Mean and variance of the groups in a panel; the sums are used up."""
    width, span = view.width, view.span
    own, first = min(panel.n, width), (panel.block * width + panel.first) // span
    for some in sums:
        _fold(some, own, panel.n)
        _gather(some, own, span)
    if span > 1:
        for g in range(own // span):
            shift[g] = shift[g * span]
    for g in range(own // span):
        terms = pick(counts, first + g, np.float64(view.rows * span))
        mean[first + g], var[first + g] = statistics(shift[g], sums[0][g], sums[1][g], terms, centered)


@tile
def _want(view, panel, var, roots, eps, wanted):
    """Variances, or rstd, of the groups in a panel; `wanted` may be `var` itself."""
    width, span = view.width, view.span
    first = (panel.block * width + panel.first) // span
    for g in range(first, first + min(panel.n, width) // span):
        wanted[g] = rooted(var[g], eps) if roots else var[g]


@tile
def _coefficients(view, panel, w, b, eps, mean, var, columns):
    """What `normalize` takes for a panel, three arrays; eps None: `var` is rstd; mean None: zeros."""
    width, span, repeat, n = view.width, view.span, view.repeat, panel.n
    hi, a, t = columns, _array(columns, n, 1), _array(columns, n, 2)
    own = min(n, width)
    g, i = (panel.block * width + panel.first) // span, panel.first // repeat
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
def _apply(x, y, view, panel, rows, of, extras, past_cache):
    """Normalize a panel in some rows; of: hi, a and t, one a column, and a weight and bias a row, or None each."""
    (hi, a, t, rw, rb), n = of, panel.n
    if past_cache and rw is None and rb is None and _repeats(view, n) and rows.end > rows.begin:
        m = (rows.whole - rows.begin) * n + (rows.rest if rows.whole < rows.end else 0)
        run = _start(view, panel, rows.begin), m, 0
        normalize(x, y, run, (hi, a, t, None, None), extras, past_cache, n)
        return
    at_once = n if past_cache else AT_ONCE
    for c in range(0, n, at_once):
        some = min(at_once, n - c)
        for r in range(rows.begin, rows.end):
            m = _there(panel, rows, r, c, some)
            own = advance(hi, c), advance(a, c), advance(t, c), of_row(rw, r), of_row(rb, r)
            run = _start(view, panel, r) + c, m, 0
            normalize(x, y, run, own, extras, past_cache, None, min(panel.lead, m))


@driver
def forward(plan, x, y, w, b, rw, rb, eps, mean, var, like, extras):
    """y, mean and variance of x (flat arrays), each work item being one panel.

    plan: the numbers of `Columns` and `ColumnsForward`.
    w, b: a weight and bias a channel, rw, rb: a row, or None.  mean, var: float64 (blocks * groups,).  like: any array
    of the type computed in.  extras: None, or as in `runs.forward`.
    """
    for unit in prange(read(plan, Columns, ColumnsForward)[1].units):
        view, how = read(plan, Columns, ColumnsForward)
        pieces, panels = _counts(view)
        residual, activation, where, dy, counts, _ = either(extras, NO_EXTRAS)
        of_elements = beginnings((residual, activation, where, dy))
        px, py, pm, pv = address(x), address(y), address(mean), address(var)
        panel = _panel(px, view, unit // panels, unit % panels)
        n, in_half = panel.n, (how.centered, False)
        scratch, columns = np.empty(5 * _apart(n)), np.empty(3 * _apart(n) + LANES, like.dtype)
        shift, hi = _begin(scratch, panel.lead), _begin(columns, panel.lead)
        sums, of_piece = (_array(shift, n, 1), _array(shift, n, 2)), (_array(shift, n, 3), _array(shift, n, 4))
        _shifts(px, of_elements[2], view, panel, how.centered, shift, hi)
        for p in range(pieces):
            own = of_piece if p > 0 else sums
            _reduce(px, of_elements[2], view, panel, _piece(view, p), in_half, (shift, hi), own)
            if p > 0:
                _add(sums[0], own[0], n)
                _add(sums[1], own[1], n)
        _finish(view, panel, shift, sums, address(counts), how.centered, pm, pv)
        _coefficients(view, panel, address(w), address(b), eps, pm, pv, hi)
        _want(view, panel, pv, how.rooted, eps, pv)
        of = hi, _array(hi, n, 1), _array(hi, n, 2), address(rw), address(rb)
        for p in range(pieces - 1, -1, -1):
            _apply(px, py, view, panel, _piece(view, p), of, of_elements, how.past_cache)
        hold(scratch)
        hold(columns)


@driver
def reduce(units, x, where, view, centered, in_float64, sums, like):
    """The sums of every piece: float64 (pieces of all blocks * 2 * columns,)."""
    for u in prange(units):
        columns = named(view, Columns)
        pieces, n, px, pwhere = _counts(columns)[0], columns.width * columns.fold, address(x), address(where)
        panel = _whole_block(px, columns, u // pieces)
        scratch, narrow_scratch = np.empty(3 * _apart(n)), np.empty(_apart(n), like.dtype)
        shift, narrow_shift = _begin(scratch, panel.lead), _begin(narrow_scratch, panel.lead)
        own, how = (_array(shift, n, 1), _array(shift, n, 2)), (centered, in_float64)
        _shifts(px, pwhere, columns, panel, centered, shift, narrow_shift)
        _reduce(px, pwhere, columns, panel, _piece(columns, u % pieces), how, (shift, narrow_shift), own)
        _put(address(sums), u, n, own)
        hold(scratch)
        hold(narrow_scratch)


@driver
def shifts(units, x, where, view, shift):
    """What the sums of every column are about: float64 (blocks * columns,), each work item being one block."""
    for block in prange(units):
        columns = named(view, Columns)
        panel = _whole_block(address(x), columns, block)
        own = advance(address(shift), block * panel.n)
        _shifts(address(x), address(where), columns, panel, True, own, own)


@tile
def _take_shifts(plan, x, where, shifts, columns):
    """What the sums of every column are about, in float64 and, where `hi` will be, as computed with."""
    view, how = read(plan, Columns, ColumnsForward)
    for block in range(_blocks(view, how)):
        panel = _whole_block(address(x), view, block)
        shift, hi = _of_block(shifts, panel.n, 1, block, panel.lead), _of_block(columns, panel.n, 3, block, panel.lead)
        _shifts(address(x), address(where), view, panel, how.centered, shift, hi)


@tile
def _reduce_piece(plan, u, x, where, shifts, columns, sums):
    """The sums of piece u of all pieces of blocks."""
    view, how = read(plan, Columns, ColumnsForward)
    pieces = _counts(view)[0]
    block = u // pieces
    panel = _whole_block(address(x), view, block)
    n, lead = panel.n, panel.lead
    about = _of_block(shifts, n, 1, block, lead), _of_block(columns, n, 3, block, lead)
    own, rows, in_half = _of_block(sums, n, 2, u, lead), _piece(view, u % pieces), (how.centered, False)
    _reduce(address(x), address(where), view, panel, rows, in_half, about, (own, _array(own, n, 1)))


@tile
def _finish_blocks(plan, x, affine, counts, statistics, shifts, columns, sums):
    """Mean and variance, or rstd, of all groups, and what `normalize` takes; statistics: eps, mean and var."""
    view, how = read(plan, Columns, ColumnsForward)
    (w, b), (eps, mean, var) = affine, statistics
    for block in range(_blocks(view, how)):
        panel = _whole_block(address(x), view, block)
        n, lead = panel.n, panel.lead
        shift, hi = _of_block(shifts, n, 1, block, lead), _of_block(columns, n, 3, block, lead)
        own = _add_pieces(sums, block, _counts(view)[0], panel)
        _finish(view, panel, shift, own, address(counts), how.centered, address(mean), address(var))
        _coefficients(view, panel, address(w), address(b), eps, address(mean), address(var), hi)
        _want(view, panel, address(var), how.rooted, eps, address(var))


@tile
def _write_part(plan, k, parts, x, y, of_rows, of_elements, columns):
    """Normalize part k of all parts of blocks; of_rows: a weight and a bias a row, or None."""
    view, how = read(plan, Columns, ColumnsForward)
    block = k // parts
    panel = _whole_block(address(x), view, block)
    hi = _of_block(columns, panel.n, 3, block, panel.lead)
    of = hi, _array(hi, panel.n, 1), _array(hi, panel.n, 2), address(of_rows[0]), address(of_rows[1])
    rows = _part(view, k % parts, parts)
    _apply(address(x), address(y), view, panel, rows, of, beginnings(of_elements), how.past_cache)


@driver
def forward_in_steps(threads, plan, x, y, w, b, rw, rb, eps, mean, var, like, extras):
    """As `forward`, but each work item is a piece, or part, of a block."""
    view, how = read(plan, Columns, ColumnsForward)
    blocks, pieces, parts = _in_steps(view, how, threads)
    residual, activation, where, dy, counts, _ = either(extras, NO_EXTRAS)
    of_elements, of_rows = (residual, activation, where, dy), (rw, rb)
    apart_by = _apart(view.width * view.fold)
    shifts, sums = np.empty(blocks * apart_by + LANES), np.empty(blocks * pieces * 2 * apart_by + LANES)
    columns = np.empty(blocks * 3 * apart_by + LANES, like.dtype)
    _take_shifts(plan, x, where, shifts, columns)
    for u in prange(blocks * pieces):
        _reduce_piece(plan, u, x, where, shifts, columns, sums)
    _finish_blocks(plan, x, (w, b), counts, (eps, mean, var), shifts, columns, sums)
    for u in prange(blocks * parts):
        _write_part(plan, last_first(u, blocks * parts, threads), parts, x, y, of_rows, of_elements, columns)


@driver
def scale(plan, x, y, w, b, rw, rb, eps, mean, var, like, of_elements):
    """y from given mean and variance, float32 or float64, one a group; eps None: `var` is rstd.

    plan: the numbers of `Columns` and `ColumnsScale`.  A work item is a part of a block.
    """
    for u in prange(read(plan, Columns, ColumnsScale)[1].units):
        view, how = read(plan, Columns, ColumnsScale)
        k = last_first(u, how.units, how.threads)
        panel = _whole_block(address(x), view, k // how.parts)
        n = panel.n
        scratch = np.empty(3 * _apart(n) + LANES, like.dtype)
        hi = _begin(scratch, panel.lead)
        _coefficients(view, panel, address(w), address(b), eps, address(mean), address(var), hi)
        of = hi, _array(hi, n, 1), _array(hi, n, 2), address(rw), address(rb)
        rows = _part(view, k % how.parts, how.parts)
        _apply(address(x), address(y), view, panel, rows, of, beginnings(of_elements), how.past_cache)
        hold(scratch)


# Backward -------------------------------------------------------------------------------------------------------------


@tile
def _normalized(view, panel, mean, rstd, columns):
    """What `add_products` takes for a panel, three arrays: hi, a and t."""
    width, span, n = view.width, view.span, panel.n
    hi, a, t = columns, _array(columns, n, 1), _array(columns, n, 2)
    own, first = min(n, width), (panel.block * width + panel.first) // span
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
def _prepare(view, panel, affine, mean, rstd, upstream, columns):
    """What `_differentiate` takes, three arrays, if it is to do anything; affine: a weight and a bias a channel."""
    if upstream is not None:
        _coefficients(view, panel, affine[0], address(affine[1]), None, mean, rstd, columns)


@tile
def _differentiate(arrays, view, panel, rows, hi, rw, chain):
    """Compute dy of a panel in some rows, the gradient of what is normalized, from that of the activation's result.

    arrays: dy and x.  chain: a bias a channel and a row, residual, packed activation and where, or None each; and that
    gradient, or None where dy is there already.
    """
    of_forward, upstream = chain
    if upstream is not None:
        (dy, x), (_, rb, residual, activation, where) = arrays, of_forward
        extras = beginnings((residual, activation, where, upstream))
        of = hi, _array(hi, panel.n, 1), _array(hi, panel.n, 2), rw, address(rb)
        _apply(x, dy, view, panel, rows, of, extras, 0)


@tile
def _reduce_back(arrays, view, panel, rows, columns, rw, chain, sums):
    """The sums of g = dy rw and g h, h normalized x, down a panel in some rows.

    arrays: dy, x and where.  chain: the last argument of `_differentiate`, which computes dy a few rows at a time, so
    that it is summed while it is in the nearest cache.
    """
    (dy, x, _), stride, lead, n = arrays, view.width * view.fold, panel.lead, panel.n
    s, q = sums
    _clear(s, n)
    _clear(q, n)
    of, t = (rw, columns, _array(columns, n, 1)), _array(columns, n, 2)
    behind, whole = _array(columns, n, 6), rows.whole - rows.begin
    at_once = max(whole, 1) if chain[1] is None else np.int64(ROWS_AT_ONCE)
    for r in range(rows.begin, rows.whole, at_once):
        some = min(at_once, rows.whole - r)
        _differentiate((dy, x), view, panel, Rows(r, r + some, r + some, 0), behind, rw, chain)
        add_products(arrays, (_start(view, panel, r), stride, some, n), of, r, sums, lead, _far(view))
    if rows.whole < rows.end and rows.rest > panel.first:
        m, last = min(rows.rest - panel.first, n), Rows(rows.whole, rows.end, rows.whole, rows.rest)
        _differentiate((dy, x), view, panel, last, behind, rw, chain)
        block = _start(view, panel, rows.whole), stride, rows.end - rows.whole, m
        add_products(arrays, block, of, rows.whole, sums, min(lead, m), _far(view))
    for c in range(n):
        q[c] = completed(s[c], q[c], np.float64(t[c]))


@tile
def _slopes(view, panel, sums, w, counts, centered, rstd, grads):
    """Turn the sums into the slopes of the groups, and put what they add to dbias and, behind it, to dweight.

    grads: float64, a channel each, or None.
    """
    width, span, repeat = view.width, view.span, view.repeat
    own, first, i = min(panel.n, width), (panel.block * width + panel.first) // span, panel.first // repeat
    s, q = sums
    for some in sums:
        _fold(some, own, panel.n)
        _gather(some, own, repeat)
    if grads is not None:
        for c in range(own // repeat):
            grads[i + c] = s[c]
        for c in range(own // repeat):
            grads[view.weights + i + c] = q[c]
    for some in sums:
        for c in range(own // repeat):
            some[c] *= pick(w, i + c, 1.0)
        _gather(some, own // repeat, span // repeat)
    for g in range(own // span):
        terms = pick(counts, first + g, np.float64(view.rows * span))
        s[g], q[g] = slopes(s[g], q[g], terms, rstd[first + g], centered)


@tile
def _coefficients_back(view, panel, of_groups, w, mean, columns):
    """What `gradient` takes for a panel; columns: six arrays, of which `_normalized` has set three.

    of_groups: slopes.
    """
    width, span, repeat, n = view.width, view.span, view.repeat, panel.n
    hi, v, u, wc = columns, _array(columns, n, 3), _array(columns, n, 4), _array(columns, n, 5)
    own, first, i = min(n, width), (panel.block * width + panel.first) // span, panel.first // repeat
    s, q = of_groups
    if span == 1:
        for c in range(own):
            u[c] = q[c]
        for c in range(own):
            v[c] = s[c] - (mean[first + c] - np.float64(hi[c])) * q[c]
        for c in range(own):
            wc[c] = pick(w, i + c, 1.0)
    else:
        for g in range(own // span):
            rest = s[g] - (mean[first + g] - np.float64(hi[g * span])) * q[g]
            for c in range(g * span, (g + 1) * span):
                u[c], v[c] = q[g], rest
        for k in range(own // repeat):
            weight = pick(w, i + k, 1.0)
            for c in range(k * repeat, (k + 1) * repeat):
                wc[c] = weight
    for k in range(3, 6):
        _repeat(_array(columns, n, k), own, n)


@tile
def _gradients_of_rows(arrays, view, panel, rows, of, row_grads):
    """What some rows of a panel add to dbias and, behind it, to dweight, float64, a row each, or None.

    arrays: dy, x and where.  of: what `_normalized` makes, beginning with the panel's first column.
    """
    if row_grads is not None:
        n, own = panel.n, (None, of[0], of[1], of[2])
        for r in range(rows.begin, rows.end):
            zeros = splat64(0.0), splat64(0.0)
            s, q = products(arrays, _start(view, panel, r), _there(panel, rows, r, 0, n), own, 0, zeros, 0)
            row_grads[r], row_grads[view.rows + r] = total(s), total(q)


@tile
def _apply_back(arrays, view, panel, rows, columns, rw, extras, past_cache):
    """The gradient of a panel in some rows; arrays: dy, x and dx; rw: a weight a row, or None."""
    hi, a, n = columns, _array(columns, panel.n, 1), panel.n
    v, u, w = _array(columns, n, 3), _array(columns, n, 4), _array(columns, n, 5)
    if past_cache and rw is None and _repeats(view, n):
        m = (rows.whole - rows.begin) * n + (rows.rest if rows.whole < rows.end else 0)
        gradient(arrays, (_start(view, panel, rows.begin), m, 0), (hi, u, v, a, w), extras, past_cache, n)
        return
    at_once = n if past_cache else AT_ONCE
    for c in range(0, n, at_once):
        some = min(at_once, n - c)
        for r in range(rows.begin, rows.end):
            m, weight = _there(panel, rows, r, c, some), either(of_row(rw, r), advance(w, c))
            of = advance(hi, c), advance(u, c), advance(v, c), advance(a, c), weight
            gradient(arrays, (_start(view, panel, r) + c, m, 0), of, extras, past_cache, None, min(panel.lead, m))


@driver
def backward(plan, dy, x, dx, w, rw, mean, rstd, grads, row_grads, like, extras):
    """dx, and what the blocks add to dbias and dweight: a channel in `grads`, or a row in `row_grads` (else None).

    plan: the numbers of `Columns` and `ColumnsBackward`.  A work item is a panel.  grads: float64 (blocks, 2, weights);
    row_grads: float64 (blocks * panels, 2, rows).  extras: as in `runs.backward`.
    """
    for unit in prange(read(plan, Columns, ColumnsBackward)[1].units):
        view, how = read(plan, Columns, ColumnsBackward)
        pieces, panels = _counts(view)
        b, rb, residual, activation, where, upstream, dsum, counts = either(extras, NO_GRADIENT_EXTRAS)
        chain, beside = (b, rb, residual, activation, where), weighed((dsum, where))
        pdy, px, pw, prw, pm, pr = address(dy), address(x), address(w), address(rw), address(mean), address(rstd)
        panel = _panel(px, view, unit // panels, unit % panels)
        n = panel.n
        scratch, columns = np.empty(4 * _apart(n)), np.empty(9 * _apart(n) + LANES, like.dtype)
        s, hi = _begin(scratch, panel.lead), _begin(columns, panel.lead)
        sums, of_piece, behind = (s, _array(s, n, 1)), (_array(s, n, 2), _array(s, n, 3)), _array(hi, n, 6)
        own_grads = advance(address(grads), panel.block * 2 * view.weights)
        own_rows = advance(address(row_grads), unit * 2 * view.rows)
        _prepare(view, panel, (pw, b), pm, pr, upstream, behind)
        _normalized(view, panel, pm, pr, hi)
        for p in range(pieces):
            own, rows = of_piece if p > 0 else sums, _piece(view, p)
            _reduce_back((pdy, px, beside[1]), view, panel, rows, hi, prw, (chain, upstream), own)
            if p > 0:
                _add(sums[0], own[0], n)
                _add(sums[1], own[1], n)
        _slopes(view, panel, sums, pw, address(counts), how.centered, pr, own_grads)
        _coefficients_back(view, panel, sums, pw, pm, hi)
        for p in range(pieces - 1, -1, -1):
            rows, of = _piece(view, p), (hi, _array(hi, n, 1), _array(hi, n, 2))
            _gradients_of_rows((pdy, px, beside[1]), view, panel, rows, of, own_rows)
            _apply_back((pdy, px, address(dx)), view, panel, rows, hi, prw, beside, how.past_cache)
        hold(scratch)
        hold(columns)


@driver
def reduce_back(units, dy, x, where, view, rw, mean, rstd, sums, like):
    """The sums of every piece, as `reduce`."""
    for k in prange(units):
        columns = named(view, Columns)
        pieces, n, px = _counts(columns)[0], columns.width * columns.fold, address(x)
        panel = _whole_block(px, columns, k // pieces)
        scratch, narrow_scratch = np.empty(2 * _apart(n)), np.empty(3 * _apart(n) + LANES, like.dtype)
        s, hi = _begin(scratch, panel.lead), _begin(narrow_scratch, panel.lead)
        own, arrays = (s, _array(s, n, 1)), (address(dy), px, address(where))
        _normalized(columns, panel, address(mean), address(rstd), hi)
        chain = (None, None, None, None, None), None
        _reduce_back(arrays, columns, panel, _piece(columns, k % pieces), hi, address(rw), chain, own)
        _put(address(sums), k, n, own)
        hold(scratch)
        hold(narrow_scratch)


@tile
def _prepare_blocks(plan, x, affine, statistics, upstream, columns):
    """What the sums take of all columns; affine: a weight and a bias a channel; statistics: mean and rstd."""
    view, how = read(plan, Columns, ColumnsBackward)
    (w, b), pm, pr = affine, address(statistics[0]), address(statistics[1])
    for block in range(_blocks(view, how)):
        panel = _whole_block(address(x), view, block)
        hi = _of_block(columns, panel.n, 9, block, panel.lead)
        _prepare(view, panel, (address(w), b), pm, pr, upstream, _array(hi, panel.n, 6))
        _normalized(view, panel, pm, pr, hi)


@tile
def _reduce_back_piece(plan, u, arrays, rw, chain, columns, sums):
    """The sums of piece u of all pieces of blocks; arrays: dy, x and where."""
    view, _ = read(plan, Columns, ColumnsBackward)
    pieces = _counts(view)[0]
    beginning = address(arrays[0]), address(arrays[1]), address(arrays[2])
    panel = _whole_block(beginning[1], view, u // pieces)
    n = panel.n
    own, hi = _of_block(sums, n, 2, u, panel.lead), _of_block(columns, n, 9, u // pieces, panel.lead)
    rows, both = _piece(view, u % pieces), (own, _array(own, n, 1))
    _reduce_back(beginning, view, panel, rows, hi, address(rw), chain, both)


@tile
def _finish_back_blocks(plan, x, w, counts, statistics, grads, columns, sums):
    """What all columns take from the sums for the gradient, and what the blocks add to dbias and dweight."""
    view, how = read(plan, Columns, ColumnsBackward)
    pw, pm, pr = address(w), address(statistics[0]), address(statistics[1])
    for block in range(_blocks(view, how)):
        panel = _whole_block(address(x), view, block)
        own_grads = advance(address(grads), block * 2 * view.weights)
        own = _add_pieces(sums, block, _counts(view)[0], panel)
        _slopes(view, panel, own, pw, address(counts), how.centered, pr, own_grads)
        _coefficients_back(view, panel, own, pw, pm, _of_block(columns, panel.n, 9, block, panel.lead))


@tile
def _write_part_back(plan, k, parts, arrays, rw, row_grads, of_elements, columns):
    """The gradient of part k of all parts of blocks; arrays: dy, x and dx."""
    view, how = read(plan, Columns, ColumnsBackward)
    block, rows, panels = k // parts, _part(view, k % parts, parts), _counts(view)[1]
    beginning, beside = (address(arrays[0]), address(arrays[1]), address(arrays[2])), weighed(of_elements)
    panel = _whole_block(beginning[1], view, block)
    hi = _of_block(columns, panel.n, 9, block, panel.lead)
    if row_grads is not None:
        for c in range(panels):
            own = _panel(beginning[1], view, block, c)
            begin = advance(hi, own.first)
            of = begin, _array(begin, panel.n, 1), _array(begin, panel.n, 2)
            into = advance(address(row_grads), (block * panels + c) * 2 * view.rows)
            _gradients_of_rows((beginning[0], beginning[1], beside[1]), view, own, rows, of, into)
    _apply_back(beginning, view, panel, rows, hi, address(rw), beside, how.past_cache)


@driver
def backward_in_steps(
    threads, plan, dy, x, dx, w, rw, mean, rstd, grads, row_grads, shares, dweight, dbias, like, extras
):
    """As `backward`, but each work item is a piece, or part, of a block, and dx may be None.

    shares: how many work items dweight and dbias are, which are added up from grads or row_grads.
    """
    view, how = read(plan, Columns, ColumnsBackward)
    blocks, pieces, parts = _in_steps(view, how, threads)
    b, rb, residual, activation, where, upstream, dsum, counts = either(extras, NO_GRADIENT_EXTRAS)
    statistics = mean, rstd
    apart_by = _apart(view.width * view.fold)
    sums = np.empty(blocks * pieces * 2 * apart_by + LANES)
    columns = np.empty(blocks * 9 * apart_by + LANES, like.dtype)
    _prepare_blocks(plan, x, (w, b), statistics, upstream, columns)
    for u in prange(blocks * pieces):
        of_forward = (b, rb, residual, activation, where), upstream
        _reduce_back_piece(plan, u, (dy, x, where), rw, of_forward, columns, sums)
    _finish_back_blocks(plan, x, w, counts, statistics, grads, columns, sums)
    if dx is not None:
        for u in prange(blocks * parts):
            k = last_first(u, blocks * parts, threads)
            _write_part_back(plan, k, parts, (dy, x, dx), rw, row_grads, (dsum, where), columns)
    of_all = either(grads, row_grads)
    if shares == 1:
        collect_some(of_all, 0, dweight.size, dweight, dbias)
    else:
        for u in prange(shares):
            collect_some(of_all, u * dweight.size // shares, (u + 1) * dweight.size // shares, dweight, dbias)
