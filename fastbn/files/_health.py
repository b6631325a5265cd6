"""What can be told of a trained normalization from its numbers alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from fastbn.files._content import Norm, values_of
from fastbn.files._file import File
from fastbn.files._source import Array

DEAD = 1e-10  # of the median variance
FAR = 1e3  # mean / std
_HALF = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # the step between numbers from 1 on
_LARGEST_HALF, _SMALLEST_HALF = 65504.0, 2.0**-25
_CUT_OFF = 1e4  # where onnxconverter-common 1.16 cuts off by default, see findings/onnxconverter-half-statistics.sh

# What the table calls a finding, and what it means.
TEXTS = {
    "untrained": "mean 0 and variance 1 in every channel, and no batch counted: it was never trained, or its "
    "statistics were not saved",
    "dead": "channels whose variance is under 1e-10 of the median, or whose weight is 0: they carry nothing",
    "negative": "negative variances: whoever wrote them took E[x^2] - E[x]^2 where the mean is large; "
    "they cannot be used",
    "not finite": "NaN or infinite numbers",
    "eps decides": "variances smaller than eps: eps, not the statistics, sets the scale of these channels",
    "half": "statistics in half precision: an update smaller than half a step is lost, so the average may have stopped "
    "that far away from the true one; keep statistics in float32",
    "float16": "numbers that float16 cannot hold: they would become infinite or 0",
    "cut off": "numbers of float16 that are 10,000 exactly, as onnxconverter-common writes all that are larger, though "
    "float16 goes to 65,504; if the true ones are, convert the model again with max_finite_val=65504",
    "large mean": "a mean over 1000 standard deviations: Keras (NumPy and torch backends) and Flax take E[x^2] - "
    "E[x]^2 there and lose digits, PyTorch's and ONNX Runtime's group norm lose some too; fastbn "
    "subtracts the mean first",
}


@dataclass(slots=True)
class Row:
    """One normalization, as `fastbn inspect` shows it."""

    name: str
    kind: str
    channels: int
    eps: float | None
    eps_assumed: bool
    ranges: dict[str, tuple[float, float]]  # least and largest of weight, bias, running_mean, running_var
    health: dict[str, str] = field(default_factory=dict)  # a finding, and how many channels or how far
    median_variance: float | None = None
    far: float | None = None  # the largest |mean| / std


def rows(file: File) -> list[Row]:
    """The normalizations of a file with their health."""
    norms, _ = file._norms()
    return [_row(name, norm, values_of(norm, file.arrays, name)) for name, norm in norms.items()]


def _row(name: str, norm: Norm, values: dict[str, Array]) -> Row:
    wide = {role: np.asarray(value, np.float64) for role, value in values.items() if role != "num_batches_tracked"}
    row = Row(name, norm.kind, prod(norm.shape), norm.eps, norm.eps_assumed, _ranges(wide))
    with np.errstate(all="ignore"):
        row.health = dict(_findings(norm, values, wide))
        if "running_var" in wide:
            spread = np.sqrt(wide["running_var"] + (norm.eps or 0))
            row.median_variance = float(np.median(wide["running_var"]))
            row.far = float(np.max(np.abs(wide["running_mean"]) / spread))
    return row


def _ranges(wide: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    return {role: (float(np.min(value)), float(np.max(value))) for role, value in wide.items() if value.size}


def _findings(norm: Norm, values: dict[str, Array], wide: dict[str, Array]) -> Iterator[tuple[str, str]]:
    weight = wide.get("weight")
    dead = np.zeros(norm.shape, bool) if weight is None else weight == 0
    if "running_var" in wide and "running_mean" in wide:
        mean, var = wide["running_mean"], wide["running_var"]
        counted = values.get("num_batches_tracked")
        never = counted is None or not np.any(counted)
        if (mean == 0).all() and (var == 1).all() and never:
            yield "untrained", "" if counted is not None else "no counter in the file"
        dead = dead | ((var >= 0) & (var < DEAD * np.median(var)))
        yield from _some("negative", var < 0)
        yield from _some("eps decides", (var >= 0) & (var < (norm.eps or 0)))
        yield from _some("large mean", np.abs(mean) > FAR * np.sqrt(np.maximum(var, 0) + (norm.eps or 0)))
        yield from _half(norm, values, mean)
    yield from _some("dead", dead)
    yield from _some("not finite", np.logical_or.reduce([~np.isfinite(value) for value in wide.values()]))
    beyond = [(np.abs(v) > _LARGEST_HALF) | ((v != 0) & (np.abs(v) <= _SMALLEST_HALF)) for v in wide.values()]
    yield from _some(
        "float16", np.logical_or.reduce([part & np.isfinite(v) for part, v in zip(beyond, wide.values(), strict=True)])
    )
    halves = [np.abs(wide[role]) == _CUT_OFF for role in wide if values[role].dtype == np.float16]
    yield from _some("cut off", np.logical_or.reduce(halves) if halves else False)


def _some(finding: str, where: Any) -> Iterator[tuple[str, str]]:
    if count := int(np.count_nonzero(where)):
        yield finding, f"{count} of {np.size(where)}"


def _half(norm: Norm, values: dict[str, Array], mean: Array) -> Iterator[tuple[str, str]]:
    """How far from the mean an average of half precision can stop: momentum times that is half a step."""
    step = _HALF.get(values["running_mean"].dtype.name)
    if step is not None and norm.momentum:
        finite = np.abs(mean[np.isfinite(mean)])
        largest = float(np.max(finite, initial=0.0))
        steps = step * 2.0 ** np.floor(np.log2(largest)) if largest > 0 else 0.0
        yield "half", f"{values['running_mean'].dtype.name}, up to {steps / 2 / norm.momentum:.2g} off"
