"""Plans of what normalizes: by an array's own statistics, or by given ones."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn import _running
from fastbn.engine import arguments, arrays, by_columns, by_runs, memory, numbers, pace, plans, views
from fastbn.engine.operands import UNWANTED, Extras
from fastbn.kernels import activations

Array = NDArray[Any]

ONLY_Y, VARIANCE, RSTD = 0, 1, 2  # what is returned of a forward: y; y, mean, variance and `Blending`; y, mean and rstd


class Statistics(NamedTuple):
    """What is decided about a forward by its own statistics."""

    view_of: arrays.ViewOf
    args: tuple[Any, ...]  # of view_of, beside shape and memory order
    eps: float
    returns: int = ONLY_Y
    centered: bool = True  # or mean is empty and the variance a mean square
    activation: Any = None
    kept: tuple[int, ...] = ()  # axes of x that the statistics keep,
    groups: int = 0  # the last of which is split into so many, unless 0
    accept: Callable[[Array], None] | None = None  # raises where a mask leaves too few elements, given their counts


class Blending(NamedTuple):
    """How the variance of a batch goes into a running one."""

    factor: Any  # which makes it unbiased: a number, or one a group; None where the batch is empty
    kernel: Callable[..., None] | None = None  # `_running.kernel`, if it takes the factor and the running arrays


class Reading(NamedTuple):
    """How arrays like x are read and written."""

    order: Any  # of axes in memory; None: C-contiguous
    back: Any  # the axes that lead back
    view: views.View
    shape: Any  # in the order of memory
    dtype: np.dtype[Any]
    nbytes: int

    @property
    def empty(self) -> Callable[[], Array]:
        """What makes memory for a result."""
        return memory.maker(self.shape, self.dtype)

    def flat(self, values: Array) -> Array:
        """The elements of an array of x's shape in the order of memory."""
        return values.ravel() if self.order is None else values.transpose(self.order).ravel()


def reading(x: Array, view_of: arrays.ViewOf, args: tuple[Any, ...]) -> tuple[Array, Reading]:
    """x, copied where no kernel reads it as it lies, and how arrays like it are read."""
    x, order, view = arrays.view_of_memory(x, view_of, *args)
    shape = x.shape if order is None else [x.shape[a] for a in order]
    return x, Reading(order, None if order is None else arrays.inverse(order), view, shape, x.dtype, x.nbytes)


def team(nbytes: int, run: Callable[..., None]) -> Callable[..., None] | None:
    """What calls run(threads, ...) with the number of threads that is good for calls of one kind; None: that is one."""
    return None if nbytes < pace.SERIAL_BYTES else pace.team(nbytes, run)


def passes(x: Array, view: views.View, eps: float, returns: int, centered: bool = True) -> by_runs.Forward:
    """All passes of a forward over arrays like x: (threads, x, y, weight, bias, mean, var, extras)."""
    family: Any = by_columns if view.columns else by_runs
    args = view, x, centered, returns == RSTD, eps
    whole = family.forward(*args)
    if numbers.undivided(view) or x.nbytes < pace.SERIAL_BYTES:
        return whole
    units = view.blocks * numbers.extent(view)[1] if view.columns else view.geometry[1]
    in_steps = family.forward_in_steps(*args)

    def run(threads: int, *flat: Any) -> None:
        (whole if numbers.busy(units, threads) else in_steps)(threads, *flat)

    return run


