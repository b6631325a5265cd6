"""Groups made of contiguous runs: batch, group and instance norm with channels first, layer and RMS norm.

x is seen as (chunks, groups, parts, length) in memory order; `view` (`plans.Runs`) holds these four and the number of
weights. Group g shares its statistics over all the rest, its chunks of parts*length adjacent elements each. Every part
of a group has one weight and one bias, at (g*parts + k) modulo their number ("channel"), or every element of a chunk
has its own ("element"):

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
from fastbn.kernels.loops import (
    AHEAD,
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
from fastbn.kernels.plans import RowsBackward, Runs, RunsBackward, RunsForward, RunsScale, named, read
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
    room,
    rounded,
    splat,
    splat64,
    total,
)

LONG = 4096  # elements of a run: the beginning of a later one is fetched while it is read,
SHORT = 1024  # and the whole one where it is no longer than that
LATER = 1024  # elements: at least so many are read before what is fetched is
FAR = 1 << 21  # elements of x: more than a core's own cache holds
NEAR = 512  # elements: so far ahead longer ones are fetched then,
SLAB = 114688  # unless a group has so few, in all arrays read (float32), that it is fetched while another is written
SHORTEST_IN_LINES = 64  # elements of a run that is written past the cache as it is if it shares no cache line
LINED_UP = 256  # elements of a run at least, for which it is begun at a cache line
PIECE = 16384  # elements: some microseconds of work, far more than it costs to hand out

# The optional extras of a call that has none: of a forward, and of a backward (`Extras` and `GradientExtras`).
NO_EXTRAS = None, None, None, None, None, None
NO_GRADIENT_EXTRAS = None, None, None, None, None, None, None, None

MOST = 64  # groups at a time
ROOM = 3 * MOST  # numbers: two sums of each, and what these are about
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
    """Whether a later run is fetched; the processor does as well by itself with others."""
    return length <= SHORT or length >= LONG


@tile
def _how_much_later(view):
    """How many chunks and groups further on a run is that is fetched while one is summed.

    Memory answers as late as some hundred elements are summed.  Groups that are shorter than that lie behind each
    other in every chunk; they are told without a division, which costs as much as a short run.
    """
    count, _, parts, length, _ = view
    group, n = count * parts * length, 1
    if group <= LATER:
        return 0, 3 if 2 * group <= LATER else 2
    while n * parts * length < LATER:
        n *= 2
    return (n, 0) if n < count else (0, 1)


@tile
def _later(view, j, g):
    """Where that run is for chunk j of group g; how far away for the next one; and from which to which to go back."""
    count, groups, parts, length, _ = view
    (chunks, more), chunk, stride = _how_much_later(view), parts * length, groups * parts * length
    back = count * stride - chunk  # from behind the last chunk to the first of the next group
    k = (j + chunks) * stride + (g + more) * chunk
    return (k - back if j + chunks >= count else k), (stride, count - chunks - 1, stride - back)


@tile
def _next_later(k, j, steps):
    """The place that `_later` has told, for the chunk behind j."""
    stride, last, to_next_group = steps
    return k + (to_next_group if j == last else stride)


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
def beginnings(of_elements):
    """What `normalize` takes beside weights and biases, from arrays (or None, where nothing is wanted)."""
    residual, activation, where, dy = either(of_elements, (None, None, None, None))
    return address(residual), unpacked(activation), address(where), address(dy)


@tile
def lined_up(array):
    """The address of the first cache line in an array: loads and stores across two of them take twice the time."""
    return lined_up_behind(address(array), 0)


@tile
def lined_up_behind(memory, n):
    """The address of the first cache line behind n elements."""
    behind = advance(memory, n)
    return advance(behind, gap(behind, 0))


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
def _in_lines(y, length):
    """Whether all runs of this length, which lie behind each other, are whole cache lines, and long enough to pay."""
    return length >= SHORTEST_IN_LINES and gap(y, 0) == 0 and gap(y, length) == 0


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
    chunk = view.parts * view.length
    shift, found = 0.0, False
    for j in range(view.chunks):
        shift, found = some_element(x, where, (j * view.groups + g) * chunk, chunk, 1)
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
    stride, near, (later, steps) = groups * parts * length, _near(view, e1 - e0, 1), _later(view, j0, g)
    for j in range(j0, j1):
        start = j * stride + g * parts * length + e0
        if count > 1 and _worth_expecting(e1 - e0):
            expect(x, later + e0, e1 - e0)
            later = _next_later(later, j, steps)
        s, q = moments(x, where, start, e1 - e0, shift, s, q, near if _written_first(j) else max(near, ahead))
    return total(s), total(q)


@inlined
def _reduce(x, where, view, place, centered, in_float64, ahead):
    """The sums of a piece of a group, see `_apply`, about an element of the group, which comes back, too."""
    count, _, parts, length, _ = view
    g, p = place
    shift = _shift(x, where, view, g) if centered else 0.0
    span = _span(p, count, parts * length)
    n = (span[1] - span[0]) * (span[3] - span[2])
    if narrow(x) and n >= FEW and not in_float64 and where is None:  # with it, nobody knows how many terms there are
        s, q = _sums(x, where, view, g, span, splat(x, shift), ahead)
        if trusted(s, q, n, centered):
            return shift, s, q
    s, q = _sums(x, where, view, g, span, splat64(shift), ahead if in_float64 else 0)
    return shift, s, q


@tile
def _expect_beside(x, i, n, extras):
    """Fetch what `_apply` will be the first to read of a run: residual and dy, and with dy, x."""
    residual, _, _, dy = extras
    if residual is not None:
        expect(residual, i, n)
    if dy is not None:
        expect(dy, i, n)
        expect(x, i, n)


@inlined
def _apply(x, y, view, place, statistics, affine, extras, ahead):
    """Normalize a piece of a group.

    place: the group and the piece.  statistics: mean and rstd.  affine: a weight and a bias a channel, and an element,
    or None each.  ahead: `past_cache`, and how far ahead x is fetched, see `forward`.
    """
    count, groups, parts, length, weights = view
    (g, p), (mean, rstd), (w, b, we, be), (past_cache, fetched) = place, statistics, affine, ahead
    j0, j1, e0, e1 = _span(p, count, parts * length)
    hi = rounded(x, mean)
    f = g * length % weights if weights != length else 0  # of use where every element has its own weight
    more = max(_how_much_later(view)[1], 1) * parts * length
    k0, k1 = (e0 // length, (e1 - 1) // length + 1) if parts > 1 else (0, 1)
    for k in range(k0, k1):
        c = _around(g * parts + k, weights) if w is not None or b is not None else 0
        a = rstd * pick(w, c, 1.0)
        t = pick(b, c, 0.0) - (mean - hi) * a
        first, last = max(e0, k * length), min(e1, (k + 1) * length)
        for j in range(j0, j1):
            start = (j * groups + g) * parts * length + first
            if count > 1 and length <= SHORT:  # there is little of it, and the same of the next groups lies behind it
                _expect_beside(x, start + more, last - first, extras)
            past = min(past_cache, 1) if fetched > 0 and not _written_first(j) else past_cache
            of = splat(x, hi), splat(x, a), splat(x, t), we, be
            normalize(x, y, (start, last - first, f + first), of, extras, past, None, _lead(y, start, last - first))


@inlined
def _add_up(x, summed, view, place, past_cache):
    """Write a piece of the sum of the two arrays that x is, if it is wanted."""
    if summed is not None:
        _apply(x, summed, view, place, (0.0, 1.0), (None, None, None, None), beginnings(None), (past_cache, 0))


@tile
def _terms(counts, view, g):
    """How many elements group g has; counts: None, or the numbers of those that count."""
    return pick(counts, g, np.float64(view.chunks * view.parts * view.length))


@tile
def _addresses(w, b, we, be):
    return address(w), address(b), address(we), address(be)


@inlined
def _moments_of_group(x, view, how, g, of_elements):
    """The element that the sums of group g are about, and these."""
    shift, s, q = 0.0, 0.0, 0.0
    for p in range(how.pieces):
        shift, ds, dq = _reduce(x, of_elements[2], view, (g, p), how.centered, False, how.ahead)
        s += ds
        q += dq
    return shift, s, q


@inlined
def _write_group(memory, view, how, g, statistics, affine, of_elements, past_cache):
    """Normalize group g, from its last piece back to the first: what was read last is still in the cache."""
    x, y, summed = memory
    for p in range(how.pieces - 1, -1, -1):
        _add_up(x, summed, view, (g, p), past_cache)  # before y, which may be where x is
        _apply(x, y, view, (g, p), statistics, affine, of_elements, (past_cache, how.ahead))


@inlined
def some_groups(sum_up, write, memory, plan, affine, eps, extras, kept):
    """Normalize some groups.

    sum_up, write: what does one group, such as `_moments_of_group` and `_write_group`.  memory: of x and y.
    plan: view, how, and the first group.  affine: as of `_apply`.  extras: what `beginnings` makes; counts; and summed,
    see `forward`.  kept: memory for all means, and whether they are wanted; the same for variances.

    From a group's sums to its result is a chain of some sixty steps that wait for each other, as long as a hundred
    elements take.  So the sums of some groups come first, and then their results: the chains overlap.
    """
    (x, y), (view, how, first), (of_elements, counts, summed) = memory, plan, extras
    means, with_means, variances, with_variances = kept
    s, past_cache = room(ROOM), how.past_cache
    q, shift = advance(s, MOST), advance(s, 2 * MOST)
    if past_cache < 0:
        past_cache = -past_cache if _in_lines(y, view.length) else 0
    last = min(first + how.groups, view.groups)
    for g in range(first, last):
        shift[g - first], s[g - first], q[g - first] = sum_up(x, view, how, g, of_elements)
    for g in range(first, last):
        k = g - first
        m, v = statistics(shift[k], s[k], q[k], _terms(counts, view, g), how.centered)
        r = rooted(v, eps)
        write((x, y, summed), view, how, g, (m, r), affine, of_elements, past_cache)
        if with_means:
            means[g] = m
        if with_variances:
            variances[g] = r if how.rooted else v


@inlined
def in_arrays(mean, var):
    """Where `some_groups` keeps what is wanted: in arrays that are not empty."""
    return address(mean), mean.size, address(var), var.size  # no bool: records of several sizes fit one machine only


@inlined
def in_memory(mean, var):
    """As `in_arrays`, in memory that is not None."""
    nowhere = room(ROOM)
    return either(mean, nowhere), mean is not None, either(var, nowhere), var is not None


@driver
def forward(plan, x, y, w, b, we, be, eps, mean, var, extras):
    """y, mean and variance of x (flat arrays), each parallel work item being some groups.

    plan: the numbers of `Runs` and `RunsForward`.  `past_cache` and `ahead`: 0, or the next group is fetched, so many
    elements ahead, while this one is written or, for the latter, summed, too.
    w, b: a weight and bias a channel, we, be: an element, or None.  mean, var: float64 (groups,), or empty where not
    wanted.
    extras: None, or what may be None each: what `normalize` takes, residual, packed activation, where and dy; counts:
    float64 (groups,), how many elements count; summed: where the sum of the two arrays goes that x is then.
    """
    for unit in prange(read(plan, Runs, RunsForward)[1].units):
        view, how = read(plan, Runs, RunsForward)
        residual, activation, where, dy, counts, summed = either(extras, NO_EXTRAS)
        affine, of_elements = _addresses(w, b, we, be), beginnings((residual, activation, where, dy))
        beside, kept = (of_elements, address(counts), address(summed)), in_arrays(mean, var)
        memory, some = (address(x), address(y)), (view, how, unit * how.groups)
        some_groups(_moments_of_group, _write_group, memory, some, affine, eps, beside, kept)


@entry
def forward_at(plan, x, y, w, b, we, be, eps, mean, var, activation):
    """`forward` by addresses, for compiled callers, whom arrays would cost as much as a short run.

    mean, var: None where not wanted.  activation: packed, or None.
    """
    view, how = read(plan, Runs, RunsForward)
    affine, extras = (w, b, we, be), (beginnings((None, activation, None, None)), None, None)
    for first in range(0, view.groups, how.groups):
        some, kept = (view, how, first), in_memory(mean, var)
        some_groups(_moments_of_group, _write_group, (x, y), some, affine, eps, extras, kept)


@driver
def reduce(units, x, where, view, per_group, centered, in_float64, sums):
    """The shift and sums of every piece: float64 (pieces of all groups, 3)."""
    ahead = NEAR if x.size >= FAR else 0  # the next item begins where one ends, mostly
    for u in prange(units):
        place = u // per_group, u % per_group
        shift, s, q = _reduce(address(x), address(where), named(view, Runs), place, centered, in_float64, ahead)
        sums[u, 0], sums[u, 1], sums[u, 2] = shift, s, q


@driver
def finish(units, view, per_group, centered, sums, counts, mean, var):
    """Mean and variance of every group from the sums of its pieces."""
    for g in prange(units):
        s, q = 0.0, 0.0
        for p in range(g * per_group, (g + 1) * per_group):
            s += sums[p, 1]
            q += sums[p, 2]
        n = _terms(address(counts), named(view, Runs), g)
        mean[g], var[g] = statistics(sums[g * per_group, 0], s, q, n, centered)


@driver
def apply(units, threads, x, y, view, per_group, w, b, we, be, eps, past_cache, mean, var, of_elements):
    """y from given mean and variance, one a group or one for all, by pieces; eps None: `var` is rstd."""
    for u in prange(units):
        k = last_first(u, units, threads)
        g = k // per_group
        place, c = (g, k - g * per_group), _around(g, mean.size)
        own = pick(mean, c, 0.0), rooted(pick(var, c, 1.0), eps)
        affine, extras = _addresses(w, b, we, be), beginnings(of_elements)
        _apply(address(x), address(y), named(view, Runs), place, own, affine, extras, (past_cache, 0))


@inlined
def _scale(x, y, view, u, statistics, affine, eps, beside):
    """Piece u of `scale`; beside: what `beginnings` makes, and `past_cache`."""
    groups, length, (mean, var), (w, b) = view.groups, view.length, statistics, affine
    j0, j1, e0, e1 = _span(u, view.chunks * groups, length)
    c = j0 % groups
    for j in range(j0, j1):
        m, r = pick(mean, c, 0.0), rooted(pick(var, c, 1.0), eps)
        hi = rounded(x, m)
        a = r * pick(w, c, 1.0)
        of = splat(x, hi), splat(x, a), splat(x, pick(b, c, 0.0) - (m - hi) * a), None, None
        start, n = j * length + e0, e1 - e0
        normalize(x, y, (start, n, 0), of, beside[0], beside[1], None, _lead(y, start, n))
        c = c + 1 if c + 1 < groups else 0


@driver
def scale(plan, x, y, w, b, eps, mean, var, of_elements):
    """y from given mean and variance, one a channel, in the order of memory; eps None: `var` is rstd.

    plan: the numbers of `Runs` and `RunsScale`.  A work item is a piece of the count * groups rows of x; channel c has
    the rows c, c + groups, ...
    """
    for u in prange(read(plan, Runs, RunsScale)[1].units):
        view, how = read(plan, Runs, RunsScale)
        statistics = address(mean), address(var)
        affine, extras = (address(w), address(b)), beginnings(of_elements)
        _scale(address(x), address(y), view, u, statistics, affine, eps, (extras, how.past_cache))


@entry
def scale_at(plan, x, y, w, b, eps, mean, var, activation):
    """`scale` by addresses, as `forward_at`."""
    view, how = read(plan, Runs, RunsScale)
    for u in range(how.units):
        beside = beginnings((None, activation, None, None)), how.past_cache
        _scale(x, y, view, u, (mean, var), (w, b), eps, beside)


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
def _reduce_back(arrays, view, place, statistics, we, f):
    """The sums of g and g h over a piece of a part, g = dy we, h normalized x; we: an element's from f on, or None.

    arrays: dy, x and where.
    """
    count, groups, parts, length, _ = view
    dy, x, _ = arrays
    i, p = place
    j0, j1, e0, e1 = _span(p, count, length)
    hi, a, t = normalized(x, statistics[0], statistics[1])
    sums = splat64(0.0), splat64(0.0)
    near, (later, steps) = _near(view, e1 - e0, 2), _later(view, j0, i)
    for j in range(j0, j1):
        start = (j * groups * parts + i) * length + e0
        if count > 1 and _worth_expecting(e1 - e0):
            expect(dy, later + e0, e1 - e0)
            expect(x, later + e0, e1 - e0)
            later = _next_later(later, j, steps)
        sums = products(arrays, start, e1 - e0, (we, splat(x, hi), splat(x, a), None), f + e0, sums, near)
    s = total(sums[0])
    return s, completed(s, total(sums[1]), t)


@tile
def slopes(s, q, n, rstd, centered):
    """avg(g) and rstd avg(g h) of a group from its sums: what the gradient subtracts."""
    return (s / n if centered else 0.0), rstd * (q / n)


@inlined
def _apply_back(arrays, view, place, of, w, extras, past_cache, lined_up):
    """The gradient of a piece of a part.

    arrays: dy, x and dx.  of: mean, rstd, and the slopes of the group.  w: a Vec, or a weight an element, or None; and
    from which place on.
    """
    count, groups, parts, length, _ = view
    _, x, dx = arrays
    (i, p), (mean, rstd, v, u), (weight, f) = place, of, w
    j0, j1, e0, e1 = _span(p, count, length)
    hi = rounded(x, mean)
    v = v - (mean - hi) * u
    vs = splat(x, hi), splat(x, u), splat(x, v), splat(x, rstd), weight
    for j in range(j0, j1):
        start = (j * groups * parts + i) * length + e0
        lead = _lead(dx, start, e1 - e0) if lined_up else 0
        gradient(arrays, (start, e1 - e0, f + e0), vs, extras, past_cache, None, lead)


@tile
def _weight_of_row(view, r):
    """The place of a row's first weight, where every element has its own."""
    return r * view.length % view.weights if view.weights != view.length else 0


