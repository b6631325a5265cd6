"""What the operations have in common: types, weights, training, and a backward that starts from y."""

from collections.abc import Callable
from functools import partial
from math import inf, prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn import _running
from fastbn._quiet import cast, quietly
from fastbn.engine import arguments, backward, forward, plans, views
from fastbn.engine.by_runs import take_roots
from fastbn.engine.groups import Groups
from fastbn.kernels.activations import LeakyRelu

Array = NDArray[Any]
Statistics = NDArray[np.float64]
ActivationName = Literal["relu", "leaky_relu", "sigmoid", "silu", "gelu", "gelu_tanh"]
Activation = ActivationName | tuple[Literal["leaky_relu"], float] | None


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
    """y, mean and rstd (if wanted), which have gone into the running arrays; settings: as `forward_of` has them."""
    if type(momentum) is not float or not -inf < momentum < inf:
        momentum = arguments.real(momentum, "momentum")
    x, weight, bias = operands
    y, mean, var, (factor, blend) = plans.call(operation, settings, x, weight, bias, (*running[:2], *others))
    eps = float(settings[1]) if wanted else -1.0
    if blend is not None:
        running_mean, running_var, counter = running
        count = _running.NO_COUNTER if counter is None else counter
        blend(mean, var, factor, momentum, eps, 1, running_mean, running_var, count)
    elif factor is not None:
        (_update_by_samples if mean.ndim == 2 else _running.update)(running, mean, var, factor, momentum, eps)
    return y, mean, var


def norm_with_running(
    operations: tuple[plans.Operation, plans.Operation],
    x: Any,
    affine: tuple[Any, Any],
    running: _running.Running,
    momentum: Any,
    axis: Any,
    settings: tuple[Any, Any],
    others: tuple[Any, Any, Any],
) -> tuple[Array, Array, Array]:
    """y, mean and rstd of x by its own statistics, which go into the running ones, if there are any.

    operations: without and with running arrays.  affine: weight and bias.  running: with the counter of batches, all
    updated as one.  settings: eps and activation.  others: residual, where and out.
    """
    if type(axis) is not int:
        axis = arguments.integer(axis, "axis")
    alone, updating = operations
    if running[0] is running[1] is None:
        return plans.call(alone, (axis, *settings, momentum), x, *affine, others)
    return train(updating, (axis, *settings), (x, *affine), running, others, momentum)


@quietly
def _update_by_samples(
    running: _running.Running, mean: Array, var: Array, factor: Any, momentum: float, eps: float
) -> None:
    """Take the averages over the samples into running statistics; then put rstd in the place of var."""
    unbiased = var * factor
    _running.update(running, mean.mean(0), unbiased.mean(0), 1.0, momentum)
    if eps >= 0:
        take_roots(var, eps)


# Operations -----------------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """What tells one normalization from another."""

    groups: Callable[..., Groups]  # one of engine.groups
    told: int = 1  # how many settings it takes, which come first
    centered: bool = True
    zero: bool = True  # whether eps may be
    single: str = ""  # what there must be more than one of for each group, unless there is nothing,
    accept: Callable[[Array], None] | None = None  # and what raises where a mask leaves too few of them


def forward_of(kind: Kind, returns: int, statistics: str = "") -> plans.Operation:
    """The operation of settings (what kind.groups takes, eps, activation and, where there is one, momentum).

    statistics: the names of those that are given, or that are to be updated.
    """
    names = f"x weight bias {statistics} residual where out"
    written = "out" if returns == forward.GIVEN else f"{statistics} out"
    return plans.Operation(names, partial(_check_forward, kind, returns), forward.plan, written=written)


def _check_forward(
    kind: Kind, returns: int, settings: tuple[Any, ...], operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], forward.Normalization]:
    told, (eps, activation, *momentum) = settings[: kind.told], settings[kind.told :]
    x, weight, bias, *statistics, residual, where, out = operands
    x = arguments.array(x, "x")
    groups, compute = kind.groups(x, None, *told), arguments.COMPUTED_IN[x.dtype]
    shape, why = groups.weights, groups.told(x)
    w, b = arguments.vector(weight, "weight", shape, compute, why), arguments.vector(bias, "bias", shape, compute, why)
    if eps is None and not kind.centered:
        eps = float(np.finfo(compute).eps)  # as torch's RMS norm
    eps = arguments.eps(eps, kind.zero)
    for number in momentum:
        arguments.real(number, "momentum")
    if returns == forward.GIVEN:
        mean, var = statistics
        statistics = [arguments.statistic(mean, "running_mean", shape), arguments.statistic(var, "running_var", shape)]
    elif statistics:
        arguments.running(*statistics, shape)
    elif returns == forward.SUM and residual is None:
        arguments.array(residual, "residual")
    activation, mask, added = arguments.extras(x, activation, where, residual)
    arguments.out_like(out, x)
    if kind.single and x.size == prod(groups.statistics) > 0:
        raise ValueError(f"Expected more than 1 {kind.single} when training, got input size {x.shape}")
    decided = forward.Normalization(groups, eps, returns, kind.centered, activation, kind.accept)
    return (x, w, b, *statistics, added, mask, out), decided


def backward_of(kind: Kind, name: str = "x") -> plans.Operation:
    """The operation of settings (what kind.groups takes, activation and, where there is one, training).

    name: what the caller calls x.
    """
    names = f"dy {name} rstd mean weight bias residual where dsum out"
    return plans.Operation(names, partial(_check_backward, kind, name), backward.plan, same=2)


def _check_backward(
    kind: Kind, name: str, settings: tuple[Any, ...], operands: tuple[Any, ...]
) -> tuple[tuple[Any, ...], backward.Gradients]:
    told, (activation, *training) = settings[: kind.told], settings[kind.told :]
    dy, x, rstd, mean, weight, bias, residual, where, dsum, out = operands
    dy, x = arguments.gradient(dy, x, name)
    groups = kind.groups(x, rstd, *told)
    r = arguments.float64_statistic(rstd, "rstd", groups.statistics)
    shape, why = groups.weights, groups.told(x, name)
    w, b = arguments.vector(weight, "weight", shape, None, why), arguments.vector(bias, "bias", shape, None, why)
    activation, mask, added = arguments.extras(x, activation, where, residual)
    dsum = None if dsum is None else arguments.like(dsum, "dsum", x, name)
    arguments.out_like(out, x)
    m = arguments.float64_statistic(mean, "mean", groups.statistics) if kind.centered else None
    decided = backward.Gradients(groups, kind.centered, all(training), activation)
    return (dy, x, r, m, w, b, added, mask, dsum, out), decided


def from_y(operation: plans.Operation, settings: Any, dy: Any, y: Any, rstd: Any, others: tuple[Any, ...]) -> Any:
    """A backward that starts from y; the mean, first of the others, counts for nothing."""
    dy, y = arguments.gradient(dy, y, "y")
    operands = dy, y, rstd, *others
    checked, decided = operation.check(settings, (dy, y, rstd, rstd, *others[1:]))
    plans.check_apart(operation, operands)
    dy, y, rstd, mean, weight, bias, residual, *rest = checked
    if residual is not None:
        raise ValueError("a residual is given; expected none where backward starts from y")
    groups, spread = decided.groups, [1] * y.ndim  # the shape in which weights broadcast to y
    if groups.view_of is views.layer_view:
        along, spread = rstd.reshape(rstd.shape + (1,) * len(groups.weights)), list(groups.weights)
    else:
        channels = spread[groups.args[0]] = y.shape[groups.args[0]]
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
