"""Calls on small tensors in the fewest steps of Python: kernels are told where elements lie.

To make an array over a tensor's memory takes 0.3 us, and there are four of them; a layer norm of 768 elements takes
0.2 us.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbn.engine import numbers
from fastbn.engine.entries import entry_point
from fastbn.engine.pace import SERIAL_BYTES
from fastbn.engine.views import View
from fastbn.kernels import small, statistics
from fastbn.torch._addresses import freed

__all__ = ["Backward", "Forward", "Given", "Stored", "backward", "forward", "given", "take", "take_in", "take_roots"]

Array = NDArray[Any]

_UNREAD = np.empty(SERIAL_BYTES)  # where statistics go that nobody reads: room for two for each element of x
_KINDS = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_empty_like = torch.empty_like


class Stored(NamedTuple):
    """How elements lie in memory."""

    dtype: np.dtype[Any]  # of x, by bits where it is half precision
    compute: np.dtype[Any]  # of weights and biases
    nbytes: int  # of x


Forward = Callable[..., Tensor]  # of (x, weight, bias, saved): y; saved: float64 (2 groups,), means and then variances
Backward = Callable[..., Tensor]  # of (dy, x, weight, saved, (dweight, dbias)): dx; the two may be None
Given = Callable[..., Tensor]  # of (x, weight, bias, mean, var): y


def forward(view: View, stored: Stored, eps: float, centered: bool, activation: Any) -> Forward:
    """What normalizes by x's own statistics, on the calling thread, without a residual.

    Tensors are contiguous; there is a weight in every call or in none, and a bias.
    """
    dtype, compute, _ = stored
    plan = numbers.forward(view, numbers.Elements(stored.nbytes, dtype), centered, False)
    place, by_channel, entry = plan.ctypes.data, view.affine == "channel", None

    def normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, saved: Array = _UNREAD) -> Tensor:
        nonlocal entry
        y = _empty_like(x)
        w = None if weight is None else weight.data_ptr()
        b = None if bias is None else bias.data_ptr()
        at = x.data_ptr()
        if at == 0 or w == 0 or b == 0:
            raise freed()
        if entry is None:
            affine = (w, b, None, None) if by_channel else (None, None, w, b)
            of_plan = dtype, compute, plan.ctypes.data  # so that the plan lives as long as its place is known
            entry = entry_point(small.forward, (*of_plan, 0, 0, *affine, eps, _UNREAD, activation))
        if by_channel:
            entry(dtype, compute, place, at, y.data_ptr(), w, b, None, None, eps, saved, activation)
        else:
            entry(dtype, compute, place, at, y.data_ptr(), None, None, w, b, eps, saved, activation)
        return y

    return normalize


def given(view: View, stored: Stored, frozen: torch.dtype, eps: float, activation: Any) -> Given:
    """As `forward`, by given statistics of one dtype, a channel each."""
    dtype, compute, _ = stored
    plan = numbers.scale(view, numbers.Elements(stored.nbytes, dtype))
    place, kind, entry = plan.ctypes.data, _KINDS[frozen], None

    def normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor) -> Tensor:
        nonlocal entry
        y = _empty_like(x)
        w = None if weight is None else weight.data_ptr()
        b = None if bias is None else bias.data_ptr()
        at, m, v = x.data_ptr(), mean.data_ptr(), var.data_ptr()
        if at == 0 or w == 0 or b == 0 or m == 0 or v == 0:
            raise freed()
        if entry is None:
            of_plan = dtype, compute, kind, plan.ctypes.data  # as above
            entry = entry_point(small.scale, (*of_plan, 0, 0, w, b, eps, m, v, activation))
        entry(dtype, compute, kind, place, at, y.data_ptr(), w, b, eps, m, v, activation)
        return y

    return normalize


def backward(view: View, stored: Stored, eps: float, centered: bool) -> Backward:
    """The gradients of `forward` without an activation; dx is a new tensor."""
    dtype, compute, nbytes = stored
    plan, _ = numbers.backward(view, numbers.Elements(nbytes, dtype), centered)
    place, blocks, entry = plan.ctypes.data, numbers.blocks_of_gradients(view, dtype.itemsize), None
    kernel: Any = small.backward
    more: tuple[Any, ...] = ()
    if view.affine != "channel":
        kernel, more = small.rows_backward, (None if centered else 1,)
    first, second = _UNREAD.ctypes.data, _UNREAD[_UNREAD.size // 2 :].ctypes.data  # gradients that nobody reads

    def differentiate(dy: Tensor, x: Tensor, weight: Tensor | None, saved: Array, of_weights: Any) -> Tensor:
        nonlocal entry
        dx = _empty_like(x)
        w = None if weight is None else weight.data_ptr()
        dweight, dbias = of_weights
        dw = first if dweight is None else dweight.data_ptr()
        db = second if dbias is None else dbias.data_ptr()
        if entry is None:
            of_plan = dtype, compute, plan.ctypes.data, blocks  # as above
            entry = entry_point(kernel, (*of_plan, 0, 0, 0, w, eps, saved, 0, 0, *more))
        places = dy.data_ptr(), x.data_ptr(), dx.data_ptr()
        if w == 0 or 0 in places:
            raise freed()
        entry(dtype, compute, place, blocks, *places, w, eps, saved, dw, db, *more)
        return dx

    return differentiate


def take(mean: Tensor | None, var: Tensor | None) -> bool:
    """Whether the kernels here take running statistics, of which it is known that they fit."""
    return (
        mean is not None
        and var is not None
        and mean.dtype is var.dtype
        and mean.dtype in _KINDS
        and mean.is_contiguous()
        and var.is_contiguous()
    )


_taking_in: dict[torch.dtype, Any] = {}


def take_in(mean: Any, var: Any, saved: Array, factor: float, momentum: float, eps: float = -1.0) -> None:
    """Take what a call has saved into running statistics, whose version counters stay.

    Then 1 / sqrt(var + eps) is put in the place of the saved variances, unless eps is negative.
    """
    kind = _KINDS[mean.dtype]
    entry = _taking_in.get(mean.dtype)
    if entry is None:
        entry = _taking_in[mean.dtype] = entry_point(small.take_in, (kind, _UNREAD, factor, momentum, eps, 0, 0))
    m, v = mean.data_ptr(), var.data_ptr()
    if m == 0 or v == 0:
        raise freed()
    entry(kind, saved, factor, momentum, eps, m, v)


_taking_roots: Any = None


def take_roots(var: Array, eps: float) -> None:
    """Put 1 / sqrt(var + eps) in the place of var: flat, of float64."""
    global _taking_roots
    if _taking_roots is None:
        _taking_roots = entry_point(statistics.take_roots, (np.empty(0), eps))
    _taking_roots(var, eps)