@tile
def _advanced(of_elements, begin):
    """The same from element `begin` on."""
    dsum, where = of_elements
    return advance(dsum, begin), advance(where, begin)


@tile
def weighed(of_elements):
    """What `gradient` takes beside its coefficients, from arrays (or None, where nothing is wanted)."""
    dsum, where = either(of_elements, (None, None))
    return address(dsum), address(where)


@tile
def _differentiate(dy, x, view, place, statistics, weights, chain, upstream):
    """Compute a piece of dy of a group, the gradient of what is normalized, from that of the activation's result.

    weights: a channel's and an element's, or None.  chain: a bias a channel and an element, residual, packed activation
    and where, or None each.  upstream: that gradient, or None where dy is there already.
    """
    if upstream is not None:
        b, be, residual, activation, where = chain
        extras = beginnings((residual, activation, where, upstream))
        _apply(x, dy, view, place, statistics, (weights[0], address(b), weights[1], address(be)), extras, (0, 0))


@driver
def reduce_back(units, dy, x, where, view, per_part, we, mean, rstd, sums):
    """The sums of every piece of every part: float64 (pieces of all parts, 2)."""
    for u in prange(units):
        runs, i = named(view, Runs), u // per_part
        g, f = i // runs.parts, _weight_of_row(runs, i)
        arrays, own = (address(dy), address(x), address(where)), (pick(address(mean), g, 0.0), rstd[g])
        s, q = _reduce_back(arrays, runs, (i, u % per_part), own, address(we), f)
        sums[u, 0], sums[u, 1] = s, q


