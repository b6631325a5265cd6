"""Arguments in and results out, which the variants share."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn.engine import arguments, memory

Array = NDArray[Any]


def read(x: Any, axis: Any) -> tuple[Array, int]:
    """x of samples and channels, and the channels' axis."""
    x = arguments.array(x, "x")
    arguments.rank(x, 2)
    return x, arguments.sample_axis(axis, x)


def read_gradient(dy: Any, x: Any, axis: Any) -> tuple[Array, Array, int]:
    dy, x = arguments.gradient(dy, x)
    return dy, *read(x, axis)


def at_least(value: Any, name: str, least: float) -> float:
    number = arguments.real(value, name)
    if number < least:
        raise ValueError(f"{name} is {value!r}; expected at least {least:g}")
    return number


def whole_number(value: Any, name: str) -> int:
    return int(at_least(arguments.integer(value, name), name, 1))


def result_for(x: Array, out: Array | None) -> Array:
    """Where the result goes, sample by sample."""
    return memory.retried(np.empty_like, x, subok=False) if out is None else out


def gradient_dtype(parameter: Array | None, x: Array) -> DTypeLike:
    return arguments.COMPUTED_IN[x.dtype] if parameter is None else parameter.dtype


def along_channels(v: Array, x: Array, axis: int) -> Array:
    """Numbers of the channels, or of the samples and channels, in x's computing type, shaped to broadcast to x."""
    lengths = [x.shape[a] if a == axis or (a == 0 and v.ndim == 2) else 1 for a in range(x.ndim)]
    return v.astype(arguments.COMPUTED_IN[x.dtype]).reshape(lengths)


def read_beside(where: Any, residual: Any, x: Array) -> tuple[Array | None, Array | None]:
    """The mask and the residual."""
    return arguments.where(where, x), None if residual is None else arguments.like(residual, "residual", x)


def of_samples(values: Array | None, part: slice) -> Array | None:
    """Those of an array like x, or of a mask, which may have one for all samples."""
    return values if values is None or len(values) == 1 else values[part]


def counts_of(x: Array, channel: int, mask: Array | None) -> Array:
    """How many values each channel has."""
    return arguments.counts(np.ones((1,) * x.ndim, bool) if mask is None else mask, x.shape, (channel,), 0)
