# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""Batch norm as Numba sees it in compiled code; see `fastbn._compiled.register`.

Each function takes types, refuses those that compiled code does not take, and returns the function to compile.
"""

import numpy as np

from fastbn._compiled import arguments as check
from fastbn._compiled import checks, steps, values


def batch_norm(
    x,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    axis=1,
    activation=None,
    residual=None,
    where=None,
    out=None,
):
    affine, running = {"weight": weight, "bias": bias}, {"running_mean": running_mean, "running_var": running_var}
    left_out = {"residual": residual, "where": where}
    check.channels(x, affine | running, (momentum, eps, axis), left_out, out)
    packed = check.activation(activation)
    if check.flag(training, "training"):
        for name, value in running.items():
            check.written(value, name)
        step = steps.train
    else:
        for name, value in running.items():
            check.statistic(value, name, 1)
        step = steps.evaluate

    def impl(
        x,
        running_mean=None,
        running_var=None,
        weight=None,
        bias=None,
        training=False,
        momentum=0.1,
        eps=1e-5,
        axis=1,
        activation=None,
        residual=None,
        where=None,
        out=None,
    ):
        x, running_mean, running_var = values.borrowed(x), values.borrowed(running_mean), values.borrowed(running_var)
        weight, bias = values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        channel = checks.channel_axis(axis, x.ndim, 0)
        affine, running = (weight, bias), (running_mean, running_var)
        y = checks.prepared_channels(x, channel, affine, running, eps, momentum, memory)
        step(x, y, channel, affine, running, momentum, eps, packed(activation))
        return values.result(out, y)

    return impl


def batch_norm_forward(
    x,
    weight=None,
    bias=None,
    running_mean=None,
    running_var=None,
    momentum=0.1,
    eps=1e-5,
    axis=1,
    activation=None,
    residual=None,
    where=None,
    out=None,
):
    affine, running = {"weight": weight, "bias": bias}, {"running_mean": running_mean, "running_var": running_var}
    left_out = {"residual": residual, "where": where}
    check.channels(x, affine | running, (momentum, eps, axis), left_out, out)
    for name, value in running.items():
        check.written(value, name)
    packed = check.activation(activation)

    def impl(
        x,
        weight=None,
        bias=None,
        running_mean=None,
        running_var=None,
        momentum=0.1,
        eps=1e-5,
        axis=1,
        activation=None,
        residual=None,
        where=None,
        out=None,
    ):
        x, running_mean, running_var = values.borrowed(x), values.borrowed(running_mean), values.borrowed(running_var)
        weight, bias = values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        channel = checks.channel_axis(axis, x.ndim, 0)
        affine, running = (weight, bias), (running_mean, running_var)
        y = checks.prepared_channels(x, channel, affine, running, eps, momentum, memory)
        mean, var = steps.train(x, y, channel, affine, running, momentum, eps, packed(activation))
        return values.result(out, y), mean, steps.roots(var, eps)

    return impl


def batch_norm_backward(
    dy,
    x,
    mean,
    rstd,
    weight=None,
    axis=1,
    training=True,
    bias=None,
    activation=None,
    residual=None,
    where=None,
    y=None,
    out=None,
):
    check.backward(dy, x, (weight, bias), 1, {"residual": residual, "where": where, "y": y}, out)
    check.channels(x, {}, (1.0, 1.0, axis), {}, None)
    check.statistic(mean, "mean", 1)
    check.statistic(rstd, "rstd", 1)
    packed, wide = check.activation(activation), np.empty(0)
    step = steps.batch_backward if check.flag(training, "training") else steps.evaluated_backward

    def impl(
        dy,
        x,
        mean,
        rstd,
        weight=None,
        axis=1,
        training=True,
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
        channel = checks.channel_axis(axis, x.ndim, 0)
        shape = (x.shape[channel],)
        dx = checks.prepared_backward(dy, x, shape, weight, bias, mean, rstd, memory)
        checks.check_saved(mean, shape)
        checks.check_saved(rstd, shape)
        dweight, dbias = np.zeros(shape[0], x.dtype), np.zeros(shape[0], x.dtype)
        if x.size > 0:
            arrays, parts = values.three(dy, x, dx), steps.split(x.shape, channel)
            saved = values.flat(mean, wide), values.flat(rstd, wide)
            step(arrays, parts, (weight, bias), saved, (dweight, dbias), packed(activation))
        return values.result(out, dx), values.in_dtype(dweight, weight), values.in_dtype(dbias, weight)

    return impl
