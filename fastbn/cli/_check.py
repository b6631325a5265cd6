"""Every operation against its definition: the same calls made on :mod:`fastbn` and on :mod:`fastbn.reference`."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

import fastbn
from fastbn import reference

Array = np.ndarray[Any, Any]
Outputs = tuple[Array, ...]

LAYOUTS = ("NCHW", "NHWC")
DTYPES = ("float32", "float64")
DIRECTIONS = ("forward", "backward")
EPS = 1e-5
GROUPS = 4
# (N, C, H, W): a usual size, planes of 49 elements, and primes with single-row planes.
SHAPES = ((8, 32, 14, 14), (3, 16, 7, 7), (5, 4, 1, 13))
MEANS = (0.0, 1000.0)
# The worst error allowed, relative to the output's scale.  float64 is held to some ten roundings of a value near 1000.
TOLERANCES = {
    ("float32", "forward"): 5e-7,
    ("float32", "backward"): 2e-6,
    ("float64", "forward"): 1e-12,
    ("float64", "backward"): 1e-12,
}


@dataclass(frozen=True)
class Case:
    """One input: images of unit spread about a mean, an output gradient, and parameters."""

    x: Array
    dy: Array
    axis: int
    weight: Array  # (C,), as bias, running_mean and running_var
    bias: Array
    running_mean: Array
    running_var: Array
    sample_weight: Array  # layer and RMS norm: a whole image, or in NHWC the channels of a pixel
    sample_bias: Array


def make_case(shape: tuple[int, ...], mean: float, dtype: str, layout: str) -> Case:
    rng = np.random.default_rng(0)
    channels = shape[1]
    first = layout == "NCHW"
    if not first:
        shape = (shape[0], *shape[2:], channels)
    sample_shape = shape[1:] if first else (channels,)

    def normal(shape: tuple[int, ...], mean: float = 0.0) -> Array:
        return (rng.standard_normal(shape) + mean).astype(dtype)

    return Case(
        x=normal(shape, mean),
        dy=normal(shape),
        axis=1 if first else -1,
        weight=normal((channels,)),
        bias=normal((channels,)),
        running_mean=normal((channels,), mean),
        running_var=rng.uniform(0.5, 2, channels).astype(dtype),
        sample_weight=normal(sample_shape),
        sample_bias=normal(sample_shape),
    )


def _batch_norm_training(lib: ModuleType, c: Case) -> tuple[Outputs, Outputs]:
    running = c.running_mean.copy(), c.running_var.copy()
    y, mean, rstd = lib.batch_norm_forward(c.x, c.weight, c.bias, *running, eps=EPS, axis=c.axis)
    return (y, mean, rstd, *running), lib.batch_norm_backward(c.dy, c.x, mean, rstd, c.weight, axis=c.axis)


def _batch_norm_inference(lib: ModuleType, c: Case) -> tuple[Outputs, Outputs]:
    mean, rstd = c.running_mean.astype(np.float64), 1 / np.sqrt(c.running_var.astype(np.float64) + EPS)
    y = lib.batch_norm(c.x, c.running_mean, c.running_var, c.weight, c.bias, eps=EPS, axis=c.axis)
    return (y,), lib.batch_norm_backward(c.dy, c.x, mean, rstd, c.weight, axis=c.axis, training=False)


def _layer_norm(lib: ModuleType, c: Case) -> tuple[Outputs, Outputs]:
    y, mean, rstd = lib.layer_norm_forward(c.x, c.sample_weight.shape, c.sample_weight, c.sample_bias, EPS)
    return (y, mean, rstd), lib.layer_norm_backward(c.dy, c.x, mean, rstd, c.sample_weight)


def _group_norm(lib: ModuleType, c: Case) -> tuple[Outputs, Outputs]:
    y, mean, rstd = lib.group_norm_forward(c.x, GROUPS, c.weight, c.bias, EPS, axis=c.axis)
    return (y, mean, rstd), lib.group_norm_backward(c.dy, c.x, mean, rstd, c.weight, axis=c.axis)


def _instance_norm(lib: ModuleType, c: Case) -> tuple[Outputs, Outputs]:
    y, mean, rstd = lib.instance_norm_forward(c.x, c.weight, c.bias, EPS, axis=c.axis)
    return (y, mean, rstd), lib.instance_norm_backward(c.dy, c.x, mean, rstd, c.weight, axis=c.axis)


def _rms_norm(lib: ModuleType, c: Case) -> tuple[Outputs, Outputs]:
    y, rstd = lib.rms_norm_forward(c.x, c.sample_weight.shape, c.sample_weight, EPS)
    return (y, rstd), lib.rms_norm_backward(c.dy, c.x, rstd, c.sample_weight)


Operation = Callable[[ModuleType, Case], tuple[Outputs, Outputs]]

OPERATIONS: dict[str, Operation] = {
    "batch norm, training": _batch_norm_training,
    "batch norm, inference": _batch_norm_inference,
    "layer norm": _layer_norm,
    "group norm": _group_norm,
    "instance norm": _instance_norm,
    "RMS norm": _rms_norm,
}


def worst_errors(operation: str, dtype: str, layout: str) -> tuple[float, float]:
    """The worst error forward and backward, each relative to the scale of its output; NaN if any is NaN."""
    cases = [make_case(shape, mean, dtype, layout) for shape in SHAPES for mean in MEANS]
    forward, backward = zip(*(errors(OPERATIONS[operation], case) for case in cases), strict=True)
    return float(np.max(forward)), float(np.max(backward))


def passes(error: float, dtype: str, direction: str) -> bool:
    return error <= TOLERANCES[dtype, direction]  # NaN does not


def errors(operation: Operation, case: Case) -> list[float]:
    pairs = zip(operation(fastbn, case), operation(reference, case), strict=True)
    return [np.max(list(map(_relative_error, actual, expected))) for actual, expected in pairs]


def _relative_error(actual: Array, expected: Array) -> float:
    """The largest difference over the largest value or, if that is more, the spread of x: a mean may be near zero."""
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1.0))
