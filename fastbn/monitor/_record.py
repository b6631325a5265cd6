"""The numbers of one layer at one step."""

from math import inf, nan, prod, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn.engine import arguments, arrays, views
from fastbn.kernels.survey import joined, survey
from fastbn.moments import Moments

Array = NDArray[Any]

METRICS = {
    "input_mean": "mean of all elements of the input",
    "input_var": "their variance",
    "output_mean": "mean of all elements of the output",
    "output_var": "their variance",
    "saturation": "share of the outputs where the activation is flat: relu at 0, sigmoid within 0.05 of 0 or 1, others "
    "past 3",
    "dead": "share of the channels whose output is the same for the whole batch",
    "mean_drift": "distance of running_mean from the batch's mean, in standard deviations, RMS over the channels",
    "var_drift": "mean over the channels of |log(running_var / the batch's variance)|",
    "input_gradient": "Euclidean norm of the gradient of the input",
    "weight_gradient": "Euclidean norm of the gradient of the weight",
    "bias_gradient": "Euclidean norm of the gradient of the bias",
}

_FLAT_SIGMOID, _FLAT_TANH = 0.05, 3.0
_NONE = np.empty(0)


class Batch(NamedTuple):
    """Statistics of each channel of a batch, float64."""

    mean: Array
    second: Array  # the biased variance, or, unless eps is negative, 1 / sqrt(variance + eps)
    eps: float = -1.0

    @classmethod
    def of(cls, x: Array, axis: int, where: Any = None) -> "Batch":
        """Of the elements that count."""
        moments = Moments(axis).update(x, where)
        return cls(moments.mean, moments.var())


class _Seen(NamedTuple):
    """An array as a whole."""

    mean: float
    var: float
    outside: float  # share of the elements outside of two bounds
    constant: float  # share of the channels that are constant


def _bounds(activation: Any, dtype: Any) -> tuple[float, float]:
    """Where the activation is flat: below the one and above the other."""
    name = activation[0] if isinstance(activation, tuple) else activation
    if name == "relu":
        return float(np.finfo(np.float64 if dtype == np.float64 else np.float32).tiny), inf
    if name == "sigmoid":
        return _FLAT_SIGMOID, 1 - _FLAT_SIGMOID
    return -_FLAT_TANH, _FLAT_TANH


def _seen(x: Array, axis: int, where: Any = None, activation: Any = None) -> _Seen:
    """One pass over an array that is not empty, as its memory lies."""
    order = views.memory_order(x)
    if order is False or where is not None:
        x, order = np.ascontiguousarray(x), None
    counted, n = None, x.size
    if where is not None:
        mask = np.ascontiguousarray(np.broadcast_to(np.asarray(where), x.shape))
        counted, n = mask.reshape(-1).view(np.uint8), int(np.count_nonzero(mask))
    shape = x.shape if order is None else tuple(x.shape[a] for a in order)
    place = axis % x.ndim if order is None else order.index(axis % x.ndim)
    view = prod(shape[:place]), shape[place], prod(shape[place + 1 :])
    low, high = _bounds(activation, x.dtype)
    shift, s, q, outside, constant = survey.serial(arrays.flattened(x, order), counted, view, True, low, high)
    if n == 0:
        return _Seen(nan, nan, nan, nan)
    return _Seen(shift + s / n, max(q - s / n * s, 0.0) / n, outside / n, constant / shape[place])


def norm(gradient: Any) -> float:
    """The Euclidean norm, summed in float64."""
    gradient = np.asarray(gradient)
    if gradient.dtype == np.longdouble and gradient.dtype != np.float64:  # a layer's, which no kernel takes
        gradient = gradient.astype(np.float64)
    gradient = arguments.array(gradient, "gradient")
    order = views.memory_order(gradient)
    if order is False:
        gradient, order = np.ascontiguousarray(gradient), None
    if not gradient.size:
        return 0.0
    return sqrt(survey.serial(arrays.flattened(gradient, order), None, (1, 0, 1), False, -inf, inf)[2])


def of_call(
    x: Array, y: Array, axis: int, where: Any, activation: Any, running: tuple[Any, Any] | None, batch: Batch | None
) -> dict[str, float]:
    """The numbers of what went in and came out, of which neither is empty.

    where: None, or which elements count.  running: running mean and variance, if there are.  batch: None, or what the
    layer has computed itself, which is then not computed again.
    """
    if running is not None and batch is None:
        batch = Batch.of(x, axis, where)
    values: dict[str, float] = {}
    if batch is not None:
        pair = (_NONE, _NONE) if running is None else tuple(np.asarray(v, np.float64) for v in running)
        mean, var, mean_drift, var_drift = joined.serial(*batch, *pair)
        values = {"input_mean": mean, "input_var": var}
        if running is not None:
            values |= {"mean_drift": mean_drift, "var_drift": var_drift}
    if batch is None or where is not None:  # which may leave some channels more elements than others
        seen = _seen(x, axis, where)
        values |= {"input_mean": seen.mean, "input_var": seen.var}
    seen = _seen(y, axis, where, activation)
    outputs = {"output_mean": seen.mean, "output_var": seen.var, "saturation": seen.outside, "dead": seen.constant}
    return values | outputs
