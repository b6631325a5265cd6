"""The gradients of the backward functions: what a loss on gradients, such as a gradient penalty, needs.

A backward function takes dy, x and weight to dx, dweight and dbias.  Given the gradients of a loss for these three,
each function here returns its gradients for the first three.  What `fastbn.functional` says about arrays, accuracy,
bits and errors holds here too.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn import _checks, _runtime, _views
from fastbn._quiet import quietly
from fastbn.engine import arrays, numbers
from fastbn.engine.operands import computed_in
from fastbn.kernels import columns, double, runs

__all__ = [
    "batch_norm_double_backward",
    "group_norm_double_backward",
    "instance_norm_double_backward",
    "layer_norm_double_backward",
    "rms_norm_double_backward",
]

Array = NDArray[Any]

_SLAB = 1 << 19  # elements: what is summed up and then read again stays in a cache, and the sums stay small beside it
_ROW_BLOCK = 32  # rows whose gradients of the weights are added up together


# The operations -------------------------------------------------------------------------------------------------------


@quietly
def batch_norm_double_backward(
    ddx: ArrayLike,
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ddweight: ArrayLike | None = None,
    ddbias: ArrayLike | None = None,
    axis: int = 1,
    training: bool = True,
) -> tuple[Array, Array, Array]:
    """The gradients of `batch_norm_backward`.

    Parameters
    ----------
    ddx : array_like, shape and dtype of x
        Gradient of the dx that `batch_norm_backward` returned.
    dy, x, mean, rstd, weight, axis, training
        As `batch_norm_backward` took them.
    ddweight, ddbias : array_like, shape (C,), optional
        Gradients of the dweight and dbias that it returned; zero where left out.

    Returns
    -------
    ddy : ndarray, shape and dtype of x
        Gradient for dy.
    gx : ndarray, shape and dtype of x
        Gradient for x, on which mean and rstd depend, unless `training` is false.
    gweight : ndarray, shape (C,)
        Gradient for weight.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm_backward`; also if ddx does not have the shape and dtype of x, or ddweight or ddbias not the
        shape of weight.

    Notes
    -----
    With h = (x - mean) * rstd, g = dy * weight, p = dy * ddweight, avg over the elements of a channel, and
    P(v) = v - avg(v) - h * avg(v * h)::

        ddy = rstd * P(ddx) * weight + h * ddweight + ddbias
        gx = rstd * P(p - rstd * (ddx * avg(g * h) + g * avg(ddx * h))) - rstd**2 * h * avg(ddx * P(g))
        gweight = sum(dy * rstd * P(ddx))

    With `training` false, P(v) = v in ddy and gweight, and gx = rstd * p.

    References
    ----------
    .. [1] I. Gulrajani, F. Ahmed, M. Arjovsky, V. Dumoulin and A. Courville, "Improved Training of Wasserstein GANs",
       NeurIPS 2017, section 4: the gradient penalty.

    Examples
    --------
    >>> import fastbn
    >>> x, dy = [[1.0], [2.0], [4.0]], [[0.0], [1.0], [0.0]]
    >>> y, mean, rstd = fastbn.batch_norm_forward(x)
    >>> dx, dweight, dbias = fastbn.batch_norm_backward(dy, x, mean, rstd)
    >>> ddy, gx, gweight = fastbn.batch_norm_double_backward(2 * dx, dy, x, mean, rstd)  # of the sum of dx**2
    >>> gweight.round(3), (2 * dx * dx).sum(axis=0).round(3)  # dx is proportional to weight, which is 1
    (array([0.827]), array([0.827]))
    """
    dy, x = _checks.gradient(dy, x)
    v = _checks.like(ddx, "ddx", x)
    _checks.rank(x, 2)
    channel = _checks.axis(axis, x)
    shape = (x.shape[channel],)
    m, r = _checks.given(mean, "mean", shape), _checks.given(rstd, "rstd", shape)
    affine = _affine(weight, ddweight, ddbias, shape)
    through = _checks.flag(training, "training")
    return _differentiate(v, dy, x, m, r, _views.batch_view, (channel,), affine, shape, through)


@quietly
def layer_norm_double_backward(
    ddx: ArrayLike,
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ddweight: ArrayLike | None = None,
    ddbias: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `layer_norm_backward`.

    Parameters
    ----------
    ddx : array_like, shape and dtype of x
        Gradient of the dx that `layer_norm_backward` returned.
    dy, x, mean, rstd, weight
        As `layer_norm_backward` took them.
    ddweight, ddbias : array_like, shape of the normalized axes, optional
        Gradients of the dweight and dbias that it returned; zero where left out.

    Returns
    -------
    ddy, gx : ndarray, shape and dtype of x
        Gradients for dy and x.
    gweight : ndarray, shape of the normalized axes
        Gradient for weight.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_backward`; also if ddx does not have the shape and dtype of x, or ddweight or ddbias not the
        shape of weight.

    Notes
    -----
    The formulas are those of `batch_norm_double_backward`, with avg over the normalized axes and the sum over all
    others.

    Examples
    --------
    >>> import fastbn
    >>> x, dy = [[1.0, 2.0, 4.0]], [[0.0, 1.0, 0.0]]
    >>> y, mean, rstd = fastbn.layer_norm_forward(x, 3)
    >>> ddy, gx, gweight = fastbn.layer_norm_double_backward([[1.0, 1.0, 1.0]], dy, x, mean, rstd)
    >>> bool(abs(ddy).max() < 1e-12)  # the elements of dx add up to 0, whatever dy is
    True
    """
    return _trailing(ddx, dy, x, mean, rstd, weight, ddweight, ddbias, centered=True)


@quietly
def rms_norm_double_backward(
    ddx: ArrayLike,
    dy: ArrayLike,
    x: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ddweight: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `rms_norm_backward`.

    Parameters
    ----------
    ddx, dy, x, rstd, weight, ddweight
        As `layer_norm_double_backward` takes them; rstd as `rms_norm_forward` returned it.

    Returns
    -------
    ddy, gx, gweight
        As `layer_norm_double_backward` returns them.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_double_backward`.

    Notes
    -----
    The formulas are those of `batch_norm_double_backward` with h = x * rstd and P(v) = v - h * avg(v * h), avg over the
    normalized axes and the sum over all others.

    Examples
    --------
    >>> import fastbn
    >>> x, dy = [[1.0, -1.0, 7.0, 7.0]], [[1.0, 1.0, 0.0, 0.0]]
    >>> y, rstd = fastbn.rms_norm_forward(x, 4, eps=0)
    >>> ddy, gx, gweight = fastbn.rms_norm_double_backward(x, dy, x, rstd)
    >>> bool(abs(ddy).max() < 1e-12)  # dx is perpendicular to x, whatever dy is
    True
    """
    return _trailing(ddx, dy, x, None, rstd, weight, ddweight, None, centered=False)


