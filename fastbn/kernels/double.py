"""Double backward: the gradients for dy and x from those for dx, dweight and dbias, over runs and over columns.

v is the gradient for dx; w, a and b are the weight and the gradients for dweight and dbias.  With h the normalized x
and d = v - v_mean, all that one element needs besides is the same for its group::

    q = (d - h v_slope) rstd
    gradient for dy = q w + h a + b
    gradient for x = (dy (a - w from_dy) - d from_v - rest - h slope) rstd

`c` holds these numbers, one after the other in the order of `COEFFICIENTS`, in the type computed in.  dy q is what an
element adds to the gradient for its weight.
"""

from numba import prange

from fastbn.kernels.columns import _counts, _piece
from fastbn.kernels.jit import driver, tile
from fastbn.kernels.plans import Columns, named
from fastbn.kernels.runs import _span
from fastbn.kernels.simd import (
    LANES,
    address,
    advance,
    at_part,
    either,
    keep,
    load_part,
    of_row,
    splat64,
    store_part,
    total,
    wide,
)

COEFFICIENTS = ("hi", "rstd", "t", "v_mean", "v_slope", "from_dy", "from_v", "rest", "slope", "w", "a", "b")


@tile
def _of_part(arrays, i, m, c, affine, j):
    """Both gradients of up to LANES elements, and their dy q in float64."""
    (v, dy, x, ddy, gx), (w, a, b) = arrays, affine
    hi, rstd, t = at_part(c[0], j, m), at_part(c[1], j, m), at_part(c[2], j, m)
    h = (load_part(x, i, m) - hi) * rstd + t
    d = load_part(v, i, m) - at_part(c[3], j, m)
    g = load_part(dy, i, m)
    wj, aj = at_part(w, j, m), at_part(a, j, m)
    q = (d - h * at_part(c[4], j, m)) * rstd
    store_part(ddy, i, q * wj + h * aj + at_part(b, j, m), m)
    rest = at_part(c[7], j, m) + h * at_part(c[8], j, m)
    store_part(gx, i, (g * (aj - wj * at_part(c[5], j, m)) - d * at_part(c[6], j, m) - rest) * rstd, m)
    return wide(keep(g * q, m))


@tile
def _gradients(arrays, i, n, c, affine, j, grads):
    """Both gradients of a run, and the sum of its dy q.

    arrays: v, dy, x, and where the gradients for dy and x go.  c, and in affine w, a and b: Vecs, or memory from place
    j on.  grads: float64, to which dy q is added from place j on, or None.
    """
    end, behind = i + n, j - i
    s = splat64(0.0)
    while i + LANES <= end:
        terms = _of_part(arrays, i, None, c, affine, i + behind)
        if grads is not None:
            store_part(grads, i + behind, load_part(grads, i + behind, None) + terms, None)
        s += terms
        i += LANES
    if i < end:
        terms = _of_part(arrays, i, end - i, c, affine, i + behind)
        if grads is not None:
            store_part(grads, i + behind, load_part(grads, i + behind, end - i) + terms, end - i)
        s += terms
    return total(s)


@tile
def _one_each(c, i, n):
    """What comes before w, a and b in `c`, as Vecs of part i out of n."""
    return (
        of_row(c, i),
        of_row(c, i + n),
        of_row(c, i + 2 * n),
        of_row(c, i + 3 * n),
        of_row(c, i + 4 * n),
        of_row(c, i + 5 * n),
        of_row(c, i + 6 * n),
        of_row(c, i + 7 * n),
        of_row(c, i + 8 * n),
    )


@tile
def _columns_each(c, n):
    """The same as memory, n columns each."""
    return (
        c,
        advance(c, n),
        advance(c, 2 * n),
        advance(c, 3 * n),
        advance(c, 4 * n),
        advance(c, 5 * n),
        advance(c, 6 * n),
        advance(c, 7 * n),
        advance(c, 8 * n),
    )


@tile
def _put(memory, i, value):
    if memory is not None:
        memory[i] = value


@driver
def over_runs(units, v, dy, x, ddy, gx, view, per_part, c, we, ae, be, block, grads):
    """The gradients for dy and x of c.shape[1] parts (see `runs`), each work item being one piece of `block` parts.

    we, ae, be: an element's each, or None where `c` has them.  grads: float64 zeros (blocks, weights) for what the
    parts of a block add to the gradient for the weights of their elements, or None.
    """
    count, groups, parts, length, weights = view
    ours = c.shape[1]
    for unit in prange(units):
        arrays = address(v), address(dy), address(x), address(ddy), address(gx)
        pwe, pae, pbe, pc = address(we), address(ae), address(be), address(c)
        own = advance(address(grads), unit // per_part * weights)
        j0, j1, e0, e1 = _span(unit % per_part, count, length)
        first = unit // per_part * block
        for i in range(first, min(first + block, ours)):
            cs = _one_each(pc, i, ours)
            w, a = either(pwe, of_row(pc, 9 * ours + i)), either(pae, of_row(pc, 10 * ours + i))
            affine = w, a, either(pbe, of_row(pc, 11 * ours + i))
            place = i * length % weights + e0
            for j in range(j0, j1):
                start = (j * groups * parts + i) * length + e0
                _gradients(arrays, start, e1 - e0, cs, affine, place, own)


@driver
def over_columns(units, v, dy, x, ddy, gx, view, c, rw, ra, rb, grads):
    """The gradients for dy and x of some blocks (see `columns`), each work item being one piece.

    c: (blocks, 12, columns).  rw, ra, rb: a row's each, or None where `c` has them.  grads: float64 (blocks, rows) for
    the gradients for the weights of the rows, or None.
    """
    for unit in prange(units):
        columns = named(view, Columns)
        pieces, n, rows = _counts(columns)[0], columns.width * columns.fold, columns.rows
        arrays = address(v), address(dy), address(x), address(ddy), address(gx)
        prw, pra, prb = address(rw), address(ra), address(rb)
        block = unit // pieces
        c0 = advance(address(c), block * 12 * n)
        cs = _columns_each(c0, n)
        cw, ca, cb = advance(c0, 9 * n), advance(c0, 10 * n), advance(c0, 11 * n)
        own = advance(address(grads), block * rows)
        begin, end, whole, rest = _piece(columns, unit % pieces)
        for r in range(begin, end):
            m = n if r < whole else rest
            i = block * rows * columns.width + r * n
            affine = either(of_row(prw, r), cw), either(of_row(pra, r), ca), either(of_row(prb, r), cb)
            s = _gradients(arrays, i, m, cs, affine, 0, None)
            _put(own, r, s)
