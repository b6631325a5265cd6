"""What torch's own operations make of a norm, its residual and its activation.

For tensors that no kernel takes (other devices, function transforms), and for what is differentiated more than once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastbn.torch._plans import COMPUTED_IN, Request

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
}


def completed(y: Tensor, activation: Any, residual: Tensor | None) -> Tensor:
    """The residual sum and the activation behind a norm."""
    if residual is not None:
        y = y + residual
    if activation is None:
        return y
    name, *parameters = activation if isinstance(activation, tuple) else (activation,)
    return _ACTIVATIONS[name](y, *parameters)


def formula(
    request: Request,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    statistics: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """The norm in differentiable operations, in the dtype of its arguments; statistics: mean and rstd, if constant."""
    kind, number, eps = request[:3]
    groups = x
    if kind in ("group", "instance"):
        groups = x.reshape(x.shape[0], number, -1)
    if kind in ("layer", "rms"):
        axes = list(range(x.ndim - number, x.ndim))
    else:
        axes = [2] if groups is not x else [a for a in range(x.ndim) if a != 1]
    by_channel = [1, -1] + [1] * (x.ndim - 2)
    if statistics is not None:
        mean, rstd = (s.reshape(by_channel) for s in statistics)
        h = (x - mean) * rstd
    else:
        centered = groups if kind == "rms" else groups - groups.mean(axes, keepdim=True)
        h = (centered * torch.rsqrt(centered.square().mean(axes, keepdim=True) + eps)).reshape(x.shape)
    for parameter, combine in ((weight, torch.mul), (bias, torch.add)):
        if parameter is not None:
            h = combine(h, parameter if kind in ("layer", "rms") else parameter.reshape(by_channel))
    return completed(h, request.activation, residual)


def differentiable_gradients(
    request: Request,
    dy: Tensor,
    tensors: tuple[Tensor | None, ...],
    wanted: tuple[bool, ...],
    statistics: tuple[Tensor, Tensor] | None,
) -> list[Tensor | None]:
    """The gradients for x, weight, bias and residual as functions that can be differentiated again, to any order.

    float32 is taken to float64 for it, half precision to float32.
    """
    x, *_ = tensors
    assert x is not None
    wide = torch.float64 if COMPUTED_IN[x.dtype] is x.dtype else torch.float32
    with torch.enable_grad():
        # Views: a residual, say, of which x was computed, is to have the gradient of the sum alone.
        inputs = [None if t is None else t.view_as(t).to(wide) for t in tensors]
        needed = [t for t, is_wanted in zip(inputs, wanted, strict=True) if is_wanted and t is not None]
        constants = None if statistics is None else (statistics[0].to(wide), statistics[1].to(wide))
        first, w, b, residual = inputs
        assert first is not None
        y = formula(request, first, w, b, residual, constants)
        found = iter(torch.autograd.grad(y, needed, dy.to(wide), create_graph=True, materialize_grads=True))
        return [
            next(found).to(t.dtype) if is_wanted and t is not None else None
            for t, is_wanted in zip(tensors, wanted, strict=True)
        ]