@quietly
def group_norm_double_backward(
    ddx: ArrayLike,
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ddweight: ArrayLike | None = None,
    ddbias: ArrayLike | None = None,
    axis: int = 1,
) -> tuple[Array, Array, Array]:
    """The gradients of `group_norm_backward`.

    Parameters
    ----------
    ddx : array_like, shape and dtype of x
        Gradient of the dx that `group_norm_backward` returned.
    dy, x, mean, rstd, weight, axis
        As `group_norm_backward` took them.
    ddweight, ddbias : array_like, shape (C,), optional
        Gradients of the dweight and dbias that it returned; zero where left out.

    Returns
    -------
    ddy, gx : ndarray, shape and dtype of x
        Gradients for dy and x.
    gweight : ndarray, shape (C,)
        Gradient for weight.

    Raises
    ------
    TypeError, ValueError
        As `group_norm_backward`; also if ddx does not have the shape and dtype of x, or ddweight or ddbias not the
        shape of weight.

    Notes
    -----
    The formulas are those of `batch_norm_double_backward`, with avg over a group of a sample.

    Examples
    --------
    >>> import fastbn
    >>> x, dy = [[[1.0, 2.0], [4.0, 8.0]]], [[[0.0, 1.0], [0.0, 0.0]]]
    >>> y, mean, rstd = fastbn.group_norm_forward(x, 1)
    >>> ddy, gx, gweight = fastbn.group_norm_double_backward([[[1.0, 1.0], [1.0, 1.0]]], dy, x, mean, rstd)
    >>> bool(abs(ddy).max() < 1e-12)  # the elements of dx add up to 0, whatever dy is
    True
    """
    return _group(ddx, dy, x, mean, rstd, weight, ddweight, ddbias, axis, by_channel=False)


