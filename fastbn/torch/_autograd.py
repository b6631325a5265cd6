"""Norms as nodes of torch's graph: what is kept for backward, and backward itself.

Kept are x, the weight and, where there is an activation, the bias and the residual: backward computes the activation
again.  All of them go through save_for_backward, so that torch finds what was changed in place in between.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from fastbn import _running
from fastbn.torch import _formulas, _small
from fastbn.torch._addresses import over
from fastbn.torch._known import is_plain
from fastbn.torch._plans import Array, Plan, vector

__all__ = ["Running", "normalized", "plain", "small_normalized", "take_in"]

Running = tuple[Tensor | None, Tensor | None, float]  # running mean, running variance, momentum


def plain(
    plan: Plan,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running | None,
    direct: bool = False,
) -> tuple[Tensor, Array, Array]:
    """y, mean and variance, of which the running statistics have taken in their share.

    direct: whether weight and bias are what `plan.small` takes, if there is one.
    """
    if direct and plan.small is not None:
        return _small_one(plan, x, weight, bias, running)
    given = None
    if plan.frozen is not None:
        assert running is not None
        given = _given(plan, running)
    y, mean, var = plan.forward(x, weight, bias, residual, given)
    if running is not None and given is None:
        _update(plan, running, mean, var)
    return y, mean, var


def _small_one(
    plan: Plan, x: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running | None
) -> tuple[Tensor, Array, Array]:
    """`plain` by `plan.small`."""
    assert plan.small is not None
    groups = plan.view.groups
    saved = np.empty(2 * groups)
    y = plan.small(x, weight, bias, saved)
    mean, var = saved[:groups] if plan.centered else saved[:0], saved[groups:]
    if running is not None:
        _update(plan, running, mean, var)
    return y, mean, var


def _given(plan: Plan, running: Running) -> tuple[Array, Array]:
    """The running statistics as the kernels take them: float32 as they are, others in float64."""
    mean, var, _ = running
    dtype = torch.float32 if plan.frozen is torch.float32 else torch.float64
    m, v = vector(mean, dtype), vector(var, dtype)
    assert m is not None
    assert v is not None
    return m, v


def _update(plan: Plan, running: Running, mean: Array, var: Array, eps: float = -1.0) -> bool:
    """As torch does it: in place, without a step of the version counter.

    Returns whether 1 / sqrt(var + eps) was put in the place of var, too, as is asked by an eps that is not negative.
    """
    running_mean, running_var, momentum = running
    if plan.kind == "batch" and plan.compiled and _small.take(running_mean, running_var):
        saved: Any = var.base
        _small.take_in(running_mean, running_var, saved, plan.unbiased, momentum, eps)
        return eps >= 0
    if plan.kind == "instance":
        mean, var = (v.reshape(-1, plan.request.number).mean(0) for v in (mean, var))
    take_in(running, mean, var, plan.unbiased)
    return False


def take_in(running: Running, mean: Array, var: Array, factor: float) -> None:
    """running <- (1 - momentum) running + momentum batch, in float64 and in place; var * factor: unbiased."""
    running_mean, running_var, momentum = running
    tensors = [None if t is None else t.detach() for t in (running_mean, running_var)]
    arrays = [None if t is None else _array_of(t) for t in tensors]
    _running.update((arrays[0], arrays[1], None), mean, var, factor, momentum)
    for tensor, array in zip(tensors, arrays, strict=True):
        if tensor is not None and array is not None and not _is_taken(tensor):
            tensor.data.copy_(torch.from_numpy(array))


def _array_of(tensor: Tensor) -> Array:
    """A running statistic as an array, over its own memory where it can be; else of a copy in float64."""
    if _is_taken(tensor):
        return over(tensor, _KNOWN[tensor.dtype])
    values: Array = tensor.double().resolve_neg().contiguous().numpy()
    return values


def _is_taken(tensor: Tensor) -> bool:
    return tensor.dtype in _KNOWN and is_plain(tensor)


_KNOWN: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def _refuse(ctx: Any, *tangents: Any) -> Any:
    raise NotImplementedError(
        "a norm of fastbn.torch met a dual tensor, and it has no forward-mode derivative; use reverse mode "
        "(torch.autograd.grad), torch.func.jvp, or fastbn.torch.revert(model)"
    )


class _Norm(Function):
    """A norm with its residual and activation."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        plan: Plan,
        running: Running | None,
        direct: bool,
    ) -> Tensor:
        kept = (bias, residual) if plan.activated else (None, None)
        if plan.frozen is None:
            if direct and plan.small is not None:
                y, mean, var = _small_one(plan, x, weight, bias, None)
            else:
                y, mean, var = plan.forward(x, weight, bias, residual)
            if running is None or not _update(plan, running, mean, var, plan.eps):
                _small.take_roots(var, plan.eps)
            ctx.save_for_backward(x, weight, *kept)
        else:
            y, mean, var = plain(plan, x, weight, bias, residual, running, direct)
            mean, var = mean.copy(), plan.rstd(var)  # training may change the buffers before backward comes
            ctx.save_for_backward(x, weight, *kept, *([] if running is None else running[:2]))
        ctx.plan, ctx.statistics = plan, (mean, var)
        ctx.dtypes = None if weight is None else weight.dtype, None if bias is None else bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, bias, residual, *_ = ctx.saved_tensors
        find = _again if torch.is_grad_enabled() else _gradients
        tensors, wanted = (x, weight, bias, residual), ctx.needs_input_grad[:4]
        return (*find(ctx.plan, dy, tensors, ctx.statistics, wanted, ctx.dtypes), None, None, None)

    jvp = staticmethod(_refuse)


