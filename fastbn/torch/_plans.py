"""From tensors to kernels: how tensors of one kind are read, written and shared among threads, decided once.

A plan belongs to an operation with its numbers, and to the shape, strides and dtype of its tensors.  Large results live
in fastbn's memory of results, which is used again when the last tensor over it is gone: the C library gives back to the
system what a training step leaves behind, and the next step's pages would have to be cleared anew.
"""

from collections.abc import Callable
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numba.core import config
from numpy.typing import NDArray
from torch import Tensor

from fastbn.engine import arguments, arrays, backward, by_columns, by_runs, forward, memory, pace, threads, views
from fastbn.engine.operands import Extras, GradientExtras
from fastbn.kernels import activations
from fastbn.torch import _small
from fastbn.torch._addresses import over

Array = NDArray[Any]
Maybe = Array | None
Kind = Literal["batch", "group", "instance", "layer", "rms"]

COMPUTED_IN = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}
_NUMPY: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_BITS: dict[torch.dtype, np.dtype[Any]] = {
    torch.bfloat16: np.dtype(np.int16),
    torch.float16: np.dtype(np.uint16),
}  # as the kernels take half precision

_CHANNELS_LAST = {4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Request(NamedTuple):
    """What decides a plan beside x itself."""

    kind: Kind
    number: int  # of groups, or of trailing axes
    eps: float
    activation: Any = None  # as users write it
    weight: bool = False  # whether there is one
    bias: bool = False
    residual: bool = False
    frozen: torch.dtype | None = None  # that of the given statistics


def thread_limit() -> tuple[int, int]:
    """How many threads a call may use, as many as torch unless told otherwise, and how many Numba is set to.

    As in `pace.team`, what was found holds for some calls more, unless a setting of torch's or of fastbn's changes
    meanwhile.
    """
    global _found, _left
    of_torch, (choices, noted, limit, of_numba) = torch.get_num_threads(), _found
    outside = threads.block_here() is None or threads.nothing_set_here()
    if _left > 0 and outside and noted == of_torch and choices is threads.choices:
        _left -= 1
        return limit, of_numba
    choices, running = threads.choices, threads.any_thread_may()
    most, of_numba = threads.available_threads()
    if not running and torch.get_num_threads() != of_torch:  # Numba has started its threads, in an OpenMP torch shares
        torch.set_num_threads(of_torch)
    limit = most if most <= of_torch or threads.requested() else of_torch
    _left = 0
    if outside and threads.any_thread_may() and limit in (1, of_numba):
        _found, _left = (choices, of_torch, limit, of_numba), pace.UNTIMED
    return limit, of_numba


_found: tuple[Any, int, int, int] = (None, 0, 1, 1)  # which choices, torch's number, and what was returned
_left = 0  # for so many calls yet


def _run(nbytes: int, kernel: Callable[..., None], *args: Any) -> None:
    """Run a kernel over so many bytes; torch's own operations share out by size alone, too."""
    limit, of_numba = (1, 1) if nbytes < pace.SERIAL_BYTES else thread_limit()
    if limit == 1:
        kernel(1, *args)
    else:
        threads.with_threads(limit, of_numba, kernel, *args)


def vector(tensor: Any, dtype: torch.dtype) -> Maybe:
    """A weight, bias or statistic as a flat array of float32 or float64, for as long as the tensor is there.

    It lies over the tensor's own memory where it can.
    """
    if tensor is None or type(tensor) is np.ndarray:  # which it has become before
        return tensor
    if tensor.dtype is dtype and tensor.is_contiguous() and not tensor.is_neg():
        return over(tensor, _NUMPY[dtype])
    values: Array = tensor.detach().resolve_neg().to(dtype).contiguous().numpy()  # of a copy
    return values.reshape(-1)


# Of results below 10 MB, which the C library comes to keep at hand by itself, so many bytes are kept for later ones.
# What is idle here is lacking where torch makes gradients of weights: with as many as there were once alive, a step of
# ResNet-50, 8 at 128, was no faster, and took a tenth more memory.  Larger ones are cleared by the system each time: a
# step of 16 at 224 was 1.05 times as fast as torch's where those below 32 MB were left to the C library, and 1.19.
_POOLED, _KEPT_BY_MALLOC = 64_000_000, 10_000_000


class Plan:
    """How tensors like x are normalized, forward and backward."""

    def __init__(self, request: Request, x: Tensor) -> None:
        kind, number, self.eps, function, _, _, residual, frozen = request
        self.request, self.kind, self.frozen = request, kind, frozen
        shape, self.dtype = tuple(x.shape), x.dtype
        self.shape, self.compute = shape, COMPUTED_IN[x.dtype]
        self.centered, by_channel = kind != "rms", kind in ("batch", "group", "instance")
        self.format = format_of_result(kind, x)
        self.read_as = self.format if by_channel else torch.contiguous_format
        self.order = None if self.read_as is torch.contiguous_format else _CHANNELS_LAST[x.ndim]
        self.weight_shape = (shape[1],) if by_channel else shape[len(shape) - number :]
        self.activation = activations.packed(arguments.activation(function))
        self.activated, self.summed = self.activation is not None, residual
        self.nbytes = x.numel() * x.element_size()
        # Memory order None: C-contiguous, which is how the kernels read every format once its axes are in order.
        if kind == "batch":
            view: Any = views.batch_view(shape, self.order, 1)
        elif by_channel:
            view = views.group_view(shape, self.order, 1, number)
        else:
            view = views.layer_view(shape, None, number)
        if view is None:  # a memory order that no kernel reads
            self.read_as, self.order = torch.contiguous_format, None
            view = views.group_view(shape, None, 1, number)
        self.view = view
        self.per_group = prod(shape) // max(view.groups, 1)
        self.unbiased = self.per_group / max(self.per_group - 1, 1)  # times a biased variance
        self.bits = _BITS.get(x.dtype)
        self.stored = self.bits or _NUMPY[x.dtype]
        self.stored_shape = shape if self.order is None else tuple(shape[a] for a in self.order)
        self.back = None if self.order is None else arrays.inverse(self.order)
        self.compiled = not config.DISABLE_JIT
        self._make = memory.maker(self.stored_shape, self.stored, None if self.nbytes >= _KEPT_BY_MALLOC else _POOLED)
        # The shape, dtype and size of the arrays to come, without their memory:
        like = np.broadcast_to(np.empty((), self.stored), shape)
        self.small: _small.Forward | None = None
        self.small_back: _small.Backward | None = None
        self.small_given: _small.Given | None = None
        direct, stored = self._is_direct(x), _small.Stored(self.stored, _NUMPY[self.compute], self.nbytes)
        if frozen is None:
            self._forward = forward.passes(like, view, self.eps, False, self.centered)
            if direct and not view.columns:
                self.small = _small.forward(view, stored, self.eps, self.centered, self.activation)
                if not self.activated:
                    self.small_back = _small.backward(view, stored, self.eps, self.centered)
        else:
            scaled = views.batch_view(shape, self.order, 1, False)
            self._forward = forward.scaling(like, scaled, self.eps)
            if direct and not scaled.columns and frozen in _NUMPY:
                self.small_given = _small.given(scaled, stored, frozen, self.eps, self.activation)
        self._backward = backward.passes(like, view, self.centered, frozen is None)
        self._sums = (by_columns if view.columns else by_runs).sums(view, like)

    def _is_direct(self, x: Tensor) -> bool:
        """Whether x is small, has no residual, and is read and returned as it lies, by compiled code."""
        if self.nbytes >= pace.SERIAL_BYTES or self.summed or not self.compiled:
            return False
        return x.is_contiguous() and self.format is torch.contiguous_format

    def read(self, tensor: Tensor) -> Tensor:
        """A tensor of x's shape in the memory order that the kernels read; itself if it has it."""
        if tensor.is_contiguous(memory_format=self.read_as) and not tensor.is_neg():
            return tensor
        return tensor.resolve_neg().contiguous(memory_format=self.read_as)

    def flat(self, tensor: Tensor) -> Array:
        """What `read` returned, as the kernels take it, for as long as it is there."""
        return over(tensor, self.stored)

    def new(self, x: Tensor) -> tuple[Tensor, Array]:
        """Memory for a result like x, which `read` returned: as a tensor, and as the kernels take it."""
        if self.nbytes < memory.LEAST or memory.get_memory_pool() == 0:
            y = torch.empty_like(x)
            return y, self.flat(y)
        stored = self._make()
        y = torch.from_numpy(stored if self.back is None else stored.transpose(self.back))
        if self.bits is not None:
            y = y.view(self.dtype).data  # not a view to autograd, which would forbid changes in place
        return y, stored.reshape(-1)

    def forward(
        self, x: Tensor, weight: Tensor | Maybe, bias: Tensor | Maybe, residual: Tensor | None, given: Any = None
    ) -> tuple[Tensor, Array, Array]:
        """y, mean and variance (RMS norm: mean square) of each group; given: the mean and variance to use instead."""
        x = self.read(x)
        y, fy = self.new(x)
        w, b = vector(weight, self.compute), vector(bias, self.compute)
        extras = None
        if self.activated or self.summed:
            residual = None if residual is None else self.read(residual)
            extras = Extras(None if residual is None else self.flat(residual), self.activation)
        if given is not None:
            mean, var = given
        else:
            groups = self.view.groups
            saved = np.empty(2 * groups)  # in one array, of which others tell the place
            mean, var = saved[:groups] if self.centered else saved[:0], saved[groups:]
        _run(self.nbytes, self._forward, self.flat(x), fy, w, b, mean, var, extras)
        return self.given_back(y), mean, var

    def given_back(self, y: Tensor) -> Tensor:
        """A result in the memory order that torch would return it in."""
        return y if self.read_as is self.format else y.contiguous(memory_format=self.format)

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        weight: Tensor | Maybe,
        bias: Tensor | Maybe,
        residual: Tensor | None,
        statistics: tuple[Array, Array],
    ) -> tuple[Tensor, Array, Array, Tensor]:
        """dx, dweight, dbias (float32, or float64 for float64 x) and dresidual; statistics: mean and rstd."""
        mean, rstd = statistics
        dy, x = self.read(dy), self.read(x)
        dx, fdx = self.new(x)
        dz, fdz = dy, fdx
        w, b = vector(weight, self.compute), vector(bias, self.compute)
        if not self.activated:
            fdz = self.flat(dy)
        elif self.summed:  # the gradient before the activation is that of the residual; else it waits where dx will be
            dz, fdz = self.new(x)
        m = mean if self.centered else None
        dweight, dbias = np.empty((2, self.view.weights), _NUMPY[self.compute])
        extras = None
        if self.activated:
            of_channel, of_element = (b, None) if self.view.affine == "channel" else (None, b)
            residual = None if residual is None else self.read(residual)
            added = None if residual is None else self.flat(residual)
            extras = GradientExtras(of_channel, of_element, added, self.activation, None, self.flat(dy))
        _run(self.nbytes, self._backward, (fdz, self.flat(x), fdx, w, m, rstd, dweight, dbias, extras))
        return dx, dweight, dbias, dz

    def sums(self, x: Tensor, shift: Array, s: Array, q: Array) -> None:
        """Put an element of each group into shift, and the sums of d and d^2 into s and q, d = x - shift."""
        x = self.read(x)
        _run(self.nbytes, self._sums, self.flat(x), shift, s, q)

    def rstd(self, var: Array) -> Array:
        """1 / sqrt(var + eps) in float64."""
        rstd = np.array(var, np.float64)
        _small.take_roots(rstd, self.eps)
        return rstd


def format_of_result(kind: str, x: Tensor) -> torch.memory_format:
    """The memory format in which torch returns the result for x."""
    from torch._prims_common import suggest_memory_format

    if kind in ("instance", "layer"):
        return torch.contiguous_format
    return suggest_memory_format(x)


def format_of_gradient(kind: str, x: Tensor) -> torch.memory_format:
    """The memory format of dx."""
    return format_of_result(kind, x) if kind in ("batch", "group") else torch.contiguous_format


_plans: dict[Any, Plan] = {}
_MOST_PLANS = 4096


def plan_of(request: Request, x: Tensor) -> Plan:
    """The plan for tensors like x, made when such a one is first met."""
    key = request, x.shape, x.stride(), x.dtype
    found = _plans.get(key)
    if found is None:
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        found = _plans[key] = Plan(request, x)
    return found
