"""Groups made of contiguous runs: batch, group and instance norm with channels first, layer and RMS norm.

x is seen as (count, groups, parts, length) in memory order; `view` holds these four and the number of weights.  Group g
shares its statistics over all the rest: `count` chunks of parts*length adjacent elements.  Every part of a group has
one weight and one bias, at (g*parts + k) modulo their number ("channel"), or every element of a chunk has its own
("element"):

    batch norm      (N, C, 1, S)      channel          layer and RMS norm   (1, M, 1, K)     element
    group norm      (1, N*G, C/G, S)  channel          group norm, S = 1    (1, N*G, 1, C/G) element
    instance norm   (1, N*C, 1, S)    channel
    batch norm with given statistics, in the order of memory: as instance norm

A group's work is cut into pieces that depend on the shape alone; a piece's sums are added up in order.  So it makes no
difference to any bit whether one thread does a whole group while it is in its cache (`forward`, `backward`), or many
share one (`reduce`, `finish` and `apply`, one after the other).
"""

import numpy as np
from numba import prange

from fastbn.kernels.activations import unpacked
from fastbn.kernels.jit import driver, entry, inlined, tile
from fastbn.kernels.simd import (
    LANES,
    LINE,
    address,
    advance,
    either,
    element,
    gap,
    load,
    narrow,
    rounded,
    splat,
    splat64,
    total,
)
from fastbn.kernels.tile import (
    FEW,
    ROWS_AT_ONCE,
    cross_products,
    expect,
    gradient,
    moments,
    normalize,
    pour,
    products,
    trusted,
)

LONG = 4096  # elements of a run: the beginning of the next one is fetched while it is read,
SHORT = 1024  # and the whole one where it is no longer than that
FAR = 1 << 21  # elements of x: more than a core's own cache holds
NEAR = 512  # elements: so far ahead longer ones are fetched then,
SLAB = 114688  # unless a group has so few, in all arrays read (float32), that it is fetched while another is written
LINED_UP = 256  # elements of a run at least, for which it is begun at a cache line
PIECE = 16384  # elements: some microseconds of work, far more than it costs to hand out

NOTHING = None, None, None, None, None, None, None, None  # of what may go along

COLLECTED = 8192  # sums of blocks: work for one thread


