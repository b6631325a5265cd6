# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""The passes of compiled calls over flat arrays, by the serial kernels and the plans of `engine.integers`."""

import numpy as np
from numba import types
from numba.extending import overload

from fastbn._compiled import INLINED
from fastbn._compiled.checks import check_running_apart
from fastbn._compiled.values import around, elements, flat, hold, jitable, small, statistics_of, two
from fastbn.engine import integers
from fastbn.kernels import columns, runs, statistics
from fastbn.kernels.plans import Runs
from fastbn.kernels.rows import forward_at as _rows_forward
from fastbn.kernels.simd import address

_COLLECTED = runs.COLLECTED

_forward, _scale, _backward = runs.forward_at, runs.scale.serial, runs.backward.serial
_rows_backward, _collect = runs.rows_backward.serial, runs.collect_rows.serial
_columns_forward, _columns_scale, _columns_backward = (
    d.serial for d in (columns.forward, columns.scale, columns.backward)
)
_update = statistics.update


# Forward --------------------------------------------------------------------------------------------------------------


@small
def _extras(activation):
    if activation is None:
        return None
    return None, activation, None, None, None, None


@small
def _scale_extras(activation):
    if activation is None:
        return None
    return None, activation, None, None


# Tuples hold what belongs together: `memory`, x and y, or dy, x and dx; `affine`, weight and bias; `saved`, mean and
# rstd or variance, each None where not wanted; `grads`, dweight and dbias.


@small
def rows(memory, shape, affine, eps, saved, centered, activation):
    """Normalize rows, whose elements have weights of their own; shape: how many rows, their length, and weights."""
    x, y = memory
    view = Runs(1, shape[0], 1, shape[1], shape[2])
    plan = view, integers.runs_forward(view, 0, x.size * x.itemsize, x.itemsize, centered, 1)
    w, b = flat(affine[0], y), flat(affine[1], y)
    places, found = (address(w), address(b)), (address(saved[0]), address(saved[1]))
    _rows_forward(plan, address(x), address(y), places, np.float64(eps), *found, activation)
    hold(w)
    hold(b)


@small
def _by_runs(memory, view, affine, eps, saved, rooted, activation):
    x, y = memory
    plan = view, integers.runs_forward(view, 1, x.size * x.itemsize, x.itemsize, 1, rooted)
    w, b = flat(affine[0], y), flat(affine[1], y)
    places = address(w), address(b), None, None
    _forward(plan, address(x), address(y), *places, np.float64(eps), address(saved[0]), address(saved[1]), activation)
    hold(w)
    hold(b)


@jitable
def _by_columns(memory, blocks, view, affine, eps, saved, rooted, activation):
    x, y = memory
    plan = view, integers.columns_forward(view, blocks, x.size * x.itemsize, x.itemsize, 1, rooted)
    w, b = flat(affine[0], y), flat(affine[1], y)
    _columns_forward(plan, x, y, w, b, None, None, np.float64(eps), *saved, elements(y, 0), _extras(activation))
    hold(w)
    hold(b)


@small
def split(shape, axis):
    """An array seen as (outer, channels, inner)."""
    outer, inner = around(shape, axis)
    return (1, 1, outer * inner) if shape[axis] == 1 else (outer, shape[axis], inner)


@jitable
def batch(memory, parts, affine, eps, saved, rooted, activation):
    """Normalize channels by their statistics; parts: what `split` returns."""
    outer, channels, inner = parts
    if integers.channels_are_columns(outer, channels, inner, 1):
        view = integers.columns(outer, channels * inner, inner, inner, channels, 0)
        _by_columns(memory, 1, view, affine, eps, saved, rooted, activation)
    else:
        _by_runs(memory, Runs(outer, channels, 1, inner, channels), affine, eps, saved, rooted, activation)


@jitable
def given(memory, parts, affine, eps, statistics, activation, computed):
    """Normalize channels by given statistics; computed: how columns are told from runs, see `integers`."""
    (x, y), (outer, channels, inner) = memory, parts
    w, b, nbytes, more = flat(affine[0], y), flat(affine[1], y), x.size * x.itemsize, _scale_extras(activation)
    if integers.channels_are_columns(outer, channels, inner, computed):
        columns_view = integers.columns(outer, channels * inner, inner, inner, channels, 0)
        of_columns = columns_view, integers.columns_scale(columns_view, 1, nbytes, x.itemsize, 1, 1)
        _columns_scale(of_columns, x, y, w, b, None, None, np.float64(eps), *statistics, elements(y, 0), more)
    else:
        view = Runs(outer, channels, 1, inner, channels)
        plan = view, integers.runs_scale(view, 1, nbytes, x.itemsize)
        _scale(plan, x, y, w, b, np.float64(eps), *statistics, more)
    hold(w)
    hold(b)


@jitable
def groups(memory, parts, affine, eps, saved, activation):
    """Normalize groups of channels; parts: samples, what lies before the channels, groups, their channels, the rest."""
    samples, before, of_sample, span, behind = parts
    channels = of_sample * span
    if before == 1 or channels == 1:
        plane = before * behind
        if plane == 1 and span > 1:
            rows(memory, (samples * of_sample, span, channels), affine, eps, saved, 1, activation)
        else:
            _by_runs(memory, Runs(1, samples * of_sample, span, plane, channels), affine, eps, saved, 1, activation)
    else:
        view = integers.columns(before, channels * behind, span * behind, behind, channels, 0)
        _by_columns(memory, samples, view, affine, eps, saved, 1, activation)


@jitable
def groups_by_runs(memory, parts, affine, eps, saved, activation):
    """As `groups`, where nothing lies before the channels, which saves compiling the other kernel."""
    samples, _, of_sample, span, plane = parts
    channels = of_sample * span
    if plane == 1 and span > 1:
        rows(memory, (samples * of_sample, span, channels), affine, eps, saved, 1, activation)
    else:
        _by_runs(memory, Runs(1, samples * of_sample, span, plane, channels), affine, eps, saved, 1, activation)


@small
def split_groups(shape, channel, num_groups):
    """An array seen as samples, what lies before the channels, groups, their channels, and the rest."""
    channels, groups = shape[channel], np.int64(num_groups)  # which may be unsigned
    if groups != channels and (groups < 1 or channels % groups != 0):
        raise ValueError("num_groups does not divide the channels; expected a divisor of their number")
    before, behind = around(shape[1:], channel - 1)
    return shape[0], before, groups, channels // max(groups, 1), behind


@small
def saved_groups(channels, groups):
    """How many groups saved statistics are of; 1 where it can't be as many: their check then says what is wrong."""
    return groups if groups == channels or (groups > 0 and channels % groups == 0) else 1


@jitable
def _instance_statistics(x, parts):
    if x.size > 0 and x.size == parts[0] * parts[2]:
        raise ValueError("x has one value a channel of a sample; expected more than 1 spatial element when training")
    return statistics_of((parts[0], parts[2]))


@jitable
def instances(x, y, channel, affine, running, momentum, eps, activation):
    """Normalize channels of samples; returns mean and rstd.  running, momentum: for nothing."""
    parts = split_groups(x.shape, channel, x.shape[channel])
    mean, rstd = _instance_statistics(x, parts)
    if x.size > 0:
        groups(two(x, y), parts, affine, eps, (mean, rstd), activation)
    return mean, rstd


@jitable
def instances_by_runs(x, y, channel, affine, running, momentum, eps, activation):
    """As `groups_by_runs`."""
    parts = split_groups(x.shape, channel, x.shape[channel])
    mean, rstd = _instance_statistics(x, parts)
    if x.size > 0:
        groups_by_runs(two(x, y), parts, affine, eps, (mean, rstd), activation)
    return mean, rstd


@jitable
def evaluate(x, y, channel, affine, running, momentum, eps, activation):
    """Normalize channels by running statistics."""
    if x.size > 0:
        statistics = elements(running[0], running[0].size), elements(running[1], running[1].size)
        given(two(x, y), split(x.shape, channel), affine, eps, statistics, activation, 0)


@small
def for_running(x, affine, running):
    """Raise unless running statistics, which are written to, have memory of their own."""
    mean, var = running
    check_running_apart(mean, var)
    check_running_apart(mean, x)
    check_running_apart(mean, affine[0])
    check_running_apart(mean, affine[1])
    check_running_apart(var, x)
    check_running_apart(var, affine[0])
    check_running_apart(var, affine[1])