# Backward, a weight a channel -----------------------------------------------------------------------------------------


@tile
def _finish_group(sums, view, g, per_part, w, rstd, counts):
    """Add up the pieces of each part of group g (into its first piece's place), then the parts: the group's slopes."""
    parts = view.parts
    s, q = 0.0, 0.0
    for i in range(g * parts, (g + 1) * parts):
        own = advance(sums, 2 * i * per_part)
        for p in range(1, per_part):
            own[0] += own[2 * p]
            own[1] += own[2 * p + 1]
        weight = pick(w, i % view.weights, 1.0)
        s += weight * own[0]
        q += weight * own[1]
    return slopes(s, q, _terms(counts, view, g), rstd, True)


@tile
def _sums_of_group(arrays, view, how, g, own, statistics, w, chain):
    """Compute dy of group g, and add the sums of its channels to those that `own` has.

    arrays: dy, x and where.  own: the group's first channel, and sums of g and of g h, a channel each.  chain: the last
    two of `_differentiate`.  Returns the sums of the whole group, each channel's times its weight.
    """
    count, groups, parts, length, weights = view
    (dy, x, _), (of_forward, upstream) = arrays, chain
    first, of_g, of_h = own
    split = Runs(count, groups * parts, 1, length, weights)  # as if every part were a group
    s, q = 0.0, 0.0
    for k in range(parts):
        i, ps, pq = g * parts + k, 0.0, 0.0
        if how.ahead:
            expect(dy, i * length + how.ahead, length)
            expect(x, i * length + how.ahead, length)
        for p in range(how.pieces):
            _differentiate(dy, x, split, (i, p), statistics, (w, None), of_forward, upstream)
            ds, dq = _reduce_back(arrays, view, (i, p), statistics, None, 0)
            ps += ds
            pq += dq
        weight = pick(w, first + k, 1.0)
        s += weight * ps
        q += weight * pq
        of_g[first + k] += ps
        of_h[first + k] += pq
    return s, q


