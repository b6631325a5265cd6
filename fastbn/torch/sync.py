"""Batch norm over the processes of a group: CPU tensors over gloo, in training and back.

Every rank tells the others one element of each channel, and the sums of the distances from it and of their squares, in
float64.  All ranks sort what they have gathered by its bytes and merge it in that order, so that they agree to the
bit, whoever came first.
"""

import warnings
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.fx import Proxy

from fastbn.torch import functional
from fastbn.torch._autograd import take_in
from fastbn.torch._plans import COMPUTED_IN, Array, Plan, Request, plan_of
from fastbn.torch.layers import BatchNorm2d, as_node, share_of_batch

__all__ = ["SyncBatchNorm", "convert_sync_batchnorm"]

Model = TypeVar("Model", bound=nn.Module)

_DTYPES = tuple(COMPUTED_IN)


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch norm whose statistics are those of the batches of all processes, for CPU tensors over gloo.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype
        As torch.nn.SyncBatchNorm takes them.

    Notes
    -----
    Batches may be of unequal size, an empty one included.  Results and gradients are those of one process with the
    joined batch, and the same bits on every rank: what the ranks have gathered is merged in one order.  Gradients of
    the weight and bias are those of the rank's own batch, which DistributedDataParallel averages, as torch's are.
    If the ranks' channels differ, or do not fit the module, all ranks raise.  Outside of training, or without a process
    group, it is batch norm of its own batch.
    """

    def forward(self, input: Any) -> Any:
        """Normalize every channel by its statistics over all processes."""
        if type(input) is Proxy:
            return as_node(self, input)
        group = self.process_group
        if self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1:
            _agree(input, self.num_features, group)
            share = share_of_batch(self)
            running = (self.running_mean, self.running_var, share) if self.track_running_stats else (None, None, 0.0)
            return _SyncedNorm.apply(input, self.weight, self.bias, float(self.eps), running, group)
        mean, var = self.running_mean, self.running_var
        by_batch = self.training or (mean is None and var is None)
        if self.training and not self.track_running_stats:
            mean = var = None
        share = share_of_batch(self)
        return functional.batch_norm(input, mean, var, self.weight, self.bias, by_batch, share, self.eps)


def _gathered(values: Tensor, group: Any) -> list[Array]:
    """Those of all ranks, by rank."""
    found = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, values, group=group)
    return [v.numpy() for v in found]


def _agree(x: Tensor, num_features: int, group: Any) -> None:
    """Raise on all ranks if one has what the others cannot be merged with."""
    known = x.ndim > 1 and x.dtype in COMPUTED_IN and x.is_cpu
    channels = x.shape[1] if x.ndim > 1 else -1
    own = [channels, num_features, _DTYPES.index(x.dtype) if known else -1]
    ranks = _gathered(torch.tensor(own), group)
    if any((r != ranks[0]).any() or r[0] != r[1] or r[2] < 0 for r in ranks):
        told = "; ".join(
            f"rank {k}: {c} channels for {n} features, {_DTYPES[d] if d >= 0 else 'no float CPU tensor (N, C, ...)'}"
            for k, (c, n, d) in enumerate(ranks)
        )
        raise ValueError(
            f"the ranks' inputs of SyncBatchNorm differ: {told}; expected one number of channels and dtype"
        )


def _merged_statistics(ranks: list[Array], channels: int) -> tuple[float, Array, Array]:
    """Count, mean and biased variance of all, from each rank's count, element, sum and sum of squares."""
    rows = [r for r in sorted(ranks, key=lambda r: r.tobytes()) if r[0] > 0]
    total = float(sum(r[0] for r in rows))
    if total <= 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got {int(total)} over all ranks of SyncBatchNorm"
        )
    counts = [r[0] for r in rows]
    parts = [r[1:].reshape(3, channels) for r in rows]
    means = [shift + s / n for n, (shift, s, _) in zip(counts, parts, strict=True)]
    first = means[0]
    mean = first + sum(n * (m - first) for n, m in zip(counts, means, strict=True)) / total
    m2 = np.zeros(channels)
    for n, m, (_, s, q) in zip(counts, means, parts, strict=True):
        m2 += np.maximum(q - s * (s / n), 0.0) + n * (m - mean) ** 2
    return total, mean, m2 / total