def pieces(count, length):
    """Into how many pieces `count` chunks of `length` elements are cut."""
    if length > PIECE:
        return count * -(-length // PIECE)
    if count == 1:  # the usual case, without a division
        return 1
    return -(-count // (PIECE // length))


@tile
def last_first(u, units, threads):
    """Which of so many units comes u-th, if every thread is to go from the last of its own back to the first.

    Units are handed out in as many adjacent shares as there are threads.  So a thread has the same share in every step,
    and what it read last in the one before is still in its core's cache.
    """
    share = u * threads // units
    first, behind = -(-share * units // threads), -(-(share + 1) * units // threads)
    return first + behind - 1 - u


@tile
def _span(p, count, length):
    """Piece p: chunks j0 to j1, and of each the elements e0 to e1."""
    if length > PIECE:
        cuts = (length + PIECE - 1) // PIECE
        e0 = p % cuts * PIECE
        return p // cuts, p // cuts + 1, e0, min(e0 + PIECE, length)
    if count == 1:  # the usual case, without a division
        return 0, 1, 0, length
    j0 = p * (PIECE // length)
    return j0, min(j0 + PIECE // length, count), 0, length


@tile
def _worth_expecting(length):
    """Whether the next run is fetched; the processor does as well by itself with others."""
    return length <= SHORT or length >= LONG


@tile
def _near(view, n, arrays):
    """How many elements ahead runs of n are fetched from so many arrays while they are summed."""
    count, groups, parts, length, _ = view
    group = count * parts * length
    return NEAR if n > SHORT and groups * group >= FAR and arrays * group > SLAB else 0


@tile
def _around(i, n):
    """i modulo n; mostly i is less, and a division costs as much as a short run."""
    return i if i < n else i % n


@tile
def pick(values, index, default):
    """One number as a float64, or the default where there are none."""
    if values is None:
        return default
    return np.float64(values[index])


@tile
def rooted(var, eps):
    """1 / sqrt(var + eps); eps None: `var` is that already."""
    return var if eps is None else 1.0 / np.sqrt(var + eps)


@tile
def beginnings(more):
    """What `normalize` takes beside weights and biases, from arrays (or None, where nothing is wanted)."""
    residual, activation, where, dy = either(more, (None, None, None, None))
    return address(residual), unpacked(activation), address(where), address(dy)


@tile
def lined_up(array):
    """The address of the first cache line in an array: loads and stores across two of them take twice the time."""
    begin = address(array)
    return advance(begin, gap(begin, 0))


@tile
def _as_lined_up(memory, target, i):
    """Where cache lines begin as in `target` from i on, in memory that begins at one."""
    return advance(memory, -gap(target, i) % LANES)


@tile
def _lead(y, i, n):
    """How many elements of a run of n come before a cache line of y, if it pays to begin there.

    A store across two lines takes twice the time, but the pieces at both ends take as long as a short run.
    """
    return gap(y, i) if n >= LINED_UP else 0


@tile
def hold(array):
    """Keep an array alive up to here: its address does not."""
    return array.size


@tile
def median(x, i, j, k):
    """The median of three elements, as a float64."""
    a, b, c = element(x, i), element(x, j), element(x, k)
    return max(min(a, b), min(max(a, b), c))


@tile
def some_element(x, where, i, n, stride):
    """An element of n that are `stride` apart, and whether there is one for which `where` is not 0."""
    if where is None:
        return median(x, i, i + n // 2 * stride, i + (n - 1) * stride), True
    first, middle, last = 0, n // 2, n - 1
    while first < n and where[i + first * stride] == 0:
        first += 1
    if first == n:
        return 0.0, False
    while where[i + last * stride] == 0:
        last -= 1
    while middle < last and where[i + middle * stride] == 0:
        middle += 1
    return median(x, i + first * stride, i + max(first, min(middle, last)) * stride, i + last * stride), True


@inlined
def _shift(x, where, view, g):
    """What the sums of group g are about."""
    count, groups, parts, length, _ = view
    chunk = parts * length
    shift, found = 0.0, False
    for j in range(count):
        shift, found = some_element(x, where, (j * groups + g) * chunk, chunk, 1)
        if found:
            break
    return shift


@tile
def statistics(shift, s, q, n, centered):
    """Mean and variance of n elements from their sums about `shift`; not centered: zero and the mean square."""
    if not centered:
        return 0.0, q / n
    d = s / n
    var = (q - s * d) / n
    if var < 0.0:  # a rounding below zero; NaN stays NaN
        var = 0.0
    return shift + d, var


# Forward --------------------------------------------------------------------------------------------------------------


@tile
def _written_first(j):
    """Which of two phases fetches from chunk j of the next group, where both do."""
    return j % 2 == 1


@inlined
def _sums(x, where, view, g, span, shift, ahead):
    count, groups, parts, length, _ = view
    j0, j1, e0, e1 = span
    s, q = splat64(0.0), splat64(0.0)
    stride, near = groups * parts * length, _near(view, e1 - e0, 1)
    for j in range(j0, j1):
        start = j * stride + g * parts * length + e0
        if count > 1 and _worth_expecting(e1 - e0):
            expect(x, start + stride, e1 - e0)
        s, q = moments(x, where, start, e1 - e0, shift, s, q, near if _written_first(j) else max(near, ahead))
    return total(s), total(q)


@inlined
def _reduce(x, where, view, g, p, centered, in_float64, ahead):
    """The sums of piece p of group g about an element of the group, which comes back too."""
    count, _, parts, length, _ = view
    shift = _shift(x, where, view, g) if centered else 0.0
    span = _span(p, count, parts * length)
    n = (span[1] - span[0]) * (span[3] - span[2])
    if narrow(x) and n >= FEW and not in_float64 and where is None:  # with it, nobody knows how many terms there are
        s, q = _sums(x, where, view, g, span, splat(x, shift), ahead)
        if trusted(s, q, n, centered):
            return shift, s, q
    s, q = _sums(x, where, view, g, span, splat64(shift), 0)
    return shift, s, q


@inlined
def _apply(x, y, view, g, p, mean, rstd, w, b, we, be, more, past_cache, ahead):
    """Normalize piece p of group g."""
    count, groups, parts, length, affine = view
    j0, j1, e0, e1 = _span(p, count, parts * length)
    hi = rounded(x, mean)
    f = g * length % affine if affine != length else 0  # of use where every element has its own weight
    k0, k1 = (e0 // length, (e1 - 1) // length + 1) if parts > 1 else (0, 1)
    for k in range(k0, k1):
        c = _around(g * parts + k, affine) if w is not None or b is not None else 0
        a = rstd * pick(w, c, 1.0)
        t = pick(b, c, 0.0) - (mean - hi) * a
        first, last = max(e0, k * length), min(e1, (k + 1) * length)
        for j in range(j0, j1):
            start = (j * groups + g) * parts * length + first
            fetched = ahead > 0 and not _written_first(j)
            past = min(past_cache, 1) if fetched else past_cache
            vs = splat(x, hi), splat(x, a), splat(x, t)
            n, lead = last - first, _lead(y, start, last - first)
            normalize(x, y, start, n, vs[0], vs[1], vs[2], we, be, f + first, more, past, None, lead)


@inlined
def _add_up(x, summed, view, g, p, past_cache):
    """Write piece p of the sum of the two arrays that x is, if it is wanted."""
    if summed is not None:
        _apply(x, summed, view, g, p, 0.0, 1.0, None, None, None, None, beginnings(None), past_cache, 0)


@tile
def _terms(counts, view, g):
    """How many elements group g has; counts: None, or the numbers of those that count."""
    return pick(counts, g, np.float64(view[0] * view[2] * view[3]))


@inlined
def _of_group(x, y, view, g, how, affine, eps, more, counts, summed):
    """Normalize group g; its mean, variance and 1 / sqrt(variance + eps).

    how: pieces, whether it is centered, `past_cache` and `ahead`; affine: w, b, we, be; more: see `normalize`.
    """
    per_group, centered, past_cache, ahead = how
    w, b, we, be = affine
    shift, s, q = 0.0, 0.0, 0.0
    for p in range(per_group):
        shift, ds, dq = _reduce(x, more[2], view, g, p, centered, False, ahead)
        s += ds
        q += dq
    m, v = statistics(shift, s, q, _terms(counts, view, g), centered)
    r = rooted(v, eps)
    for p in range(per_group - 1, -1, -1):  # backwards: what was read last is still in the cache
        _add_up(x, summed, view, g, p, past_cache)  # before y, which may be where x is
        _apply(x, y, view, g, p, m, r, w, b, we, be, more, past_cache, ahead)
    return m, v, r


@driver
def forward(plan, x, y, w, b, we, be, eps, mean, var, rest):
    """y, mean and variance of x (flat arrays), a group a unit.

    plan: int64, the five of `view`; in how many pieces a group is done; whether it is centered; whether `var` takes
    rstd; `past_cache` and `ahead`: 0, or the next group is fetched, so many elements ahead, while this one is written
    or, for the latter, summed, too.
    w, b: a weight and bias a channel, we, be: an element, or None.  mean, var: float64 (groups,), or empty where not
    wanted.
    rest: None, or what may be None each: what `normalize` takes, residual, packed activation, where and dy; counts:
    float64 (groups,), how many elements count; summed: where the sum of the two arrays goes that x is then.
    """
    for g in prange(plan[1]):
        view, how = (plan[0], plan[1], plan[2], plan[3], plan[4]), (plan[5], plan[6], plan[8], plan[9])
        residual, activation, where, dy, counts, summed = either(rest, (None, None, None, None, None, None))
        affine = address(w), address(b), address(we), address(be)
        more = beginnings((residual, activation, where, dy))
        of_all = how, affine, eps, more, address(counts), address(summed)
        m, v, r = _of_group(address(x), address(y), view, g, *of_all)
        if mean.size > 0:
            mean[g] = m
        if var.size > 0:
            var[g] = r if plan[7] else v


@entry
def forward_at(plan, x, y, w, b, we, be, eps, mean, var, activation):
    """`forward` by addresses, for compiled callers, whom arrays would cost as much as a short run.

    mean, var: None where not wanted.  activation: packed, or None.
    """
    view, how = (plan[0], plan[1], plan[2], plan[3], plan[4]), (plan[5], plan[6], plan[8], plan[9])
    affine, more = (w, b, we, be), beginnings((None, activation, None, None))
    for g in range(plan[1]):
        m, v, r = _of_group(x, y, view, g, how, affine, eps, more, None, None)
        if mean is not None:
            mean[g] = m
        if var is not None:
            var[g] = r if plan[7] else v


@driver
def reduce(units, x, where, view, per_group, centered, in_float64, sums):
    """The shift and sums of every piece: float64 (pieces of all groups, 3)."""
    for u in prange(units):
        g, p = u // per_group, u % per_group
        shift, s, q = _reduce(address(x), address(where), view, g, p, centered, in_float64, 0)
        sums[u, 0], sums[u, 1], sums[u, 2] = shift, s, q


@driver
def finish(units, view, per_group, centered, sums, counts, mean, var):
    """Mean and variance of every group from the sums of its pieces."""
    for g in prange(units):
        s, q = 0.0, 0.0
        for p in range(g * per_group, (g + 1) * per_group):
            s += sums[p, 1]
            q += sums[p, 2]
        n = _terms(address(counts), view, g)
        mean[g], var[g] = statistics(sums[g * per_group, 0], s, q, n, centered)


@driver
def apply(units, threads, x, y, view, per_group, w, b, we, be, eps, past_cache, mean, var, more):
    """y from given mean and variance, one a group or one for all, a piece a unit; eps None: `var` is rstd."""
    for u in prange(units):
        k = last_first(u, units, threads)
        g = k // per_group
        p = k - g * per_group
        c = _around(g, mean.size)
        m, r = pick(mean, c, 0.0), rooted(pick(var, c, 1.0), eps)
        px, py, pw, pb, pwe, pbe = address(x), address(y), address(w), address(b), address(we), address(be)
        _apply(px, py, view, g, p, m, r, pw, pb, pwe, pbe, beginnings(more), past_cache, 0)


@driver
def scale(plan, x, y, w, b, eps, mean, var, more):
    """y from given mean and variance, one a channel, in the order of memory; eps None: `var` is rstd.

    plan: int64, the five of `view`, the number of units, `past_cache`.  A unit is a piece of the count * groups rows of
    x; channel c has the rows c, c + groups, ...
    """
    for u in prange(plan[5]):
        count, groups, length, past_cache = plan[0], plan[1], plan[3], plan[6]
        px, py, pw, pb, also = address(x), address(y), address(w), address(b), beginnings(more)
        j0, j1, e0, e1 = _span(u, count * groups, length)
        c = j0 % groups
        for j in range(j0, j1):
            m, r = pick(mean, c, 0.0), rooted(pick(var, c, 1.0), eps)
            hi = rounded(px, m)
            a = r * pick(pw, c, 1.0)
            vs = splat(px, hi), splat(px, a), splat(px, pick(pb, c, 0.0) - (m - hi) * a)
            start, n = j * length + e0, e1 - e0
            lead = _lead(py, start, n)
            normalize(px, py, start, n, vs[0], vs[1], vs[2], None, None, 0, also, past_cache, None, lead)
            c = c + 1 if c + 1 < groups else 0


# Backward -------------------------------------------------------------------------------------------------------------


@tile
def normalized(x, mean, rstd):
    """(hi, a, t) of `products`: those of the normalized x without weight and bias."""
    hi = rounded(x, mean)
    return hi, rstd, (hi - mean) * rstd


@tile
def completed(s, q, t):
    """The sum of g h from that of g and of g (h - t); an infinite one stays as it is."""
    return q + t * s if abs(s) < np.inf else q


@inlined
def _reduce_back(dy, x, where, view, i, p, mean, rstd, we, f):
    """The sums of g and g h over piece p of part i, g = dy we, h normalized x; we: an element's from f on, or None."""
    count, groups, parts, length, _ = view
    j0, j1, e0, e1 = _span(p, count, length)
    hi, a, t = normalized(x, mean, rstd)
    s, q = splat64(0.0), splat64(0.0)
    near = _near(view, e1 - e0, 2)
    for j in range(j0, j1):
        start = (j * groups * parts + i) * length + e0
        if count > 1 and _worth_expecting(e1 - e0):
            expect(dy, start + groups * parts * length, e1 - e0)
            expect(x, start + groups * parts * length, e1 - e0)
        s, q = products(dy, x, where, start, e1 - e0, we, splat(x, hi), splat(x, a), None, f + e0, s, q, near)
    p = total(s)
    return p, completed(p, total(q), t)


@tile
def slopes(s, q, n, rstd, centered):
    """avg(g) and rstd avg(g h) of a group from its sums: what the gradient subtracts."""
    return (s / n if centered else 0.0), rstd * (q / n)


@inlined
def _apply_back(dy, x, dx, view, i, p, mean, rstd, v, u, w, f, more, past_cache, lined_up):
    """The gradient of piece p of part i; w: a Vec, or a weight an element from place f on, or None."""
    count, groups, parts, length, _ = view
    j0, j1, e0, e1 = _span(p, count, length)
    hi = rounded(x, mean)
    v = v - (mean - hi) * u
    vs = splat(x, hi), splat(x, u), splat(x, v), splat(x, rstd)
    for j in range(j0, j1):
        start = (j * groups * parts + i) * length + e0
        lead = _lead(dx, start, e1 - e0) if lined_up else 0
        gradient(dy, x, dx, start, e1 - e0, vs[0], vs[1], vs[2], vs[3], w, f + e0, more, past_cache, None, lead)


@tile
def _weight_of_row(view, r):
    """The place of a row's first weight, where every element has its own."""
    _, _, _, length, affine = view
    return r * length % affine if affine != length else 0


@tile
def _advanced(more, begin):
    """The same from element `begin` on."""
    return advance(more[0], begin), advance(more[1], begin)


@tile
def weighed(more):
    """What `gradient` takes beside its coefficients, from arrays (or None, where nothing is wanted)."""
    dsum, where = either(more, (None, None))
    return address(dsum), address(where)


@tile
def _differentiate(dy, x, view, g, p, mean, rstd, w, we, chain, given):
    """Compute piece p of dy of group g, the gradient of what is normalized, from that of the activation's result.

    given: that gradient, or None where dy is there already; chain: a bias a channel and an element, residual, packed
    activation and where, or None each.
    """
    if given is not None:
        b, be, residual, activation, where = chain
        also = beginnings((residual, activation, where, given))
        _apply(x, dy, view, g, p, mean, rstd, w, address(b), we, address(be), also, 0, 0)


@driver
def reduce_back(units, dy, x, where, view, per_part, we, mean, rstd, sums):
    """The sums of every piece of every part: float64 (pieces of all parts, 2)."""
    for u in prange(units):
        i = u // per_part
        g, f = i // view[2], _weight_of_row(view, i)
        m, r = pick(address(mean), g, 0.0), rstd[g]
        own = _reduce_back(address(dy), address(x), address(where), view, i, u % per_part, m, r, address(we), f)
        sums[u, 0], sums[u, 1] = own


# Backward, a weight a channel -----------------------------------------------------------------------------------------


@tile
def _finish_group(sums, view, g, per_part, w, rstd, counts):
    """Add up the pieces of each part of group g (into its first piece's place), then the parts: the group's slopes."""
    _, _, parts, _, affine = view
    s, q = 0.0, 0.0
    for i in range(g * parts, (g + 1) * parts):
        own = advance(sums, 2 * i * per_part)
        for p in range(1, per_part):
            own[0] += own[2 * p]
            own[1] += own[2 * p + 1]
        weight = pick(w, i % affine, 1.0)
        s += weight * own[0]
        q += weight * own[1]
    return slopes(s, q, _terms(counts, view, g), rstd, True)


@tile
def _backward_of_group(
    dy,
    x,
    dx,
    view,
    g,
    first,
    per_part,
    w,
    ahead,
    past_cache,
    mean,
    rstd,
    own,
    chain,
    given,
    more,
    terms,
    collect,
    there,
):
    """dx of group g, whose first channel is `first`, and in `own` what its channels add to dbias and dweight.

    collect: whether dx is collected in the memory `there` before it is written past the cache; else that is dx.
    """
    count, groups, parts, length, channels = view
    split = count, groups * parts, 1, length, channels  # as if every part were a group
    s, q = 0.0, 0.0
    for k in range(parts):
        ps, pq = 0.0, 0.0
        if ahead:
            i = (g * parts + k) * length + ahead
            expect(dy, i, length)
            expect(x, i, length)
        for p in range(per_part):
            _differentiate(dy, x, split, g * parts + k, p, mean, rstd, w, None, chain, given)
            ds, dq = _reduce_back(dy, x, more[1], view, g * parts + k, p, mean, rstd, None, 0)
            ps += ds
            pq += dq
        weight = pick(w, first + k, 1.0)
        s += weight * ps
        q += weight * pq
        own[first + k] += ps
        own[channels + first + k] += pq
    v, u = slopes(s, q, terms, rstd, True)
    begin, part = (g * parts * length, 0) if collect else (0, g * parts)
    there = _as_lined_up(there, dx, begin) if collect else dx
    arrays, more_arrays = (advance(dy, begin), advance(x, begin), there), _advanced(more, begin)
    for k in range(parts - 1, -1, -1):
        weight = splat(x, pick(w, first + k, 1.0))
        for p in range(per_part - 1, -1, -1):
            _apply_back(*arrays, view, part + k, p, mean, rstd, v, u, weight, 0, more_arrays, past_cache, True)
    if collect:
        pour(there, dx, begin, parts * length)


@driver
def backward(plan, dy, x, dx, w, mean, rstd, grads, rest):
    """dx, and what blocks of samples add to dbias and dweight; every channel has one weight, or w is None.

    plan: int64, the five of `view`, the number of units, the groups of a sample, the samples of a block, the pieces of
    a part, `ahead`, or 0: dy and x are fetched so many elements ahead while they are summed, `past_cache`, and whether
    a group is collected before it is written past the cache.  A unit is a group of the samples of a block; x of batch
    norm is one sample.
    grads: float64 (blocks, 2, channels).
    rest: None, or what may be None each: what `_differentiate` takes, chain and given; dsum, which `gradient` takes;
    counts: as in `forward`.
    """
    for unit in prange(plan[5]):
        view = plan[0], plan[1], plan[2], plan[3], plan[4]
        of_sample, per_block, per_part, ahead, past_cache = plan[6], plan[7], plan[8], plan[9], plan[10]
        b, be, residual, activation, where, given, dsum, counts = either(rest, NOTHING)
        chain = b, be, residual, activation, where
        pdy, px, pdx, pw, also = address(dy), address(x), address(dx), address(w), weighed((dsum, where))
        block = unit // of_sample
        h = unit - block * of_sample
        first, last = block * per_block * of_sample + h, min((block + 1) * per_block * of_sample, view[1])
        given_once = h * view[2], per_part, pw, ahead, past_cache
        own = advance(address(grads), block * 2 * view[4])
        for c in range(h * view[2], (h + 1) * view[2]):
            own[c], own[view[4] + c] = 0.0, 0.0
        there = pdx
        if plan[11]:
            scratch = np.empty(LINE + view[2] * view[3], dx.dtype)
            there = lined_up(scratch)
        for g in range(first, last, of_sample):
            of_group, terms = (mean[g], rstd[g], own, chain, given), _terms(address(counts), view, g)
            _backward_of_group(pdy, px, pdx, view, g, *given_once, *of_group, also, terms, plan[11], there)
        if plan[11]:
            hold(scratch)


@driver
def finish_back(units, view, per_part, w, rstd, sums, counts, group_slopes):
    """The slopes of every group, float64 (groups, 2); the sums of a part come to stand in its first piece's place."""
    for g in prange(units):
        v, u = _finish_group(address(sums), view, g, per_part, address(w), rstd[g], address(counts))
        group_slopes[g, 0], group_slopes[g, 1] = v, u


@driver
def apply_back(units, threads, dy, x, dx, view, per_part, w, past_cache, mean, rstd, group_slopes, more):
    """dx from the slopes, a piece of a part a unit."""
    for unit in prange(units):
        k = last_first(unit, units, threads)
        i = k // per_part
        g = i // view[2]
        v, u = group_slopes[g, 0], group_slopes[g, 1]
        pdy, px, pdx, pw = address(dy), address(x), address(dx), address(w)
        weight = splat(px, pick(pw, i % view[4], 1.0))
        given = mean[g], rstd[g], v, u, weight, 0, weighed(more), past_cache, True
        _apply_back(pdy, px, pdx, view, i, k % per_part, *given)


@driver
def collect(units, sums, per_part, dweight, dbias):
    """dweight and dbias (float64) plus the sums of the parts of a block of samples, a channel a unit."""
    for c in prange(units):
        s, q = 0.0, 0.0
        for i in range(c, sums.shape[0] // per_part, units):
            s += sums[i * per_part, 0]
            q += sums[i * per_part, 1]
        dweight[c] += q
        dbias[c] += s


# Backward, a weight an element ----------------------------------------------------------------------------------------


@tile
def _row_coefficients(x, mean, rstd, first, last, hi, a, t):
    """What `add_products` takes, for some rows."""
    for r in range(first, last):
        hi[r - first], a[r - first], t[r - first] = normalized(x, pick(mean, r, 0.0), rstd[r])


@tile
def _add_rows(dy, x, where, row, last, e0, e1, view, w, hi, a, t, grads, along, ahead, dy_ahead):
    """What the elements e0 to e1 of the rows from `row` to `last` add to dbias and, behind it in grads, to dweight.

    hi, a, t: one for each of these rows, of which there are ROWS_AT_ONCE at most.  along, ahead, dy_ahead: as in
    `cross_products`.
    """
    _, _, _, length, affine = view
    step = last - row if affine == length else 1  # rows that lie over the same weights
    for r in range(row, last, step):
        f, k = _weight_of_row(view, r) + e0, r - row
        p = advance(grads, f)
        down = advance(hi, k), advance(a, k), advance(t, k), p, advance(p, affine), advance(along, 2 * k * LANES)
        cross_products(dy, x, where, r * length + e0, length, step, e1 - e0, advance(w, f), *down, ahead, dy_ahead)


@driver
def rows_backward(plan, dy, x, dx, w, mean, rstd, grads, like, rest):
    """dx, and what a block of rows, a unit, adds to dbias and dweight; every element of a row has its own weight.

    plan: int64, the five of `view`, the number of blocks, the rows of a block, the pieces of a row, `past_cache`,
    `ahead` and `dy_ahead` of `cross_products`, and whether rows are collected before they are written past the cache.
    mean: None for RMS norm.  grads: float64 (blocks, 2, weights).  like: any array of the type computed in.
    rest: as in `backward`.
    """
    for unit in prange(plan[5]):
        view = plan[0], plan[1], plan[2], plan[3], plan[4]
        _, rows, _, length, affine = view
        block, per_row, past_cache = plan[6], plan[7], plan[8]
        b, be, residual, activation, where, given, dsum, counts = either(rest, NOTHING)
        chain = b, be, residual, activation, where
        pdy, px, pdx, pw, pm, pr = address(dy), address(x), address(dx), address(w), address(mean), address(rstd)
        own, also = advance(address(grads), unit * 2 * affine), weighed((dsum, where))
        coefficients, scratch = np.empty(3 * ROWS_AT_ONCE, like.dtype), np.empty((2 * ROWS_AT_ONCE + 1) * (LANES + 1))
        hi, along = address(coefficients), lined_up(scratch)
        sums = advance(along, 2 * ROWS_AT_ONCE * LANES)
        a, t = advance(hi, ROWS_AT_ONCE), advance(hi, 2 * ROWS_AT_ONCE)
        there = pdx
        if plan[11]:
            collected = np.empty(LINE + ROWS_AT_ONCE * length, dx.dtype)
            there = lined_up(collected)
        for k in range(2 * affine):
            own[k] = 0.0
        first, last = unit * block, min((unit + 1) * block, rows)
        for row in range(first, last, ROWS_AT_ONCE):
            above = min(row + ROWS_AT_ONCE, last)
            _row_coefficients(px, pm, pr, row, above, hi, a, t)
            for k in range(2 * (above - row)):
                sums[k] = 0.0
            for p in range(per_row):
                for r in range(row, above):
                    _differentiate(pdy, px, view, r, p, pick(pm, r, 0.0), pr[r], None, pw, chain, given)
                for k in range(2 * (above - row) * LANES):
                    along[k] = 0.0
                _, _, e0, e1 = _span(p, 1, length)
                _add_rows(pdy, px, also[1], row, above, e0, e1, view, pw, hi, a, t, own, along, plan[9], plan[10])
                for r in range(row, above):
                    k = 2 * (r - row)
                    _, _, shift = normalized(px, pick(pm, r, 0.0), pr[r])
                    s = total(load(along, k * LANES))
                    sums[k] += s
                    sums[k + 1] += completed(s, total(load(along, (k + 1) * LANES)), shift)
            begin, base = (row * length, row) if plan[11] else (0, 0)
            target = _as_lined_up(there, pdx, begin) if plan[11] else pdx
            arrays, more = (advance(pdy, begin), advance(px, begin), target), _advanced(also, begin)
            for r in range(row, above):
                m, f, k = pick(pm, r, 0.0), _weight_of_row(view, r), 2 * (r - row)
                v, u = slopes(sums[k], sums[k + 1], _terms(address(counts), view, r), pr[r], pm is not None)
                for p in range(per_row):
                    _apply_back(*arrays, view, r - base, p, m, pr[r], v, u, pw, f, more, past_cache, False)
            if plan[11]:
                pour(target, pdx, begin, (above - row) * length)
        hold(coefficients)
        hold(scratch)
        if plan[11]:
            hold(collected)


@driver
def finish_rows(units, view, per_row, centered, rstd, sums, counts, row_slopes):
    """The slopes of every row, float64 (rows, 2), from the sums of its pieces."""
    for r in prange(units):
        s, q = 0.0, 0.0
        for p in range(r * per_row, (r + 1) * per_row):
            s += sums[p, 0]
            q += sums[p, 1]
        row_slopes[r, 0], row_slopes[r, 1] = slopes(s, q, _terms(address(counts), view, r), rstd[r], centered)


@driver
def apply_rows(units, dy, x, dx, view, w, past_cache, mean, rstd, block, grads, row_slopes, like, more):
    """dx and grads as `rows_backward`, from the slopes; a unit is one piece of all rows."""
    _, rows, _, length, affine = view
    for p in prange(units):
        pdy, px, pdx, pw, pm, pr = address(dy), address(x), address(dx), address(w), address(mean), address(rstd)
        _, _, e0, e1 = _span(p, 1, length)
        also = weighed(more)
        coefficients = np.empty(3 * ROWS_AT_ONCE, like.dtype)
        hi = address(coefficients)
        a, t = advance(hi, ROWS_AT_ONCE), advance(hi, 2 * ROWS_AT_ONCE)
        for first in range(0, rows, block):
            own, last = advance(address(grads), first // block * 2 * affine), min(first + block, rows)
            for row in range(first, last, ROWS_AT_ONCE):
                above = min(row + ROWS_AT_ONCE, last)
                _row_coefficients(px, pm, pr, row, above, hi, a, t)
                _add_rows(pdy, px, also[1], row, above, e0, e1, view, None, hi, a, t, own, None, NEAR, NEAR)
        hold(coefficients)
        for r in range(rows):
            v, u = row_slopes[r, 0], row_slopes[r, 1]
            m, f = pick(pm, r, 0.0), _weight_of_row(view, r)
            _apply_back(pdy, px, pdx, view, r, p, m, pr[r], v, u, pw, f, also, past_cache, False)


@driver
def collect_rows(units, grads, dweight, dbias):
    """dweight and dbias from the sums of the blocks, which come to stand in the first; some weights a unit."""
    for unit in prange(units):
        first, last = unit * dweight.size // units, (unit + 1) * dweight.size // units
        for g in range(1, grads.shape[0]):
            for i in range(2):
                for k in range(first, last):
                    grads[0, i, k] += grads[g, i, k]
        for k in range(first, last):
            dbias[k] = grads[0, 0, k]
        for k in range(first, last):
            dweight[k] = grads[0, 1, k]
