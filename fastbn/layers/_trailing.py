"""Layer and RMS normalization."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastbn import functional as F
from fastbn.engine import arguments
from fastbn.functional import Activation
from fastbn.layers._base import Array, Context, Layer, checked_eps
from fastbn.variants._arguments import whole_number


def _dimensions(normalized_shape: Any) -> tuple[int, ...]:
    lengths = arguments.lengths(normalized_shape)
    if lengths == ():
        raise ValueError("normalized_shape is empty; expected the lengths of the trailing axes to normalize over")
    return tuple(whole_number(n, "normalized_shape") for n in (lengths if isinstance(lengths, tuple) else (lengths,)))


class LayerNorm(Layer):
    """Layer normalization over the trailing dimensions, with statistics per sample.

    Parameters
    ----------
    normalized_shape : int or iterable of int
        Sizes of the trailing dimensions to normalize over.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether there are a weight and a bias, both of shape `normalized_shape`.
    bias : bool
        Whether an affine layer has a bias.
    dtype : dtype
        Type of parameters and gradients.  The output has the input's.
    activation : str or tuple, optional
        Applied to y in the same pass; see the module `fastbn.functional`.

    Raises
    ------
    ValueError
        If the activation is unknown; on calling, if the input's trailing dimensions are others, or a mask does not fit.

    Notes
    -----
    y = activation((x - mean) / sqrt(var + eps) * weight + bias), with the biased variance.

    Examples
    --------
    A recurrent use, with a context for every step:

    >>> import numpy as np
    >>> from fastbn.layers import LayerNorm
    >>> layer = LayerNorm(2)
    >>> steps = [layer.forward(np.array([[0.0, 2.0 * t]])) for t in (1, 2, 3)]
    >>> for y, context in reversed(steps):
    ...     dx = layer.backward(y, context)
    >>> layer.grads["weight"].round(3)
    array([3., 3.], dtype=float32)
    """

    _kind = "layer norm"

    def __init__(
        self,
        normalized_shape: int | Iterable[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        activation: Activation = None,
    ) -> None:
        self.normalized_shape = _dimensions(normalized_shape)
        self.eps = checked_eps(eps)
        self.elementwise_affine = arguments.flag(elementwise_affine, "elementwise_affine")
        super().__init__(self.normalized_shape, self.elementwise_affine, bias, dtype, activation)

    def _infer(self, x: ArrayLike, *, where: ArrayLike | None = None) -> Array:
        shape, activation = self.normalized_shape, self.activation
        return F.layer_norm(x, shape, self.weight, self.bias, self.eps, activation=activation, where=where)

    def forward(self, x: ArrayLike, *, where: ArrayLike | None = None) -> tuple[Array, Context]:
        extras = self._extras(where=where)
        y, mean, rstd = F.layer_norm_forward(x, self.normalized_shape, self.weight, self.bias, self.eps, **extras)
        return y, Context(x, mean, rstd, extras=extras, kind=self._kind)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        named = {"bias": self.bias, **context.extras}
        return F.layer_norm_backward(dy, context.x, context.mean, context.rstd, self.weight, **named)

    def _describe(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Layer):
    """Root-mean-square normalization over the trailing dimensions: layer norm without mean and bias.

    Parameters
    ----------
    normalized_shape : int or iterable of int
        Sizes of the trailing dimensions to normalize over.
    eps : float or None
        Added to the mean square; None takes the machine epsilon of the type computed in.
    elementwise_affine : bool
        Whether there is a weight, of shape `normalized_shape`.
    offset : float
        Added to the weight, which begins at 1 - offset; 1 for weights that are stored as Gemma's are.
    dtype : dtype
        Type of the weight and its gradient.  The output has the input's.
    activation : str or tuple, optional
        Applied to y in the same pass; see the module `fastbn.functional`.

    Raises
    ------
    ValueError
        If there is an offset but no weight, or the activation is unknown; on calling, if the input's trailing
        dimensions are others, or a mask does not fit.

    Notes
    -----
    y = activation(x / sqrt(mean(x^2) + eps) * (offset + weight)).

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import RMSNorm
    >>> RMSNorm(2)(np.array([[1.0, 7.0]])).round(3)
    array([[0.2, 1.4]])
    """

    _kind = "RMS norm"

    def __init__(
        self,
        normalized_shape: int | Iterable[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        offset: float = 0.0,
        dtype: DTypeLike = np.float32,
        activation: Activation = None,
    ) -> None:
        self.normalized_shape = _dimensions(normalized_shape)
        self.eps = None if eps is None else checked_eps(eps)
        self.elementwise_affine = arguments.flag(elementwise_affine, "elementwise_affine")
        self.offset = arguments.real(offset, "offset")
        if self.offset and not self.elementwise_affine:
            raise ValueError(f"offset is {offset}; expected 0 where elementwise_affine is False: there is no weight")
        super().__init__(self.normalized_shape, self.elementwise_affine, False, dtype, activation)

    def _initial(self, name: str) -> float:
        return 1.0 - self.offset

    def _scale(self) -> Array | None:
        if not self.offset or self.weight is None:
            return self.weight
        # 1 + weight in half precision would lose most of the weight
        return self.weight.astype(np.result_type(self.dtype, np.float32)) + np.float32(self.offset)

    def _infer(self, x: ArrayLike, *, where: ArrayLike | None = None) -> Array:
        shape, activation = self.normalized_shape, self.activation
        return F.rms_norm(x, shape, self._scale(), self.eps, activation=activation, where=where)

    def forward(self, x: ArrayLike, *, where: ArrayLike | None = None) -> tuple[Array, Context]:
        extras = self._extras(where=where)
        y, rstd = F.rms_norm_forward(x, self.normalized_shape, self._scale(), self.eps, **extras)
        return y, Context(x, None, rstd, extras=extras, kind=self._kind)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        dx, dweight = F.rms_norm_backward(dy, context.x, context.rstd, self._scale(), **context.extras)
        return dx, dweight.astype(self.dtype, copy=False)

    def _describe(self) -> str:
        offset = f", offset={self.offset}" if self.offset else ""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}{offset}"
