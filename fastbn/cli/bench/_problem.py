"""One cell's arrays, the right answer, and how fastbn is asked for it."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from fastbn import reference
from fastbn.cli.bench._cells import BACKWARD, FORWARD, GROUP, INFERENCE, INSTANCE, LAYER, RMS, TRAINING, Cell

Array = np.ndarray[Any, Any]
Call = Callable[[], Any]

EPS = 1e-5
TOLERANCE = 1e-4
TOLERANCE_IN_WORDS = "a ten-thousandth of an output's largest value, which float32 sums in any order keep to"
FUNCTIONS = {
    TRAINING: "batch_norm",
    INFERENCE: "batch_norm",
    LAYER: "layer_norm",
    GROUP: "group_norm",
    INSTANCE: "instance_norm",
    RMS: "rms_norm",
}


class Problem:
    """One cell's inputs, the same for every contender, an array for results, and what the results must be.

    Random, never zeros: the system keeps untouched zeros in one page, which reads too fast.
    """

    def __init__(self, cell: Cell) -> None:
        rng = np.random.default_rng(0)

        def normal(shape: int | tuple[int, ...], mean: float) -> Array:
            return np.add(rng.standard_normal(shape, dtype=np.float32), mean, dtype=np.float32)

        self.cell = cell
        self.x, self.dy, self.out = (normal(cell.shape, mean) for mean in (0.5, 0, 0))
        self.weight, self.bias, self.running_mean = (normal(cell.channels, mean) for mean in (1, 0, 0.5))
        self.residual = normal(cell.shape, 0) if cell.residual else None
        self.running_var = rng.uniform(0.5, 2, cell.channels).astype(np.float32)
        if cell.activation and cell.direction == BACKWARD:
            # where rounding decides on which side of the bend an element lies, its gradient is anyone's
            self.dy[np.abs(_before_activation(self)) < 1e-3] = 0
        self.statistics = _statistics(self) if cell.direction == BACKWARD else ()  # float64: mean (not RMS norm), rstd
        outputs = as_tuple(library_call(reference, self)())
        if cell.direction != BACKWARD:
            outputs = outputs[:1]
        self.expected = tuple(as_it_lies(a, self.seen_axis, cell).astype(np.float32) for a in outputs)

    @property
    def seen_axis(self) -> int:
        """Where fastbn sees the channels: layer and RMS norm take them last, wherever they lie."""
        return -1 if self.cell.normalizes_vectors else self.cell.axis

    def seen(self, array: Array) -> Array:
        """x, dy or out as fastbn sees it, without a copy."""
        return np.moveaxis(array, self.cell.axis, self.seen_axis)


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def as_it_lies(array: Array, axis: int, cell: Cell) -> Array:
    """An output whose channels were seen at `axis`, in the cell's own order; parameters' gradients as they are."""
    return np.moveaxis(array, axis, cell.axis).reshape(cell.shape) if array.ndim > 1 else array


def worst_error(outputs: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest difference over the largest value, of the worst output; NaN if any is NaN."""
    pairs = zip(outputs, expected, strict=True)
    return float(np.max([np.abs(a - e).max() / np.abs(e).max() for a, e in pairs]))


def library_call(library: ModuleType, p: Problem, **out: Array) -> Call:
    """The cell's operation by fastbn, or by its reference: one face."""
    cell, name = p.cell, FUNCTIONS[p.cell.operation]
    options: dict[str, Any] = {} if cell.normalizes_vectors else {"axis": cell.axis}
    if cell.activation:
        options["activation"] = cell.activation
    if p.residual is not None:
        options["residual"] = p.seen(p.residual)
    if cell.direction == BACKWARD:
        arrays = p.seen(p.dy), p.seen(p.x), *p.statistics, p.weight
        if cell.activation and cell.operation != RMS:
            options["bias"] = p.bias
        return partial(getattr(library, f"{name}_backward"), *arrays, **options, **out)
    function = getattr(library, f"{name}_forward" if cell.operation == TRAINING else name)
    affine = (p.weight,) if cell.operation == RMS else (p.weight, p.bias)
    return partial(function, p.seen(p.x), *_leading(p), *affine, eps=EPS, **options, **out)


def _before_activation(p: Problem) -> Array:
    forward = copy(p)
    forward.cell = replace(p.cell, direction=FORWARD, activation=None)
    y = as_tuple(library_call(reference, forward)())[0]
    return as_it_lies(y, p.seen_axis, p.cell)


def _leading(p: Problem) -> tuple[Any, ...]:
    """What a forward function takes between x and the weight."""
    if p.cell.normalizes_vectors:
        return (p.cell.channels,)
    return {INFERENCE: (p.running_mean, p.running_var), GROUP: (p.cell.groups,), INSTANCE: (None, None)}.get(
        p.cell.operation, ()
    )


def _statistics(p: Problem) -> tuple[Array, ...]:
    extra = _leading(p) if p.cell.normalizes_vectors or p.cell.operation == GROUP else ()
    axis = {} if p.cell.normalizes_vectors else {"axis": p.cell.axis}
    forward = getattr(reference, f"{FUNCTIONS[p.cell.operation]}_forward")
    _, *statistics = forward(p.seen(p.x), *extra, eps=EPS, **axis)
    return tuple(statistics)
