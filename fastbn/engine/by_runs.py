"""The passes over groups of contiguous runs: whole groups, or step by step where those are too few for all threads.

Each function decides all that can be decided from the view, and returns what does the rest for flat arrays.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn._quiet import quietly
from fastbn.engine import numbers
from fastbn.engine.entries import Entries, entry_point
from fastbn.engine.integers import blocks_of_rows, blocks_of_samples, ceil_div
from fastbn.engine.numbers import Elements
from fastbn.engine.operands import NO_GRADIENT_EXTRAS, UNWANTED, Array, Gradient, Maybe, computed_in
from fastbn.engine.views import View
from fastbn.kernels import adjacent, rows, runs, statistics
from fastbn.kernels.plans import Runs

_LONG_CHUNK = 4096  # elements of a chunk: sums of such ones are taken in the order of memory, which is read faster

Forward = Callable[..., None]  # of (threads, x, y, weight, bias, mean, var, extras)
Backward = Callable[..., None]  # of (threads, the fields of Gradient)


def forward(view: View, y: Elements, centered: bool, rooted: bool, eps: float) -> Forward:
    """Normalize x, like y, with its own statistics, each parallel work item being some groups."""
    plan, by_channel = numbers.forward(view, y, centered, rooted), view.affine == "channel"
    of_groups, of_rows = Entries(runs.forward), Entries(rows.forward)

    def run(threads: int, x: Any, y: Array, w: Maybe, b: Maybe, mean: Array, var: Array, extras: Any) -> None:
        args: tuple[Any, ...]
        kernel = of_groups
        if by_channel:
            args = plan, x, y, w, b, None, None, eps, mean, var, extras
        elif extras is None or extras.where is None:
            kernel, args = of_rows, (plan, x, y, w, b, eps, mean, var, extras)
        else:
            args = plan, x, y, None, None, w, b, eps, mean, var, extras
        (kernel[threads > 1] or kernel.find(threads > 1, args))(*args)

    return run


def small_forward(view: View, operands: tuple[Any, ...], spec: Any, extras: Any, blending: Any) -> Callable[..., Any]:
    """A plan for small arrays in C order without residual or mask: the fewest steps."""
    x, w, b, given = *operands[:3], operands[-1] is not None
    eps, wanted = spec.eps, bool(spec.returns)
    plan = numbers.forward(view, numbers.of(x), spec.centered, spec.rooted)
    by_channel, shape, dtype, groups = view.affine == "channel", x.shape, x.dtype, view.stats_shape
    empty, with_mean = np.empty, wanted and spec.centered
    affine = (None if v is None else v.ravel() for v in (w, b))
    kernel, none = (runs.forward, (None, None)) if by_channel else (rows.forward, ())
    like = plan, x.ravel(), x.ravel(), *affine, *none, eps, UNWANTED, UNWANTED, extras
    entry = entry_point(kernel.serial, like)

    def normalize(x: Array, w: Maybe, b: Maybe, others: Any) -> Any:
        y = others[-1] if given else empty(shape, dtype)
        mean = var = UNWANTED
        if wanted:
            var = empty(groups)
            if with_mean:
                mean = empty(groups)
        if by_channel:
            entry(plan, x, y, w, b, None, None, eps, mean, var, extras)
        else:
            entry(plan, x, y, w, b, eps, mean, var, extras)
        if not wanted:
            return y
        return (y, mean, var) if blending is None else (y, mean, var, blending)

    return normalize


def forward_in_steps(view: View, y: Elements, centered: bool, rooted: bool, eps: float) -> Forward:
    """As `forward`, each parallel work item being a piece of a group."""
    shape, past_cache = view.geometry, numbers.past_cache(view, y)
    count, groups, parts, length, _ = shape
    per_group, by_channel = runs.pieces(count, parts * length), view.affine == "channel"
    pieces = groups * per_group
    reduce, finish, add, apply = (Entries(d) for d in (runs.reduce, runs.finish, runs.apply, runs.apply))

    def run(threads: int, x: Any, y: Array, w: Maybe, b: Maybe, mean: Array, var: Array, extras: Any) -> None:
        where, counts, summed = (None,) * 3 if extras is None else (extras.where, extras.counts, extras.summed)
        mean, of_groups = mean if mean.size else np.empty(groups), var if var.size else np.empty(groups)
        sums = np.empty((pieces, 3))
        reduce(True, (pieces, x, where, shape, per_group, centered, False, sums))
        finish(False, (groups, shape, per_group, centered, sums, counts, mean, of_groups))
        if summed is not None:
            alone = None, None, None, None, None, past_cache, np.zeros(1), np.ones(1), None
            add(True, (pieces, threads, x, summed, shape, per_group, *alone))
        affine = (w, b, None, None) if by_channel else (None, None, w, b)
        of_elements = None if extras is None else extras.of_elements
        apply(True, (pieces, threads, x, y, shape, per_group, *affine, eps, past_cache, mean, of_groups, of_elements))
        if rooted:
            take_roots(var, eps)

    return run


def take_roots(var: Array, eps: float) -> None:
    """Put 1/sqrt(var + eps) in the place of var (float64)."""
    statistics.take_roots(var.ravel("K"), eps)


def scale(view: View, elements: Elements, eps: float | None) -> Forward:
    """Normalize x with given statistics, a channel each, in the order of memory; eps None: `var` is rstd."""
    plan, kernel = numbers.scale(view, elements), Entries(runs.scale)

    def run(threads: int, x: Array, y: Array, w: Maybe, b: Maybe, mean: Array, var: Array, extras: Any) -> None:
        args = plan, x, y, w, b, eps, mean, var, None if extras is None else extras[:4]
        (kernel[threads > 1] or kernel.find(threads > 1, args))(*args)

    return run


def small_scale(view: View, operands: tuple[Any, ...], spec: Any, extras: Any, _: Any) -> Callable[..., Any]:
    """As `small_forward`, with given statistics."""
    x, w, b, mean, var, *_, out = operands
    eps, plan, shape, dtype, given = spec.eps, numbers.scale(view, numbers.of(x)), x.shape, x.dtype, out is not None
    empty, of_elements = np.empty, None if extras is None else extras.of_elements
    entry = entry_point(runs.scale.serial, (plan, x.ravel(), x.ravel(), w, b, eps, mean, var, of_elements))

    def normalize(x: Array, w: Maybe, b: Maybe, others: Any) -> Array:
        y: Array = others[-1] if given else empty(shape, dtype)
        entry(plan, x, y, w, b, eps, others[0], others[1], of_elements)
        return y

    return normalize


def sums(view: View, x: Array) -> Callable[..., None]:
    """The sums of d and d^2 over every group of arrays like x; d: the distance from `shift`, an element."""
    shape, reduce = view.geometry, Entries(runs.reduce)
    count, groups, parts, length, _ = shape
    chunk = parts * length
    if count > 1 and chunk >= _LONG_CHUNK:
        return _sums_of_chunks(view, reduce)
    per_group = runs.pieces(count, chunk)

    @quietly
    def run(threads: int, x: Array, shift: Array, s: Array, q: Array) -> None:
        of_pieces = np.empty((groups * per_group, 3))
        reduce(threads > 1, (groups * per_group, x, None, shape, per_group, True, True, of_pieces))
        _, s[:], q[:] = of_pieces.reshape(groups, per_group, 3).sum(axis=1).T
        shift[:] = of_pieces[::per_group, 0]

    return run


def _sums_of_chunks(view: View, reduce: Entries) -> Callable[..., None]:
    """As `sums`, chunk by chunk in the order of memory; then those of a group are brought to the same shift."""
    shape = view.geometry
    count, groups, parts, length, _ = shape
    chunk, alone = parts * length, shape._replace(chunks=1, groups=count * groups)
    pieces, add = runs.pieces(1, chunk), Entries(statistics.add_chunks)

    def run(threads: int, x: Array, shift: Array, s: Array, q: Array) -> None:
        of_pieces = np.empty((count * groups * pieces, 3))
        reduce(threads > 1, (count * groups * pieces, x, None, alone, pieces, True, True, of_pieces))
        add(False, (groups, of_pieces.reshape(-1), count, pieces, chunk, shift, s, q))

    return run


# Backward -------------------------------------------------------------------------------------------------------------


def backward(view: View, x: Elements, centered: bool) -> Backward:
    """The gradients of `forward`, each parallel work item being a group of some samples, or some rows."""
    return (_rows if view.affine == "element" else _channels)(view, x, centered)


def _channels(view: View, elements: Elements, centered: bool) -> Backward:
    """A weight a channel; where it is worth it, of some adjacent channels together."""
    plan, _ = numbers.backward(view, elements, centered)
    of_groups, of_adjacent = Entries(runs.backward), Entries(adjacent.backward)
    by_threads: dict[int, Any] = {}
    size = numbers.blocks_of_gradients(view, elements.itemsize), 2, view.weights
    collect = collecting(size)

    def run(threads: int, arrays: Gradient) -> None:
        dy, x, dx, w, mean, rstd, dweight, dbias, extras = arrays
        grads = np.empty(size)
        if threads not in by_threads:
            by_threads[threads] = numbers.adjacent(view, elements, threads)
        together = by_threads[threads]
        if together is None or (extras is not None and extras.where is not None):
            of_groups(threads > 1, (plan, dy, x, dx, w, mean, rstd, grads, extras))
        else:
            of_adjacent(threads > 1, (together, dy, x, dx, w, mean, rstd, grads, extras))
        collect(threads, grads, dweight, dbias)

    return run


def _rows(view: View, x: Elements, centered: bool) -> Backward:
    """A weight an element."""
    plan, _ = numbers.backward(view, x, centered)
    kernel, like = Entries(runs.rows_backward), np.empty(0, computed_in(x.dtype))
    size = numbers.blocks_of_gradients(view, x.itemsize), 2, view.weights
    collect = collecting(size)

    def run(threads: int, arrays: Gradient) -> None:
        dy, x, dx, w, mean, rstd, dweight, dbias, extras = arrays
        grads = np.empty(size)
        kernel(threads > 1, (plan, dy, x, dx, w, mean, rstd, grads, like, extras))
        collect(threads, grads, dweight, dbias)

    return run


def small_backward(view: View, operands: tuple[Any, ...], centered: bool) -> Callable[..., Any]:
    """A plan for small arrays in C order, as is the weight, of one axis, if any; of which nothing else is asked."""
    x, rstd, mean, w, given = *operands[1:5], operands[-1] is not None
    by_element, compute = view.affine == "element", computed_in(x.dtype)
    plan = None if by_element else numbers.adjacent(view, numbers.of(x), 1)
    kernel: Any = runs.rows_backward if by_element else runs.backward
    if plan is None:
        plan, _ = numbers.backward(view, numbers.of(x), centered)
    else:
        kernel = adjacent.backward
    size = numbers.blocks_of_gradients(view, x.itemsize), 2, view.weights
    shape, dtype, weights, empty = x.shape, x.dtype, view.weights, np.empty
    beside, units = (np.empty(0, compute), None) if by_element else (None,), units_of_collecting(size)
    grads, flat = empty(size), (x.ravel(), rstd.ravel(), None if mean is None else mean.ravel())
    entry = entry_point(kernel.serial, (plan, flat[0], flat[0], flat[0], w, flat[2], flat[1], grads, *beside))
    collect = entry_point(runs.collect_rows.serial, (units, grads, empty(weights, compute), empty(weights, compute)))

    def differentiate(dy: Array, x: Array, rstd: Array, others: Any) -> Any:
        dx = others[-1] if given else empty(shape, dtype)
        dweight, dbias, grads = empty(weights, compute), empty(weights, compute), empty(size)
        entry(plan, dy, x, dx, others[1], others[0], rstd, grads, *beside)
        collect(units, grads, dweight, dbias)
        return dx, dweight, dbias

    return differentiate


def backward_in_steps(view: View, x: Elements, centered: bool) -> Backward:
    """As `backward`, each parallel work item being a piece; dx may be None."""
    return (_rows_in_steps if view.affine == "element" else _channels_in_steps)(view, x, centered)


def _channels_in_steps(view: View, x: Elements, centered: bool) -> Backward:
    """A weight a channel; a block of samples after the other."""
    whole = view.geometry
    past_cache = numbers.past_cache(view, x, share=2)
    _, per_block, samples = blocks_of_samples(whole, x.itemsize)
    of_sample, channels = whole.groups // samples, whole.weights
    of_elements = of_sample * whole.chunks * whole.parts * whole.length
    of_block = _block_in_steps(past_cache)

    @quietly
    def run(threads: int, arrays: Gradient) -> None:
        arrays, totals = Gradient._make(arrays), (np.zeros(channels), np.zeros(channels))
        for first in range(0, samples, per_block):
            n = min(per_block, samples - first)
            shape, part = whole._replace(groups=of_sample * n), arrays
            if n != samples:
                own, elements = (slice(k * first, k * (first + n)) for k in (of_sample, of_elements))
                part = arrays.part(elements, own)
            of_block(threads, shape, part, totals)
        arrays.dweight[:], arrays.dbias[:] = totals

    return run


def _block_in_steps(past_cache: int) -> Callable[..., None]:
    """dx of some samples, and what they add to dweight and dbias (float64)."""
    differentiate, reduce, finish, apply, collect = (
        Entries(d) for d in (runs.apply, runs.reduce_back, runs.finish_back, runs.apply_back, runs.collect)
    )

    def run(threads: int, shape: Runs, arrays: Gradient, totals: tuple[Array, Array]) -> None:
        dy, x, dx, w, mean, rstd, _, _, extras = arrays
        extras, parallel = extras or NO_GRADIENT_EXTRAS, threads > 1
        count, groups, parts, length, channels = shape
        per_part, per_group = runs.pieces(count, length), runs.pieces(count, parts * length)
        pieces = groups * parts * per_part
        if extras.dy is not None:
            beside = w, extras.bias, None, None, None, 0, mean, rstd, extras.forward
            differentiate(parallel, (groups * per_group, threads, x, dy, shape, per_group, *beside))
        sums, slopes = np.empty((pieces, 2)), np.empty((groups, 2))
        reduce(parallel, (pieces, dy, x, extras.where, shape, per_part, None, mean, rstd, sums))
        finish(False, (groups, shape, per_part, w, rstd, sums, extras.counts, slopes))
        if dx is not None:
            statistics = mean, rstd, slopes, extras.beside_coefficients
            apply(parallel, (pieces, threads, dy, x, dx, shape, per_part, w, past_cache, *statistics))
        collect(False, (channels, sums, per_part, *totals))

    return run


def _rows_in_steps(view: View, x: Elements, centered: bool) -> Backward:
    """A weight an element."""
    shape, like = view.geometry, np.empty(0, computed_in(x.dtype))
    _, rows, _, length, weights = shape
    past_cache = numbers.past_cache(view, x, share=2)
    per_row, (blocks, block, _) = runs.pieces(1, length), blocks_of_rows(rows)
    collect = collecting((blocks, 2, weights))
    differentiate, reduce, finish, apply = (
        Entries(d) for d in (runs.apply, runs.reduce_back, runs.finish_rows, runs.apply_rows)
    )

    def run(threads: int, arrays: Gradient) -> None:
        dy, x, dx, w, mean, rstd, dweight, dbias, extras = arrays
        extras, parallel = extras or NO_GRADIENT_EXTRAS, threads > 1
        grads = np.zeros((blocks, 2, weights))
        if extras.dy is not None:
            means = np.zeros(rows) if mean is None else mean
            beside = None, None, w, extras.element_bias, None, 0, means, rstd, extras.forward
            differentiate(parallel, (rows * per_row, threads, x, dy, shape, per_row, *beside))
        sums, slopes = np.empty((rows * per_row, 2)), np.empty((rows, 2))
        reduce(parallel, (rows * per_row, dy, x, extras.where, shape, per_row, w, mean, rstd, sums))
        finish(False, (rows, shape, per_row, centered, rstd, sums, extras.counts, slopes))
        statistics = mean, rstd, block, grads, slopes, like, extras.beside_coefficients
        apply(parallel, (per_row, dy, x, dx, shape, w, past_cache, *statistics))
        collect(threads, grads, dweight, dbias)

    return run


def units_of_collecting(size: tuple[int, int, int]) -> int:
    """Into how many work items gradients of blocks, of this size, are cut to be added up."""
    return ceil_div(size[0] * size[1] * size[2], runs.COLLECTED)


def collecting(size: tuple[int, int, int]) -> Callable[..., None]:
    """What adds up gradients of blocks, of this size: a function of (threads, grads, dweight, dbias)."""
    units, kernel = units_of_collecting(size), Entries(runs.collect_rows)

    def collect(threads: int, grads: Array, dweight: Array, dbias: Array) -> None:
        kernel(threads > 1 and units > 1, (units, grads, dweight, dbias))

    return collect
