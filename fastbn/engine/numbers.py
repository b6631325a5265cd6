"""From a view to the numbers that kernels go by, and the one place that decides them; the arithmetic is in `integers`.

Whatever is chosen here, the bits of the results are the same.
"""

from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from fastbn.engine import integers
from fastbn.engine.integers import ceil_div
from fastbn.engine.views import View
from fastbn.kernels import runs
from fastbn.kernels.loops import AHEAD
from fastbn.kernels.plans import Columns, ColumnsBackward, RowsBackward, Runs, RunsBackward

Array = NDArray[Any]

LEAST_ROWS = 32  # of columns: for fewer it costs too much to work out what each column is scaled by


class Elements(NamedTuple):
    """Of the array that is read or written."""

    nbytes: int
    itemsize: int


def of(x: Array) -> Elements:
    return Elements(x.nbytes, x.itemsize)


def busy(units: int, threads: int) -> bool:
    """Whether so many units keep all threads about equally busy."""
    return units >= 4 * threads or units % threads == 0


def past_cache(view: View, y: Elements, share: int = 1) -> int:
    """How many elements ahead to fetch while y is written past the cache; 0: it is not."""
    if view.columns:
        return integers.past_columns(view.geometry[6], y.nbytes, y.itemsize, share)
    return integers.past_runs(view.geometry[3], view.affine == "channel", y.nbytes, y.itemsize, AHEAD, share)


def extent(view: View) -> tuple[int, int, int]:
    """Pieces and panels of a block, and columns of a folded row."""
    return integers.extent(_eight(view))


def undivided(view: View) -> bool:
    """Whether a group is one piece, so that forward does it whole, however many threads there are."""
    if view.columns:
        return extent(view)[0] == 1
    count, _, parts, length, _ = view.geometry
    return runs.pieces(count, parts * length) == 1


def undivided_back(view: View) -> bool:
    """As `undivided`, of backward, where every part of a group is a piece at least."""
    if view.columns or view.affine == "element":
        return undivided(view)
    return undivided(view) and view.geometry[2] == 1


def blocks_of_samples(view: View, itemsize: int) -> tuple[int, int]:
    """How many samples there are, and in a block of them: those of batch norm are one, whose groups lie in all."""
    return integers.blocks_of_samples(_five(view), itemsize)


def blocks_of_rows(view: View) -> tuple[int, int]:
    """How many blocks of rows there are, and the rows of one."""
    return integers.blocks_of_rows(view.geometry[1])


def blocks_of_gradients(view: View, itemsize: int) -> int:
    """How many blocks have gradients of the weights of their own."""
    if view.columns:
        return view.blocks * (extent(view)[1] if view.affine == "row" else 1)
    if view.affine == "element":
        return blocks_of_rows(view)[0]
    samples, per_block = blocks_of_samples(view, itemsize)
    return ceil_div(samples, per_block)


def forward(view: View, y: Elements, centered: bool, rooted: bool) -> Array:
    """For `runs.forward` or `columns.forward`."""
    if view.columns:
        return _numbers(integers.columns_forward(_eight(view), view.blocks, *y, centered, rooted))
    return _numbers(integers.runs_forward(_five(view), view.affine == "channel", *y, centered, rooted))


def scale(view: View, y: Elements, threads: int = 1, parts: int = 1) -> Array:
    """For `runs.scale` or `columns.scale`; threads, parts of a block: by columns."""
    if view.columns:
        return _numbers(integers.columns_scale(_eight(view), view.blocks, *y, threads, parts))
    return _numbers(integers.runs_scale(_five(view), view.affine == "channel", *y))


def backward(view: View, x: Elements, centered: bool) -> tuple[Array, int]:
    """For the kernel of whole groups, and the number of its units."""
    if view.columns:
        plan: tuple[int, ...] = integers.columns_backward(_eight(view), view.blocks, *x, centered)
        return _numbers(plan), ColumnsBackward(*plan[len(Columns._fields) :]).units
    if view.affine == "element":
        plan = integers.rows_backward(_five(view), *x)
        return _numbers(plan), RowsBackward(*plan[len(Runs._fields) :]).units
    plan = integers.runs_backward(_five(view), *x)
    return _numbers(plan), RunsBackward(*plan[len(Runs._fields) :]).units


def _five(view: View) -> integers.Five:
    return cast(integers.Five, view.geometry)


def _eight(view: View) -> integers.Eight:
    return cast(integers.Eight, view.geometry)


def _numbers(plan: tuple[int, ...]) -> Array:
    return np.array(plan, np.int64)
