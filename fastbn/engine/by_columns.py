"""The passes over groups that are columns: whole panels, or step by step where those are too few for all threads.

Each function decides all that can be decided from the view, and returns what does the rest for flat arrays.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastbn.engine import numbers
from fastbn.engine.by_runs import Backward, Forward, collecting, units_of_collecting
from fastbn.engine.entries import Entries
from fastbn.engine.integers import ceil_div, extent
from fastbn.engine.numbers import Elements
from fastbn.engine.operands import Array, Gradient, Maybe, computed_in
from fastbn.engine.views import View
from fastbn.kernels import columns, statistics


def forward(view: View, y: Elements, centered: bool, rooted: bool, eps: float, in_steps: bool = False) -> Forward:
    """Normalize x, like y, with its own statistics, each parallel work item being one panel, or a piece of a block."""
    plan, groups = numbers.forward(view, y, centered, rooted), view.groups
    kernel, by_channel = Entries(columns.forward_in_steps if in_steps else columns.forward), view.affine == "channel"
    like = np.empty(0, computed_in(y.dtype))

    def run(threads: int, x: Array, y: Array, w: Maybe, b: Maybe, mean: Array, var: Array, extras: Any) -> None:
        mean, var = mean if mean.size else np.empty(groups), var if var.size else np.empty(groups)
        affine = (w, b, None, None) if by_channel else (None, None, w, b)
        args = plan, x, y, *affine, eps, mean, var, like, extras
        kernel(threads > 1, (threads, *args) if in_steps else args)

    return run


forward_in_steps = partial(forward, in_steps=True)


def scale(view: View, elements: Elements, eps: float | None) -> Forward:
    """Normalize x with given statistics, a group each; eps None: `var` is rstd."""
    like, by_channel = np.empty(0, computed_in(elements.dtype)), view.affine == "channel"
    shape = view.geometry
    most, blocks = max(1, ceil_div(shape.rows, shape.fold) // numbers.LEAST_ROWS), view.blocks
    kernel, plans = Entries(columns.scale), {1: numbers.scale(view, elements, 1, 1)}

    def run(threads: int, x: Array, y: Array, w: Maybe, b: Maybe, mean: Array, var: Array, extras: Any) -> None:
        plan = plans.get(threads)
        if plan is None:
            parts = min(ceil_div(4 * threads, blocks), most)
            plan = plans[threads] = numbers.scale(view, elements, threads, parts)
        affine = (w, b, None, None) if by_channel else (None, None, w, b)
        of_elements = None if extras is None else extras[:4]
        kernel(threads > 1, (plan, x, y, *affine, eps, mean, var, like, of_elements))

    return run


def sums(view: View, x: Array) -> Callable[..., None]:
    """The sums of d and d^2 over every group of arrays like x; d: the distance from `shift`, an element."""
    view = _of_shorter_rows(view) if x.itemsize == 8 else view
    shape, pieces, blocks = view.geometry, extent(view.geometry).pieces, view.blocks
    _, width, fold, span, *_ = shape
    wide = np.empty(0)  # where nothing but the sums is wanted, float64 costs little
    reduce, shifts, add = (Entries(d) for d in (columns.reduce, columns.shifts, statistics.add_columns_of_pieces))

    def run(threads: int, x: Array, shift: Array, s: Array, q: Array) -> None:
        of_pieces = np.empty(blocks * pieces * 2 * fold * width)
        reduce(threads > 1, (blocks * pieces, x, None, shape, True, True, of_pieces, wide))
        add(False, (blocks, of_pieces, pieces, fold, width // span, span, s, q))
        of_columns = np.empty((blocks, fold, width // span, span))
        shifts(False, (blocks, x, None, shape, of_columns.reshape(-1)))
        shift[:] = of_columns[:, 0, :, 0].ravel()

    return run


def _of_shorter_rows(view: View) -> View:
    """The view, with half as many rows taken as one: eight folded rows of 4 kB are too many for the nearest cache."""
    shape = view.geometry
    half = shape.fold // 2
    if half == 0 or shape.panel < shape.width * shape.fold:
        return view
    piece = shape.piece * shape.fold // half
    return view._replace(geometry=shape._replace(fold=half, panel=shape.width * half, piece=piece))


# Backward -------------------------------------------------------------------------------------------------------------


def backward(view: View, x: Elements, centered: bool) -> Backward:
    """The gradients of `forward`, each parallel work item being one panel."""
    plan, _ = numbers.backward(view, x, centered)
    like, by_row, groups = np.empty(0, computed_in(x.dtype)), view.affine == "row", view.groups
    size = numbers.blocks_of_gradients(view, x.itemsize), 2, view.weights
    kernel, collect = Entries(columns.backward), collecting(size)

    def run(threads: int, arrays: Gradient) -> None:
        dy, x, dx, w, mean, rstd, dweight, dbias, extras = arrays
        grads = np.empty(size)
        mean = np.zeros(groups) if mean is None else mean
        if by_row:
            kernel(threads > 1, (plan, dy, x, dx, None, w, mean, rstd, None, grads, like, extras))
        else:
            kernel(threads > 1, (plan, dy, x, dx, w, None, mean, rstd, grads, None, like, extras))
        collect(threads, grads, dweight, dbias)

    return run


def backward_in_steps(view: View, x: Elements, centered: bool) -> Backward:
    """As `backward`, each parallel work item being a piece of a block; dx may be None."""
    plan, _ = numbers.backward(view, x, centered)
    like, by_row, groups = np.empty(0, computed_in(x.dtype)), view.affine == "row", view.groups
    size = numbers.blocks_of_gradients(view, x.itemsize), 2, view.weights
    kernel, shares = Entries(columns.backward_in_steps), units_of_collecting(size)

    def run(threads: int, arrays: Gradient) -> None:
        dy, x, dx, w, mean, rstd, dweight, dbias, extras = arrays
        grads = np.empty(size)
        mean = np.zeros(groups) if mean is None else mean
        affine = (None, w, mean, rstd, None, grads) if by_row else (w, None, mean, rstd, grads, None)
        kernel(threads > 1, (threads, plan, dy, x, dx, *affine, shares, dweight, dbias, like, extras))

    return run
