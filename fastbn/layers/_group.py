"""Group normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastbn import functional as F
from fastbn.engine import arguments
from fastbn.functional import Activation
from fastbn.layers._base import Array, Context, Layer, check_channels, checked_eps
from fastbn.variants._arguments import whole_number


class GroupNorm(Layer):
    """Group normalization of (N, C, ...) input, with statistics per sample and group of neighbouring channels.

    Parameters
    ----------
    num_groups : int
        Number of groups, G; divides C.
    num_channels : int
        Number of channels, C.
    eps : float
        Added to the variance.
    affine : bool
        Whether there are a weight and a bias, both of shape (C,).
    bias : bool
        Whether an affine layer has a bias.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters and gradients.  The output has the input's.
    activation : str or tuple, optional
        Applied to y in the same pass; see the module `fastbn.functional`.

    Raises
    ------
    ValueError
        If G does not divide C, or the activation is unknown; on calling, if the input's number of channels is another,
        or a residual or mask does not fit it.

    Notes
    -----
    y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual), with the biased variance.  Residual and
    mask are keywords of the call: ``layer(x, residual=r, where=mask)``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import GroupNorm
    >>> layer = GroupNorm(2, 4)
    >>> layer(np.array([[1.0, 3.0, 10.0, 30.0]])).round(3)
    array([[-1.,  1., -1.,  1.]])
    """

    _kind = "group norm"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        axis: int = 1,
        dtype: DTypeLike = np.float32,
        activation: Activation = None,
    ) -> None:
        self.num_groups = whole_number(num_groups, "num_groups")
        self.num_channels = whole_number(num_channels, "num_channels")
        arguments.groups(self.num_groups, self.num_channels)
        self.eps = checked_eps(eps)
        self.affine = arguments.flag(affine, "affine")
        self.axis = arguments.integer(axis, "axis")
        super().__init__(self.num_channels, self.affine, bias, dtype, activation)

    def _checked(self, x: ArrayLike) -> Array:
        x = arguments.ndarray(x, "x")
        check_channels(x, self.axis, "num_channels", self.num_channels)
        return x

    def _infer(self, x: ArrayLike, *, residual: ArrayLike | None = None, where: ArrayLike | None = None) -> Array:
        positional = self._checked(x), self.num_groups, self.weight, self.bias, self.eps
        return F.group_norm(*positional, axis=self.axis, activation=self.activation, residual=residual, where=where)

    def forward(
        self, x: ArrayLike, *, residual: ArrayLike | None = None, where: ArrayLike | None = None
    ) -> tuple[Array, Context]:
        x, extras = self._checked(x), self._extras(residual=residual, where=where)
        positional = self.num_groups, self.weight, self.bias, self.eps
        y, mean, rstd = F.group_norm_forward(x, *positional, axis=self.axis, **extras)
        return y, Context(x, mean, rstd, extras=extras, kind=self._kind)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        named: dict[str, Any] = {"axis": self.axis, "bias": self.bias, **context.extras}
        return F.group_norm_backward(dy, context.x, context.mean, context.rstd, self.weight, **named)

    def _describe(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )
