"""Gradients of batch norm over short planes, of some channels together, which lie side by side in every sample.

The same bits as `runs.backward`.  The planes of a channel lie far apart, mostly by a multiple of 4096 bytes, for which
the nearest cache has one and the same place, and one by one they are read at less than half the speed of long runs.
Here those of some channels are read as one.
"""

from numba import prange

from fastbn.kernels.jit import driver, inlined
from fastbn.kernels.loops import gradient, normalize, products
from fastbn.kernels.plans import Adjacent, Runs, read
from fastbn.kernels.runs import (
    NO_GRADIENT_EXTRAS,
    beginnings,
    completed,
    lined_up_behind,
    normalized,
    pick,
    slopes,
)
from fastbn.kernels.simd import (
    LANES,
    LINE,
    address,
    advance,
    either,
    load,
    room,
    rounded,
    splat,
    splat64,
    store,
    total,
)

ADJACENT = 32  # groups at a time
ROOM = (2 + 2 * LANES) * ADJACENT + LINE // 8  # numbers: two of each, the lanes of its two sums, and up to a cache line


@inlined
def _differentiate(dy, x, run, statistics, affine, extras):
    """Compute a run of dy, the gradient of what is normalized, from that of the activation's result."""
    (mean, rstd), (w, b) = statistics, affine
    hi, a = rounded(x, mean), rstd * w
    of = splat(x, hi), splat(x, a), splat(x, b - (mean - hi) * a), None, None
    normalize(x, dy, run, of, extras, 0)


@inlined
def _add_products(dy, x, run, statistics, lanes):
    """Add the products of a run to the lanes of both sums of its channel."""
    i, n, _ = run
    hi, a, _ = normalized(x, *statistics)
    s, q = load(lanes, 0), load(lanes, LANES)
    s, q = products((dy, x, None), i, n, (None, splat(x, hi), splat(x, a), None), 0, (s, q), 0)
    store(lanes, 0, s)
    store(lanes, LANES, q)


@driver
def backward(plan, dy, x, dx, w, mean, rstd, grads, extras):
    """As `runs.backward`, of several chunks of one part, and without a mask.

    plan: the numbers of `Runs` and `Adjacent`.
    """
    for unit in prange(read(plan, Runs, Adjacent)[1].units):
        view, how = read(plan, Runs, Adjacent)
        chunks, groups, _, n, _ = view
        b, _, residual, activation, _, upstream, dsum, _ = either(extras, NO_GRADIENT_EXTRAS)
        pdy, px, pdx, pw, pb = address(dy), address(x), address(dx), address(w), address(b)
        of_forward, beside = beginnings((residual, activation, None, upstream)), (address(dsum), None)
        first, last = unit * how.groups, min((unit + 1) * how.groups, groups)
        of_g, v = address(grads), room(ROOM)
        of_h, u, lanes = advance(of_g, groups), advance(v, ADJACENT), lined_up_behind(v, 2 * ADJACENT)
        for c in range(first, last):
            of_g[c], of_h[c] = 0.0, 0.0
        for begin in range(0, chunks, how.chunks):
            for k in range(2 * (last - first)):
                store(lanes, k * LANES, splat64(0.0))
            for j in range(begin, min(begin + how.chunks, chunks)):
                for c in range(first, last):
                    run, own = ((j * groups + c) * n, n, 0), (mean[c], rstd[c])
                    if upstream is not None:
                        _differentiate(pdy, px, run, own, (pick(pw, c, 1.0), pick(pb, c, 0.0)), of_forward)
                    _add_products(pdy, px, run, own, advance(lanes, 2 * (c - first) * LANES))
            for c in range(first, last):
                k, (_, _, t) = 2 * (c - first), normalized(px, mean[c], rstd[c])
                s = total(load(lanes, k * LANES))
                of_g[c] += s
                of_h[c] += completed(s, total(load(lanes, (k + 1) * LANES)), t)
        for c in range(first, last):
            k, weight = c - first, pick(pw, c, 1.0)
            s, q = 0.0 + weight * of_g[c], 0.0 + weight * of_h[c]  # a negative zero becomes a positive one
            v[k], u[k] = slopes(s, q, chunks * n, rstd[c], True)
            v[k] -= (mean[c] - rounded(px, mean[c])) * u[k]
        for j in range(chunks - 1, -1, -1):  # backwards: what was read last is still in the cache
            for c in range(first, last):
                k, hi, weight = c - first, rounded(px, mean[c]), pick(pw, c, 1.0)
                of = splat(px, hi), splat(px, u[k]), splat(px, v[k]), splat(px, rstd[c]), splat(px, weight)
                gradient((pdy, px, pdx), ((j * groups + c) * n, n, 0), of, beside, 0)
