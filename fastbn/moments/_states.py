"""What `Moments` knows about every group, as values: exact integers while all data are integers, else float64 sums.

Parts merge by addition where they are exact, and by Chan's formula where they are not.  Squares of float64 deviations
leave the range of float64 from 1e154 on and below 1e-154; the sums of such groups are kept in units of a power of two.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn._moments import NO_POWER, Sums, unwarned

Array = NDArray[Any]

_FAR = 400  # a binary exponent of deviations from which on their squares, many times, may leave the range of float64,
_SCALE = 600  # and that of the unit then, so that they are near 1
_NONE = -9999.0  # the exponent of zero
_USUAL = 2.0**-700, 2.0**700  # sums of squares for which no other unit is needed, with some room
_UNSCALED = np.zeros((), int)  # the power of two of groups whose unit is 1
_LIMBS = (1, 2, 3)  # words of 64 bits that hold the count, the sum and the sum of squares of int64 or uint64


class Exact(NamedTuple):
    """Integers, of one shape: int64 arrays, or arrays of Python's integers where those might overflow."""

    n: Array  # elements
    s: Array  # their sum
    q: Array  # and that of their squares


State = Exact | Sums


def nothing(shape: tuple[int, ...] = ()) -> Exact:
    """Of no elements; with the shape () it broadcasts to any other."""
    return Exact(*np.zeros((3, *shape), np.int64))


NOTHING = nothing()  # what all begin with

# Merging --------------------------------------------------------------------------------------------------------------


def merged(a: State, b: State) -> State:
    """The state of both parts together."""
    if a is NOTHING and b.n.size and b.n.item(0):
        return b
    if isinstance(a, Exact) and isinstance(b, Exact):
        return Exact(*(_plus(u, v) for u, v in zip(a, b, strict=True)))
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Sums) and isinstance(other, Exact) and not one.n.any():
            return merged(nothing(one.n.shape), other)  # nothing was counted that is not exact
    if isinstance(b, Sums) and not a.n.ndim and not a.n.any():
        return b
    return _merged_sums(as_sums(a), as_sums(b))


def _plus(a: Array, b: Array) -> Array:
    """The exact sum of two arrays of integers."""
    if a.dtype == b.dtype == np.int64 and _largest(a) + _largest(b) < 1 << 63:
        return np.asarray(a + b)
    return np.asarray(a.astype(object) + b.astype(object), object)


def _largest(a: Array) -> int:
    return max(abs(int(a.max())), abs(int(a.min()))) if a.size else 0


def _merged_sums(a: Sums, b: Sums) -> Sums:
    """Chan's merge, with the difference of the means taken before either of them is rounded."""
    with unwarned():
        n = a.n + b.n
        if a.n.all() and b.n.all() and not (a.power.any() or b.power.any()):  # the usual case, in few steps
            delta = (b.shift - a.shift) + (b.offset - a.offset)
            moved = delta * (b.n / n)
            m2 = a.m2 + b.m2 + moved * a.n * delta
            if n.size and m2.min() > _USUAL[0] and m2.max() < _USUAL[1]:
                return Sums(n, a.shift, a.offset + moved, m2)
        share = np.divide(b.n, n, out=np.zeros_like(n), where=n > 0)
        shift = np.where(a.n > 0, a.shift, b.shift)
        both = (a.n > 0) & (b.n > 0)

        def apart(p: Any) -> Array:
            """The difference of the means, in units of 2**p."""
            start, end, before, offset = (np.ldexp(v, -p) for v in (shift, b.shift, a.offset, b.offset))
            return (end - start) + (offset - before)

        spread = np.maximum(*(v.power + _exponent(v.m2 / np.where(v.n > 0, v.n, 1.0)) / 2 for v in (a, b)))
        p = _power(np.maximum(spread, np.where(both, _exponent(apart(2)) + 2, _NONE)))
        delta = np.where(b.n > 0, apart(p), 0.0)
        first, second = (np.ldexp(v.m2, 2 * (v.power.astype(int) - p)) for v in (a, b))
        step = delta * share
        offset = a.offset + np.ldexp(step, p)
        shift, offset = _within_range(shift, offset, np.ldexp(shift, -p) + (np.ldexp(a.offset, -p) + step), p)
        return Sums(n, shift, offset, first + second + delta * share * a.n * delta, p.astype(np.float64))