@tile
def _gradient_of_group(arrays, view, how, g, first, of, w, extras):
    """dx of group g, whose first channel is `first`.

    arrays: dy, x, dx, and, if it is collected there before it is written past the cache, memory that begins at a cache
    line.  of: as of `_apply_back`.
    """
    parts, chunk = view.parts, view.parts * view.length
    dy, x, dx, collected = arrays
    begin, part = (g * chunk, 0) if how.collected else (0, g * parts)
    target = _as_lined_up(collected, dx, begin) if how.collected else dx
    own, own_extras = (advance(dy, begin), advance(x, begin), target), _advanced(extras, begin)
    for k in range(parts - 1, -1, -1):
        weight = splat(x, pick(w, first + k, 1.0)), 0
        for p in range(how.pieces - 1, -1, -1):
            _apply_back(own, view, (part + k, p), of, weight, own_extras, how.past_cache, True)
    if how.collected:
        pour(target, dx, begin, chunk)


@driver
def backward(plan, dy, x, dx, w, mean, rstd, grads, extras):
    """dx, and what blocks of samples add to dbias and dweight; every channel has one weight, or w is None.

    plan: the numbers of `Runs` and `RunsBackward`.  A work item is a group of the samples of a block; x of batch norm
    is one sample.
    grads: float64 (blocks, 2, channels).
    extras: None, or what may be None each: the bias a channel and an element, residual, packed activation and where of
    the forward, and the upstream gradient, of which dy is then computed; dsum, which `gradient` takes; counts: as in
    `forward`.
    """
    for unit in prange(read(plan, Runs, RunsBackward)[1].units):
        view, how = read(plan, Runs, RunsBackward)
        b, be, residual, activation, where, upstream, dsum, counts = either(extras, NO_GRADIENT_EXTRAS)
        chain = (b, be, residual, activation, where), upstream
        pdy, px, pdx, pw, beside = address(dy), address(x), address(dx), address(w), weighed((dsum, where))
        block, h = unit // how.groups, unit % how.groups
        per_block = how.samples * how.groups
        own = advance(address(grads), block * 2 * view.weights)
        sums = h * view.parts, own, advance(own, view.weights)
        for c in range(h * view.parts, (h + 1) * view.parts):
            own[c], own[view.weights + c] = 0.0, 0.0
        there = pdx
        if how.collected:
            scratch = np.empty(LINE + view.parts * view.length, dx.dtype)
            there = lined_up(scratch)
        for g in range(block * per_block + h, min((block + 1) * per_block, view.groups), how.groups):
            m, r = mean[g], rstd[g]
            s, q = _sums_of_group((pdy, px, beside[1]), view, how, g, sums, (m, r), pw, chain)
            v, u = slopes(s, q, _terms(address(counts), view, g), r, True)
            _gradient_of_group((pdy, px, pdx, there), view, how, g, h * view.parts, (m, r, v, u), pw, beside)
        if how.collected:
            hold(scratch)


