"""Batch norm in evaluation is a scale and a shift of each channel, which a convolution beside it can take over."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn._quiet import quietly
from fastbn.engine import arguments
from fastbn.norms.shared import rstd_of

__all__ = ["fold"]

Array = NDArray[Any]


@quietly
def fold(
    conv_weight: ArrayLike,
    conv_bias: ArrayLike | None,
    bn: Any,
    *,
    transposed: bool = False,
    groups: int = 1,
    before: bool = False,
) -> tuple[Array, Array]:
    """Weight and bias of a convolution or linear map that does what it and a batch norm in evaluation did.

    Parameters
    ----------
    conv_weight : array_like, shape (C_out, C_in / groups, ...)
        float16, bfloat16, float32 or float64, with as many kernel axes as there are: none for a linear map.  With
        `transposed`, of shape (C_in, C_out / groups, ...).
    conv_bias : array_like, shape (C_out,), or None
        Any float dtype.
    bn : layer or tuple
        A layer with running statistics, or (running_mean, running_var, weight, bias, eps), each array of shape (C,).
        From weight on entries may be left out, and weight and bias may be None; eps is 1e-5 then.
    transposed : bool
        Whether it is a transposed convolution.
    groups : int
        Into how many groups the channels are divided, each connected to itself alone.
    before : bool
        Whether the batch norm comes before the convolution, not after it.

    Returns
    -------
    weight : ndarray, shape and dtype of conv_weight, in C order
    bias : ndarray, shape (C_out,), dtype of conv_weight

    Raises
    ------
    TypeError
        If an array is not of floats, or `bn` is neither a layer with running statistics nor a tuple.
    ValueError
        If a shape does not fit, `groups` does not divide the channels, the layer keeps no running statistics or has an
        activation, or running_var + eps is not positive.

    Notes
    -----
    With a = weight / sqrt(running_var + eps) and t = bias - running_mean * a, both of bn [1]_::

        after     W'[o, i, k] = a[o] W[o, i, k]        b'[o] = a[o] b[o] + t[o]
        before    W'[o, i, k] = a[i] W[o, i, k]        b'[o] = b[o] + sum over i, k of t[i] W[o, i, k]

    Computed in float64, rounded once.

    After a convolution this is exact, whatever its padding and stride.  Before one, every output must see the whole
    kernel, for t enters through all of it: a padding of zeros must be 0, since those zeros were not shifted (padding by
    reflection, repetition or wrapping is right), and a transposed convolution must have stride 1 and a padding of
    dilation * (kernel size - 1).  Elsewhere it is exact only for a bn with t = 0.

    No convolution takes over an activation.  One behind convolution and batch norm can be applied to the result of the
    folded convolution: fold ``(bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps)``.  One between batch norm
    and convolution cannot be folded.

    References
    ----------
    .. [1] B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
       Inference", CVPR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> mean, var, eps = np.array([1.0, 2.0]), np.array([3.0, 8.0]), 1.0
    >>> weight, bias = fastbn.fold(np.array([[2.0, 0.0], [3.0, 6.0]]), None, (mean, var, None, None, eps))
    >>> weight, bias.round(3)
    (array([[1., 0.],
           [1., 2.]]), array([-0.5  , -0.667]))
    """
    weight = arguments.array(conv_weight, "conv_weight")
    transposed, before = arguments.flag(transposed, "transposed"), arguments.flag(before, "before")
    first, second, inputs, outputs, groups = _channels(weight, transposed, groups)
    bias = arguments.vector(conv_bias, "conv_bias", (outputs,), np.float64)
    a, t = _scale_and_shift(bn, inputs if before else outputs, before)

    # Two axes of the weight are channels; the first holds all groups, one after the other, the second those of a group.
    w = weight.astype(np.float64).reshape(groups, first // groups, second, prod(weight.shape[2:]))
    on_first = transposed == before
    shape = (groups, -1, 1, 1) if on_first else (groups, 1, -1, 1)
    folded = (w * a.reshape(shape)).reshape(weight.shape)
    b = np.zeros(outputs) if bias is None else bias
    b = b + (w * t.reshape(shape)).sum(axis=(1 if on_first else 2, 3)).reshape(-1) if before else a * b + t
    # in C order whatever that of conv_weight: safetensors 0.8 writes memory, not elements
    return folded.astype(weight.dtype, order="C"), b.astype(weight.dtype)


def _channels(weight: Array, transposed: bool, groups: Any) -> tuple[int, int, int, int, int]:
    """The lengths of the weight's first two axes, the numbers of input and output channels, and the groups."""
    arguments.rank(weight, 2, "conv_weight")
    first, second = weight.shape[:2]
    n = arguments.integer(groups, "groups")
    if n < 1 or first % n:
        raise ValueError(f"groups is {n}; expected a divisor of {first}, the first axis of conv_weight {weight.shape}")
    return (first, second, first, second * n, n) if transposed else (first, second, second * n, first, n)


def _scale_and_shift(bn: Any, channels: int, before: bool) -> tuple[Array, Array]:
    """What bn multiplies every channel by, and then adds to it."""
    if isinstance(bn, tuple) and 2 <= len(bn) <= 5:
        mean, var, weight, bias, eps = bn + (None, None, 1e-5)[len(bn) - 2 :]
    elif hasattr(bn, "running_mean") and hasattr(bn, "running_var"):
        mean, var, weight, bias, eps = bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps
        if mean is None or var is None:
            raise ValueError(f"bn is {bn}, which keeps no running statistics; expected one that does")
        if getattr(bn, "activation", None) is not None:
            arrays = "(bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps)"
            raise ValueError(
                f"bn has the activation {bn.activation!r}, "
                + (
                    "which lies between it and the convolution; expected none there"
                    if before
                    else f"which no convolution takes over; expected {arrays}, and the activation after the convolution"
                )
            )
    else:
        raise TypeError(
            f"bn is of type {type(bn).__name__}; expected a layer with running statistics, or a tuple "
            "(running_mean, running_var, weight, bias, eps)"
        )
    shape = (channels,)
    mean, var = (
        arguments.float64_statistic(mean, "running_mean", shape),
        arguments.float64_statistic(var, "running_var", shape),
    )
    weight = arguments.vector(weight, "weight", shape, np.float64)
    bias = arguments.vector(bias, "bias", shape, np.float64)
    eps = arguments.eps(eps)
    if not (var + eps > 0).all():
        raise ValueError(f"running_var + eps is {np.min(var + eps)} in a channel; expected positive numbers")
    a = rstd_of(var, eps) * (1.0 if weight is None else weight)
    return a, (0.0 if bias is None else bias) - mean * a
