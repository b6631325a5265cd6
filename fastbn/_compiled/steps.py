# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""The passes of compiled calls over flat arrays, by the serial kernels and the plans of `engine.integers`."""

import numpy as np

from fastbn._compiled.checks import check_running_apart
from fastbn._compiled.values import around, elements, flat, hold, jitable, small, statistics_of, two
from fastbn.engine import integers
from fastbn.kernels import columns, runs, statistics
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


@small
def rows(x, y, shape, weight, bias, eps, mean, rstd, centered, activation):
    """Normalize rows, whose elements have weights of their own; shape: how many rows, their length, and weights.

    mean, rstd: None where not wanted.
    """
    view = 1, shape[0], 1, shape[1], shape[2]
    plan = integers.runs_forward(view, 0, x.size * x.itemsize, x.itemsize, centered, 1)
    w, b = flat(weight, y), flat(bias, y)
    affine, saved = (None, None, address(w), address(b)), (address(mean), address(rstd))
    _forward(plan, address(x), address(y), *affine, float(eps), *saved, activation)
    hold(w)
    hold(b)


@small
def _by_runs(x, y, view, weight, bias, eps, mean, var, rooted, activation):
    plan = integers.runs_forward(view, 1, x.size * x.itemsize, x.itemsize, 1, rooted)
    w, b = flat(weight, y), flat(bias, y)
    affine, saved = (address(w), address(b), None, None), (address(mean), address(var))
    _forward(plan, address(x), address(y), *affine, float(eps), *saved, activation)
    hold(w)
    hold(b)


@jitable
def _by_columns(x, y, blocks, view, weight, bias, eps, mean, var, rooted, activation):
    plan = integers.columns_forward(view, blocks, x.size * x.itemsize, x.itemsize, 1, rooted)
    w, b = flat(weight, y), flat(bias, y)
    _columns_forward(plan, x, y, w, b, None, None, float(eps), mean, var, elements(y, 0), _extras(activation))
    hold(w)
    hold(b)


@small
def split(shape, axis):
    """An array seen as (outer, channels, inner)."""
    outer, inner = around(shape, axis)
    return (1, 1, outer * inner) if shape[axis] == 1 else (outer, shape[axis], inner)


@jitable
def batch(x, y, parts, weight, bias, eps, mean, var, rooted, activation):
    """Normalize channels by their statistics; parts: what `split` returns."""
    outer, channels, inner = parts
    if integers.channels_are_columns(outer, channels, inner, 1):
        view = integers.columns(outer, channels * inner, inner, inner, channels, 0)
        _by_columns(x, y, 1, view, weight, bias, eps, mean, var, rooted, activation)
    else:
        _by_runs(x, y, (outer, channels, 1, inner, channels), weight, bias, eps, mean, var, rooted, activation)


@jitable
def given(x, y, parts, weight, bias, eps, mean, var, activation, statistics):
    """Normalize channels by given statistics; `statistics`: how columns are told from runs, see `integers`."""
    outer, channels, inner = parts
    w, b, nbytes, more = flat(weight, y), flat(bias, y), x.size * x.itemsize, _scale_extras(activation)
    if integers.channels_are_columns(outer, channels, inner, statistics):
        view = integers.columns(outer, channels * inner, inner, inner, channels, 0)
        plan = integers.columns_scale(view, 1, nbytes, x.itemsize, 1, 1)
        _columns_scale(plan, x, y, w, b, None, None, float(eps), mean, var, elements(y, 0), more)
    else:
        plan = integers.runs_scale((outer, channels, 1, inner, channels), 1, nbytes, x.itemsize)
        _scale(plan, x, y, w, b, float(eps), mean, var, more)
    hold(w)
    hold(b)


@jitable
def groups(x, y, parts, weight, bias, eps, mean, rstd, activation):
    """Normalize groups of channels; parts: samples, what lies before the channels, groups, their channels, the rest."""
    samples, before, of_sample, span, behind = parts
    channels = of_sample * span
    if before == 1 or channels == 1:
        plane = before * behind
        if plane == 1 and span > 1:
            rows(x, y, (samples * of_sample, span, channels), weight, bias, eps, mean, rstd, 1, activation)
        else:
            view = 1, samples * of_sample, span, plane, channels
            _by_runs(x, y, view, weight, bias, eps, mean, rstd, 1, activation)
    else:
        view = integers.columns(before, channels * behind, span * behind, behind, channels, 0)
        _by_columns(x, y, samples, view, weight, bias, eps, mean, rstd, 1, activation)


@jitable
def groups_by_runs(x, y, parts, weight, bias, eps, mean, rstd, activation):
    """As `groups`, where nothing lies before the channels, which saves compiling the other kernel."""
    samples, _, of_sample, span, plane = parts
    if plane == 1 and span > 1:
        rows(x, y, (samples * of_sample, span, of_sample * span), weight, bias, eps, mean, rstd, 1, activation)
    else:
        view = 1, samples * of_sample, span, plane, of_sample * span
        _by_runs(x, y, view, weight, bias, eps, mean, rstd, 1, activation)


@small
def split_groups(shape, channel, num_groups):
    """An array seen as samples, what lies before the channels, groups, their channels, and the rest."""
    channels = shape[channel]
    if num_groups != channels and (num_groups < 1 or channels % num_groups != 0):
        raise ValueError("num_groups does not divide the channels; expected a divisor of their number")
    before, behind = around(shape[1:], channel - 1)
    return shape[0], before, num_groups, channels // max(num_groups, 1), behind


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
        groups(*two(x, y), parts, affine[0], affine[1], eps, mean, rstd, activation)
    return mean, rstd


