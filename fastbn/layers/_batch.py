"""Batch normalization."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastbn import functional as F
from fastbn import variants as V
from fastbn.engine import arguments
from fastbn.functional import Activation
from fastbn.layers._base import Array, ChannelNorm, Context, check_channels, check_rank
from fastbn.norms.batch import BATCH
from fastbn.norms.shared import norm_with_running
from fastbn.variants._arguments import at_least, whole_number


class BatchNorm(ChannelNorm):
    """Batch normalization of (N, C, ...) input with any number of axes from two on; in all else as `BatchNorm1d`.

    A layer for weights that come without the rank of their inputs.  `BatchNorm1d`, `BatchNorm2d` and `BatchNorm3d` are
    subclasses that refuse input of other ranks than theirs.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import BatchNorm
    >>> layer = BatchNorm(3).eval()
    >>> [layer(np.ones((2, 3) + positions)).shape for positions in [(), (4,), (4, 5), (2, 2, 2, 2)]]
    [(2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 3, 2, 2, 2, 2)]
    """

    _kind = "batch norm"
    _ranks: ClassVar[tuple[int, ...]] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        axis: int = 1,
        dtype: DTypeLike = np.float32,
        on_single: Literal["raise", "eval", "zero"] = "raise",
        virtual_batch_size: int | None = None,
        renorm: tuple[float, float] | None = None,
        activation: Activation = None,
    ) -> None:
        options: dict[str, Any] = {"bias": bias, "axis": axis, "dtype": dtype, "activation": activation}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        self.on_single = on_single
        self.virtual_batch_size = virtual_batch_size
        self.renorm = renorm
        self.frozen = False
        self._check_options(self.track_running_stats)

    def _check_options(self, tracks: bool) -> None:
        if self.on_single not in ("raise", "eval", "zero"):
            raise ValueError(f"on_single is {self.on_single!r}; expected 'raise', 'eval' or 'zero'")
        if self.renorm is not None:
            if np.shape(self.renorm) != (2,):
                raise ValueError(f"renorm is {self.renorm!r}; expected a pair of limits, r_max and d_max")
            for limit, name, least in zip(self.renorm, ("r_max", "d_max"), (1.0, 0.0), strict=True):
                at_least(limit, name, least)
        ghost = self.virtual_batch_size is not None
        needing = {"on_single='eval'": self.on_single == "eval", "virtual_batch_size": ghost, "renorm": self.renorm}
        if not tracks and any(needing.values()):
            names = " and ".join(name for name, given in needing.items() if given)
            raise ValueError(f"{names} cannot do without running statistics (got track_running_stats=False)")
        if not ghost:
            return
        whole_number(self.virtual_batch_size, "virtual_batch_size")
        beside = {"renorm": self.renorm, "on_single": self.on_single != "raise", "momentum=None": self.momentum is None}
        if any(beside.values()):
            names = " and ".join(name for name, given in beside.items() if given)
            raise ValueError(f"virtual_batch_size cannot be combined with {names}")

    def freeze(self, affine: bool = True) -> Self:
        """Normalize by the running statistics in training mode too, and leave them as they are; returns the layer.

        Parameters
        ----------
        affine : bool
            Whether weight and bias become constants as well.  They are then in `state_dict`, but not in `parameters`
            and `grads`: tell optimisers after freezing what to update.

        Raises
        ------
        ValueError
            If the layer keeps no running statistics.
        """
        if self.running_mean is None:
            raise ValueError(f"cannot freeze {self}: it keeps no running statistics")
        self._divide(True, self.parameters | self._constants if arguments.flag(affine, "affine") else {})
        return self

    def unfreeze(self) -> Self:
        """Undo `freeze`; the gradients of weight and bias begin at zero; returns the layer."""
        self._divide(False, {})
        return self

    def _divide(self, frozen: bool, constants: dict[str, Array]) -> None:
        """Be frozen or not, with these of the parameters as constants; an exception from outside finds all or nothing.

        Gradients of what was a constant begin at zero.  The dicts stay the ones that a user may hold.
        """
        learned = {n: v for n, v in (self.parameters | self._constants).items() if n not in constants}
        grads = {n: np.zeros_like(v) if n in self._constants else self.grads[n] for n, v in learned.items()}
        steps: list[Callable[[], None]] = [partial(setattr, self, "frozen", frozen)]
        for held, new in ((self.parameters, learned), (self.grads, grads), (self._constants, constants)):
            steps += held.clear, partial(held.update, new)
        deque(map(operator.call, steps), maxlen=0)  # in C, where no signal's handler is called

    def _checked(self, x: ArrayLike) -> Array:
        x = arguments.ndarray(x, "x")
        if self._ranks:
            check_rank(x, self._ranks)
        check_channels(x, self.axis, "num_features", self.num_features)
        return x

    def _is_single(self, x: Array, treatment: str) -> bool:
        """Whether x has one value a channel and is to be treated so."""
        return self.on_single == treatment and x.size == self.num_features

    def _by_running(self, x: Array) -> bool:
        return not self.training or self.frozen or self._is_single(x, "eval")

    def _infer(self, x: ArrayLike, *, residual: ArrayLike | None = None, where: ArrayLike | None = None) -> Array:
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(
            self._checked(x),
            mean,
            var,
            self.weight,
            self.bias,
            mean is None,
            0.0,
            self.eps,
            axis=self.axis,
            activation=self.activation,
            residual=residual,
            where=where,
        )

    def forward(
        self, x: ArrayLike, *, residual: ArrayLike | None = None, where: ArrayLike | None = None
    ) -> tuple[Array, Context]:
        x, extras = self._checked(x), self._extras(residual=residual, where=where)
        if self._uses_running(x):
            return self._infer(x, residual=residual, where=where), self._running_context(x, extras)
        if self._is_single(x, "zero"):
            return self._without_deviation(x, extras)
        return self._normalize(x, extras)

    def _normalize(self, x: Array, extras: dict[str, Any]) -> tuple[Array, Context]:
        """By the batch's own statistics."""
        if self.virtual_batch_size is not None or self.renorm is not None:
            self._check_options(self._tracks)  # they may have been assigned anew
        affine, momentum = (self.weight, self.bias), self._weight_of_batch()
        running = *self._tracked(), self.num_batches_tracked if self._tracks else None
        settings, others = (self.eps, extras["activation"]), (extras["residual"], extras["where"], None)
        rest: Any = self.axis, settings, others
        if self.virtual_batch_size is not None:
            size = operator.index(self.virtual_batch_size)
            y, mean, rstd = V.ghost_batch_norm_with_running(x, size, affine, running, momentum, *rest)
            return y, Context(x, mean, rstd, extras=extras, kind=self._kind)
        if self.renorm is not None:
            y, mean, rstd, r, d = V.batch_renorm_with_running(x, affine, running, momentum, self.renorm, *rest)
            return y, Context(x, mean, rstd, correction=(r, d), extras=extras, kind=self._kind)
        y, mean, rstd = norm_with_running(BATCH, x, affine, running, momentum, *rest)
        return y, Context(x, mean, rstd, extras=extras, kind=self._kind)

    def _without_deviation(self, x: Array, extras: dict[str, Any]) -> tuple[Array, Context]:
        """One value a channel is its own mean: y is the bias, and no gradient reaches x or weight."""
        mean, zeros = x.reshape(self.num_features).astype(np.float64), np.zeros(self.num_features)
        y = F.batch_norm(x, mean, np.ones_like(zeros), self.weight, self.bias, eps=self.eps, axis=self.axis, **extras)
        return y, Context(x, mean, zeros, extras=extras, kind=self._kind)

    def _joined(self, moments: Any) -> Any:
        """The Moments of what the layer was given, of all processes that its batches span."""
        return moments

    def _weight_of_batch(self) -> float:
        """The momentum for the batch at hand; None makes all batches weigh the same."""
        if self.momentum is not None:
            return self.momentum
        if self.num_batches_tracked is None or not self._tracks:
            return 1.0
        return 1 / (self.num_batches_tracked.item() + 1)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        x, mean, rstd = context.x, context.mean, context.rstd
        named: dict[str, Any] = {"axis": self.axis, "bias": self.bias, **context.extras}
        if context.correction:
            return V.batch_renorm_backward(dy, x, mean, rstd, *context.correction, self.weight, **named)
        if mean.ndim == 2:  # of ghost batches
            size = operator.index(self.virtual_batch_size)  # type: ignore[arg-type]
            return V.ghost_batch_norm_backward(dy, x, mean, rstd, size, self.weight, **named)
        plain = all(value is None for value in context.extras.values())
        if plain and not context.training and not self.grads:  # no sums are wanted, and dx is a multiple of dy
            dy, _ = arguments.gradient(dy, x)
            return (F.batch_norm(dy, np.zeros_like(rstd), 1.0 / (rstd * rstd), self.weight, eps=0.0, axis=self.axis),)
        return F.batch_norm_backward(dy, x, mean, rstd, self.weight, training=context.training, **named)

    def _describe(self) -> str:
        usual = {"on_single": "raise", "virtual_batch_size": None, "renorm": None, "frozen": False}
        unusual = {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
        return super()._describe() + "".join(f", {name}={value!r}" for name, value in unusual.items())


class BatchNorm1d(BatchNorm):
    """Batch normalization of (N, C) or (N, C, L) input, with statistics per channel.

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    eps : float
        Added to the variance.
    momentum : float or None
        Weight of the new batch in the running statistics; None gives every batch the same weight (cumulative average).
    affine : bool
        Whether there are a weight and a bias, both of shape (C,).
    track_running_stats : bool
        Whether running_mean, running_var (shape (C,)) and num_batches_tracked are kept.  Evaluation mode normalizes
        with them, or, if there are none, with the statistics of the batch.
    bias : bool
        Whether an affine layer has a bias.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters, gradients and running statistics.  The output has the input's.
    on_single : {"raise", "eval", "zero"}
        What training does with one value per channel: refuse it, normalize it by the running statistics as evaluation
        would, or take it for its own mean, so that the output is the bias.  The running statistics stay as they are.
        It is the input's shape that tells; where a mask leaves one value of several, it is refused.
    virtual_batch_size : int, optional
        Normalize so many consecutive samples at a time in training; see `ghost_batch_norm_forward`.  Each ghost batch
        counts as a batch.
    renorm : pair of float, optional
        Batch renormalization with these limits r_max and d_max, which may be assigned anew during training; see
        `batch_renorm_forward`.
    activation : str or tuple, optional
        Applied to y in the same pass; see the module `fastbn.functional`.

    Raises
    ------
    ValueError
        If an option needs running statistics that are not kept, `virtual_batch_size` is combined with `renorm`,
        `on_single` or a momentum of None, or the activation is unknown.  On calling: if the input's rank or number of
        channels is another, training has one value per channel, or a residual or mask does not fit the input.

    Notes
    -----
    y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual), with the biased variance; running_var
    takes in the unbiased one.  Residual and mask are keywords of the call: ``layer(x, residual=r, where=mask)``.

    ``layer.freeze()`` makes running statistics, weight and bias constants, whatever the mode, and ``layer.unfreeze()``
    undoes it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import BatchNorm1d
    >>> layer = BatchNorm1d(3)
    >>> x = np.arange(12.0).reshape(4, 3)
    >>> y = layer(x)
    >>> dx = layer.backward(np.ones_like(y))
    >>> layer.grads["bias"]
    array([4., 4., 4.], dtype=float32)
    >>> layer.eval()
    BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)

    The end of a residual block, in one pass over memory:

    >>> layer = BatchNorm1d(3, activation="relu")
    >>> y = layer(x, residual=np.ones_like(x))
    >>> dx, dresidual = layer.backward(np.ones_like(y))
    >>> dresidual
    array([[0., 0., 0.],
           [1., 1., 1.],
           [1., 1., 1.],
           [1., 1., 1.]])
    """

    _ranks = (2, 3)


class BatchNorm2d(BatchNorm):
    """Batch normalization of (N, C, H, W) input; in all else as `BatchNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import BatchNorm2d
    >>> images = np.random.default_rng(0).normal(5, 3, (2, 4, 4, 3))
    >>> y = BatchNorm2d(3, axis=-1)(images)
    >>> bool(np.allclose(y.mean((0, 1, 2)), 0)), bool(np.allclose(y.std((0, 1, 2)), 1))
    (True, True)
    """

    _ranks = (4,)


class BatchNorm3d(BatchNorm):
    """Batch normalization of (N, C, D, H, W) input; in all else as `BatchNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import BatchNorm3d
    >>> BatchNorm3d(2)(np.arange(32.0).reshape(1, 2, 2, 2, 4)).shape
    (1, 2, 2, 2, 4)
    """

    _ranks = (5,)
