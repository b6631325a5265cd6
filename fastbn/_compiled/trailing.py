# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""Layer and RMS norm as Numba sees it in compiled code; see `fastbn._compiled.register`.

Each function takes types, refuses those that compiled code does not take, and returns the function to compile.
"""

import numpy as np
from numba import types

from fastbn._compiled import arguments as check
from fastbn._compiled import checks, steps, values


def _check_rows(x, normalized_shape, affine, eps, where, out):
    """In how many ways rows are told: what returns their length, and the axes that statistics keep."""
    x = check.array(x, "x")
    trailing = check.trailing(normalized_shape, x)
    for name, value in affine.items():
        check.vector(value, name, trailing)
    check.number(eps, "eps")
    check.leave_out(where=where)
    check.target(out, x)
    return checks.last_length if isinstance(normalized_shape, types.Integer) else checks.last_lengths, x.ndim - trailing


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, activation=None, where=None, out=None):
    length, kept = _check_rows(x, normalized_shape, {"weight": weight, "bias": bias}, eps, where, out)
    packed, prepared = check.activation(activation), checks.prepared_rows

    def impl(x, normalized_shape, weight=None, bias=None, eps=1e-5, activation=None, where=None, out=None):
        x, weight, bias = values.borrowed(x), values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        n = length(x, normalized_shape)
        y = prepared(x, x.shape[kept:], weight, bias, eps, memory)
        if x.size > 0:
            shape = values.product(x.shape[:kept]), n, n
            steps.rows((x, y), shape, (weight, bias), eps, (None, None), 1, packed(activation))
        return values.result(out, y)

    return impl


def layer_norm_forward(x, normalized_shape, weight=None, bias=None, eps=1e-5, activation=None, where=None, out=None):
    length, kept = _check_rows(x, normalized_shape, {"weight": weight, "bias": bias}, eps, where, out)
    packed, prepared = check.activation(activation), checks.prepared_rows

    def impl(x, normalized_shape, weight=None, bias=None, eps=1e-5, activation=None, where=None, out=None):
        x, weight, bias = values.borrowed(x), values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        n = length(x, normalized_shape)
        y = prepared(x, x.shape[kept:], weight, bias, eps, memory)
        mean, rstd = values.statistics_of(x.shape[:kept])
        if x.size > 0:
            shape = values.product(x.shape[:kept]), n, n
            steps.rows((x, y), shape, (weight, bias), eps, (mean, rstd), 1, packed(activation))
        return values.result(out, y), values.shaped(mean, x.shape[:kept]), values.shaped(rstd, x.shape[:kept])

    return impl


def rms_norm(x, normalized_shape, weight=None, eps=None, activation=None, where=None, out=None):
    epsilon = _rms_eps(eps, x)
    length, kept = _check_rows(x, normalized_shape, {"weight": weight}, 1.0, where, out)
    packed, prepared = check.activation(activation), checks.prepared_rows

    def impl(x, normalized_shape, weight=None, eps=None, activation=None, where=None, out=None):
        x, weight = values.borrowed(x), values.borrowed(weight)
        memory = values.borrowed(out)
        n, e = length(x, normalized_shape), epsilon(eps)
        y = prepared(x, x.shape[kept:], weight, None, e, memory)
        if x.size > 0:
            shape = values.product(x.shape[:kept]), n, n
            steps.rows((x, y), shape, (weight, None), e, (None, None), 0, packed(activation))
        return values.result(out, y)

    return impl


def rms_norm_forward(x, normalized_shape, weight=None, eps=None, activation=None, where=None, out=None):
    epsilon = _rms_eps(eps, x)
    length, kept = _check_rows(x, normalized_shape, {"weight": weight}, 1.0, where, out)
    packed, prepared = check.activation(activation), checks.prepared_rows

    def impl(x, normalized_shape, weight=None, eps=None, activation=None, where=None, out=None):
        x, weight = values.borrowed(x), values.borrowed(weight)
        memory = values.borrowed(out)
        n, e = length(x, normalized_shape), epsilon(eps)
        y = prepared(x, x.shape[kept:], weight, None, e, memory)
        rstd = values.statistic_of(x.shape[:kept])
        if x.size > 0:
            shape = values.product(x.shape[:kept]), n, n
            steps.rows((x, y), shape, (weight, None), e, (None, rstd), 0, packed(activation))
        return values.result(out, y), values.shaped(rstd, x.shape[:kept])

    return impl


def _rms_eps(eps, x):
    """What makes the number of an eps that may be None."""
    if check.absent(eps):
        dtype = np.float64 if check.array(x, "x").dtype == types.float64 else np.float32
        default = float(np.finfo(dtype).eps)

        @values.jitable
        def epsilon(eps):
            return default

        return epsilon
    check.number(eps, "eps")
    return values.same


def _kept(x, rstd):
    """How many axes saved statistics have."""
    x = check.array(x, "x")
    if not isinstance(rstd, types.Array) or rstd.ndim >= x.ndim:
        raise check.refuse(f"rstd is {rstd}; expected an array with the leading axes of x")
    return rstd.ndim


def layer_norm_backward(dy, x, mean, rstd, weight=None, bias=None, activation=None, where=None, y=None, out=None):
    kept = _kept(x, rstd)
    check.backward(dy, x, (weight, bias), x.ndim - kept, {"where": where, "y": y}, out)
    check.statistic(mean, "mean", kept)
    check.statistic(rstd, "rstd", kept)
    packed, wide = check.activation(activation), np.empty(0)

    def impl(dy, x, mean, rstd, weight=None, bias=None, activation=None, where=None, y=None, out=None):
        dy, x, mean = values.borrowed(dy), values.borrowed(x), values.borrowed(mean)
        rstd, weight, bias = values.borrowed(rstd), values.borrowed(weight), values.borrowed(bias)
        memory = values.borrowed(out)
        lead, tail = x.shape[:kept], x.shape[kept:]
        dx = checks.prepared_backward(dy, x, tail, weight, bias, mean, rstd, memory)
        checks.check_saved(mean, lead)
        checks.check_saved(rstd, lead)
        n = values.product(tail)
        dweight, dbias = np.zeros(n, x.dtype), np.zeros(n, x.dtype)
        if x.size > 0:
            arrays, shape = values.three(dy, x, dx), (x.size // n, n, n)
            saved = values.flat(mean, wide), values.flat(rstd, wide)
            steps.rows_backward(arrays, shape, (weight, bias), saved, (dweight, dbias), packed(activation))
        dweight, dbias = values.in_dtype(dweight, weight), values.in_dtype(dbias, weight)
        return values.result(out, dx), dweight.reshape(tail), dbias.reshape(tail)

    return impl


def rms_norm_backward(dy, x, rstd, weight=None, activation=None, where=None, y=None, out=None):
    kept = _kept(x, rstd)
    check.backward(dy, x, (weight, None), x.ndim - kept, {"where": where, "y": y}, out)
    check.statistic(rstd, "rstd", kept)
    packed, wide = check.activation(activation), np.empty(0)

    def impl(dy, x, rstd, weight=None, activation=None, where=None, y=None, out=None):
        dy, x, rstd = values.borrowed(dy), values.borrowed(x), values.borrowed(rstd)
        weight = values.borrowed(weight)
        memory = values.borrowed(out)
        lead, tail = x.shape[:kept], x.shape[kept:]
        dx = checks.prepared_backward(dy, x, tail, weight, None, None, rstd, memory)
        checks.check_saved(rstd, lead)
        n = values.product(tail)
        dweight, dbias = np.zeros(n, x.dtype), np.zeros(n, x.dtype)
        if x.size > 0:
            arrays, shape = values.three(dy, x, dx), (x.size // n, n, n)
            r, given = values.flat(rstd, wide), packed(activation)
            steps.rows_backward(arrays, shape, (weight, None), (None, r), (dweight, dbias), given)
        return values.result(out, dx), values.in_dtype(dweight, weight).reshape(tail)

    return impl
