"""Weight standardization: of a convolution's or linear map's weights."""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastbn import functional as F
from fastbn._quiet import quietly
from fastbn.engine import arguments
from fastbn.variants._arguments import Array, gradient_dtype

__all__ = [
    "weight_standardization",
    "weight_standardization_backward",
    "weight_standardization_forward",
]


@quietly
def weight_standardization(
    weight: ArrayLike,
    gain: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    gamma: float | None = None,
    out: Array | None = None,
) -> Array:
    """Weight standardization: each output channel of a convolution's weight by its mean and variance.

    Parameters
    ----------
    weight : array_like, shape (C_out, ...)
        float16, bfloat16, float32 or float64, of two axes or more, with more than one element for an output channel.
    gain : array_like, shape (C_out,), optional
        Float scale of each output channel; 1 where left out.
    eps : float
        Added to the variance; positive.
    gamma : float, optional
        Scale by gamma / sqrt(fan-in) as well, where gamma belongs to the activation (1.7139 for ReLU).
    out : ndarray, shape and dtype of weight, optional
        Where to write the result; may be weight.

    Returns
    -------
    standardized : ndarray, shape and dtype of weight

    Raises
    ------
    TypeError
        If the type or dtype of an argument is not as above.
    ValueError
        If the fan-in is 1, gain has another shape, `eps` is not positive, a number is not finite, or `out` is
        read-only, misaligned, or overlaps itself or gain.

    Notes
    -----
    With mean and (biased) var over all axes but the first, and the fan-in the number of elements there [1]_, [2]_::

        standardized = (weight - mean) / sqrt(var + eps) * gain * (gamma / sqrt(fan-in), or 1)

    References
    ----------
    .. [1] S. Qiao, H. Wang, C. Liu, W. Shen and A. Yuille, "Micro-Batch Training with Batch-Channel Normalization and
       Weight Standardization", arXiv:1903.10520, 2019.
    .. [2] A. Brock, S. De and S. L. Smith, "Characterizing signal propagation to close the performance gap in
       unnormalized ResNets", ICLR 2021.

    Examples
    --------
    >>> import fastbn
    >>> fastbn.weight_standardization([[1.0, 3.0], [10.0, 30.0]], [1.0, 2.0]).round(3)
    array([[-1.,  1.],
           [-2.,  2.]])
    """
    return weight_standardization_forward(weight, gain, eps, gamma=gamma, out=out)[0]


@quietly
def weight_standardization_forward(
    weight: ArrayLike,
    gain: ArrayLike | None = None,
    eps: float = 1e-6,
    *,
    gamma: float | None = None,
    out: Array | None = None,
) -> tuple[Array, F.Statistics, F.Statistics]:
    """Weight standardization that also returns its statistics.

    Parameters
    ----------
    weight, gain, eps, gamma, out
        As `weight_standardization` takes them.

    Returns
    -------
    standardized : ndarray, shape and dtype of weight
    mean, rstd : ndarray of float64, shape (C_out,)
        Mean and 1 / sqrt(var + eps) of each output channel.

    Raises
    ------
    TypeError, ValueError
        As `weight_standardization`.

    Examples
    --------
    >>> import fastbn
    >>> standardized, mean, rstd = fastbn.weight_standardization_forward([[1.0, 3.0], [10.0, 30.0]])
    >>> mean, rstd.round(3)
    (array([ 2., 20.]), array([1. , 0.1]))
    """
    given, w = weight, arguments.array(weight, "weight")
    scale, _ = _gain(w, gain, gamma)
    arguments.out(out, (w, given), gain, of="weight")
    return F.batch_norm_forward(w, scale, eps=eps, axis=0, out=out)


@quietly
def weight_standardization_backward(
    dy: ArrayLike,
    weight: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    gain: ArrayLike | None = None,
    *,
    gamma: float | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """The gradients of weight standardization.

    Parameters
    ----------
    dy : array_like, shape and dtype of weight
        Gradient of the standardized weight.
    weight, gain, gamma
        Those of the forward.
    mean, rstd : array_like, shape (C_out,)
        What `weight_standardization_forward` returned.
    out : ndarray, shape and dtype of weight, optional
        Where to write dweight; may be weight or dy.

    Returns
    -------
    dweight : ndarray, shape and dtype of weight
    dgain : ndarray, shape (C_out,)

    Raises
    ------
    TypeError, ValueError
        As `batch_norm_backward`; also if the fan-in is 1.

    Examples
    --------
    >>> import fastbn
    >>> weight = [[1.0, 3.0], [10.0, 30.0]]
    >>> standardized, mean, rstd = fastbn.weight_standardization_forward(weight)
    >>> dweight, dgain = fastbn.weight_standardization_backward([[0.0, 1.0], [2.0, 1.0]], weight, mean, rstd)
    >>> dgain.round(3)
    array([ 1., -1.])
    """
    given, (dy, w) = (weight, dy), arguments.gradient(dy, weight, "weight")
    scale, factor = _gain(w, gain, gamma)
    arguments.out(out, (w, dy, *given), gain, mean, rstd, of="weight")
    dweight, dscale, _ = F.batch_norm_backward(dy, w, mean, rstd, scale, axis=0, out=out)
    g = arguments.vector(gain, "gain", w.shape[:1])
    return dweight, (dscale * factor).astype(gradient_dtype(g, w))


def _gain(weight: Array, gain: Any, gamma: Any) -> tuple[Array, float]:
    """What the standardized weight is multiplied by, and its part without `gain`."""
    arguments.rank(weight, 2, "weight")
    fan_in = prod(weight.shape[1:])
    if fan_in == 1:
        raise ValueError(f"weight has shape {weight.shape}; expected more than one element for each index of axis 0")
    g = arguments.vector(gain, "gain", weight.shape[:1], np.float64)
    factor = 1.0 if gamma is None else arguments.real(gamma, "gamma") / sqrt(max(fan_in, 1))
    return (np.ones(len(weight)) if g is None else g) * factor, factor