@quietly
def instance_norm_double_backward(
    ddx: ArrayLike,
    dy: ArrayLike,
    x: ArrayLike,
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    ddweight: ArrayLike | None = None,
    ddbias: ArrayLike | None = None,
    axis: int = 1,
) -> tuple[Array, Array, Array]:
    """The gradients of `instance_norm_backward`.

    Parameters
    ----------
    ddx, dy, x, mean, rstd, weight, ddweight, ddbias, axis
        As `group_norm_double_backward` takes them; mean and rstd as `instance_norm_forward` returned them.

    Returns
    -------
    ddy, gx, gweight
        As `group_norm_double_backward` returns them.

    Raises
    ------
    TypeError, ValueError
        As `group_norm_double_backward`.

    Examples
    --------
    >>> import fastbn
    >>> x, dy = [[[1.0, 2.0], [4.0, 8.0]]], [[[0.0, 1.0], [0.0, 0.0]]]
    >>> y, mean, rstd = fastbn.instance_norm_forward(x)
    >>> ddy, gx, gweight = fastbn.instance_norm_double_backward(dy, dy, x, mean, rstd, ddbias=[10.0, 20.0])
    >>> ddy.round(2)
    array([[[10., 10.],
            [20., 20.]]])
    """
    return _group(ddx, dy, x, mean, rstd, weight, ddweight, ddbias, axis, by_channel=True)


# Arguments ------------------------------------------------------------------------------------------------------------

_Affine = tuple[Array | None, Array | None, Array | None]  # weight, ddweight, ddbias
_DEFAULTS = (1.0, 0.0, 0.0)  # in their places
_NONE: _Affine = (None, None, None)


def _affine(weight: Any, ddweight: Any, ddbias: Any, shape: tuple[int, ...]) -> _Affine:
    return (
        _checks.vector(weight, "weight", shape),
        _checks.vector(ddweight, "ddweight", shape),
        _checks.vector(ddbias, "ddbias", shape),
    )


def _trailing(
    ddx: Any,
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any,
    ddweight: Any,
    ddbias: Any,
    centered: bool,
) -> tuple[Array, Array, Array]:
    dy, x = _checks.gradient(dy, x)
    v = _checks.like(ddx, "ddx", x)
    lead, shape = _checks.leading(rstd, "rstd", x)
    r = _checks.given(rstd, "rstd", lead)
    m = _checks.given(mean, "mean", lead) if centered else None
    affine = _affine(weight, ddweight, ddbias, shape)
    return _differentiate(v, dy, x, m, r, _views.layer_view, (len(shape),), affine, shape)


def _group(
    ddx: Any,
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any,
    ddweight: Any,
    ddbias: Any,
    axis: Any,
    by_channel: bool,
) -> tuple[Array, Array, Array]:
    """by_channel: a group a channel; else rstd tells their number."""
    dy, x = _checks.gradient(dy, x)
    v = _checks.like(ddx, "ddx", x)
    _checks.rank(x, 2)
    channel = _checks.sample_axis(axis, x)
    channels = x.shape[channel]
    groups = channels if by_channel else _checks.groups_of(rstd, channels)
    m, r = (_checks.given(s, name, (x.shape[0], groups)) for s, name in ((mean, "mean"), (rstd, "rstd")))
    affine = _affine(weight, ddweight, ddbias, (channels,))
    return _differentiate(v, dy, x, m, r, _views.group_view, (channel, groups), affine, (channels,))


