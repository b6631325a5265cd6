# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""Instance norm as Numba sees it in compiled code; see `fastbn._compiled.register`.

Each function takes types, refuses those that compiled code does not take, and returns the function to compile.
"""

import numpy as np

from fastbn._compiled import arguments as check
from fastbn._compiled import checks, steps, values


def instance_norm(
    x,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
    axis=1,
    activation=None,
    where=None,
    out=None,
):
    affine, running = {"weight": weight, "bias": bias}, {"running_mean": running_mean, "running_var": running_var}
    check.channels(x, affine | running, (momentum, eps, axis), {"where": where}, out)
    packed = check.activation(activation)
    if check.flag(use_input_stats, "use_input_stats"):
        check.leave_out(**running)
        step = steps.instances_by_runs if check.first_channels(axis) else steps.instances
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
        use_input_stats=True,
        momentum=0.1,
        eps=1e-5,
        axis=1,
        activation=None,
        where=None,
        out=None,
    ):
        x, running_mean, running_var = values.borrowed(x), values.borrowed(running_mean), values.borrowed(running_var)
        weight, bias = values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        channel = checks.channel_axis(axis, x.ndim, 1)
        affine, running = (weight, bias), (running_mean, running_var)
        y = checks.prepared_channels(x, channel, affine, running, eps, momentum, memory)
        step(x, y, channel, affine, running, momentum, eps, packed(activation))
        return values.result(out, y)

    return impl


def instance_norm_forward(x, weight=None, bias=None, eps=1e-5, axis=1, activation=None, where=None, out=None):
    check.channels(x, {"weight": weight, "bias": bias}, (1.0, eps, axis), {"where": where}, out)
    packed = check.activation(activation)
    step = steps.instances_by_runs if check.first_channels(axis) else steps.instances

    def impl(x, weight=None, bias=None, eps=1e-5, axis=1, activation=None, where=None, out=None):
        x, weight, bias = values.borrowed(x), values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        channel = checks.channel_axis(axis, x.ndim, 1)
        y = checks.prepared_channels(x, channel, (weight, bias), (None, None), eps, 0.0, memory)
        mean, rstd = step(x, y, channel, (weight, bias), (None, None), 0.0, eps, packed(activation))
        shape = x.shape[0], x.shape[channel]
        return values.result(out, y), mean.reshape(shape), rstd.reshape(shape)

    return impl


def instance_norm_backward(
    dy, x, mean, rstd, weight=None, axis=1, bias=None, activation=None, where=None, y=None, out=None
):
    check.backward(dy, x, (weight, bias), 1, {"where": where, "y": y}, out)
    check.channels(x, {}, (1.0, 1.0, axis), {}, None)
    check.statistic(mean, "mean", 2)
    check.statistic(rstd, "rstd", 2)
    packed, wide = check.activation(activation), np.empty(0)
    step = steps.groups_backward_by_runs if check.first_channels(axis) else steps.groups_backward

    def impl(dy, x, mean, rstd, weight=None, axis=1, bias=None, activation=None, where=None, y=None, out=None):
        dy, x, mean = values.borrowed(dy), values.borrowed(x), values.borrowed(mean)
        rstd, weight, bias = values.borrowed(rstd), values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        channel = checks.channel_axis(axis, x.ndim, 1)
        shape = (x.shape[channel],)
        dx = checks.prepared_backward(dy, x, shape, weight, bias, mean, rstd, memory)
        parts = steps.split_groups(x.shape, channel, shape[0])
        checks.check_saved(mean, (parts[0], parts[2]))
        checks.check_saved(rstd, (parts[0], parts[2]))
        dweight, dbias = np.zeros(shape[0], x.dtype), np.zeros(shape[0], x.dtype)
        if x.size > 0:
            arrays, given = values.three(dy, x, dx), packed(activation)
            saved = values.flat(mean, wide), values.flat(rstd, wide)
            step(arrays, parts, (weight, bias), saved, (dweight, dbias), given)
        return values.result(out, dx), values.in_dtype(dweight, weight), values.in_dtype(dbias, weight)

    return impl
