# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""Operation by operation, what Numba compiles for given types of arguments; see `fastbn._compiled.register`.

Each function takes types, refuses those that compiled code does not take, and returns the function to compile.
"""

import numpy as np
from numba import types

from fastbn._compiled import arguments as check
from fastbn._compiled import steps

_NAN = float("nan")


# Layer and RMS norm ---------------------------------------------------------------------------------------------------


def _check_rows(x, normalized_shape, affine, eps, where, out):
    """In how many ways rows are told: what returns their length, and the axes that statistics keep."""
    x = check.array(x, "x")
    trailing = check.trailing(normalized_shape, x)
    for name, value in affine.items():
        check.vector(value, name, trailing)
    check.number(eps, "eps")
    check.leave_out(where=where)
    check.target(out, x)
    return steps.last_length if isinstance(normalized_shape, types.Integer) else steps.last_lengths, x.ndim - trailing


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, activation=None, where=None, out=None):
    length, kept = _check_rows(x, normalized_shape, {"weight": weight, "bias": bias}, eps, where, out)
    packed, prepared = check.activation(activation), steps.prepared_rows

    def impl(x, normalized_shape, weight=None, bias=None, eps=1e-5, activation=None, where=None, out=None):
        x, weight, bias = steps.borrowed(x), steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        n = length(x, normalized_shape)
        y = prepared(x, x.shape[kept:], weight, bias, eps, memory)
        if x.size > 0:
            shape = steps.product(x.shape[:kept]), n, n
            steps.rows(x, y, shape, weight, bias, eps, None, None, 1, packed(activation))
        return steps.result(out, y)

    return impl


def layer_norm_forward(x, normalized_shape, weight=None, bias=None, eps=1e-5, activation=None, where=None, out=None):
    length, kept = _check_rows(x, normalized_shape, {"weight": weight, "bias": bias}, eps, where, out)
    packed, prepared = check.activation(activation), steps.prepared_rows

    def impl(x, normalized_shape, weight=None, bias=None, eps=1e-5, activation=None, where=None, out=None):
        x, weight, bias = steps.borrowed(x), steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        n = length(x, normalized_shape)
        y = prepared(x, x.shape[kept:], weight, bias, eps, memory)
        mean, rstd = steps.statistics_of(x.shape[:kept])
        if x.size > 0:
            shape = steps.product(x.shape[:kept]), n, n
            steps.rows(x, y, shape, weight, bias, eps, mean, rstd, 1, packed(activation))
        return steps.result(out, y), steps.shaped(mean, x.shape[:kept]), steps.shaped(rstd, x.shape[:kept])

    return impl


def rms_norm(x, normalized_shape, weight=None, eps=None, activation=None, where=None, out=None):
    epsilon = _rms_eps(eps, x)
    length, kept = _check_rows(x, normalized_shape, {"weight": weight}, 1.0, where, out)
    packed, prepared = check.activation(activation), steps.prepared_rows

    def impl(x, normalized_shape, weight=None, eps=None, activation=None, where=None, out=None):
        x, weight = steps.borrowed(x), steps.borrowed(weight)
        memory = steps.borrowed(out)
        n, e = length(x, normalized_shape), epsilon(eps)
        y = prepared(x, x.shape[kept:], weight, None, e, memory)
        if x.size > 0:
            shape = steps.product(x.shape[:kept]), n, n
            steps.rows(x, y, shape, weight, None, e, None, None, 0, packed(activation))
        return steps.result(out, y)

    return impl


def rms_norm_forward(x, normalized_shape, weight=None, eps=None, activation=None, where=None, out=None):
    epsilon = _rms_eps(eps, x)
    length, kept = _check_rows(x, normalized_shape, {"weight": weight}, 1.0, where, out)
    packed, prepared = check.activation(activation), steps.prepared_rows

    def impl(x, normalized_shape, weight=None, eps=None, activation=None, where=None, out=None):
        x, weight = steps.borrowed(x), steps.borrowed(weight)
        memory = steps.borrowed(out)
        n, e = length(x, normalized_shape), epsilon(eps)
        y = prepared(x, x.shape[kept:], weight, None, e, memory)
        rstd = steps.statistic_of(x.shape[:kept])
        if x.size > 0:
            shape = steps.product(x.shape[:kept]), n, n
            steps.rows(x, y, shape, weight, None, e, None, rstd, 0, packed(activation))
        return steps.result(out, y), steps.shaped(rstd, x.shape[:kept])

    return impl


def _rms_eps(eps, x):
    """What makes the number of an eps that may be None."""
    if check.absent(eps):
        dtype = np.float64 if check.array(x, "x").dtype == types.float64 else np.float32
        default = float(np.finfo(dtype).eps)

        @steps.jitable
        def epsilon(eps):
            return default

        return epsilon
    check.number(eps, "eps")
    return steps.same


def _check_backward(dy, x, weight, bias, ndim, left_out, out):
    x = check.array(x, "x")
    check.like(dy, "dy", x)
    check.vector(weight, "weight", ndim)
    check.vector(bias, "bias", ndim)
    check.leave_out(**left_out)
    check.target(out, x)


def _kept(x, rstd):
    """How many axes saved statistics have."""
    x = check.array(x, "x")
    if not isinstance(rstd, types.Array) or rstd.ndim >= x.ndim:
        raise check.refuse(f"rstd is {rstd}; expected an array with the leading axes of x")
    return rstd.ndim


def layer_norm_backward(dy, x, mean, rstd, weight=None, bias=None, activation=None, where=None, y=None, out=None):
    kept = _kept(x, rstd)
    _check_backward(dy, x, weight, bias, x.ndim - kept, {"where": where, "y": y}, out)
    check.statistic(mean, "mean", kept)
    check.statistic(rstd, "rstd", kept)
    packed, wide = check.activation(activation), np.empty(0)

    def impl(dy, x, mean, rstd, weight=None, bias=None, activation=None, where=None, y=None, out=None):
        dy, x, mean = steps.borrowed(dy), steps.borrowed(x), steps.borrowed(mean)
        rstd, weight, bias = steps.borrowed(rstd), steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        lead, tail = x.shape[:kept], x.shape[kept:]
        dx = steps.prepared_backward(dy, x, tail, weight, bias, mean, rstd, memory)
        steps.check_saved(mean, lead)
        steps.check_saved(rstd, lead)
        n = steps.product(tail)
        dweight, dbias = np.zeros(n, x.dtype), np.zeros(n, x.dtype)
        if x.size > 0:
            arrays, shape = steps.three(dy, x, dx), (x.size // n, n, n)
            saved = steps.flat(mean, wide), steps.flat(rstd, wide)
            steps.rows_backward(*arrays, shape, (weight, bias), *saved, dweight, dbias, packed(activation))
        dweight, dbias = steps.in_dtype(dweight, weight), steps.in_dtype(dbias, weight)
        return steps.result(out, dx), dweight.reshape(tail), dbias.reshape(tail)

    return impl


def rms_norm_backward(dy, x, rstd, weight=None, activation=None, where=None, y=None, out=None):
    kept = _kept(x, rstd)
    _check_backward(dy, x, weight, None, x.ndim - kept, {"where": where, "y": y}, out)
    check.statistic(rstd, "rstd", kept)
    packed, wide = check.activation(activation), np.empty(0)

    def impl(dy, x, rstd, weight=None, activation=None, where=None, y=None, out=None):
        dy, x, rstd = steps.borrowed(dy), steps.borrowed(x), steps.borrowed(rstd)
        weight = steps.borrowed(weight)
        memory = steps.borrowed(out)
        lead, tail = x.shape[:kept], x.shape[kept:]
        dx = steps.prepared_backward(dy, x, tail, weight, None, None, rstd, memory)
        steps.check_saved(rstd, lead)
        n = steps.product(tail)
        dweight, dbias = np.zeros(n, x.dtype), np.zeros(n, x.dtype)
        if x.size > 0:
            arrays, shape = steps.three(dy, x, dx), (x.size // n, n, n)
            r, given = steps.flat(rstd, wide), packed(activation)
            steps.rows_backward(*arrays, shape, (weight, None), None, r, dweight, dbias, given)
        return steps.result(out, dx), steps.in_dtype(dweight, weight).reshape(tail)

    return impl


# Batch norm -----------------------------------------------------------------------------------------------------------


def _check_channels(x, affine, running, settings, left_out, out):
    """settings: (momentum, eps, axis)."""
    x = check.array(x, "x")
    if x.ndim < 2:
        raise check.refuse("x has one axis; expected at least two, as in (N, C)")
    for name, value in (affine | running).items():
        check.vector(value, name, 1)
    for name, value in zip(("momentum", "eps"), settings, strict=False):
        check.number(value, name)
    check.integer(settings[2], "axis")
    check.leave_out(**left_out)
    check.target(out, x)


def _updated(running):
    for name, value in running.items():
        check.written(value, name)


def _flag(value, name):
    """The value of an argument, which is to be known now."""
    flag = check.known(value)
    if not isinstance(flag, bool | int):
        raise check.refuse(f"{name} is a variable; expected True or False in the source: write two calls and an if")
    return bool(flag)


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
    _check_channels(x, affine, running, (momentum, eps, axis), left_out, out)
    packed = check.activation(activation)
    if _flag(training, "training"):
        _updated(running)
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
        x, running_mean, running_var = steps.borrowed(x), steps.borrowed(running_mean), steps.borrowed(running_var)
        weight, bias = steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        channel = steps.channel_axis(axis, x.ndim, 0)
        y = steps.prepared_channels(x, channel, weight, bias, running_mean, running_var, eps, momentum, memory)
        step(x, y, channel, (weight, bias), (running_mean, running_var), momentum, eps, packed(activation))
        return steps.result(out, y)

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
    _check_channels(x, affine, running, (momentum, eps, axis), left_out, out)
    _updated(running)
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
        x, running_mean, running_var = steps.borrowed(x), steps.borrowed(running_mean), steps.borrowed(running_var)
        weight, bias = steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        channel = steps.channel_axis(axis, x.ndim, 0)
        y = steps.prepared_channels(x, channel, weight, bias, running_mean, running_var, eps, momentum, memory)
        running, given = (running_mean, running_var), packed(activation)
        mean, var = steps.train(x, y, channel, (weight, bias), running, momentum, eps, given)
        return steps.result(out, y), mean, steps.roots(var, eps)

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
    _check_backward(dy, x, weight, bias, 1, {"residual": residual, "where": where, "y": y}, out)
    _check_channels(x, {}, {}, (1.0, 1.0, axis), {}, None)
    check.statistic(mean, "mean", 1)
    check.statistic(rstd, "rstd", 1)
    packed, wide = check.activation(activation), np.empty(0)
    step = steps.batch_backward if _flag(training, "training") else steps.evaluated_backward

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
        dy, x, mean = steps.borrowed(dy), steps.borrowed(x), steps.borrowed(mean)
        rstd, weight, bias = steps.borrowed(rstd), steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        channel = steps.channel_axis(axis, x.ndim, 0)
        shape = (x.shape[channel],)
        dx = steps.prepared_backward(dy, x, shape, weight, bias, mean, rstd, memory)
        steps.check_saved(mean, shape)
        steps.check_saved(rstd, shape)
        dweight, dbias = np.zeros(shape[0], x.dtype), np.zeros(shape[0], x.dtype)
        if x.size > 0:
            arrays, parts = steps.three(dy, x, dx), steps.split(x.shape, channel)
            saved = steps.flat(mean, wide), steps.flat(rstd, wide)
            step(*arrays, parts, (weight, bias), *saved, dweight, dbias, packed(activation))
        return steps.result(out, dx), steps.in_dtype(dweight, weight), steps.in_dtype(dbias, weight)

    return impl


# Group norm -----------------------------------------------------------------------------------------------------------


def _first_channels(axis):
    """Whether nothing can lie between samples and channels."""
    return check.known(axis) == 1


def group_norm(
    x, num_groups, weight=None, bias=None, eps=1e-5, axis=1, activation=None, residual=None, where=None, out=None
):
    left_out = {"residual": residual, "where": where}
    _check_channels(x, {"weight": weight, "bias": bias}, {}, (1.0, eps, axis), left_out, out)
    check.integer(num_groups, "num_groups")
    packed = check.activation(activation)
    step = steps.groups_by_runs if _first_channels(axis) else steps.groups

    def impl(
        x, num_groups, weight=None, bias=None, eps=1e-5, axis=1, activation=None, residual=None, where=None, out=None
    ):
        x, weight, bias = steps.borrowed(x), steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        channel = steps.channel_axis(axis, x.ndim, 1)
        y = steps.prepared_channels(x, channel, weight, bias, None, None, eps, 0.0, memory)
        parts = steps.split_groups(x.shape, channel, num_groups)
        if x.size > 0:
            given = packed(activation)
            mean, rstd = steps.statistics_of((parts[0], parts[2]))
            step(*steps.two(x, y), parts, weight, bias, eps, mean, rstd, given)
        return steps.result(out, y)

    return impl


def group_norm_forward(
    x, num_groups, weight=None, bias=None, eps=1e-5, axis=1, activation=None, residual=None, where=None, out=None
):
    left_out = {"residual": residual, "where": where}
    _check_channels(x, {"weight": weight, "bias": bias}, {}, (1.0, eps, axis), left_out, out)
    check.integer(num_groups, "num_groups")
    packed = check.activation(activation)
    step = steps.groups_by_runs if _first_channels(axis) else steps.groups

    def impl(
        x, num_groups, weight=None, bias=None, eps=1e-5, axis=1, activation=None, residual=None, where=None, out=None
    ):
        x, weight, bias = steps.borrowed(x), steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        channel = steps.channel_axis(axis, x.ndim, 1)
        y = steps.prepared_channels(x, channel, weight, bias, None, None, eps, 0.0, memory)
        parts = steps.split_groups(x.shape, channel, num_groups)
        shape = parts[0], parts[2]
        mean, rstd = steps.statistics_of(shape)
        if x.size > 0:
            step(*steps.two(x, y), parts, weight, bias, eps, mean, rstd, packed(activation))
        return steps.result(out, y), mean.reshape(shape), rstd.reshape(shape)

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
    _check_backward(dy, x, weight, bias, 1, {"residual": residual, "where": where, "y": y}, out)
    _check_channels(x, {}, {}, (1.0, 1.0, axis), {}, None)
    check.statistic(mean, "mean", 2)
    check.statistic(rstd, "rstd", 2)
    packed, wide = check.activation(activation), np.empty(0)
    step = steps.groups_backward_by_runs if _first_channels(axis) else steps.groups_backward

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
        dy, x, mean = steps.borrowed(dy), steps.borrowed(x), steps.borrowed(mean)
        rstd, weight, bias = steps.borrowed(rstd), steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        channel = steps.channel_axis(axis, x.ndim, 1)
        shape = (x.shape[channel],)
        dx = steps.prepared_backward(dy, x, shape, weight, bias, mean, rstd, memory)
        parts = steps.split_groups(x.shape, channel, rstd.shape[1])
        steps.check_saved(mean, (parts[0], parts[2]))
        steps.check_saved(rstd, (parts[0], parts[2]))
        dweight, dbias = np.zeros(shape[0], x.dtype), np.zeros(shape[0], x.dtype)
        if x.size > 0:
            arrays, given = steps.three(dy, x, dx), packed(activation)
            saved = steps.flat(mean, wide), steps.flat(rstd, wide)
            step(*arrays, parts, (weight, bias), *saved, dweight, dbias, given)
        return steps.result(out, dx), steps.in_dtype(dweight, weight), steps.in_dtype(dbias, weight)

    return impl


# Instance norm --------------------------------------------------------------------------------------------------------


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
    _check_channels(x, affine, running, (momentum, eps, axis), {"where": where}, out)
    packed = check.activation(activation)
    if _flag(use_input_stats, "use_input_stats"):
        check.leave_out(**running)
        step = steps.instances_by_runs if _first_channels(axis) else steps.instances
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
        x, running_mean, running_var = steps.borrowed(x), steps.borrowed(running_mean), steps.borrowed(running_var)
        weight, bias = steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        channel = steps.channel_axis(axis, x.ndim, 1)
        y = steps.prepared_channels(x, channel, weight, bias, running_mean, running_var, eps, momentum, memory)
        step(x, y, channel, (weight, bias), (running_mean, running_var), momentum, eps, packed(activation))
        return steps.result(out, y)

    return impl


def instance_norm_forward(x, weight=None, bias=None, eps=1e-5, axis=1, activation=None, where=None, out=None):
    _check_channels(x, {"weight": weight, "bias": bias}, {}, (1.0, eps, axis), {"where": where}, out)
    packed = check.activation(activation)
    step = steps.instances_by_runs if _first_channels(axis) else steps.instances

    def impl(x, weight=None, bias=None, eps=1e-5, axis=1, activation=None, where=None, out=None):
        x, weight, bias = steps.borrowed(x), steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        channel = steps.channel_axis(axis, x.ndim, 1)
        y = steps.prepared_channels(x, channel, weight, bias, None, None, eps, 0.0, memory)
        mean, rstd = step(x, y, channel, (weight, bias), (None, None), 0.0, eps, packed(activation))
        shape = x.shape[0], x.shape[channel]
        return steps.result(out, y), mean.reshape(shape), rstd.reshape(shape)

    return impl


def instance_norm_backward(
    dy, x, mean, rstd, weight=None, axis=1, bias=None, activation=None, where=None, y=None, out=None
):
    _check_backward(dy, x, weight, bias, 1, {"where": where, "y": y}, out)
    _check_channels(x, {}, {}, (1.0, 1.0, axis), {}, None)
    check.statistic(mean, "mean", 2)
    check.statistic(rstd, "rstd", 2)
    packed, wide = check.activation(activation), np.empty(0)
    step = steps.groups_backward_by_runs if _first_channels(axis) else steps.groups_backward

    def impl(dy, x, mean, rstd, weight=None, axis=1, bias=None, activation=None, where=None, y=None, out=None):
        dy, x, mean = steps.borrowed(dy), steps.borrowed(x), steps.borrowed(mean)
        rstd, weight, bias = steps.borrowed(rstd), steps.borrowed(weight), steps.borrowed(bias)
        memory = steps.borrowed(out)
        channel = steps.channel_axis(axis, x.ndim, 1)
        shape = (x.shape[channel],)
        dx = steps.prepared_backward(dy, x, shape, weight, bias, mean, rstd, memory)
        parts = steps.split_groups(x.shape, channel, shape[0])
        steps.check_saved(mean, (parts[0], parts[2]))
        steps.check_saved(rstd, (parts[0], parts[2]))
        dweight, dbias = np.zeros(shape[0], x.dtype), np.zeros(shape[0], x.dtype)
        if x.size > 0:
            arrays, given = steps.three(dy, x, dx), packed(activation)
            saved = steps.flat(mean, wide), steps.flat(rstd, wide)
            step(*arrays, parts, (weight, bias), *saved, dweight, dbias, given)
        return steps.result(out, dx), steps.in_dtype(dweight, weight), steps.in_dtype(dbias, weight)

    return impl
