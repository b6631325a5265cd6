# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""Group norm as Numba sees it in compiled code; see `fastbn._compiled.register`.

Each function takes types, refuses those that compiled code does not take, and returns the function to compile.
"""

import numpy as np

from fastbn._compiled import arguments as check
from fastbn._compiled import checks, steps, values


def group_norm(
    x, num_groups, weight=None, bias=None, eps=1e-5, axis=1, activation=None, residual=None, where=None, out=None
):
    left_out = {"residual": residual, "where": where}
    check.channels(x, {"weight": weight, "bias": bias}, (1.0, eps, axis), left_out, out)
    check.integer(num_groups, "num_groups")
    packed = check.activation(activation)
    step = steps.groups_by_runs if check.first_channels(axis) else steps.groups

    def impl(
        x, num_groups, weight=None, bias=None, eps=1e-5, axis=1, activation=None, residual=None, where=None, out=None
    ):
        x, weight, bias = values.borrowed(x), values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        channel = checks.channel_axis(axis, x.ndim, 1)
        y = checks.prepared_channels(x, channel, (weight, bias), (None, None), eps, 0.0, memory)
        parts = steps.split_groups(x.shape, channel, num_groups)
        if x.size > 0:
            given = packed(activation)
            saved = values.statistics_of((parts[0], parts[2]))
            step(values.two(x, y), parts, (weight, bias), eps, saved, given)
        return values.result(out, y)

    return impl


def group_norm_forward(
    x, num_groups, weight=None, bias=None, eps=1e-5, axis=1, activation=None, residual=None, where=None, out=None
):
    left_out = {"residual": residual, "where": where}
    check.channels(x, {"weight": weight, "bias": bias}, (1.0, eps, axis), left_out, out)
    check.integer(num_groups, "num_groups")
    packed = check.activation(activation)
    step = steps.groups_by_runs if check.first_channels(axis) else steps.groups

    def impl(
        x, num_groups, weight=None, bias=None, eps=1e-5, axis=1, activation=None, residual=None, where=None, out=None
    ):
        x, weight, bias = values.borrowed(x), values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        channel = checks.channel_axis(axis, x.ndim, 1)
        y = checks.prepared_channels(x, channel, (weight, bias), (None, None), eps, 0.0, memory)
        parts = steps.split_groups(x.shape, channel, num_groups)
        shape = parts[0], parts[2]
        mean, rstd = values.statistics_of(shape)
        if x.size > 0:
            step(values.two(x, y), parts, (weight, bias), eps, (mean, rstd), packed(activation))
        return values.result(out, y), mean.reshape(shape), rstd.reshape(shape)

    return impl


def group_norm_backward(
    dy,
    x,
    mean,
    rstd,
    weight=None,
    axis=1,
    bias=None,
    activation=None,
    residual=None,
    where=None,
    y=None,
    out=None,
):
    check.backward(dy, x, (weight, bias), 1, {"residual": residual, "where": where, "y": y}, out)
    check.channels(x, {}, (1.0, 1.0, axis), {}, None)
    check.statistic(mean, "mean", 2)
    check.statistic(rstd, "rstd", 2)
    packed, wide = check.activation(activation), np.empty(0)
    step = steps.groups_backward_by_runs if check.first_channels(axis) else steps.groups_backward

    def impl(
        dy,
        x,
        mean,
        rstd,
        weight=None,
        axis=1,
        bias=None,
        activation=None,
        residual=None,
        where=None,
        y=None,
        out=None,
    ):
        dy, x, mean = values.borrowed(dy), values.borrowed(x), values.borrowed(mean)
        rstd, weight, bias = values.borrowed(rstd), values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        channel = checks.channel_axis(axis, x.ndim, 1)
        shape = (x.shape[channel],)
        dx = checks.prepared_backward(dy, x, shape, weight, bias, mean, rstd, memory)
        parts = steps.split_groups(x.shape, channel, steps.saved_groups(shape[0], rstd.shape[1]))
        checks.check_saved(mean, (parts[0], parts[2]))
        checks.check_saved(rstd, (parts[0], parts[2]))
        dweight, dbias = np.zeros(shape[0], x.dtype), np.zeros(shape[0], x.dtype)
        if x.size > 0:
            arrays, given = values.three(dy, x, dx), packed(activation)
            saved = values.flat(mean, wide), values.flat(rstd, wide)
            step(arrays, parts, (weight, bias), saved, (dweight, dbias), given)
        return values.result(out, dx), values.in_dtype(dweight, weight), values.in_dtype(dbias, weight)

    return impl
