"""From a view to the numbers that kernels go by, and the one place that decides them; the arithmetic is in `integers`.

Whatever is chosen here, the bits of the results are the same.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn.engine import integers
from fastbn.engine.views import View
from fastbn.kernels import runs
from fastbn.kernels.loops import AHEAD

Array = NDArray[Any]

LEAST_ROWS = 32  # of columns: for fewer it costs too much to work out what each column is scaled by


class Elements(NamedTuple):
    """Of the array that is read or written."""

    nbytes: int  # or more, if it is treated as if it were larger
    dtype: np.dtype[Any]

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize


def of(x: Array) -> Elements:
    return Elements(x.nbytes, x.dtype)


def busy(units: int, threads: int) -> bool:
    """Whether so many units keep all threads about equally busy."""
    return units >= 4 * threads or units % threads == 0


def past_cache(view: View, y: Elements, share: int = 1) -> int:
    """How many elements ahead to fetch while y is written past the cache in runs; 0: it is not."""
    return integers.past_runs(view.geometry.length, view.affine == "channel", y.nbytes, y.itemsize, AHEAD, share)


def undivided(view: View) -> bool:
    """Whether a group is one piece, so that forward does it whole, however many threads there are."""
    shape = view.geometry
    if view.columns:
        return integers.extent(shape).pieces == 1
    return runs.pieces(shape.chunks, shape.parts * shape.length) == 1


def undivided_back(view: View) -> bool:
    """As `undivided`, of backward, where every part of a group is a piece at least."""
    by_part = not view.columns and view.affine == "channel" and view.geometry.parts > 1
    return undivided(view) and not by_part


def blocks_of_gradients(view: View, itemsize: int) -> int:
    """How many blocks have gradients of the weights of their own."""
    shape = view.geometry
    if view.columns:
        return view.blocks * (integers.extent(shape).panels if view.affine == "row" else 1)
    if view.affine == "element":
        return integers.blocks_of_rows(shape.groups).number
    return integers.blocks_of_samples(shape, itemsize).number


def forward(view: View, y: Elements, centered: bool, rooted: bool) -> Array:
    """For `runs.forward`, `rows.forward` or `columns.forward`."""
    shape, by_channel = view.geometry, view.affine == "channel"
    if view.columns:
        return _numbers(shape, integers.columns_forward(shape, view.blocks, y.nbytes, y.itemsize, centered, rooted))
    return _numbers(shape, integers.runs_forward(shape, by_channel, y.nbytes, y.itemsize, centered, rooted))


def scale(view: View, y: Elements, threads: int = 1, parts: int = 1) -> Array:
    """For `runs.scale` or `columns.scale`; threads, parts of a block: by columns."""
    shape, by_channel = view.geometry, view.affine == "channel"
    if view.columns:
        return _numbers(shape, integers.columns_scale(shape, view.blocks, y.nbytes, y.itemsize, threads, parts))
    return _numbers(shape, integers.runs_scale(shape, by_channel, y.nbytes, y.itemsize))


def backward(view: View, x: Elements, centered: bool) -> tuple[Array, int]:
    """For the kernel of whole groups, and the number of its units."""
    shape = view.geometry
    if view.columns:
        plan: Any = integers.columns_backward(shape, view.blocks, x.nbytes, x.itemsize, centered)
    else:
        decide = integers.rows_backward if view.affine == "element" else integers.runs_backward
        plan = decide(shape, x.nbytes, x.itemsize)
    return _numbers(shape, plan), plan.units


def adjacent(view: View, x: Elements, threads: int) -> Array | None:
    """For `adjacent.backward`, or None where `runs.backward` is as fast."""
    plan = integers.adjacent(view.geometry, x.itemsize, threads)
    return _numbers(view.geometry, plan) if plan.units else None


def _numbers(*records: tuple[int, ...]) -> Array:
    return np.array([number for record in records for number in record], np.int64)
