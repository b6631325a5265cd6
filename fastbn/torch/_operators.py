"""Norms as torch.library operators, for what captures graphs: torch.compile, torch.export and make_fx.

In eager mode a custom operator costs several times what an autograd function does, so none is called there.  Nothing is
changed inside: new running statistics are returned, and copied by the graph around the operator.
"""

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastbn.torch import _autograd
from fastbn.torch._calls import eager, has_own_values, how
from fastbn.torch._known import PLAIN
from fastbn.torch._plans import COMPUTED_IN, Request, format_of_gradient, format_of_result, plan_of

__all__ = ["norm"]


def norm(
    request: Request,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: tuple[Tensor | None, Tensor | None, float] | None,
) -> Tensor:
    """A call as one operator, and the copies into the running statistics behind it."""
    if not torch.compiler.is_compiling() and any(type(t) not in PLAIN for t in (x, residual) if t is not None):
        x, residual = _ordinary(x), None if residual is None else _ordinary(residual)
        if how(x, residual) == "kernel":
            tracked = None if running is None or running[0] is running[1] is None else running
            return eager(request, x, weight, bias, residual, tracked)
    mean, var, momentum = (None, None, 0.0) if running is None else running
    name, slope = _split(request.activation)
    numbers = request.kind, request.number, request.eps, name, slope, request.frozen is not None, momentum
    y, _, _, new_mean, new_var = torch.ops.fastbn.norm(x, weight, bias, residual, mean, var, *numbers)
    if request.frozen is None:
        for old, new in ((mean, new_mean), (var, new_var)):
            if old is not None:
                old.copy_(new)
    return y


def _ordinary(t: Tensor) -> Tensor:
    """The values of a subclass as an ordinary tensor, which torch's own operators return, too."""
    return Tensor.as_subclass(t, Tensor) if type(t) not in PLAIN and has_own_values(t) else t


def _split(activation: Any) -> tuple[str, float]:
    """An activation as a name, "" for none, and a slope."""
    if isinstance(activation, tuple):
        return activation[0], float(activation[1]) if len(activation) > 1 else 0.01
    return activation or "", 0.01


def _request(
    x: Tensor,
    given: tuple[Tensor | None, Tensor | None, Tensor | None],
    numbers: tuple[str, int, float, str, float],
    frozen: torch.dtype | None,
) -> Request:
    kind, number, eps, name, slope = numbers
    activation: Any = (name, slope) if name == "leaky_relu" else name or None
    weight, bias, residual = (t is not None for t in given)
    return Request(kind, number, eps, activation, weight, bias, residual, frozen)  # type: ignore[arg-type]


@torch.library.custom_op("fastbn::norm", mutates_args=())
def _norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    kind: str,
    number: int,
    eps: float,
    activation: str,
    slope: float,
    frozen: bool,
    momentum: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    given, numbers = (weight, bias, residual), (kind, number, eps, activation, slope)
    dtype = running_mean.dtype if frozen and running_mean is not None else None
    plan = plan_of(_request(x, given, numbers, dtype), x)
    new = [x.new_empty(0) if v is None else v.clone() for v in (running_mean, running_var)]
    running = None if running_mean is None and running_var is None else _given(running_mean, running_var, new, momentum)
    y, mean, var = _autograd.plain(plan, x, weight, bias, residual, running)
    if frozen:
        mean, new = np.array(mean, np.float64), [x.new_empty(0), x.new_empty(0)]
    return y, torch.from_numpy(mean), torch.from_numpy(plan.rstd(var)), new[0], new[1]


def _given(mean: Tensor | None, var: Tensor | None, new: list[Tensor], momentum: float) -> _autograd.Running:
    """The copies of the running statistics that may be changed."""
    return (None if mean is None else new[0], None if var is None else new[1], momentum)


def _groups(x: Tensor, kind: str, number: int) -> Any:
    """How many groups have statistics of their own."""
    if kind == "batch":
        return x.shape[1]
    return x.shape[0] * number if kind in ("group", "instance") else prod(x.shape[: x.ndim - number])


def _empty_like(x: Tensor, kind: str) -> Tensor:
    """As torch returns results."""
    return torch.empty_like(x, memory_format=format_of_result(kind, x))


@_norm.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    kind: str,
    number: int,
    eps: float,
    activation: str,
    slope: float,
    frozen: bool,
    momentum: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    groups = _groups(x, kind, number)
    mean = x.new_empty(0 if kind == "rms" else groups, dtype=torch.float64)
    new = [x.new_empty(0) if v is None or frozen else torch.empty_like(v) for v in (running_mean, running_var)]
    return _empty_like(x, kind), mean, x.new_empty(groups, dtype=torch.float64), new[0], new[1]


@torch.library.custom_op("fastbn::norm_backward", mutates_args=())
def _norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    kind: str,
    number: int,
    eps: float,
    activation: str,
    slope: float,
    frozen: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    numbers = kind, number, eps, activation, slope
    plan = plan_of(_request(x, (weight, bias, residual), numbers, torch.float64 if frozen else None), x)
    dx, dweight, dbias, dz = plan.backward(dy, x, weight, bias, residual, (mean.numpy(), rstd.numpy()))
    dresidual = dz if residual is not None and plan.activated else x.new_empty(0)
    shaped = (torch.from_numpy(g.copy()).reshape(plan.weight_shape) for g in (dweight, dbias))
    return dx, *shaped, dresidual  # type: ignore[return-value]


@_norm_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    kind: str,
    number: int,
    eps: float,
    activation: str,
    slope: float,
    frozen: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    by_channel = kind in ("batch", "group", "instance")
    shape = x.shape[1:2] if by_channel else x.shape[x.ndim - number :]
    dx = torch.empty_like(x, memory_format=format_of_gradient(kind, x))
    dweight = x.new_empty(shape, dtype=COMPUTED_IN[x.dtype])
    dresidual = torch.empty_like(dx) if residual is not None and activation else x.new_empty(0)
    return dx, dweight, torch.empty_like(dweight), dresidual


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, residual, *_, kind, number, eps, activation, slope, frozen, _ = inputs
    _, mean, rstd, *_ = output
    ctx.mark_non_differentiable(*output[1:])
    ctx.numbers = kind, number, eps, activation, slope, frozen
    ctx.dtypes = [None if t is None else t.dtype for t in (weight, bias)]
    ctx.has_residual = residual is not None
    kept = (bias, residual) if activation else (None, None)
    ctx.save_for_backward(x, weight, *kept, mean, rstd)


def _backward(ctx: Any, dy: Tensor, *unused: Any) -> tuple[Any, ...]:
    x, weight, bias, residual, mean, rstd = ctx.saved_tensors
    dx, dweight, dbias, dresidual = torch.ops.fastbn.norm_backward(
        dy, x, weight, bias, residual, mean, rstd, *ctx.numbers
    )
    of_weight, of_bias = (
        None if dtype is None else g.to(dtype) for g, dtype in zip((dweight, dbias), ctx.dtypes, strict=True)
    )
    of_residual = (dy if residual is None else dresidual) if ctx.has_residual else None
    return (dx, of_weight, of_bias, of_residual, *(None,) * 9)


torch.library.register_autograd("fastbn::norm", _backward, setup_context=_setup)
