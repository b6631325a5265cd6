"""The passes over groups that are columns: whole panels, or step by step where those are too few for all threads.

Each function decides all that can be decided from the view, and returns what does the rest for flat arrays.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.engine import numbers
from fastbn.engine.by_runs import Backward, Forward, collecting
from fastbn.engine.entries import Entries
from fastbn.engine.integers import ceil_div
from fastbn.engine.operands import LIKE, NO_GRADIENT_EXTRAS, Array, Gradient, Maybe, computed_in
from fastbn.engine.views import View
from fastbn.kernels import columns, statistics
from fastbn.kernels.simd import LANES


def forward(view: View, y: Array, centered: bool, rooted: bool, eps: float) -> Forward:
    """Normalize x, like y, with its own statistics, each parallel work item being one panel."""
    plan = numbers.forward(view, numbers.of(y), centered, rooted)
    kernel, by_channel = Entries(columns.forward), view.affine == "channel"
    groups, like = view.groups, LIKE[computed_in(y.dtype)]

    def run(threads: int, x: Array, y: Array, w: Maybe, b: Maybe, mean: Array, var: Array, extras: Any) -> None:
        mean, var = mean if mean.size else np.empty(groups), var if var.size else np.empty(groups)
        if by_channel:
            kernel(threads > 1, (plan, x, y, w, b, None, None, eps, mean, var, like, extras))
        else:
            kernel(threads > 1, (plan, x, y, None, None, w, b, eps, mean, var, like, extras))

    return run


def forward_in_steps(view: View, y: Array, centered: bool, rooted: bool, eps: float) -> Forward:
    """As `forward`, each parallel work item being a piece of a block."""
    shape, groups, like, apply = view.geometry, view.groups, LIKE[computed_in(y.dtype)], scale(view, y, eps)
    pieces, panels, width = numbers.extent(view)
    units, pieces = view.blocks * panels, view.blocks * pieces
    reduce, finish = Entries(columns.reduce), Entries(columns.finish)

    def run(threads: int, x: Array, y: Array, w: Maybe, b: Maybe, mean: Array, var: Array, extras: Any) -> None:
        where, counts = (None, None) if extras is None else (extras.where, extras.counts)
        mean, of_groups = mean if mean.size else np.empty(groups), np.empty(groups)
        sums = np.empty(pieces * 2 * width)
        reduce(True, (pieces, x, where, shape, centered, False, sums, like))
        roots, wanted = (rooted, var) if var.size else (False, of_groups)
        finish(False, (units, x, where, shape, centered, sums, counts, mean, of_groups, roots, eps, wanted))
        apply(threads, x, y, w, b, mean, of_groups, None if extras is None else extras.of_elements)

    return run


def scale(view: View, y: Array, eps: float | None) -> Forward:
    """Normalize x, like y, with given statistics, a group each; eps None: `var` is rstd."""
    of_y, like, by_channel = numbers.of(y), LIKE[computed_in(y.dtype)], view.affine == "channel"
    rows, _, fold, *_ = view.geometry
    most, blocks = max(1, ceil_div(rows, fold) // numbers.LEAST_ROWS), view.blocks
    kernel, plans = Entries(columns.scale), {1: numbers.scale(view, of_y, 1, 1)}

    def run(threads: int, x: Array, y: Array, w: Maybe, b: Maybe, mean: Array, var: Array, extras: Any) -> None:
        plan = plans.get(threads)
        if plan is None:
            parts = min(ceil_div(4 * threads, blocks), most)
            plan = plans[threads] = numbers.scale(view, of_y, threads, parts)
        affine = (w, b, None, None) if by_channel else (None, None, w, b)
        of_elements = None if extras is None else extras[:4]
        kernel(threads > 1, (plan, x, y, *affine, eps, mean, var, like, of_elements))

    return run


def sums(view: View, x: Array) -> Callable[..., None]:
    """The sums of d and d^2 over every group of arrays like x; d: the distance from `shift`, an element."""
    view = _of_shorter_rows(view) if x.itemsize == 8 else view
    shape, (pieces, _, _), blocks = view.geometry, numbers.extent(view), view.blocks
    _, width, fold, span, *_ = shape
    wide = LIKE[np.dtype(np.float64)]  # where nothing but the sums is wanted, float64 costs little
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
    rows, width, fold, span, repeat, weights, panel, piece = view.geometry
    half = fold // 2
    if half == 0 or panel < width * fold:
        return view
    return view._replace(geometry=(rows, width, half, span, repeat, weights, width * half, piece * fold // half))


# Backward -------------------------------------------------------------------------------------------------------------


def backward(view: View, x: Array, centered: bool) -> Backward:
    """The gradients of `forward`, each parallel work item being one panel."""
    plan, _ = numbers.backward(view, numbers.of(x), centered)
    like, by_row, groups = LIKE[computed_in(x.dtype)], view.affine == "row", view.groups
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


def backward_in_steps(view: View, x: Array, centered: bool) -> Backward:
    """As `backward`, each parallel work item being a piece of a block; dx may be None."""
    shape, like, by_row = view.geometry, LIKE[computed_in(x.dtype)], view.affine == "row"
    past_cache, differentiate = numbers.past_cache(view, numbers.of(x), share=2), scale(view, x, None)
    pieces, panels, width = numbers.extent(view)
    units, pieces, blocks, groups = view.blocks * panels, view.blocks * pieces, view.blocks, view.groups
    of_panels = units * 6 * columns.apart(shape[6]) + LANES
    collect = collecting((units, 2, shape[0]) if by_row else (blocks, 2, shape[5]))
    reduce, finish, apply = (Entries(d) for d in (columns.reduce_back, columns.finish_back, columns.apply_back))

    def run(threads: int, arrays: Gradient) -> None:
        dy, x, dx, w, mean, rstd, dweight, dbias, extras = arrays
        extras, parallel = extras or NO_GRADIENT_EXTRAS, threads > 1
        mean = np.zeros(groups) if mean is None else mean
        channel, row = (None, w) if by_row else (w, None)
        grads: Any = None if by_row else np.empty((blocks, 2, shape[5]))
        row_grads: Any = np.empty((units, 2, shape[0])) if by_row else None
        if extras.dy is not None:
            bias = extras.element_bias if by_row else extras.bias
            differentiate(threads, x, dy, w, bias, mean, rstd, extras.forward)
        sums, coefficients = np.empty(pieces * 2 * width), np.empty(of_panels, like.dtype)
        reduce(parallel, (pieces, dy, x, extras.where, shape, row, mean, rstd, sums, like))
        totals = channel, centered, sums, extras.counts, mean, rstd, grads, coefficients
        finish(False, (units, x, shape, *totals))
        if dx is not None:
            others = past_cache, row_grads, coefficients, extras.beside_coefficients
            apply(parallel, (pieces, threads, dy, x, dx, shape, row, *others))
        collect(threads, row_grads if by_row else grads, dweight, dbias)

    return run
