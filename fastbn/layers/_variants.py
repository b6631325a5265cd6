"""The layers of `fastbn.variants`."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastbn import variants as V
from fastbn.engine import arguments
from fastbn.functional import Activation
from fastbn.layers._base import Array, Context, Layer, check_channels, check_rank, checked_eps
from fastbn.variants._arguments import whole_number


class _PerChannel(Layer):
    """What norms of (N, C, ...) input share that have a number of channels and parameters of that length."""

    _ranks: ClassVar[tuple[int, ...]] = ()  # none: any

    def __init__(
        self,
        num_channels: int,
        eps: float,
        affine: bool,
        bias: bool,
        axis: int,
        dtype: DTypeLike,
        activation: Activation = None,
    ) -> None:
        self.num_channels = whole_number(num_channels, "num_channels")
        self.eps = checked_eps(eps)
        self.axis = arguments.integer(axis, "axis")
        super().__init__(self.num_channels, arguments.flag(affine, "affine"), bias, dtype, activation)

    def _checked(self, x: ArrayLike) -> Array:
        x = arguments.ndarray(x, "x")
        if self._ranks:
            check_rank(x, self._ranks)
        check_channels(x, self.axis, "num_channels", self.num_channels)
        return x

    def _infer(self, x: ArrayLike, **extras: ArrayLike | None) -> Array:
        return self.forward(x, **extras)[0]

    def _describe(self) -> str:
        return f"{self.num_channels}, eps={self.eps}"


class LayerNorm2d(_PerChannel):
    """Layer normalization of (N, C, H, W) input over its channels, with statistics per sample and position.

    Parameters
    ----------
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
        If the activation is unknown; on calling, if the input's rank or number of channels is another, or a mask does
        not fit the input.

    Notes
    -----
    y = activation((x - mean) / sqrt(var + eps) * weight + bias), with the biased variance; see `channel_layer_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import LayerNorm2d
    >>> images = np.random.default_rng(0).normal(5, 3, (2, 96, 4, 4))
    >>> bool(np.allclose(LayerNorm2d(96)(images).mean(1), 0))
    True
    """

    _kind = "layer norm over channels"
    _ranks = (4,)

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        affine: bool = True,
        *,
        bias: bool = True,
        axis: int = 1,
        dtype: DTypeLike = np.float32,
        activation: Activation = None,
    ) -> None:
        super().__init__(num_channels, eps, affine, bias, axis, dtype, activation)

    def forward(self, x: ArrayLike, *, where: ArrayLike | None = None) -> tuple[Array, Context]:
        x, extras = self._checked(x), self._extras(where=where)
        y, mean, rstd = V.channel_layer_norm_forward(x, self.weight, self.bias, self.eps, axis=self.axis, **extras)
        return y, Context(x, mean, rstd, extras=extras, kind=self._kind)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        named: dict[str, Any] = {"axis": self.axis, "bias": self.bias, **context.extras}
        return V.channel_layer_norm_backward(dy, context.x, context.mean, context.rstd, self.weight, **named)


class RMSNorm2d(_PerChannel):
    """RMS normalization of (N, C, H, W) input over its channels; in all else as `LayerNorm2d`, without a bias.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import RMSNorm2d
    >>> RMSNorm2d(2)(np.array([1.0, 7.0]).reshape(1, 2, 1, 1)).round(3).ravel()
    array([0.2, 1.4])
    """

    _kind = "RMS norm over channels"
    _ranks = (4,)

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        affine: bool = True,
        *,
        axis: int = 1,
        dtype: DTypeLike = np.float32,
        activation: Activation = None,
    ) -> None:
        super().__init__(num_channels, eps, affine, False, axis, dtype, activation)

    def forward(self, x: ArrayLike, *, where: ArrayLike | None = None) -> tuple[Array, Context]:
        x, extras = self._checked(x), self._extras(where=where)
        y, rstd = V.channel_rms_norm_forward(x, self.weight, self.eps, axis=self.axis, **extras)
        return y, Context(x, rstd=rstd, extras=extras, kind=self._kind)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        return V.channel_rms_norm_backward(dy, context.x, context.rstd, self.weight, axis=self.axis, **context.extras)


class GlobalResponseNorm(_PerChannel):
    """Global response normalization of (N, C, ...) input; weight and bias begin at zero, where it does nothing.

    Parameters
    ----------
    num_channels : int
        Number of channels, C.
    eps : float
        Added to the average norm.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters and gradients.  The output has the input's.

    Raises
    ------
    ValueError
        On calling: if the input's number of channels is another.

    Notes
    -----
    y = x * norm / (avg(norm) + eps) * weight + bias + x; see `global_response_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import GlobalResponseNorm
    >>> layer = GlobalResponseNorm(2, eps=0.0)
    >>> layer.weight = 1
    >>> layer(np.array([[[3.0, 4.0], [0.0, 15.0]]]))
    array([[[ 4.5,  6. ],
            [ 0. , 37.5]]])
    """

    _kind = "global response norm"

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        *,
        axis: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(num_channels, eps, True, True, axis, dtype)

    def _initial(self, name: str) -> float:
        return 0.0

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        x = self._checked(x)
        y, norm = V.global_response_norm_forward(x, self.weight, self.bias, self.eps, axis=self.axis)
        return y, Context(x, rstd=norm, kind=self._kind)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        return V.global_response_norm_backward(dy, context.x, context.rstd, self.weight, self.eps, axis=self.axis)


class FilterResponseNorm2d(_PerChannel):
    """Filter response normalization of (N, C, H, W) input, with a thresholded linear unit.

    Parameters
    ----------
    num_channels : int
        Number of channels, C.
    eps : float
        Added to the mean square.
    tlu : bool
        Whether there is a threshold, the parameter "tau" of shape (C,), which begins at zero as a ReLU.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters and gradients.  The output has the input's.

    Raises
    ------
    ValueError
        On calling: if the input's rank or number of channels is another.

    Notes
    -----
    y = max(x / sqrt(mean(x^2) + eps) * weight + bias, tau); see `filter_response_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import FilterResponseNorm2d
    >>> FilterResponseNorm2d(1)(np.array([1.0, -1.0, 7.0, 7.0]).reshape(1, 1, 2, 2)).round(3).ravel()
    array([0.2, 0. , 1.4, 1.4])
    """

    _kind = "filter response norm"
    _ranks = (4,)

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-6,
        tlu: bool = True,
        *,
        axis: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(num_channels, eps, True, True, axis, dtype)
        self.tlu = arguments.flag(tlu, "tlu")
        if self.tlu:
            self.parameters["tau"] = np.zeros(self.num_channels, self.dtype)
            self.grads["tau"] = np.zeros(self.num_channels, self.dtype)

    @property
    def tau(self) -> Array | None:
        """The array ``parameters["tau"]``, or None; assigning writes into the array."""
        return self.parameters.get("tau")

    @tau.setter
    def tau(self, value: ArrayLike) -> None:
        self._assign("tau", value)

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        x = self._checked(x)
        y, rstd = V.filter_response_norm_forward(x, *self._affine(), self.eps, axis=self.axis)
        return y, Context(x, rstd=rstd, kind=self._kind)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        dx, dweight, dbias, dtau = V.filter_response_norm_backward(
            dy, context.x, context.rstd, *self._affine(), axis=self.axis
        )
        return (dx, dweight, dbias) if dtau is None else (dx, dweight, dbias, dtau)

    def _affine(self) -> tuple[Array | None, Array | None, Array | None]:
        return self.weight, self.bias, self.tau

    def _describe(self) -> str:
        return f"{super()._describe()}, tlu={self.tlu}"


class LocalResponseNorm(Layer):
    """Local response normalization of (N, C, ...) input, which has no parameters.

    Parameters
    ----------
    size : int
        How many channels are neighbours.
    alpha, beta, k : float
        See Notes.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.

    Notes
    -----
    y = x / (k + alpha / size * sum(x^2)) ** beta, with the sum over the neighbours; see `local_response_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import LocalResponseNorm
    >>> LocalResponseNorm(3, alpha=3.0, beta=1.0, k=0.0)(np.array([[1.0, 2.0, 2.0]])).round(3)
    array([[0.2  , 0.222, 0.25 ]])
    """

    _kind = "local response norm"

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, axis: int = 1) -> None:
        self.size = whole_number(size, "size")
        self.alpha = alpha
        self.beta = beta
        self.k = k
        self.axis = arguments.integer(axis, "axis")
        super().__init__((), False, False, np.float32)

    def _infer(self, x: ArrayLike) -> Array:
        return V.local_response_norm(x, self.size, self.alpha, self.beta, self.k, axis=self.axis)

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        return self._infer(x), Context(x, kind=self._kind)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        return (
            V.local_response_norm_backward(dy, context.x, self.size, self.alpha, self.beta, self.k, axis=self.axis),
        )

    def _describe(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