@jitable
def train(x, y, channel, affine, running, momentum, eps, activation):
    """Normalize channels by their own statistics, which go into running ones; returns mean and variance."""
    channels = x.shape[channel]
    if eps == 0.0:
        raise ValueError("eps is zero; expected a small positive number such as 1e-5")
    if x.size == channels and channels > 0:
        raise ValueError("x has one value a channel; expected more than 1 when training")
    for_running(x, affine, running)
    mean, var = statistics_of((channels,))
    if x.size > 0:
        batch(two(x, y), split(x.shape, channel), affine, eps, (mean, var), 0, activation)
        update_running(mean, var, x.size // channels, momentum, running[0], running[1])
    return mean, var


@jitable
def roots(var, eps):
    """1 / sqrt(var + eps), in the place of var."""
    for c in range(var.size):
        var[c] = 1.0 / np.sqrt(var[c] + eps)
    return var


@jitable
def update_running(mean, var, terms, momentum, running_mean, running_var):
    """Take the statistics of a batch, of so many elements a channel, into running ones; None: not wanted."""
    factor, kept = terms / (terms - 1), (_or_none(running_mean, var), _or_none(running_var, var))
    _update(mean, var, factor, np.float64(momentum), -1.0, 0, *kept, _counter())


def _or_none(running, like):
    """Running statistics; where there are none, those of no channel."""


@overload(_or_none, jit_options=INLINED)
def _running_or_none(running, like):
    if isinstance(running, types.NoneType | types.Omitted):
        return lambda running, like: like[:0]
    return lambda running, like: running


@small
def _counter():
    return np.empty(0, np.int64)


# Backward -------------------------------------------------------------------------------------------------------------


@jitable
def _backward_extras(of_channel, of_element, activation, dy):
    """As kernels take them, and where the gradient of what goes into the activation is put."""
    if activation is None:
        return None, dy
    return (of_channel, of_element, None, activation, None, dy, None, None), np.empty(dy.shape, dy.dtype)


@jitable
def _add_up(of_blocks, grads):
    _collect(integers.ceil_div(of_blocks.size, _COLLECTED), of_blocks, *grads)


@jitable
def rows_backward(memory, shape, affine, saved, grads, activation):
    """Gradients of `rows`; returns that of what goes into the activation, as those below."""
    dy, x, dx = memory
    view = Runs(1, shape[0], 1, shape[1], shape[2])
    how = integers.rows_backward(view, x.size * x.itemsize, x.itemsize)
    of_blocks = np.empty((how.units, 2, view.weights))
    w, b = flat(affine[0], dx), flat(affine[1], dx)
    rest, dz = _backward_extras(None, b, activation, dy)
    _rows_backward((view, how), dz, x, dx, w, *saved, of_blocks, elements(dx, 0), rest)
    hold(w)
    hold(b)
    _add_up(of_blocks, grads)
    return dz


@jitable
def _runs_backward(memory, view, affine, saved, grads, activation):
    dy, x, dx = memory
    plan = view, integers.runs_backward(view, x.size * x.itemsize, x.itemsize)
    of_blocks = np.empty((integers.blocks_of_samples(view, x.itemsize).number, 2, view.weights))
    w, b = flat(affine[0], dx), flat(affine[1], dx)
    rest, dz = _backward_extras(b, None, activation, dy)
    _backward(plan, dz, x, dx, w, *saved, of_blocks, rest)
    hold(w)
    hold(b)
    _add_up(of_blocks, grads)
    return dz


@jitable
def _of_columns(memory, blocks, view, affine, saved, grads, activation):
    dy, x, dx = memory
    plan = view, integers.columns_backward(view, blocks, x.size * x.itemsize, x.itemsize, 1)
    of_blocks = np.empty((blocks, 2, view.weights))
    w, b = flat(affine[0], dx), flat(affine[1], dx)
    rest, dz = _backward_extras(b, None, activation, dy)
    _columns_backward(plan, dz, x, dx, w, None, *saved, of_blocks, None, elements(dx, 0), rest)
    hold(w)
    hold(b)
    _add_up(of_blocks, grads)
    return dz


@jitable
def batch_backward(memory, parts, affine, saved, grads, activation):
    """Gradients of `batch`."""
    outer, channels, inner = parts
    if integers.channels_are_columns(outer, channels, inner, 1):
        view = integers.columns(outer, channels * inner, inner, inner, channels, 0)
        return _of_columns(memory, 1, view, affine, saved, grads, activation)
    return _runs_backward(memory, Runs(outer, channels, 1, inner, channels), affine, saved, grads, activation)


@jitable
def constant_backward(dz, dx, parts, weight, rstd):
    """dx where mean and rstd are constants."""
    var = np.empty(rstd.size)
    for c in range(rstd.size):
        var[c] = 1.0 / (rstd[c] * rstd[c])
    given((dz, dx), parts, (weight, None), 0.0, (np.zeros(rstd.size), var), None, 1)


@jitable
def evaluated_backward(memory, parts, affine, saved, grads, activation):
    """Gradients where mean and rstd are constants: those of weight and bias are the same."""
    dy, x, dx = memory
    dz = batch_backward((dy, x, np.empty(dx.shape, dx.dtype)), parts, affine, saved, grads, activation)
    constant_backward(dz, dx, parts, affine[0], saved[1])


@jitable
def groups_backward(memory, parts, affine, saved, grads, activation):
    """Gradients of `groups`."""
    samples, before, of_sample, span, behind = parts
    channels = of_sample * span
    if before == 1 or channels == 1:
        runs_of = samples, 1, of_sample, span, before * behind
        groups_backward_by_runs(memory, runs_of, affine, saved, grads, activation)
    else:
        view = integers.columns(before, channels * behind, span * behind, behind, channels, 0)
        _of_columns(memory, samples, view, affine, saved, grads, activation)


@jitable
def groups_backward_by_runs(memory, parts, affine, saved, grads, activation):
    """As `groups_by_runs`."""
    samples, _, of_sample, span, plane = parts
    channels = of_sample * span
    if plane == 1 and span > 1:
        rows_backward(memory, (samples * of_sample, span, channels), affine, saved, grads, activation)
    else:
        view = Runs(1, samples * of_sample, span, plane, channels)
        _runs_backward(memory, view, affine, saved, grads, activation)
