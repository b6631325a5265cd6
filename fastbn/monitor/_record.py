"""The numbers of one layer at one step."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn._quiet import quietly
from fastbn.moments import Moments

Array = NDArray[Any]

METRICS = {
    "input_mean": "mean of all elements of the input",
    "input_var": "their variance",
    "output_mean": "mean of all elements of the output",
    "output_var": "their variance",
    "saturation": "share of the outputs where the activation is flat: relu at 0, sigmoid past 0.95, others past 3",
    "dead": "share of the channels whose output is the same for the whole batch",
    "mean_drift": "distance of running_mean from the batch's mean, in standard deviations, RMS over the channels",
    "var_drift": "mean over the channels of |log(running_var / the batch's variance)|",
    "input_gradient": "Euclidean norm of the gradient of the input",
    "weight_gradient": "Euclidean norm of the gradient of the weight",
    "bias_gradient": "Euclidean norm of the gradient of the bias",
}

_LOOKED_AT = 1 << 16  # elements of an output, at most, of which saturation is taken: every so many-th row
_SMALL = 1 << 12  # elements: below it NumPy's own steps are shorter than a look at the array
_FLAT_SIGMOID, _FLAT_TANH = 0.05, 3.0


@quietly
def norm(gradient: Any) -> float:
    """The Euclidean norm, summed in float64."""
    gradient = np.asarray(gradient)
    if gradient.size <= _SMALL:
        values = gradient.astype(np.float64).ravel()
        return float(np.sqrt(np.sum(values * values)))
    moments = Moments(()).update(gradient)  # reads it once; a product of BLAS wants a copy, and threads of its own
    return float(np.sqrt(gradient.size * (moments.var() + moments.mean**2)))


def of_input(x: Array, axis: int, running: tuple[Any, Any] | None) -> dict[str, float]:
    """Statistics of what goes in, and how far the running ones (mean and variance) are from them."""
    moments = Moments(axis).update(x)
    mean, var = moments.mean, moments.var()
    values = {"input_mean": float(mean.mean()), "input_var": float(var.mean() + mean.var())}
    if running is not None:
        with np.errstate(all="ignore"):
            spread = np.sqrt(np.maximum(var, np.finfo(np.float32).tiny))
            away = (np.asarray(running[0], np.float64) - mean) / spread
            ratio = np.asarray(running[1], np.float64) / np.maximum(var, np.finfo(np.float32).tiny)
            values["mean_drift"] = float(np.sqrt(np.mean(away * away)))
            values["var_drift"] = float(np.mean(np.abs(np.log(ratio))))
    return values


def of_output(y: Array, axis: int, activation: Any) -> dict[str, float]:
    """Statistics of what comes out."""
    moments = Moments(axis).update(y)
    mean, var = moments.mean, moments.var()
    return {
        "output_mean": float(mean.mean()),
        "output_var": float(var.mean() + mean.var()),
        "saturation": _saturation(y, activation),
        "dead": float(np.mean(var == 0)),
    }


def _saturation(y: Array, activation: Any) -> float:
    rows = y.reshape(len(y), -1) if y.ndim > 1 else y.reshape(-1, 1)
    sample = rows[:: max(1, y.size // _LOOKED_AT)]
    name = activation[0] if isinstance(activation, tuple) else activation
    if name == "relu":
        flat = sample == 0
    elif name == "sigmoid":
        flat = (sample < _FLAT_SIGMOID) | (sample > 1 - _FLAT_SIGMOID)
    else:
        flat = np.abs(sample) > _FLAT_TANH
    return float(np.count_nonzero(flat) / flat.size)
