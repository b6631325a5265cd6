"""Batch normalization whose batch spans several processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastbn import _exchange, _running
from fastbn import functional as F
from fastbn._quiet import quietly
from fastbn.engine import arguments
from fastbn.functional import Activation
from fastbn.layers._base import Array, Context
from fastbn.layers._batch import BatchNorm

T = TypeVar("T")


@dataclass(slots=True, eq=False, repr=False)
class _Shared(Context):
    """The context of a batch that spans the ranks."""

    count: Any = None  # elements of each channel, of all ranks


class _SyncBatchNorm(BatchNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        comm: Any,
        bias: bool = True,
        axis: int = 1,
        dtype: DTypeLike = np.float32,
        activation: Activation = None,
    ) -> None:
        named: dict[str, Any] = {"bias": bias, "axis": axis, "dtype": dtype, "activation": activation}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **named)
        self.comm = comm

    def forward(
        self, x: ArrayLike, *, residual: ArrayLike | None = None, where: ArrayLike | None = None
    ) -> tuple[Array, Context]:
        if self.running_mean is not None and (self.frozen or not self.training):  # nothing is exchanged
            return super().forward(x, residual=residual, where=where)
        x, extras, own = self._or_give_up(lambda: self._brought(x, residual, where))
        mean, var, count = self._statistics(own)
        named: dict[str, Any] = {"eps": self.eps, "axis": self.axis, **extras}
        y = F.batch_norm(x, mean, var, self.weight, self.bias, **named)
        if self._tracks:
            running = self.running_mean, self.running_var, self.num_batches_tracked
            factor = count / (count - 1)
            _running.update(running, mean, np.array(var), factor, self._weight_of_batch(), batches=1)
        rstd = 1 / np.sqrt(var + self.eps)
        return y, _Shared(x, mean, rstd, extras=extras, count=count, kind=self._kind)

    def backward(self, dy: ArrayLike, context: Context | None = None) -> Array | Any:
        backward, used = super().backward, self._context if context is None else context
        own = isinstance(used, Context) and used.kind in ("", self._kind)
        if own or self.frozen or not self.training:
            return backward(dy, context)
        return self._or_give_up(lambda: backward(dy, context))  # which raises

    def _brought(self, x: ArrayLike, residual: Any, where: Any) -> tuple[Array, dict[str, Any], Any]:
        """What this rank brings along: whatever it refuses is refused here, before the others wait for it."""
        from fastbn.moments import Moments  # which knows of layers, so not before them

        x, extras = self._checked(x), self._extras(residual=residual, where=where)
        floats = arguments.array(x, "x")
        arguments.extras(floats, self.activation, where, residual)
        arguments.eps(self.eps)
        return x, extras, Moments(self.axis).update(floats, where)

    @quietly
    def _statistics(self, own: Any) -> tuple[Array, Array, Array]:
        """Mean, biased variance and count of each channel, of all ranks."""
        together = self._joined(own)
        count = together.count
        if count.min(initial=np.inf) < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, of all ranks: got {count.min():g}")
        return together.mean, together.var(), count

    def _joined(self, moments: Any) -> Any:
        from fastbn.mpi import allreduce

        return allreduce(moments, self.comm)

    @quietly
    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        if not isinstance(context, _Shared):
            return super()._gradients(dy, context)
        dx, dweight, dbias, *more = self._or_give_up(lambda: self._by_constants(dy, context))
        sums = _exchange.total(np.stack([dbias, dweight]), self.comm, "backward") / context.count
        scale = -context.rstd if self.weight is None else -context.rstd * self.weight
        constants = context.mean, 1 / (context.rstd * context.rstd), scale * sums[1], scale * sums[0]
        x, where = _wide(context.x), context.extras.get("where")
        dx = F.batch_norm(x, *constants, eps=0.0, axis=self.axis, residual=dx, where=where)
        given = context.x.dtype
        return dx.astype(given, copy=False), dweight, dbias, *(v.astype(given, copy=False) for v in more)

    def _by_constants(self, dy: ArrayLike, context: _Shared) -> tuple[Array, ...]:
        """The gradients as if mean and rstd were constants; half precision is widened, weights are float64."""
        dy, x = arguments.gradient(dy, context.x)
        weight = np.ones(self.num_features) if self.weight is None else self.weight.astype(np.float64)
        extras = context.extras | {"residual": _wide(context.extras.get("residual"))}
        options = {"axis": self.axis, "bias": self.bias, "training": False, **extras}
        return F.batch_norm_backward(_wide(dy), _wide(x), context.mean, context.rstd, weight, **options)

    def _or_give_up(self, call: Callable[[], T]) -> T:
        """The result; if this rank fails before the ranks exchange anything, the others are told and do not wait."""
        if self.comm is None:
            raise ValueError(f"{type(self).__name__} has no communicator: set layer.comm, which is not saved or copied")
        try:
            return call()
        except BaseException:
            _exchange.give_up(self.comm)
            raise

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"comm": None}


def _wide(a: Any) -> Any:
    return a if a is None or np.asarray(a).itemsize > 2 else np.asarray(a).astype(np.float32)


class SyncBatchNorm1d(_SyncBatchNorm):
    """Batch normalization of (N, C) or (N, C, L) input whose batch spans the processes of a communicator.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, bias, axis, dtype, activation
        As `BatchNorm1d` takes them.
    comm : mpi4py.MPI.Comm
        The processes, which all call forward and backward in training mode, each with its part of the batch; a part may
        be empty.  It is neither saved nor copied with the layer: set ``layer.comm`` again.

    Raises
    ------
    ValueError
        On calling, on every rank: if a channel has fewer than two values on all ranks together, or there is no
        communicator.
    RuntimeError
        On calling: if another rank was given something that it refused.

    Notes
    -----
    Mean, variance and running statistics are those of the joined batch, with the same bits on every rank, whichever
    rank holds which part.  Each rank's `grads` hold its own share, as torch's do: add them up over the ranks.  dx is
    within 2 units in the last place (at least 2e-7) of that of one process.  A forward sends 40 bytes a channel to
    every rank, a backward 16.  Evaluation needs no communicator.

    Examples
    --------
    >>> import fastbn
    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> layer = fastbn.SyncBatchNorm1d(64, comm=MPI.COMM_WORLD)  # doctest: +SKIP
    >>> y = layer(my_part)  # doctest: +SKIP
    """

    _ranks: ClassVar[tuple[int, ...]] = (2, 3)


class SyncBatchNorm2d(_SyncBatchNorm):
    """Batch normalization of (N, C, H, W) input over several processes; in all else as `SyncBatchNorm1d`."""

    _ranks: ClassVar[tuple[int, ...]] = (4,)


class SyncBatchNorm3d(_SyncBatchNorm):
    """Batch normalization of (N, C, D, H, W) input over several processes; in all else as `SyncBatchNorm1d`."""

    _ranks: ClassVar[tuple[int, ...]] = (5,)
