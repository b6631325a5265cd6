"""Plans of what normalizes: by an array's own statistics, or by given ones."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn import _running
from fastbn.engine import arguments, arrays, by_columns, by_runs, numbers, pace, plans, stores, views
from fastbn.engine.arrays import Reading, reading
from fastbn.engine.groups import Groups
from fastbn.engine.integers import extent
from fastbn.engine.numbers import Elements
from fastbn.engine.operands import UNWANTED, Extras
from fastbn.kernels import activations

Array = NDArray[Any]

# What is returned of a forward: y; y, mean, variance and `Blending`; y, mean and rstd; y, the sum of x and the residual
# that was normalized, its mean and its rstd; or y by statistics that are given
ONLY_Y, VARIANCE, RSTD, SUM, GIVEN = range(5)


class Normalization(NamedTuple):
    """What is decided about a forward."""

    groups: Groups
    eps: float
    returns: int = ONLY_Y
    centered: bool = True  # or mean is empty and the variance a mean square
    activation: Any = None
    accept: Callable[[Array], None] | None = None  # raises where a mask leaves too few elements, given their counts

    @property
    def rooted(self) -> bool:
        """Whether rstd takes the place of the variance."""
        return self.returns in (RSTD, SUM)


class Blending(NamedTuple):
    """How the variance of a batch goes into a running one."""

    factor: Any  # which makes it unbiased: a number, or one a group; None where the batch is empty
    kernel: Callable[..., None] | None = None  # `_running.kernel`, if it takes the factor and the running arrays


def threaded(x: Array, run: Callable[..., None]) -> Callable[..., None]:
    """What calls run(threads, ...) with the number of threads that is good for calls on arrays like x, which may be 1.

    Where x has no elements, nothing is called.
    """
    if not x.size:
        return lambda *args: None
    return partial(run, 1) if x.nbytes < pace.SERIAL_BYTES else pace.team(x.nbytes, run)


def passes(x: Array, view: views.View, eps: float, rooted: bool, centered: bool = True) -> by_runs.Forward:
    """All passes of a forward over arrays like x: (threads, x, y, weight, bias, mean, var, extras)."""
    family: Any = by_columns if view.columns else by_runs

    def of(elements: Elements) -> by_runs.Forward:
        args = view, elements, centered, rooted, eps
        whole = family.forward(*args)
        if numbers.undivided(view) or x.nbytes < pace.SERIAL_BYTES:
            return whole
        units = view.blocks * extent(view.geometry).panels if view.columns else view.groups
        return whole_or_in_steps(whole, family.forward_in_steps(*args), units)

    def decide(elements: Elements) -> Array:
        return numbers.forward(view, elements, centered, rooted)

    return stores.either_way(numbers.of(x), 1, decide, of)


def scaling(x: Array, view: views.View, eps: float) -> by_runs.Forward:
    """As `passes`, with given statistics."""
    family: Any = by_columns if view.columns else by_runs
    decide, of = partial(numbers.scale, view), partial(family.scale, view, eps=eps)
    return stores.either_way(numbers.of(x), 1, decide, of)


def whole_or_in_steps(whole: Callable[..., None], in_steps: Callable[..., None], units: int) -> Callable[..., None]:
    """Passes with so many units as work items, or in steps where those are too few to keep all threads busy."""
    found = {1: whole}  # by the number of threads

    def run(threads: int, *args: Any) -> None:
        way = found.get(threads)
        if way is None:
            way = found[threads] = whole if numbers.busy(units, threads) else in_steps
        way(threads, *args)

    return run


def plan(spec: Normalization, operands: tuple[Any, ...]) -> Callable[..., Any]:
    """Of (x, weight, bias, ..., residual, where, out); between them, where there are, running or given statistics."""
    returns, (view_of, args, *_), out = spec.returns, spec.groups, operands[-1]
    given, summed = returns == GIVEN, returns == SUM
    x = np.ascontiguousarray(operands[0]) if summed else operands[0]
    x, read = reading(x, view_of, (*args, False) if given else args)
    order, view, _, empty, flat = read
    run: Any = None
    if x.size and given:
        run = scaling(x, view, spec.eps)
    elif x.size:
        run = passes(x, view, spec.eps, spec.rooted, spec.centered)
    call, new = threaded(x, run), np.empty if x.size else _nan
    direct = out is not None and arrays.is_in_order(out, order)
    indirect = out is not None and not direct
    extras, fixed = (_extras(spec, read, operands) if x.size and not summed else None), None
    blending = _blending(view, operands) if returns == VARIANCE else None
    small = run is not None and x.nbytes < pace.SERIAL_BYTES and order is None and not view.columns
    if operands[-3] is operands[-2] is None:
        extras, fixed = None, None if extras is None else extras(None, None)
        if small and not (summed or indirect) and arrays.all_in_c_order(operands):
            return (by_runs.small_scale if given else by_runs.small_forward)(view, operands, spec, fixed, blending)
        if run is not None and order is None and not (summed or indirect) and arrays.all_in_c_order(operands):
            return _plain(spec, view, call, None if direct else empty, fixed, blending)
    reshaped = view.weight_order is not None or any(w is not None and w.ndim > 1 for w in operands[1:3])
    stats_shape, stats_axes, own_statistics = view.stats_shape, view.stats_axes, returns in (VARIANCE, RSTD, SUM)
    with_mean = own_statistics and spec.centered

    def normalize(x: Array, w: Any, b: Any, others: Any) -> Any:
        y = others[-1] if direct else empty()
        flat_y, total, own = flat(y), None, fixed
        flat_x: Any = flat(x)
        mean = var = flat_mean = flat_var = UNWANTED
        if given:
            flat_mean, flat_var = others[:2]
        elif own_statistics:
            var = new(stats_shape)
            flat_var = var.ravel()
            if with_mean:
                mean = new(stats_shape)
                flat_mean = mean.ravel()
        if reshaped:
            w, b = arrays.flat_weights(w, view), arrays.flat_weights(b, view)
        if summed:
            total = empty()
            flat_x, own = (flat_x, flat(others[0])), Extras(summed=flat(total))
        elif extras is not None:
            own = extras(*others[-3:-1])
        call(flat_x, flat_y, w, b, flat_mean, flat_var, own)
        if indirect:
            others[-1][...] = y
            y = others[-1]
        if not own_statistics:
            return y
        if stats_axes is not None:
            mean, var = mean.transpose(stats_axes) if with_mean else mean, var.transpose(stats_axes)
        if returns != VARIANCE:
            return (y, mean, var) if total is None else (y, total, mean, var)
        if own is None or own.counts is None:
            return y, mean, var, blending
        counts = own.counts.reshape(stats_shape)
        return y, mean, var, Blending(counts / (counts - 1))

    return normalize


def _plain(
    spec: Normalization, view: views.View, call: Callable[..., None], empty: Any, extras: Any, blending: Any
) -> Callable[..., Any]:
    """Of arrays in C order, without residual or mask: the fewest steps.  empty: makes y, which else is given."""
    if spec.returns == GIVEN:

        def evaluate(x: Array, w: Any, b: Any, others: Any) -> Any:
            y = others[-1] if empty is None else empty()
            call(x, y, w, b, others[0], others[1], extras)
            return y

        return evaluate
    new, shape, wanted, with_mean = np.empty, view.stats_shape, spec.returns != ONLY_Y, spec.centered

    def normalize(x: Array, w: Any, b: Any, others: Any) -> Any:
        y = others[-1] if empty is None else empty()
        if not wanted:
            call(x, y, w, b, UNWANTED, UNWANTED, extras)
            return y
        var = new(shape)
        mean = new(shape) if with_mean else UNWANTED
        call(x, y, w, b, mean, var, extras)
        return (y, mean, var) if blending is None else (y, mean, var, blending)

    return normalize


_nan = partial(np.full, fill_value=np.nan)  # statistics where there are no elements


def _blending(view: views.View, operands: tuple[Any, ...]) -> Blending:
    """Of calls without a mask."""
    if not operands[0].size:
        return Blending(None)
    count = operands[0].size // view.groups
    direct = len(operands) == 7 and operands[-2] is None and len(view.stats_shape) == 1
    return Blending(count / max(count - 1, 1), _running.kernel(operands[3], operands[4]) if direct else None)


def _extras(spec: Normalization, read: Reading, operands: tuple[Any, ...]) -> Callable[..., Extras] | None:
    """From residual and mask to what kernels take beside arrays, weights and statistics; None where that is nothing."""
    residual, where = operands[-3:-1]
    if spec.activation is None and residual is None and where is None:
        return None
    activation, full, accept = activations.packed(spec.activation), operands[0].shape, spec.accept
    (*_, kept, split), view, flat = spec.groups, read.view, read.flat
    masked, added = where is not None, residual is not None

    def extras(residual: Any, where: Any) -> Extras:
        mask = counts = None
        if masked:
            counts = arguments.counts(where, full, kept, split)
            if accept is not None:
                accept(counts)
            mask, counts = flat(np.broadcast_to(where, full)), arrays.flat_statistics(counts, view)
        return Extras(flat(residual) if added else None, activation, mask, None, counts)

    return extras


# Sums -----------------------------------------------------------------------------------------------------------------


def plan_of_sums(spec: tuple[arrays.ViewOf, tuple[Any, ...]], operands: tuple[Any, ...]) -> Callable[..., Any]:
    """Of x, not empty: an element of every group, and the sums of d and d^2; d: the distance from it."""
    x, read = reading(operands[0], *spec)
    view, flat = read.view, read.flat
    call = threaded(x, (by_columns if view.columns else by_runs).sums(view, x))

    def sum_up(x: Array, *_: Any) -> tuple[Array, Array, Array]:
        found = np.empty(view.stats_shape), np.empty(view.stats_shape), np.empty(view.stats_shape)
        call(flat(x), *(v.reshape(-1) for v in found))
        shift, s, q = (arrays.shaped_statistics(v, view) for v in found)
        return shift, s, q

    return sum_up


_SUMS = plans.Operation("x - - out", lambda settings, operands: (operands, settings), plan_of_sums)


def sums(x: Array, view_of: arrays.ViewOf, args: tuple[Any, ...]) -> tuple[Array, Array, Array]:
    """An element of every group of x, checked and not empty, and the sums of d and d^2; d: the distance from it."""
    return plans.call(_SUMS, (view_of, args), x, None, None)
