"""The kernels of a double backward in order: sums of each group, coefficients, then every element."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn.engine import arguments, arrays, pace, views
from fastbn.engine.groups import Groups
from fastbn.engine.integers import extent
from fastbn.engine.operands import computed_in
from fastbn.kernels import columns, double, runs

Array = NDArray[Any]

_SLAB = 1 << 19  # elements: what is summed up and then read again stays in a cache, and the sums stay small beside it
_ROW_BLOCK = 32  # rows whose gradients of the weights are added up together

Affine = tuple[Array | None, Array | None, Array | None]  # weight, ddweight, ddbias
_DEFAULTS = (1.0, 0.0, 0.0)  # in their places
_NONE: Affine = (None, None, None)


class Operands(NamedTuple):
    """Checked arguments of a double backward."""

    v: Array  # the gradient for dx
    dy: Array
    x: Array
    mean: Array | None  # None for RMS norm
    rstd: Array
    weight: Array | None
    ddweight: Array | None
    ddbias: Array | None


def differentiate(operands: Operands, groups: Groups, through_statistics: bool = True) -> tuple[Array, Array, Array]:
    """The gradients for dy, x and weight."""
    v, dy, x, mean, rstd, *affine = operands
    x, read = arrays.reading(x, groups.view_of, groups.args)
    order, view = read.order, read.view
    v, dy, ddy, gx = arrays.in_order(v, order), arrays.in_order(dy, order), read.empty(), read.empty()
    compute = arguments.COMPUTED_IN[x.dtype]
    gweight = np.zeros(view.weights)
    if x.size:
        flat = [arrays.flattened(a, order) for a in (v, dy, x, ddy, gx)]
        w, a, b = (_flat_weights(p, compute, view) for p in affine)
        m = None if mean is None else arrays.flattened(arrays.flat_statistics(mean, view))
        r = arrays.flattened(arrays.flat_statistics(rstd, view))
        run = _columns_double_backward if view.columns else _runs_double_backward
        with np.errstate(all="ignore"):  # an infinite or huge element spoils its own group, which says enough
            kind = run, view, x.dtype
            pace.with_team(kind, x.nbytes, run, view, flat, (w, a, b), m, r, through_statistics, gweight)
    return ddy, gx, arrays.shaped_gradient(gweight.astype(compute), view, affine[0], groups.weights)


def _flat_weights(w: Array | None, compute: np.dtype[Any], view: views.View) -> Array | None:
    """A parameter as the kernels take it."""
    if w is None:
        return None
    flat: Any = arrays.flat_weights(np.ascontiguousarray(w, compute), view)
    return arrays.flattened(flat)


# (g, x, weights of g, mean, rstd) -> the sums of g and of g h over the parts of each group: (groups, parts) both
_Sums = Callable[[Array, Array, Array | None, Array, Array], tuple[Array, Array]]


def _coefficients(
    sums: _Sums,
    arrays: list[Array],
    by_element: tuple[Array | None, Array | None],
    by_part: list[Array],
    mean: Array | None,
    rstd: Array,
    count: int,
    through_statistics: bool,
) -> tuple[Array, Array]:
    """What the kernels take, (12, groups, parts), and what each part adds to the gradient for its weight.

    arrays: v, dy and x.  by_element: weight and ddweight, where every element has its own.  by_part: weight, ddweight
    and ddbias, (groups, parts), where every part has; else 1, 0 and 0.  count: of the elements of a group.
    """
    v, dy, x = arrays
    w, a, _ = by_part
    zeros, ones = np.zeros(rstd.shape), np.ones(rstd.shape)
    m = zeros if mean is None else mean

    def average(of_parts: Array) -> Array:
        return np.asarray(of_parts.sum(axis=1) / count)

    v_mean, v_slope, g_slope, from_dy, from_v, rest, slope = (zeros,) * 7
    dyh: Array = zeros[:, None]
    if through_statistics:
        v_sum, vh = sums(v, x, None, m, rstd)
        dy_sum, dyh = sums(dy, x, by_element[0], m, rstd)
        p_sum, ph = (a * dy_sum, a * dyh) if by_element[1] is None else sums(dy, x, by_element[1], m, rstd)
        v_slope, g_slope = average(vh), average(w * dyh)
        from_dy, from_v = rstd * v_slope, rstd * g_slope
        if mean is not None:
            v_mean = average(v_sum)
            rest = average(p_sum) - from_dy * average(w * dy_sum)
    # v is centred before it is multiplied: the products of two means would bury what is left of them
    _, dyd = sums(dy, v, by_element[0], v_mean, ones)
    if through_statistics:
        slope = average(ph) + rstd * (average(w * dyd) - 3 * v_slope * g_slope)
    hi = m.astype(x.dtype if x.itemsize > 2 else np.float32).astype(np.float64)
    of_groups = hi, rstd, (hi - m) * rstd, v_mean, v_slope, from_dy, from_v, rest, slope
    of_parts = [np.broadcast_to(c[:, None], w.shape) for c in of_groups]
    return np.stack([*of_parts, *by_part]), rstd[:, None] * (dyd - v_slope[:, None] * dyh)


def _by_part(affine: Affine, first: int, groups: int, parts: int) -> list[Array]:
    """weight, ddweight and ddbias of the parts of some groups, in float64, with 1, 0 and 0 for None."""
    places = np.arange(first * parts, (first + groups) * parts).reshape(groups, parts)
    return [
        np.full(places.shape, default) if p is None else p.astype(np.float64).take(places, mode="wrap")
        for p, default in zip(affine, _DEFAULTS, strict=True)
    ]


def _each(affine: Affine, size: int, compute: np.dtype[Any]) -> list[Array]:
    """weight, ddweight and ddbias, as many as there are; one type for the kernels, whichever are given."""
    return [np.full(size, default, compute) if p is None else p for p, default in zip(affine, _DEFAULTS, strict=True)]


def _add_by_part(gweight: Array, of_parts: Array, first: int) -> None:
    """Add what the parts of some groups say about their weights."""
    places = (first * of_parts.shape[1] + np.arange(of_parts.size)) % gweight.size
    gweight += np.bincount(places, of_parts.ravel(), gweight.size)


def _runs_double_backward(
    threads: int,
    view: views.View,
    flat: list[Array],
    affine: Affine,
    mean: Array | None,
    rstd: Array,
    through_statistics: bool,
    gweight: Array,
) -> None:
    shape, parallel = tuple(view.geometry), threads > 1
    count, groups, parts, length, weights = shape
    by_element = view.affine == "element"
    of_elements, of_parts = (affine, _NONE) if by_element else (_NONE, affine)
    per_part = runs.pieces(count, length)
    compute = computed_in(flat[2].dtype)
    kernel_affine = _each(of_elements, weights, compute) if by_element else _NONE
    round_trip = weights // length if by_element else 1  # groups until the weights begin anew
    at_once = round_trip * max(1, _SLAB // (count * parts * length * round_trip))

    def sums(g: Array, x: Array, w: Array | None, mean: Array, rstd: Array) -> tuple[Array, Array]:
        units = rstd.size * parts * per_part
        of_pieces = np.empty((units, 2))
        runs.reduce_back[parallel](units, g, x, None, shape, per_part, w, mean, rstd, of_pieces)
        s, q = np.moveaxis(of_pieces.reshape(rstd.size, parts, per_part, 2).sum(axis=2), -1, 0)
        return s, q

    for first in range(0, groups, at_once):
        n = min(at_once, groups - first)
        own = slice(first, first + n)
        slab = [a[first * parts * length :] for a in flat]  # whose chunks are as far apart as those of the whole
        means = None if mean is None else mean[own]
        c, grads = _coefficients(
            sums,
            slab[:3],
            of_elements[:2],
            _by_part(of_parts, first, n, parts),
            means,
            rstd[own],
            count * parts * length,
            through_statistics,
        )
        c = c.reshape(len(c), -1).astype(compute)
        if by_element:
            blocks = -(-n // _ROW_BLOCK)
            of_blocks = np.zeros((blocks, weights))
            double.over_runs[parallel](
                blocks * per_part, *slab, shape, per_part, c, *kernel_affine, _ROW_BLOCK, of_blocks
            )
            gweight += of_blocks.sum(axis=0)
        else:
            double.over_runs[parallel](n * parts * per_part, *slab, shape, per_part, c, *kernel_affine, 1, None)
            _add_by_part(gweight, grads, first)


def _columns_double_backward(
    threads: int,
    view: views.View,
    flat: list[Array],
    affine: Affine,
    mean: Array | None,
    rstd: Array,
    through_statistics: bool,
    gweight: Array,
) -> None:
    shape, parallel = tuple(view.geometry), threads > 1
    rows, width, fold, span, repeat, _, _, _ = shape
    by_row = view.affine == "row"
    of_rows, of_parts = (affine, _NONE) if by_row else (_NONE, affine)
    pieces, _, folded = extent(view.geometry)
    like = np.empty(0, computed_in(flat[2].dtype))
    kernel_affine = _each(of_rows, rows, like.dtype) if by_row else _NONE
    groups, parts = width // span, span // repeat  # of a block
    at_once = max(1, _SLAB // (rows * width))

    def sums(g: Array, x: Array, w: Array | None, mean: Array, rstd: Array) -> tuple[Array, Array]:
        blocks = rstd.size // groups
        of_pieces = np.empty((blocks, pieces, 2, fold, groups, parts, repeat))
        columns.reduce_back[parallel](blocks * pieces, g, x, None, shape, w, mean, rstd, of_pieces.reshape(-1), like)
        s, q = np.moveaxis(of_pieces.sum(axis=(1, 3, 6)), 1, 0).reshape(2, rstd.size, parts)
        return s, q

    for first in range(0, view.blocks, at_once):
        n = min(at_once, view.blocks - first)
        own = slice(first * groups, (first + n) * groups)
        slab = [a[first * rows * width :] for a in flat]
        means = None if mean is None else mean[own]
        c, grads = _coefficients(
            sums,
            slab[:3],
            of_rows[:2],
            _by_part(of_parts, first * groups, n * groups, parts),
            means,
            rstd[own],
            rows * span,
            through_statistics,
        )
        c = c.reshape(len(c), n, 1, groups, parts, 1).swapaxes(0, 1)
        c = np.broadcast_to(c, (n, c.shape[1], fold, groups, parts, repeat))
        c = np.array(c, like.dtype, order="C").reshape(n, -1, folded)
        if by_row:
            of_blocks = np.empty((n, rows))
            double.over_columns[parallel](n * pieces, *slab, shape, c, *kernel_affine, of_blocks)
            gweight += of_blocks.sum(axis=0)
        else:
            double.over_columns[parallel](n * pieces, *slab, shape, c, *kernel_affine, None)
            _add_by_part(gweight, grads, first * groups)