# The recipe -----------------------------------------------------------------------------------------------------------


def _differentiate(
    v: Array,
    dy: Array,
    x: Array,
    mean: Array | None,
    rstd: Array,
    view_of: arrays.ViewOf,
    args: tuple[Any, ...],
    affine: _Affine,
    shape: tuple[int, ...],
    through_statistics: bool = True,
) -> tuple[Array, Array, Array]:
    """The gradients for dy, x and weight of checked arguments; v is that for dx; mean: None for RMS norm."""
    x, order, view = arrays.view_of_memory(x, view_of, *args)
    v, dy = arrays.in_order(v, order), arrays.in_order(dy, order)
    ddy, gx = arrays.target(x, order), arrays.target(x, order)
    compute = _checks.COMPUTED_IN[x.dtype]
    gweight = np.zeros(view.weights)
    if x.size:
        flat = [arrays.flattened(a, order) for a in (v, dy, x, ddy, gx)]
        w, a, b = (_flat_weights(p, compute, view) for p in affine)
        m = None if mean is None else arrays.flattened(arrays.flat_statistics(mean, view))
        r = arrays.flattened(arrays.flat_statistics(rstd, view))
        run = _columns_double_backward if view.columns else _runs_double_backward
        with np.errstate(all="ignore"):  # an infinite or huge element spoils its own group, which says enough
            kind = run, view, x.dtype
            _runtime.with_team(kind, x.nbytes, run, view, flat, (w, a, b), m, r, through_statistics, gweight)
    return ddy, gx, arrays.shaped_gradient(gweight.astype(compute), view, affine[0], shape)


def _flat_weights(w: Array | None, compute: np.dtype[Any], view: _views.View) -> Array | None:
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


def _by_part(affine: _Affine, first: int, groups: int, parts: int) -> list[Array]:
    """weight, ddweight and ddbias of the parts of some groups, in float64, with 1, 0 and 0 for None."""
    places = np.arange(first * parts, (first + groups) * parts).reshape(groups, parts)
    return [
        np.full(places.shape, default) if p is None else p.astype(np.float64).take(places, mode="wrap")
        for p, default in zip(affine, _DEFAULTS, strict=True)
    ]


def _each(affine: _Affine, size: int, compute: np.dtype[Any]) -> list[Array]:
    """weight, ddweight and ddbias, as many as there are; one type for the kernels, whichever are given."""
    return [np.full(size, default, compute) if p is None else p for p, default in zip(affine, _DEFAULTS, strict=True)]


def _add_by_part(gweight: Array, of_parts: Array, first: int) -> None:
    """Add what the parts of some groups say about their weights."""
    places = (first * of_parts.shape[1] + np.arange(of_parts.size)) % gweight.size
    gweight += np.bincount(places, of_parts.ravel(), gweight.size)


def _runs_double_backward(
    threads: int,
    view: _views.View,
    flat: list[Array],
    affine: _Affine,
    mean: Array | None,
    rstd: Array,
    through_statistics: bool,
    gweight: Array,
) -> None:
    shape, parallel = view.geometry, threads > 1
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
    view: _views.View,
    flat: list[Array],
    affine: _Affine,
    mean: Array | None,
    rstd: Array,
    through_statistics: bool,
    gweight: Array,
) -> None:
    shape, parallel = view.geometry, threads > 1
    rows, width, fold, span, repeat, _, _, _ = shape
    by_row = view.affine == "row"
    of_rows, of_parts = (affine, _NONE) if by_row else (_NONE, affine)
    pieces, _, folded = numbers.extent(view)
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