@driver
def finish_back(units, view, per_part, w, rstd, sums, counts, group_slopes):
    """The slopes of every group, float64 (groups, 2); the sums of a part come to stand in its first piece's place."""
    for g in prange(units):
        v, u = _finish_group(address(sums), named(view, Runs), g, per_part, address(w), rstd[g], address(counts))
        group_slopes[g, 0], group_slopes[g, 1] = v, u


@driver
def apply_back(units, threads, dy, x, dx, view, per_part, w, past_cache, mean, rstd, group_slopes, of_elements):
    """dx from the slopes, each work item being a piece of a part."""
    for unit in prange(units):
        runs, k = named(view, Runs), last_first(unit, units, threads)
        i = k // per_part
        g = i // runs.parts
        arrays = address(dy), address(x), address(dx)
        weight = splat(arrays[1], pick(address(w), i % runs.weights, 1.0)), 0
        of = mean[g], rstd[g], group_slopes[g, 0], group_slopes[g, 1]
        _apply_back(arrays, runs, (i, k % per_part), of, weight, weighed(of_elements), past_cache, True)


@driver
def collect(units, sums, per_part, dweight, dbias):
    """dweight and dbias (float64) plus the sums of the parts of a block of samples, channel by channel."""
    for c in prange(units):
        s, q = 0.0, 0.0
        for i in range(c, sums.shape[0] // per_part, units):
            s += sums[i * per_part, 0]
            q += sums[i * per_part, 1]
        dweight[c] += q
        dbias[c] += s


# Backward, a weight an element ----------------------------------------------------------------------------------------


@tile
def _row_coefficients(x, mean, rstd, rows, coefficients):
    """What `cross_products` takes, for the rows from a first one up to another."""
    hi, a, t = coefficients
    for r in range(rows[0], rows[1]):
        k = r - rows[0]
        hi[k], a[k], t[k] = normalized(x, pick(mean, r, 0.0), rstd[r])


@tile
def _add_rows(arrays, view, rows, span, of, grads, along, ahead):
    """What some elements of some rows add to dbias and, behind it in grads, to dweight, float64.

    arrays: dy, x and where.  rows: the first one, and one behind the last.  span: the first element, and one behind the
    last.  of: weights, memory or None, and for these rows, of which there are ROWS_AT_ONCE at most, what
    `_row_coefficients` makes.  along, ahead: as in `cross_products`.
    """
    length, weights = view.length, view.weights
    (row, last), (e0, e1), (w, hi, a, t) = rows, span, of
    step = last - row if weights == length else 1  # rows that lie over the same weights
    for r in range(row, last, step):
        f, k = _weight_of_row(view, r) + e0, r - row
        block, own = (r * length + e0, length, step, e1 - e0), (advance(hi, k), advance(a, k), advance(t, k))
        p = advance(grads, f)
        sums = p, advance(p, weights)
        cross_products(arrays, block, advance(w, f), own, sums, advance(along, 2 * k * LANES), ahead)


@tile
def _sums_along_rows(x, rows, mean, rstd, along, sums):
    """Add the lanes of `along` up, and to the sums of some rows."""
    row, last = rows
    for r in range(row, last):
        k = 2 * (r - row)
        _, _, shift = normalized(x, pick(mean, r, 0.0), rstd[r])
        s = total(load(along, k * LANES))
        sums[k] += s
        sums[k + 1] += completed(s, total(load(along, (k + 1) * LANES)), shift)


@driver
def rows_backward(plan, dy, x, dx, w, mean, rstd, grads, like, extras):
    """dx, and what a block of rows, a work item, adds to dbias and dweight; every element of a row has its own weight.

    plan: the numbers of `Runs` and `RowsBackward`.  mean: None for RMS norm.  grads: float64 (blocks, 2, weights).
    like: any array of the type computed in.  extras: as in `backward`.
    """
    for unit in prange(read(plan, Runs, RowsBackward)[1].units):
        view, how = read(plan, Runs, RowsBackward)
        length = view.length
        b, be, residual, activation, where, upstream, dsum, counts = either(extras, NO_GRADIENT_EXTRAS)
        chain = b, be, residual, activation, where
        pdy, px, pdx, pw, pm, pr = address(dy), address(x), address(dx), address(w), address(mean), address(rstd)
        own, beside = advance(address(grads), unit * 2 * view.weights), weighed((dsum, where))
        coefficients, scratch = np.empty(3 * ROWS_AT_ONCE, like.dtype), np.empty((2 * ROWS_AT_ONCE + 1) * (LANES + 1))
        hi, along = address(coefficients), lined_up(scratch)
        sums = advance(along, 2 * ROWS_AT_ONCE * LANES)
        a, t = advance(hi, ROWS_AT_ONCE), advance(hi, 2 * ROWS_AT_ONCE)
        there, in_lines = pdx, how.collected and _in_lines(pdx, length)
        collect, past_cache = how.collected and not in_lines, AHEAD if in_lines else how.past_cache
        if collect:
            collected = np.empty(LINE + ROWS_AT_ONCE * length, dx.dtype)
            there = lined_up(collected)
        for k in range(2 * view.weights):
            own[k] = 0.0
        last = min((unit + 1) * how.rows, view.groups)
        for row in range(unit * how.rows, last, ROWS_AT_ONCE):
            rows = row, min(row + ROWS_AT_ONCE, last)
            _row_coefficients(px, pm, pr, rows, (hi, a, t))
            for k in range(2 * (rows[1] - row)):
                sums[k] = 0.0
            for p in range(how.pieces):
                for r in range(rows[0], rows[1]):
                    _differentiate(pdy, px, view, (r, p), (pick(pm, r, 0.0), pr[r]), (None, pw), chain, upstream)
                for k in range(2 * (rows[1] - row) * LANES):
                    along[k] = 0.0
                _, _, e0, e1 = _span(p, 1, length)
                arrays, ahead = (pdy, px, beside[1]), (how.ahead, how.dy_ahead)
                _add_rows(arrays, view, rows, (e0, e1), (pw, hi, a, t), own, along, ahead)
                _sums_along_rows(px, rows, pm, pr, along, sums)
            begin, base = (row * length, row) if collect else (0, 0)
            target = _as_lined_up(there, pdx, begin) if collect else pdx
            into, of_elements = (advance(pdy, begin), advance(px, begin), target), _advanced(beside, begin)
            for r in range(rows[0], rows[1]):
                m, k, weight = pick(pm, r, 0.0), 2 * (r - row), (pw, _weight_of_row(view, r))
                v, u = slopes(sums[k], sums[k + 1], _terms(address(counts), view, r), pr[r], pm is not None)
                for p in range(how.pieces):
                    place, of = (r - base, p), (m, pr[r], v, u)
                    _apply_back(into, view, place, of, weight, of_elements, past_cache, False)
            if collect:
                pour(target, pdx, begin, (rows[1] - row) * length)
        hold(coefficients)
        hold(scratch)
        if collect:
            hold(collected)


@driver
def finish_rows(units, view, per_row, centered, rstd, sums, counts, row_slopes):
    """The slopes of every row, float64 (rows, 2), from the sums of its pieces."""
    for r in prange(units):
        s, q = 0.0, 0.0
        for p in range(r * per_row, (r + 1) * per_row):
            s += sums[p, 0]
            q += sums[p, 1]
        n = _terms(address(counts), named(view, Runs), r)
        row_slopes[r, 0], row_slopes[r, 1] = slopes(s, q, n, rstd[r], centered)


@driver
def apply_rows(units, dy, x, dx, view, w, past_cache, mean, rstd, block, grads, row_slopes, like, of_elements):
    """dx and grads as `rows_backward`, from the slopes; a work item is one piece of all rows."""
    for p in prange(units):
        runs = named(view, Runs)
        pdy, px, pdx, pw, pm, pr = address(dy), address(x), address(dx), address(w), address(mean), address(rstd)
        _, _, e0, e1 = _span(p, 1, runs.length)
        beside = weighed(of_elements)
        coefficients = np.empty(3 * ROWS_AT_ONCE, like.dtype)
        hi = address(coefficients)
        a, t = advance(hi, ROWS_AT_ONCE), advance(hi, 2 * ROWS_AT_ONCE)
        for first in range(0, runs.groups, block):
            own, last = advance(address(grads), first // block * 2 * runs.weights), min(first + block, runs.groups)
            for row in range(first, last, ROWS_AT_ONCE):
                rows = row, min(row + ROWS_AT_ONCE, last)
                _row_coefficients(px, pm, pr, rows, (hi, a, t))
                of_rows = None, hi, a, t
                _add_rows((pdy, px, beside[1]), runs, rows, (e0, e1), of_rows, own, None, (NEAR, NEAR))
        hold(coefficients)
        for r in range(runs.groups):
            of = pick(pm, r, 0.0), pr[r], row_slopes[r, 0], row_slopes[r, 1]
            weight = pw, _weight_of_row(runs, r)
            _apply_back((pdy, px, pdx), runs, (r, p), of, weight, beside, past_cache, False)


@tile
def collect_some(grads, first, last, dweight, dbias):
    """Some of dweight and dbias from the sums of the blocks, which are gathered in the first."""
    for g in range(1, grads.shape[0]):
        for i in range(2):
            for k in range(first, last):
                grads[0, i, k] += grads[g, i, k]
    for k in range(first, last):
        dbias[k] = grads[0, 0, k]
    for k in range(first, last):
        dweight[k] = grads[0, 1, k]


@driver
def collect_rows(units, grads, dweight, dbias):
    """dweight and dbias from the sums of the blocks, some weights a work item."""
    for unit in prange(units):
        collect_some(grads, unit * dweight.size // units, (unit + 1) * dweight.size // units, dweight, dbias)