@jitable
def instances_by_runs(x, y, channel, affine, running, momentum, eps, activation):
    """As `groups_by_runs`."""
    parts = split_groups(x.shape, channel, x.shape[channel])
    mean, rstd = _instance_statistics(x, parts)
    if x.size > 0:
        groups_by_runs(*two(x, y), parts, affine[0], affine[1], eps, mean, rstd, activation)
    return mean, rstd


@jitable
def evaluate(x, y, channel, affine, running, momentum, eps, activation):
    """Normalize channels by running statistics."""
    if x.size > 0:
        mean, var = elements(running[0], running[0].size), elements(running[1], running[1].size)
        parts = split(x.shape, channel)
        given(*two(x, y), parts, affine[0], affine[1], eps, mean, var, activation, 0)


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
        parts = split(x.shape, channel)
        batch(*two(x, y), parts, affine[0], affine[1], eps, mean, var, 0, activation)
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
    _update(mean, var, factor, float(momentum), -1.0, 0, *kept, _counter())


@small
def _or_none(running, like):
    if running is None:
        return like[:0]
    return running


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
def _add_up(grads, dweight, dbias):
    _collect(integers.ceil_div(grads.size, _COLLECTED), grads, dweight, dbias)


@jitable
def rows_backward(dy, x, dx, shape, affine, mean, rstd, dweight, dbias, activation):
    """Gradients of `rows`; affine: weight and bias."""
    view = 1, shape[0], 1, shape[1], shape[2]
    plan = integers.rows_backward(view, x.size * x.itemsize, x.itemsize)
    grads = np.empty((integers.blocks_of_rows(shape[0])[0], 2, shape[2]))
    w, b = flat(affine[0], dx), flat(affine[1], dx)
    rest, dz = _backward_extras(None, b, activation, dy)
    _rows_backward(plan, dz, x, dx, w, mean, rstd, grads, elements(dx, 0), rest)
    hold(w)
    hold(b)
    _add_up(grads, dweight, dbias)
    return dz


@jitable
def _runs_backward(dy, x, dx, view, affine, mean, rstd, dweight, dbias, activation):
    plan = integers.runs_backward(view, x.size * x.itemsize, x.itemsize)
    samples, per_block = integers.blocks_of_samples(view, x.itemsize)
    grads = np.empty((integers.ceil_div(samples, per_block), 2, view[4]))
    w, b = flat(affine[0], dx), flat(affine[1], dx)
    rest, dz = _backward_extras(b, None, activation, dy)
    _backward(plan, dz, x, dx, w, mean, rstd, grads, rest)
    hold(w)
    hold(b)
    _add_up(grads, dweight, dbias)
    return dz


@jitable
def _of_columns(dy, x, dx, blocks, view, affine, mean, rstd, dweight, dbias, activation):
    plan = integers.columns_backward(view, blocks, x.size * x.itemsize, x.itemsize, 1)
    grads = np.empty((blocks, 2, view[5]))
    w, b = flat(affine[0], dx), flat(affine[1], dx)
    rest, dz = _backward_extras(b, None, activation, dy)
    _columns_backward(plan, dz, x, dx, w, None, mean, rstd, grads, None, elements(dx, 0), rest)
    hold(w)
    hold(b)
    _add_up(grads, dweight, dbias)
    return dz


@jitable
def batch_backward(dy, x, dx, parts, affine, mean, rstd, dweight, dbias, activation):
    """Gradients of `batch`; returns that of what goes into the activation."""
    outer, channels, inner = parts
    if integers.channels_are_columns(outer, channels, inner, 1):
        view = integers.columns(outer, channels * inner, inner, inner, channels, 0)
        return _of_columns(dy, x, dx, 1, view, affine, mean, rstd, dweight, dbias, activation)
    return _runs_backward(
        dy, x, dx, (outer, channels, 1, inner, channels), affine, mean, rstd, dweight, dbias, activation
    )


@jitable
def constant_backward(dz, dx, parts, weight, rstd):
    """dx where mean and rstd are constants."""
    var = np.empty(rstd.size)
    for c in range(rstd.size):
        var[c] = 1.0 / (rstd[c] * rstd[c])
    given(dz, dx, parts, weight, None, 0.0, np.zeros(rstd.size), var, None, 1)


@jitable
def evaluated_backward(dy, x, dx, parts, affine, mean, rstd, dweight, dbias, activation):
    """Gradients where mean and rstd are constants: those of weight and bias are the same."""
    dz = batch_backward(dy, x, np.empty(dx.shape, dx.dtype), parts, affine, mean, rstd, dweight, dbias, activation)
    constant_backward(dz, dx, parts, affine[0], rstd)


@jitable
def groups_backward(dy, x, dx, parts, affine, mean, rstd, dweight, dbias, activation):
    """Gradients of `groups`."""
    samples, before, of_sample, span, behind = parts
    channels = of_sample * span
    if before == 1 or channels == 1:
        groups_backward_by_runs(
            dy, x, dx, (samples, 1, of_sample, span, before * behind), affine, mean, rstd, dweight, dbias, activation
        )
    else:
        view = integers.columns(before, channels * behind, span * behind, behind, channels, 0)
        _of_columns(dy, x, dx, samples, view, affine, mean, rstd, dweight, dbias, activation)


@jitable
def groups_backward_by_runs(dy, x, dx, parts, affine, mean, rstd, dweight, dbias, activation):
    """As `groups_by_runs`."""
    samples, _, of_sample, span, plane = parts
    channels = of_sample * span
    if plane == 1 and span > 1:
        shape = samples * of_sample, span, channels
        rows_backward(dy, x, dx, shape, affine, mean, rstd, dweight, dbias, activation)
    else:
        view = 1, samples * of_sample, span, plane, channels
        _runs_backward(dy, x, dx, view, affine, mean, rstd, dweight, dbias, activation)
