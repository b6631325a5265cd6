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
from fastbn.torch._known import is_plain
from fastbn.torch._plans import Array, Plan, vector

__all__ = ["Running", "normalized", "plain", "take_in"]

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
        running_mean, running_var, momentum = running
        if plan.kind == "batch" and _small.take(running_mean, running_var):
            _small.take_in(running_mean, running_var, saved, plan.per_group / (plan.per_group - 1), momentum)
        else:
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


def _update(plan: Plan, running: Running, mean: Array, var: Array) -> None:
    """As torch does it: in place, without a step of the version counter."""
    factor = plan.per_group / (plan.per_group - 1)
    if plan.kind == "instance":
        mean, var = (v.reshape(-1, plan.request.number).mean(0) for v in (mean, var))
    take_in(running, mean, var, factor)


def take_in(running: Running, mean: Array, var: Array, factor: float) -> None:
    """running <- (1 - momentum) running + momentum batch, in float64 and in place; var * factor: unbiased."""
    running_mean, running_var, momentum = running
    arrays = [None if t is None else _array_of(t) for t in (running_mean, running_var)]
    _running.update((arrays[0], arrays[1], None), mean, var, factor, momentum)
    for tensor, array in zip((running_mean, running_var), arrays, strict=True):
        if tensor is not None and array is not None and tensor.dtype not in _KNOWN:
            tensor.data.copy_(torch.from_numpy(array))


def _array_of(tensor: Tensor) -> Array:
    """A running statistic as an array, over its own memory where NumPy has its dtype; else in float64."""
    tensor = tensor.detach()
    values: Array = (tensor if tensor.dtype in _KNOWN else tensor.double()).numpy()
    return values


_KNOWN = (torch.float32, torch.float64)


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
        y, mean, var = plain(plan, x, weight, bias, residual, running, direct)
        frozen = (None, None) if plan.frozen is None or running is None else running[:2]
        kept = (bias, residual) if plan.activated else (None, None)
        ctx.save_for_backward(x, weight, *kept, *frozen)
        # Given statistics are the memory of buffers that training may change before backward comes.
        ctx.plan, ctx.statistics = plan, (mean, var) if plan.frozen is None else (mean.copy(), var.copy())
        # What a small call has saved lies in one array, of which the variances are a part.
        ctx.saved = var.base if direct and plan.small_back is not None else None
        ctx.dtypes = tuple(None if t is None else t.dtype for t in (weight, bias))
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, bias, residual, *_ = ctx.saved_tensors
        plan, (mean, var), wanted = ctx.plan, ctx.statistics, ctx.needs_input_grad[:4]
        if ctx.saved is not None and not torch.is_grad_enabled() and _fits_small(dy):
            dweight = torch.empty_like(weight) if wanted[1] else None
            dbias = torch.empty(plan.weight_shape, dtype=plan.compute) if wanted[2] else None
            dx = plan.small_back(dy, x, weight, ctx.saved, (dweight, dbias))
            return dx if wanted[0] else None, dweight, dbias, None, None, None, None
        rstd = plan.rstd(var)
        if torch.is_grad_enabled():
            return (*_again(ctx, dy, (x, weight, bias, residual), (mean, rstd)), None, None, None)
        if not plan.activated and not any(wanted[:3]):
            return None, None, None, dy, None, None, None
        dx, dweight, dbias, dz = plan.backward(dy, x, weight, bias, residual, (mean, rstd))
        return (
            dx if wanted[0] else None,
            _gradient(dweight, plan, ctx.dtypes[0]) if wanted[1] else None,
            _gradient(dbias, plan, ctx.dtypes[1]) if wanted[2] else None,
            dz if wanted[3] else None,
            None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(
            "a norm of fastbn.torch met a dual tensor, and it has no forward-mode derivative; use reverse mode "
            "(torch.autograd.grad), torch.func.jvp, or fastbn.torch.revert(model)"
        )


def _fits_small(dy: Tensor) -> bool:
    return type(dy) is Tensor and dy.layout is torch.strided and is_plain(dy)


def _again(ctx: Any, dy: Tensor, tensors: tuple[Any, ...], statistics: tuple[Array, Array]) -> list[Tensor | None]:
    """Gradients that are to be differentiated themselves."""
    plan, wanted = ctx.plan, list(ctx.needs_input_grad[:4])
    x, weight, bias, residual = tensors
    constants = None
    if plan.frozen is not None:
        constants = torch.from_numpy(np.array(statistics[0], np.float64)), torch.from_numpy(statistics[1])
    unkept: list[Tensor | None] = [None, None]  # without an activation, gradients do not depend on their values
    if not plan.activated:
        if wanted[2]:
            bias = unkept[0] = torch.zeros(plan.weight_shape, dtype=ctx.dtypes[1], requires_grad=True)
        if wanted[3]:
            residual = unkept[1] = torch.zeros_like(x, requires_grad=True)
    return _formulas.differentiable_gradients(plan.request, dy, (x, weight, bias, residual), tuple(wanted), constants)


def _gradient(values: Array, plan: Plan, dtype: torch.dtype | None) -> Tensor:
    """The gradient of a weight or bias in its own shape and dtype."""
    return torch.from_numpy(values).reshape(plan.weight_shape).to(dtype)


normalized = super(Function, _Norm).apply  # Function.apply, without its look for function transforms