def plan(spec: Statistics, operands: tuple[Any, ...]) -> Callable[..., Any]:
    """Of (x, weight, bias, ..., residual, where, out), by the statistics of x."""
    x, read = reading(operands[0], spec.view_of, spec.args)
    if not x.size:
        return _plan_of_nothing(read, spec, len(operands) - 3)
    order, back, view, *_, nbytes = read
    run = passes(x, view, spec.eps, spec.returns, spec.centered)
    shared, empty, returns = team(nbytes, run), read.empty, spec.returns
    stats_shape, stats_axes, with_mean = view.stats_shape, view.stats_axes, bool(returns and spec.centered)
    flat_stats = not returns or len(stats_shape) == 1
    plain_weights = view.weight_order is None and all(w is None or w.ndim == 1 for w in operands[1:3])
    direct = operands[-1] is None or arrays.is_in_order(operands[-1], order)
    extras = _extras(spec, read, operands)
    most, blending = len(operands) - 3, _blending(spec, view, operands)
    plain = order is None and shared is None and direct and flat_stats and plain_weights and not view.columns
    if plain and operands[-3] is operands[-2] is None and arrays.all_in_c_order(operands):
        return by_runs.small_forward(view, operands, spec, None if extras is None else extras(), blending)
    del x

    def normalize(x: Array, w: Any, b: Any, others: tuple[Any, ...] | None) -> Any:
        out: Any = others[-1] if others is not None and len(others) == most else None
        own = None if extras is None else extras(*(others or ())[most - 3 :])
        if order is None:
            y = out if direct and out is not None else empty()
            flat_x, flat_y = x.ravel(), y.ravel()
        else:
            y = out if direct and out is not None else empty().transpose(back)
            flat_x, flat_y = x.transpose(order).ravel(), y.transpose(order).ravel()
        if not plain_weights:
            w, b = arrays.flat_weights(w, view), arrays.flat_weights(b, view)
        mean = flat_mean = np.empty(stats_shape) if with_mean else UNWANTED
        var = flat_var = np.empty(stats_shape) if returns else UNWANTED
        if not flat_stats:
            flat_mean, flat_var = mean.ravel(), var.ravel()
        if shared is None:
            run(1, flat_x, flat_y, w, b, flat_mean, flat_var, own)
        else:
            shared(flat_x, flat_y, w, b, flat_mean, flat_var, own)
        if not direct:
            out[...] = y
            y = out
        if not returns:
            return y
        if stats_axes is not None:
            mean, var = mean.transpose(stats_axes) if with_mean else mean, var.transpose(stats_axes)
        if returns == RSTD:
            return y, mean, var
        if own is None or own.counts is None:
            return y, mean, var, blending
        counts = own.counts.reshape(stats_shape)
        return y, mean, var, Blending(counts / (counts - 1))

    return normalize


def _blending(spec: Statistics, view: views.View, operands: tuple[Any, ...]) -> Blending:
    """Of calls without a mask."""
    count = operands[0].size // view.groups
    direct = spec.returns == VARIANCE and len(operands) == 7 and operands[-2] is None and len(view.stats_shape) == 1
    return Blending(count / max(count - 1, 1), _running.kernel(operands[3], operands[4]) if direct else None)


def _plan_of_nothing(read: Reading, spec: Statistics, most: int) -> Callable[..., Any]:
    """Of an x without elements: statistics are NaN."""
    view, returns = read.view, spec.returns

    def normalize(x: Array, w: Any, b: Any, others: tuple[Any, ...] | None) -> Any:
        out: Any = others[-1] if others is not None and len(others) == most else None
        y = arrays.target(x, read.order) if out is None else out
        if not returns:
            return y
        var = arrays.shaped_statistics(np.full(view.stats_shape, np.nan), view)
        mean = var.copy() if spec.centered else UNWANTED
        return (y, mean, var) if returns == RSTD else (y, mean, var, Blending(None))

    return normalize


def _extras(spec: Any, read: Reading, operands: tuple[Any, ...]) -> Callable[..., Extras] | None:
    """From operands to what kernels take beside arrays, weights and statistics; None where that is nothing."""
    residual, where = operands[-3], operands[-2]
    if spec.activation is None and residual is None and where is None:
        return None
    activation, full, accept = activations.packed(spec.activation), operands[0].shape, spec.accept
    kept, groups, view, flat = spec.kept, spec.groups, read.view, read.flat
    masked, added = where is not None, residual is not None

    def extras(residual: Any = None, where: Any = None, out: Any = None) -> Extras:
        mask = counts = None
        if masked:
            counts = arguments.counts(where, full, kept, groups)
            if accept is not None:
                accept(counts)
            mask, counts = flat(np.broadcast_to(where, full)), arrays.flat_statistics(counts, view)
        return Extras(flat(residual) if added else None, activation, mask, None, counts)

    return extras


# A sum ----------------------------------------------------------------------------------------------------------------


