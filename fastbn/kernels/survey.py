"""What a monitor wants to know of an array, in one pass by one thread, and of a batch's statistics."""

import numpy as np

from fastbn.kernels.jit import driver, tile
from fastbn.kernels.runs import some_element
from fastbn.kernels.simd import LANES, address, chosen, element, keep, less, load_part, splat, splat64, total, wide

_BLOCK = 1 << 16  # elements: so many are counted in lanes of float32, which hold whole numbers up to 2^24
_LEFT = 1e-15  # of a variance and eps: what is less is rounding
_LEAST = float(np.finfo(np.float32).tiny)  # in place of a variance of 0, where something is divided by it


@tile
def _added(x, where, i, m, about, bounds, sums):
    """The sums of a block with m more elements, None for 16, from the i-th on."""
    (low, high), (s, q, outside) = bounds, sums
    value = load_part(x, i, m)
    d = keep(chosen(wide(value) - about, where, i, m), m)
    beyond = less(value, low, 1.0, less(high, value, 1.0, 0.0))
    return s + d, q + d * d, outside + keep(chosen(beyond, where, i, m), m)


@tile
def _block(x, where, begin, end, about, bounds):
    """The sums of d = x - about and of d^2, and how many elements are outside of the bounds."""
    sums = splat64(0.0), splat64(0.0), splat(x, 0.0)
    i = begin
    while i + LANES <= end:
        sums = _added(x, where, i, None, about, bounds, sums)
        i += LANES
    if i < end:
        sums = _added(x, where, i, end - i, about, bounds, sums)
    s, q, outside = sums
    return total(s), total(q), total(wide(outside))


@tile
def _counts(where, i):
    if where is None:
        return True
    return where[i] != 0


@tile
def _is_constant(x, where, c, view):
    """Whether channel c has two elements or more that count, and all are the same; NaN is the same as nothing."""
    outer, channels, inner = view
    first, seen = 0.0, 0
    for j in range(outer):
        begin = (j * channels + c) * inner
        for i in range(begin, begin + inner):
            if not _counts(where, i):
                continue
            value = element(x, i)
            if seen == 0:
                first = value
            elif value != first:
                return False
            seen += 1
    return seen > 1


@driver
def survey(x, where, view, centered, low, high):
    """(shift, s, q, outside, constant) of a flat array that is not empty.

    s and q are the sums of d = x - shift and d^2 in float64; shift is an element of x, or 0 unless `centered`.
    outside: how many elements are less than `low` or greater than `high`.  constant: how many of the channels are.
    view: lengths of what comes before the axis of the channels in memory, of it, and of what comes after it.  Without
    channels nobody looks for constant ones.
    where: None, or an array like x of which 0 says that an element does not count.
    """
    begins, mask = address(x), address(where)
    shift = some_element(begins, mask, 0, x.size, 1)[0] if centered else 0.0
    about = splat64(shift)
    s, q, outside, constant = 0.0, 0.0, 0.0, 0
    for begin in range(0, x.size, _BLOCK):
        ds, dq, more = _block(begins, mask, begin, min(begin + _BLOCK, x.size), about, (low, high))
        s += ds
        q += dq
        outside += more
    for c in range(view[1]):
        constant += _is_constant(begins, mask, c, view)
    return shift, s, q, outside, constant


@driver
def joined(mean, second, eps, running_mean, running_var):
    """Of channels with as many elements each: mean and variance of all, and how far the running ones are from theirs.

    second: variances, or 1 / sqrt(variance + eps) unless `eps` is negative; what rounding leaves of a variance of 0 is
    taken for 0.  running_mean, running_var: float64, or empty.
    Distances are the root mean square of those of the means, in standard deviations, and the mean of |log| of the
    variances' ratio.
    """
    count = mean.size
    center, within, between, away, ratio = 0.0, 0.0, 0.0, 0.0, 0.0
    for c in range(count):
        center += mean[c] / count
    for c in range(count):
        var = second[c]
        if eps >= 0.0:
            both = 1.0 / (var * var)
            var = both - eps
            if var < _LEFT * both:
                var = 0.0
        within += var / count
        between += (mean[c] - center) * (mean[c] - center) / count
        if running_mean.size > 0:
            var = max(var, _LEAST)
            d = running_mean[c] - mean[c]
            away += d * d / var / count
            ratio += abs(np.log(running_var[c] / var)) / count
    return center, within + between, np.sqrt(away), ratio
