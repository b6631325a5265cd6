"""What the operations have in common: types, weights, training, and a backward that starts from y."""

from math import inf
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastbn import _running
from fastbn._quiet import cast, quietly
from fastbn.engine import arguments, plans, views
from fastbn.engine.by_runs import take_roots
from fastbn.kernels.activations import LeakyRelu

Array = NDArray[Any]
Statistics = NDArray[np.float64]
ActivationName = Literal["relu", "leaky_relu", "sigmoid", "silu", "gelu", "gelu_tanh"]
Activation = ActivationName | tuple[Literal["leaky_relu"], float] | None


def affine(weight: Any, bias: Any, shape: tuple[int, ...], x: Array) -> tuple[Array | None, Array | None]:
    """weight and bias in the type that x is computed in."""
    compute = arguments.COMPUTED_IN[x.dtype]
    return arguments.vector(weight, "weight", shape, compute), arguments.vector(bias, "bias", shape, compute)


def rstd_of(var: Array, eps: float) -> Array:
    """1/sqrt(var + eps)."""
    values = cast(np.array(var), np.float64)
    take_roots(values, eps)
    return values


def train(
    operation: plans.Operation,
    settings: Any,
    operands: Any,
    running: Any,
    others: Any,
    momentum: Any,
    wanted: bool = True,
) -> tuple[Array, Array, Array]:
    """y, mean and rstd (if wanted), which have gone into the running arrays; settings: eps is the last but one."""
    if type(momentum) is not float or not -inf < momentum < inf:
        momentum = arguments.real(momentum, "momentum")
    x, weight, bias = operands
    others = running[:2] if others is None else (*running[:2], *others)
    y, mean, var, (factor, blend) = plans.call(operation, settings, x, weight, bias, others)
    eps = float(settings[-2]) if wanted else -1.0
    if blend is not None:
        running_mean, running_var, counter = running
        count = _running.NO_COUNTER if counter is None else counter
        blend(mean, var, factor, momentum, eps, 1, running_mean, running_var, count)
    elif factor is not None:
        (_update_by_samples if mean.ndim == 2 else _running.update)(running, mean, var, factor, momentum, eps)
    return y, mean, var


@quietly
def _update_by_samples(
    running: _running.Running, mean: Array, var: Array, factor: Any, momentum: float, eps: float
) -> None:
    """Take the averages over the samples into running statistics; then put rstd in the place of var."""
    unbiased = var * factor
    _running.update(running, mean.mean(0), unbiased.mean(0), 1.0, momentum)
    if eps >= 0:
        take_roots(var, eps)


# The names of the operands of each kind of operation, in the order in which plans take them
FORWARD_OPERANDS = "x weight bias residual where out"
TRAINING_OPERANDS = "x weight bias running_mean running_var residual where out"
BACKWARD_OPERANDS = "dy x rstd mean weight bias residual where dsum out"


def from_y(operation: plans.Operation, settings: Any, dy: Any, y: Any, rstd: Any, others: tuple[Any, ...]) -> Any:
    """A backward that starts from y; the mean, first of the others, counts for nothing."""
    operands = operation.all(dy, y, rstd, others)
    checked, decided = operation.check(settings, (dy, y, rstd, rstd, *operands[4:]))
    plans.check_apart(operation, operands)
    dy, y, rstd, mean, weight, bias, residual, *rest = checked
    if residual is not None:
        raise ValueError("a residual is given; expected none where backward starts from y")
    view, spread = decided.view_of, [1] * y.ndim  # the shape in which weights broadcast to y
    if view is views.layer_view:
        along, spread = rstd.reshape(rstd.shape + (1,) * len(decided.shape)), list(decided.shape)
    else:
        channels = spread[decided.args[0]] = y.shape[decided.args[0]]
        each = np.repeat(rstd, channels // max(rstd.shape[-1], 1), axis=-1)
        along = each.reshape([len(each), *spread[1:]] if each.ndim == 2 else spread)
    w, b = (None if v is None else v.reshape(spread) for v in (weight, bias))
    x = _undone(y, decided.activation, along, w, b)
    mean = None if mean is None else np.zeros(rstd.shape)
    return plans.call(operation, settings, dy, x, rstd, (mean, weight, bias, residual, *rest))


@quietly
def _undone(y: Array, activation: Any, rstd: Array, weight: Array | None, bias: Array | None) -> Array:
    """x - mean, from y; the other arrays broadcast to it."""
    if activation is not None and (type(activation) is not LeakyRelu or activation.parameter <= 0):
        raise ValueError("the activation cannot be undone; expected None or 'leaky_relu' where backward starts from y")
    if weight is not None and not np.all(weight):
        raise ValueError("weight has zeros; expected none where backward starts from y")
    compute = arguments.COMPUTED_IN[y.dtype]
    scale = (rstd if weight is None else rstd * weight).astype(compute)
    z = y.astype(compute)
    if activation is not None:
        np.divide(z, compute.type(activation.parameter), out=z, where=z < 0)
    if bias is not None:
        z -= bias.astype(compute)
    z /= scale
    return z.astype(y.dtype, copy=False)
