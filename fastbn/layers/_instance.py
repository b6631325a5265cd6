"""Instance normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastbn import functional as F
from fastbn.engine import arguments
from fastbn.functional import Activation
from fastbn.layers._base import Array, ChannelNorm, Context, check_channels, check_rank
from fastbn.norms.instance import INSTANCE
from fastbn.norms.shared import norm_with_running


class _InstanceNorm(ChannelNorm):
    _kind = "instance norm"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        axis: int = 1,
        dtype: DTypeLike = np.float32,
        activation: Activation = None,
    ) -> None:
        options: dict[str, Any] = {"bias": bias, "axis": axis, "dtype": dtype, "activation": activation}
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)

    def _batched(self, x: Array) -> Array:
        """The checked input with its batch axis; a view where the caller gave a single sample."""
        check_rank(x, self._ranks)
        batch = x[None] if x.ndim == self._ranks[0] else x
        check_channels(batch, self.axis, "num_features", self.num_features)
        return batch

    def _by_running(self, x: Array) -> bool:
        return not self.training and self._tracks

    def _infer(self, x: ArrayLike, *, where: ArrayLike | None = None) -> Array:
        x = arguments.ndarray(x, "x")
        batch = self._batched(x)
        mean, var = self._tracked()
        affine, extras = (self.weight, self.bias), self._extras(where=where)
        y = F.instance_norm(batch, mean, var, *affine, mean is None, 0.0, self.eps, axis=self.axis, **extras)
        return y if batch is x else y[0]

    def forward(self, x: ArrayLike, *, where: ArrayLike | None = None) -> tuple[Array, Context]:
        x = arguments.ndarray(x, "x")
        extras = self._extras(where=where)
        if self._uses_running(x):
            return self._infer(x, where=where), self._running_context(x, extras)
        batch = self._batched(x)
        # momentum None: torch's instance norm does not average cumulatively, it leaves the statistics alone
        momentum = 0.0 if self.momentum is None else self.momentum
        affine, running = (self.weight, self.bias), (*self._tracked(), None)
        rest: Any = self.axis, (self.eps, self.activation), (None, where, None)
        y, mean, rstd = norm_with_running(INSTANCE, batch, affine, running, momentum, *rest)
        return y if batch is x else y[0], Context(x, mean, rstd, extras=extras, kind=self._kind)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        x = context.x
        single = x.ndim == self._ranks[0]
        if single:
            dy, x = arguments.ndarray(dy, "dy")[None], x[None]
        operands = dy, x, context.mean, context.rstd, self.weight
        named: dict[str, Any] = {"axis": self.axis, "bias": self.bias, **context.extras}
        if context.training:
            dx, *rest = F.instance_norm_backward(*operands, **named)
        else:
            dx, *rest = F.batch_norm_backward(*operands, training=False, **named)
        return dx[0] if single else dx, *rest


class InstanceNorm1d(_InstanceNorm):
    """Instance normalization of (N, C, L) or (C, L) input, with statistics per sample and channel.

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    eps : float
        Added to the variance.
    momentum : float or None
        Weight of the new batch in the running statistics; None leaves them as they are.
    affine : bool
        Whether there are a weight and a bias, both of shape (C,).
    track_running_stats : bool
        Whether running_mean and running_var (shape (C,), averages over the samples) are kept and normalize in
        evaluation mode.  num_batches_tracked is kept for torch's sake, and stays as it is.
    bias : bool
        Whether an affine layer has a bias.
    axis : int
        Axis of the channels, counted in batched input: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters, gradients and running statistics.  The output has the input's.
    activation : str or tuple, optional
        Applied to y in the same pass; see the module `fastbn.functional`.

    Raises
    ------
    ValueError
        If the activation is unknown; on calling, if the input's rank or number of channels is another, training has one
        value per instance, or a mask does not fit the input.

    Notes
    -----
    y = activation((x - mean) / sqrt(var + eps) * weight + bias), with the biased variance; running_var takes in the
    unbiased one.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import InstanceNorm1d
    >>> layer = InstanceNorm1d(2)
    >>> layer(np.array([[1.0, 3.0, 1.0, 3.0], [0.0, 8.0, 0.0, 8.0]])).round(3)
    array([[-1.,  1., -1.,  1.],
           [-1.,  1., -1.,  1.]])
    """

    _ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalization of (N, C, H, W) or (C, H, W) input; in all else as `InstanceNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import InstanceNorm2d
    >>> InstanceNorm2d(3, affine=True)(np.random.default_rng(0).normal(size=(2, 3, 4, 4))).shape
    (2, 3, 4, 4)
    """

    _ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Instance normalization of (N, C, D, H, W) or (C, D, H, W) input; in all else as `InstanceNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import InstanceNorm3d
    >>> InstanceNorm3d(2)(np.random.default_rng(0).normal(size=(2, 3, 4, 5))).shape
    (2, 3, 4, 5)
    """

    _ranks = (4, 5)