class _SyncedNorm(Function):
    """Batch norm over all ranks, and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, running: Any, group: Any
    ) -> Tensor:
        request = Request("batch", 0, eps, None, weight is not None, bias is not None, False, torch.float64)
        channels = x.shape[1]
        own = torch.zeros(1 + 3 * channels, dtype=torch.float64)
        plan = plan_of(request, x) if x.numel() else None
        if plan is not None:
            own[0] = x.numel() // channels
            shift, s, q = own[1:].numpy().reshape(3, channels)
            plan.sums(x, shift, s, q)
        total, mean, var = _merged_statistics(_gathered(own, group), channels)
        take_in(running, mean, var, total / (total - 1))
        ctx.save_for_backward(x, weight)
        ctx.plan, ctx.group, ctx.merged, ctx.eps = plan, group, (total, mean, var), eps
        ctx.dtypes = tuple(None if t is None else t.dtype for t in (weight, bias))
        if plan is None:
            return torch.empty_like(x)
        return plan.forward(x, weight, bias, None, (mean, var))[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        total, mean, var = ctx.merged
        plan: Plan | None = ctx.plan
        rstd = 1.0 / np.sqrt(var + ctx.eps)
        channels = mean.size
        own = torch.zeros(2 * channels, dtype=torch.float64)
        dweight = dbias = np.zeros(channels)
        if plan is not None:
            _, dweight, dbias, _ = plan.backward(dy, x, weight, None, None, (mean, rstd))
            own.numpy()[:] = np.concatenate([dbias, dweight])
        sums = np.zeros(2 * channels)
        for row in sorted(_gathered(own, ctx.group), key=lambda r: r.tobytes()):
            sums += row
        dx = torch.empty_like(x) if plan is None else _dx(plan, dy, x, weight, (mean, rstd), sums / total)
        of_weight, of_bias = (
            None if dtype is None else torch.tensor(g).to(dtype)
            for g, dtype in zip((dweight, dbias), ctx.dtypes, strict=True)
        )
        return dx, of_weight, of_bias, None, None, None


def _dx(
    plan: Plan, dy: Tensor, x: Tensor, weight: Tensor | None, statistics: tuple[Array, Array], averages: Array
) -> Tensor:
    """weight rstd (dy - avg(dy) - h avg(dy h)), x being centered in two steps, so that a large mean costs no digits."""
    mean, rstd = statistics
    scale = rstd if weight is None else rstd * weight.detach().double().numpy()
    average, slope = averages.reshape(2, -1)
    near = mean.astype(np.float32 if plan.compute is torch.float32 else np.float64)
    of_x = -scale * rstd * slope
    constant = -scale * average - of_x * (mean - near)
    along = [1, -1] + [1] * (x.ndim - 2)
    a, b, c, m = (torch.from_numpy(v).to(plan.compute).reshape(along) for v in (scale, of_x, constant, near))
    dy, wide = plan.read(dy).to(plan.compute), plan.read(x).to(plan.compute)
    return ((wide - m).mul_(b).add_(c).addcmul_(dy, a)).to(x.dtype)


def convert_sync_batchnorm(module: Model, process_group: Any = None) -> Model:
    """Put every batch norm of a model on `SyncBatchNorm`, as torch.nn.SyncBatchNorm.convert_sync_batchnorm does.

    Parameters
    ----------
    module : torch.nn.Module
        A model with BatchNorm1d, 2d or 3d, of torch or of fastbn.
    process_group : optional
        The processes to synchronize with; all, where left out.

    Returns
    -------
    module : torch.nn.Module
        The same module; its batch norms have changed their class, and keep their parameters and buffers.

    Warns
    -----
    UserWarning
        If batch norms have a forward of their own, which computes more than the norm, and stay as they are.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> model = fastbn.torch.convert_sync_batchnorm(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
    >>> isinstance(model[0], fastbn.torch.SyncBatchNorm)
    True
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is of type {type(module).__name__}; expected a torch.nn.Module")
    others = set()
    for norm in module.modules():
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        if type(norm).forward not in _FORWARDS:
            others.add(type(norm).__name__)
            continue
        norm.__dict__.pop("_behind", None)
        norm.__dict__.pop("_unfused", None)
        norm.__class__ = SyncBatchNorm
        norm.process_group = process_group
    if others:
        warnings.warn(
            f"{', '.join(sorted(others))}: these batch norms have a forward of their own, which may do more, and the "
            "statistics stay those of one process; put a batch norm of torch.nn in their place",
            stacklevel=2,
        )
    return module


_FORWARDS = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward, BatchNorm2d.forward, SyncBatchNorm.forward)