def _within_range(shift: Array, offset: Array, scaled: Array, power: Any) -> tuple[Array, Array]:
    """The two parts of a mean, from the mean itself where it is farther from an element than float64 reaches.

    scaled: the mean times 2**-power.
    """
    far = np.isinf(offset) & np.isfinite(scaled)
    if not far.any():
        return shift, offset
    return np.where(far, np.ldexp(scaled, power), shift), np.where(far, 0.0, offset)


def _exponent(values: Array) -> Array:
    """The binary exponent; a very small one of zero and of what is not finite."""
    return np.where(np.isfinite(values) & (values != 0), np.frexp(values)[1], _NONE)


def _power(exponent: Array) -> Array:
    """The power of two in units of which deviations of this binary exponent are squared."""
    small = (exponent <= -_FAR) & (exponent > _NONE / 2)
    return np.where(exponent >= _FAR, _SCALE, np.where(small, -_SCALE, 0))


def rescued(sums: Sums, again: Callable[[int], Sums]) -> Sums:
    """The sums of float64 data; those of groups whose squares left the range of float64 are taken again in other units.

    again(power): the sums of all groups of the data times 2**-power.
    """
    if sums.m2.min() > _USUAL[0] and sums.m2.max() < _USUAL[1]:
        return sums
    far = 2.0**-_FAR
    for power in (_SCALE, -_SCALE):
        tiny = (sums.m2 < far * far * sums.n) & (abs(sums.shift) < far)
        lost = tiny if power < 0 else ~np.isfinite(sums.m2) | ~np.isfinite(sums.offset)
        if lost.any():
            new = again(power)
            with unwarned():
                scaled = new.shift + new.offset
                parts = _within_range(np.ldexp(new.shift, power), np.ldexp(new.offset, power), scaled, power)
                new = new._replace(shift=parts[0], offset=parts[1])
            new = new._replace(power=np.where(new.m2 == 0, 0.0, new.power + power))
            sums = Sums(*(np.where(lost, u, v) for u, v in zip(new, sums, strict=True)))
    return sums


def concatenated(states: list[State], shape: tuple[int, ...]) -> State:
    """The states of an array of blocks of this shape, given in C order, as that of the whole."""
    if not all(isinstance(state, Exact) for state in states):
        states = [as_sums(state) for state in states]
    numbers = [[np.broadcast_to(v, state.n.shape) for v in state] for state in states]
    return type(states[0])(*(_block(list(parts), shape) for parts in zip(*numbers, strict=True)))


def _block(parts: list[Array], shape: tuple[int, ...]) -> Array:
    for axis in reversed(range(len(shape))):  # the last axis is the fastest
        n = shape[axis]
        parts = [np.concatenate(parts[i : i + n], axis) for i in range(0, len(parts), n)]
    return parts[0]


# What is exact, in float64 --------------------------------------------------------------------------------------------


def as_sums(state: State) -> Sums:
    """The same in float64: the mean in two parts, every number rounded once."""
    if isinstance(state, Sums):
        return state
    n, s, q = (_objects(v) for v in state)
    some = _at_least_one(n)
    whole = np.asarray([int(v) for v in _floats(s / some).ravel().tolist()], object).reshape(n.shape)
    return Sums(_floats(n), _floats(whole), _floats((s - n * whole) / some), _floats((n * q - s * s) / some))


def _objects(values: Array) -> Array:
    """As Python's integers, whose arithmetic is exact and whose quotients are rounded once."""
    return np.asarray(values.astype(object), object)


def _at_least_one(n: Array) -> Array:
    return np.where(n == 0, np.asarray(1, object), n)


def _floats(values: Any) -> Array:
    return np.asarray(values, np.float64)