def plan_of_sum(spec: Statistics, operands: tuple[Any, ...]) -> Callable[..., Any]:
    """Of (x, weight, bias, residual, where, out), by the statistics of x + residual: y, the sum, mean and rstd."""
    x, out = np.ascontiguousarray(operands[0]), operands[-1]
    _, read = reading(x, spec.view_of, spec.args)
    view, centered = read.view, spec.centered
    direct = out is None or out.flags.c_contiguous
    run = passes(x, view, spec.eps, spec.returns, centered) if x.size else None
    shared, empty = team(x.nbytes, run) if run else None, read.empty
    del x, out

    def normalize(x: Array, w: Any, b: Any, others: tuple[Any, ...]) -> Any:
        residual, out = others[0], others[2]
        y = out if direct and out is not None else empty()
        total = empty()
        mean, rstd = np.empty(view.stats_shape) if centered else UNWANTED, np.empty(view.stats_shape)
        if run is None:
            mean[...], rstd[...] = np.nan, np.nan
        else:
            w, b = arrays.flat_weights(w, view), arrays.flat_weights(b, view)
            flat = (x.ravel(), residual.ravel()), y.ravel(), w, b, mean.ravel(), rstd.ravel()
            (shared or (lambda *flat: run(1, *flat)))(*flat, Extras(summed=total.ravel()))
        if not direct:
            out[...] = y
            y = out
        return y, total, mean, rstd

    return normalize


# Given statistics -----------------------------------------------------------------------------------------------------


class GivenStatistics(NamedTuple):
    """What is decided about a forward by given statistics."""

    axis: int
    eps: float
    activation: Any = None
    kept: tuple[int, ...] = ()
    groups: int = 0
    accept: None = None


def plan_with_statistics(spec: GivenStatistics, operands: tuple[Any, ...]) -> Callable[..., Any]:
    """Of (x, weight, bias, mean, var, residual, where, out), every channel by its given mean and variance."""
    x, read = reading(operands[0], views.batch_view, (spec.axis, False))
    order, back, view, *_, nbytes = read
    run = (by_columns if view.columns else by_runs).scale(view, x, spec.eps) if x.size else None
    shared, empty = team(nbytes, run) if run else None, read.empty
    direct = operands[-1] is None or arrays.is_in_order(operands[-1], order)
    extras = _extras(spec, read, operands)
    plain = order is None and shared is None and run is not None and direct and not view.columns
    if plain and operands[-3] is operands[-2] is None and arrays.all_in_c_order(operands):
        return by_runs.small_scale(view, operands, spec.eps, None if extras is None else extras())
    del x

    def normalize(x: Array, w: Any, b: Any, others: tuple[Any, ...]) -> Any:
        mean, var = others[:2]
        out: Any = others[4] if len(others) == 5 else None
        own = None if extras is None else extras(*others[2:])
        if order is None:
            y = out if direct and out is not None else empty()
            flat_x, flat_y = x.ravel(), y.ravel()
        else:
            y = out if direct and out is not None else empty().transpose(back)
            flat_x, flat_y = x.transpose(order).ravel(), y.transpose(order).ravel()
        if shared is not None:
            shared(flat_x, flat_y, w, b, mean, var, own)
        elif run is not None:
            run(1, flat_x, flat_y, w, b, mean, var, own)
        if direct:
            return y
        out[...] = y
        return out

    return normalize


# Sums -----------------------------------------------------------------------------------------------------------------


def plan_of_sums(spec: tuple[arrays.ViewOf, tuple[Any, ...]], operands: tuple[Any, ...]) -> Callable[..., Any]:
    """Of x, not empty: an element of every group, and the sums of d and d^2; d: the distance from it."""
    x, read = reading(operands[0], *spec)
    view, flat = read.view, read.flat
    run = (by_columns if view.columns else by_runs).sums(view, x)
    shared = team(x.nbytes, run)
    del x

    def sum_up(x: Array, *_: Any) -> tuple[Array, Array, Array]:
        found = np.empty(view.stats_shape), np.empty(view.stats_shape), np.empty(view.stats_shape)
        args = flat(x), *(v.reshape(-1) for v in found)
        if shared is None:
            run(1, *args)
        else:
            shared(*args)
        shift, s, q = (arrays.shaped_statistics(v, view) for v in found)
        return shift, s, q

    return sum_up


_SUMS = plans.Operation("x - - out", lambda settings, operands: (operands, settings), plan_of_sums)


def sums(x: Array, view_of: arrays.ViewOf, args: tuple[Any, ...]) -> tuple[Array, Array, Array]:
    """An element of every group of x, checked and not empty, and the sums of d and d^2; d: the distance from it."""
    return plans.call(_SUMS, (view_of, args), x, None, None)