class _SmallNorm(Function):
    """A norm of small tensors, without a residual or an activation: each argument less is a microsecond."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, plan: Plan, running: Running | None
    ) -> Tensor:
        y, _, var = _small_one(plan, x, weight, bias, running)
        ctx.save_for_backward(x, weight)
        ctx.kept = plan, var.base
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        plan, saved = ctx.kept
        wanted = ctx.needs_input_grad
        if not torch.is_grad_enabled() and type(dy) is Tensor and dy.layout is torch.strided and is_plain(dy):
            dweight = _empty_like(weight) if wanted[1] else None
            dbias = _new_bias(plan, weight) if wanted[2] else None
            dx = plan.small_back(dy, x, weight, saved, (dweight, dbias))
            return dx if wanted[0] else None, dweight, dbias, None, None
        groups = plan.view.groups
        statistics = saved[:groups] if plan.centered else saved[:0], plan.rstd(saved[groups:])
        find = _again if torch.is_grad_enabled() else _gradients
        dtypes = plan.compute, plan.compute
        found = find(plan, dy, (x, weight, None, None), statistics, (*wanted[:3], False), dtypes)
        return (*found[:3], None, None)

    jvp = staticmethod(_refuse)


_empty_like = torch.empty_like


def _new_bias(plan: Plan, weight: Tensor | None) -> Tensor:
    """Memory for the gradient of a bias."""
    return torch.empty(plan.weight_shape, dtype=plan.compute) if weight is None else _empty_like(weight)


Dtypes = tuple[torch.dtype | None, torch.dtype | None]  # of weight and bias


def _gradients(
    plan: Plan,
    dy: Tensor,
    tensors: tuple[Any, ...],
    statistics: tuple[Array, Array],
    wanted: tuple[bool, ...],
    dtypes: Dtypes,
) -> Any:
    """Those of x, weight, bias and residual that are wanted; tensors: these, as far as they were kept.

    statistics: mean and 1 / sqrt(var + eps).
    """
    if not plan.activated and not any(wanted[:3]):
        return None, None, None, dy
    x, weight, bias, residual = tensors
    dx, dweight, dbias, dz = plan.backward(dy, x, weight, bias, residual, statistics)
    return (
        dx if wanted[0] else None,
        _gradient(dweight, plan, dtypes[0]) if wanted[1] else None,
        _gradient(dbias, plan, dtypes[1]) if wanted[2] else None,
        dz if wanted[3] else None,
    )


def _again(
    plan: Plan,
    dy: Tensor,
    tensors: tuple[Any, ...],
    statistics: tuple[Array, Array],
    wanted: tuple[bool, ...],
    dtypes: Dtypes,
) -> list[Tensor | None]:
    """As `_gradients`, but those are to be differentiated themselves."""
    x, weight, bias, residual = tensors
    constants = None
    if plan.frozen is not None:
        constants = torch.from_numpy(np.array(statistics[0], np.float64)), torch.from_numpy(statistics[1])
    unkept: list[Tensor | None] = [None, None]  # without an activation, gradients do not depend on their values
    if not plan.activated:
        if wanted[2]:
            bias = unkept[0] = torch.zeros(plan.weight_shape, dtype=dtypes[1], requires_grad=True)
        if wanted[3]:
            residual = unkept[1] = torch.zeros_like(x, requires_grad=True)
    return _formulas.differentiable_gradients(plan.request, dy, (x, weight, bias, residual), wanted, constants)


def _gradient(values: Array, plan: Plan, dtype: torch.dtype | None) -> Tensor:
    """The gradient of a weight or bias in its own shape and dtype."""
    gradient = torch.from_numpy(values)
    if len(plan.weight_shape) != 1:
        gradient = gradient.reshape(plan.weight_shape)
    return gradient if dtype is plan.compute else gradient.to(dtype)


# Function.apply, without its look for function transforms
normalized = super(Function, _Norm).apply
small_normalized = super(Function, _SmallNorm).apply