def mean(state: State) -> Array:
    """NaN where nothing was counted."""
    if isinstance(state, Sums):
        return state.mean() if state.n.all() else np.where(state.n > 0, state.mean(), np.nan)
    n, s = _objects(state.n), _objects(state.s)
    return np.where(state.n > 0, _floats(s / _at_least_one(n)), np.nan)


def variance(state: State, ddof: float) -> tuple[Array, Array]:
    """The variance in units of 4**power, and power, which broadcasts to it; NaN where count is not more than ddof."""
    if isinstance(state, Exact) and ddof == int(ddof):
        n, s, q = (_objects(v) for v in state)
        known = (state.n > ddof) & (state.n > 0)
        divisor = np.where(known, np.asarray(n * (n - int(ddof)), object), np.asarray(1, object))
        return np.where(known, _floats((n * q - s * s) / divisor), np.nan), np.zeros((), int)
    sums = as_sums(state)
    freedom, power = sums.n - ddof, _UNSCALED if sums.power is NO_POWER else sums.power.astype(int)
    with unwarned():
        if ddof >= 0 and freedom.min(initial=1.0) > 0:
            return sums.m2 / freedom, power
        known = (freedom > 0) & (sums.n > 0)
        value = np.divide(sums.m2, freedom, out=np.full(freedom.shape, np.nan), where=known)
    return value, power


def var(state: State, ddof: float) -> Array:
    """The variance, which may be past the range of float64."""
    value, power = variance(state, ddof)
    if power is not _UNSCALED and power.any():
        with unwarned():
            value = np.ldexp(value, 2 * power)
    return np.asarray(value)


def var_and_std(state: State, ddof: float) -> tuple[Array, Array]:
    """Variance and standard deviation, the latter right where the variance leaves the range of float64."""
    value, power = variance(state, ddof)
    with unwarned():
        std = np.sqrt(value)
        if power is not _UNSCALED and power.any():
            value, std = np.ldexp(value, 2 * power), np.ldexp(std, power)
    return np.asarray(value), np.asarray(std)


# As plain numbers -----------------------------------------------------------------------------------------------------


def packed(state: State) -> NDArray[np.uint64]:
    """The state as words of 64 bits, which can be sent and compared: whether it is exact, its shape, its numbers."""
    shape = state.n.shape
    head = np.array([isinstance(state, Exact), len(shape), *shape], np.uint64)
    if isinstance(state, Sums):
        return np.concatenate([head, *(np.broadcast_to(v, shape).ravel().view(np.uint64) for v in state)])
    return np.concatenate([head, *(_limbs(v, k) for v, k in zip(state, _LIMBS, strict=True))])


def unpacked(words: NDArray[np.uint64]) -> State:
    """The state that `packed` made these words of."""
    exact, ndim = int(words[0]), int(words[1])
    shape = tuple(int(v) for v in words[2 : 2 + ndim])
    rows = words[2 + ndim :].reshape(-1, prod(shape)) if prod(shape) else np.zeros((6, 0), np.uint64)
    if not exact:
        return Sums(*(row.copy().view(np.float64).reshape(shape) for row in rows[:5]))
    parts = np.split(rows[: sum(_LIMBS)], np.cumsum(_LIMBS)[:-1])
    return Exact(*(_of_limbs(part, shape) for part in parts))


def _limbs(values: Array, count: int) -> NDArray[np.uint64]:
    """Integers in two's complement, the lowest words of all first."""
    integers = [int(v) for v in values.ravel().tolist()]
    return np.array([v >> 64 * k & ((1 << 64) - 1) for k in range(count) for v in integers], np.uint64)


def _of_limbs(rows: NDArray[np.uint64], shape: tuple[int, ...]) -> Array:
    top = 64 * len(rows)
    values = [sum(int(word) << 64 * k for k, word in enumerate(column)) for column in rows.T]
    return integers([v - (1 << top) if v >> (top - 1) else v for v in values], shape)


def integers(values: list[int], shape: tuple[int, ...]) -> Array:
    """As int64 if that holds them all, else as Python's integers."""
    fits = all(-(1 << 63) <= v < 1 << 63 for v in values)
    return np.array(values, np.int64 if fits else object).reshape(shape)
