"""From a view and flat arrays to kernel calls: serial or parallel, whole groups or pieces, and the scratch they need.

Whatever is chosen here, the bits of the results are the same.
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn import _runtime
from fastbn._views import View
from fastbn.kernels import columns, runs, statistics
from fastbn.kernels.jit import repeated
from fastbn.kernels.simd import LANES
from fastbn.kernels.tile import AHEAD, ROWS_AT_ONCE

Array = NDArray[Any]
Maybe = Array | None

PAST_CACHE_BYTES = 16 << 20  # of the result: from here on it is written past the cache, a gradient from half of it on,
_PAST_CACHE_ROW = 1536  # bytes: unless its runs have too many ends that share a cache line with their neighbours,
_PAST_CACHE_ROW_BACK = 1024  # which hurts a gradient less, that takes more arithmetic, and the rows of a panel,
_PAST_CACHE_PLANE = 512  # and least where those are another channel's

_COLLECTED = 16384  # elements at most of a group of short planes that is collected before it is written past the cache

_FAR_BYTES = 8 << 20  # of x: from here on the next group is fetched where it lies behind this one

_SLAB_BYTES = 448 << 10  # of a group: two of this size stay in a core's own cache

_ROWS_BYTES = 256 << 10  # of rows whose gradients are computed together: as many are fetched before they are needed

_PER_BLOCK = 256  # bytes of a channel at least, for which there are two sums,
_MOST_BLOCKS = 64  # unless there would be more blocks of samples or rows, whose gradients of the weights are added up

_LEAST_ROWS = 32  # of columns: for fewer it costs too much to work out what each column is scaled by

_ROW_BLOCK = 64  # rows of a block at least

_UNITS = 5, 8  # where a plan has the number of units: that of runs, of columns

LIKE: dict[np.dtype[Any], Array] = {np.dtype(np.float32): np.empty(0, np.float32), np.dtype(np.float64): np.empty(0)}


More = tuple[Any, ...] | None  # residual, packed activation, where, dy


def _where(more: More) -> Maybe:
    return None if more is None else more[2]


class Forward(NamedTuple):
    """Flat arrays of one call; those that default to None may be left out."""

    x: Any  # an array, or two to be added up
    y: Array
    w: Maybe
    b: Maybe
    eps: float
    mean: Array  # (groups,), float64, or what `apply` was given; or empty where not wanted
    var: Array
    centered: bool = True  # or mean is zero and var a mean square
    more: More = None
    counts: Maybe = None  # float64 (groups,): of elements that count
    summed: Maybe = None  # where the sum of the two goes
    rooted: bool = False  # whether `var` takes rstd

    @property
    def where(self) -> Maybe:
        return _where(self.more)

    @property
    def rest(self) -> tuple[Any, ...] | None:
        """What the kernels of whole groups take beside the arrays."""
        rest = *(self.more or (None, None, None, None)), self.counts, self.summed
        return None if all(v is None for v in rest) else rest


class Backward(NamedTuple):
    """Flat arrays of one call; those that default to None may be left out."""

    dy: Array  # where it is yet to be computed: memory for the gradient of what is normalized
    x: Array
    dx: Maybe  # None where only the gradients of weight and bias are wanted
    w: Maybe
    mean: Maybe  # None for RMS norm
    rstd: Array
    counts: Maybe = None
    dsum: Maybe = None  # what is added to dx
    b: Maybe = None
    more: More = None  # the last of it, the gradient that was given, is None unless dy is yet to be computed from that

    @property
    def where(self) -> Maybe:
        return _where(self.more)

    @property
    def differentiate(self) -> bool:
        """Whether dy is yet to be computed."""
        return self.more is not None and self.more[3] is not None

    def rest(self, *biases: Maybe) -> tuple[Any, ...] | None:
        """What the kernels of whole groups take beside the arrays, with the biases in each of their places."""
        chain: tuple[Any, ...] = None, None, None, None, self.where, None
        if self.more is not None and self.differentiate:
            chain = *biases, *self.more
        rest = *chain, self.dsum, self.counts
        return None if all(v is None for v in rest) else rest

    @property
    def beside(self) -> tuple[Maybe, Maybe] | None:
        """What the kernels of dx take beside coefficients."""
        return None if self.dsum is None and self.where is None else (self.dsum, self.where)

    def part(self, elements: slice, groups: slice) -> "Backward":
        """That of some samples."""

        def cut(values: Maybe, part: slice) -> Maybe:
            return None if values is None else values[part]

        more = self.more
        if more is not None:
            residual, activation, where, dy = more
            more = cut(residual, elements), activation, cut(where, elements), cut(dy, elements)
        return self._replace(
            dy=self.dy[elements],
            x=self.x[elements],
            dx=cut(self.dx, elements),
            mean=cut(self.mean, groups),
            rstd=self.rstd[groups],
            counts=cut(self.counts, groups),
            dsum=cut(self.dsum, elements),
            more=more,
        )


def _past_cache(view: View, y: Array, ahead: int = AHEAD, share: int = 1) -> int:
    """How many elements ahead to fetch while y is written past the cache; 0: it is not."""
    run = view.geometry[6 if view.columns else 3]
    least = _PAST_CACHE_ROW_BACK if share > 1 or view.columns else _PAST_CACHE_ROW
    if view.affine == "channel" and not view.columns:
        least = _PAST_CACHE_PLANE
    return ahead if share * y.nbytes >= PAST_CACHE_BYTES and run * y.itemsize >= least else 0


def _to_next_group(count: int, chunk: int, nbytes: int) -> int:
    """How many elements ahead the next group lies; others, if that is near or both would not stay in the cache."""
    return chunk if count * chunk * nbytes <= _SLAB_BYTES and (count > 1 or chunk >= 2 * AHEAD) else AHEAD


def _ahead(x: Array, count: int, past_cache: int) -> int:
    """How many elements ahead to fetch while groups are summed that lie behind each other, unless it is done later."""
    return AHEAD if count == 1 and not past_cache and x.nbytes >= _FAR_BYTES else 0


def _busy(units: int, threads: int) -> bool:
    """Whether so many units keep all threads about equally busy."""
    return units >= 4 * threads or units % threads == 0


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def with_threads(run: Callable[..., None], view: View, x: Array, *args: Any) -> None:
    """Call `run` with as many threads as are good for it."""
    if x.nbytes < _runtime.SERIAL_BYTES:
        run(1, view, *args)
    else:
        _runtime.with_team((run.__name__, view, x.dtype), x.nbytes, run, view, *args)


def forward(view: View, call: Forward) -> None:
    """Normalize x into y with its own statistics."""
    with_threads(_forward, view, call.y, call)


def _forward(threads: int, view: View, call: Forward) -> None:
    _, y, w, b, eps, mean, var, centered, *_, rooted = call
    direct_forward(view, y, centered, rooted)(threads, call.x, y, w, b, eps, mean, var, call, call.rest)


def direct_forward(view: View, x: Array, centered: bool = True, rooted: bool = False) -> Callable[..., None]:
    """As `forward` of arrays like x, with all decided beforehand: a function of the threads and the arrays."""
    whole = (_columns_whole if view.columns else _runs_whole)(view, x, centered, rooted)
    if undivided(view) or x.nbytes < _runtime.SERIAL_BYTES:
        return whole
    units = view.blocks * extent(view)[1] if view.columns else view.geometry[1]
    by_steps = (_columns_by_steps if view.columns else _runs_by_steps)(view, x, centered, rooted)

    def run(threads: int, *args: Any) -> None:
        (whole if _busy(units, threads) else by_steps)(threads, *args)

    return run


def _runs_whole(view: View, x: Array, centered: bool, rooted: bool) -> Callable[..., None]:
    """As `direct_forward`, a group a unit."""
    plan, by_channel = forward_plan(view, x, centered, rooted), view.affine == "channel"
    kernel = repeated(runs.forward)

    def run(
        threads: int,
        x: Any,
        y: Array,
        w: Maybe,
        b: Maybe,
        eps: float,
        mean: Array,
        var: Array,
        call: Forward | None = None,
        rest: tuple[Any, ...] | None = None,
    ) -> None:
        if by_channel:
            kernel(threads > 1, plan, x, y, w, b, None, None, eps, mean, var, rest)
        else:
            kernel(threads > 1, plan, x, y, None, None, w, b, eps, mean, var, rest)

    return run


def _columns_whole(view: View, x: Array, centered: bool, rooted: bool) -> Callable[..., None]:
    """As `_runs_whole`, a panel a unit."""
    plan, by_channel = forward_plan(view, x, centered, rooted), view.affine == "channel"
    groups, like, kernel = view.groups, LIKE[computed_in(x)], repeated(columns.forward)

    def run(
        threads: int,
        x: Array,
        y: Array,
        w: Maybe,
        b: Maybe,
        eps: float,
        mean: Array,
        var: Array,
        call: Forward | None = None,
        rest: tuple[Any, ...] | None = None,
    ) -> None:
        mean, var = mean if mean.size else np.empty(groups), var if var.size else np.empty(groups)
        if by_channel:
            kernel(threads > 1, plan, x, y, w, b, None, None, eps, mean, var, like, rest)
        else:
            kernel(threads > 1, plan, x, y, None, None, w, b, eps, mean, var, like, rest)

    return run


def _runs_by_steps(view: View, x: Array, centered: bool, rooted: bool) -> Callable[..., None]:
    """As `direct_forward`, one step after the other, for groups are too few."""
    shape = view.geometry
    count, groups, parts, length, _ = shape
    per_group, past_cache = runs.pieces(count, parts * length), _past_cache(view, x)
    pieces = groups * per_group

    def run(
        threads: int,
        x: Any,
        y: Array,
        w: Maybe,
        b: Maybe,
        eps: float,
        mean: Array,
        var: Array,
        call: Forward | None = None,
        rest: tuple[Any, ...] | None = None,
    ) -> None:
        where, more, counts, summed = _beside_arrays(call)
        mean, of_groups = mean if mean.size else np.empty(groups), var if var.size else np.empty(groups)
        sums = np.empty((pieces, 3))
        runs.reduce.parallel(pieces, x, where, shape, per_group, centered, False, sums)
        runs.finish.serial(groups, shape, per_group, centered, sums, counts, mean, of_groups)
        if summed is not None:
            alone = None, None, None, None, None, past_cache, np.zeros(1), np.ones(1), None
            runs.apply.parallel(pieces, threads, x, summed, shape, per_group, *alone)
        affine = by_channel_or_not(view, w, b)
        runs.apply.parallel(pieces, threads, x, y, shape, per_group, *affine, eps, past_cache, mean, of_groups, more)
        if rooted:
            take_roots(var, eps)

    return run


def _beside_arrays(call: Forward | None) -> tuple[Any, ...]:
    """What a call may have besides: where, more, counts, summed."""
    return (None, None, None, None) if call is None else (call.where, call.more, call.counts, call.summed)


def by_channel_or_not(view: View, w: Maybe, b: Maybe) -> tuple[Maybe, ...]:
    """A weight and bias a channel, and for each element (or row), as the kernels of forward take them."""
    return (w, b, None, None) if view.affine == "channel" else (None, None, w, b)


def undivided(view: View) -> bool:
    """Whether a group is one piece, so that forward does it whole, however many threads there are."""
    if view.columns:
        return extent(view)[0] == 1
    count, _, parts, length, _ = view.geometry
    return runs.pieces(count, parts * length) == 1


def forward_plan(view: View, y: Array, centered: bool, rooted: bool) -> Array:
    """What `runs.forward` or `columns.forward` is told in numbers."""
    if view.columns:
        past_cache = _past_cache(view, y)
        return _plan(*view.geometry, view.blocks * extent(view)[1], centered, rooted, past_cache)
    count, _, parts, length, _ = view.geometry
    past_cache = _past_cache(view, y, _to_next_group(count, parts * length, y.itemsize))
    # Half precision: arithmetic takes as long as memory does, so sums must not wait for it, nor it for them.
    ahead = past_cache if y.itemsize == 2 else _ahead(y, count, past_cache)
    return _plan(*view.geometry, runs.pieces(count, parts * length), centered, rooted, past_cache, ahead)


def _plan(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def take_roots(var: Array, eps: float) -> None:
    """Put 1/sqrt(var + eps) in the place of var (float64)."""
    statistics.take_roots(var.ravel("K"), eps)


def _columns_by_steps(view: View, x: Array, centered: bool, rooted: bool) -> Callable[..., None]:
    """As `_runs_by_steps`."""
    shape, like, scale = view.geometry, LIKE[computed_in(x)], direct_apply(view, x)
    pieces, panels, width = extent(view)
    units, pieces = view.blocks * panels, view.blocks * pieces

    def run(
        threads: int,
        x: Array,
        y: Array,
        w: Maybe,
        b: Maybe,
        eps: float,
        mean: Array,
        var: Array,
        call: Forward | None = None,
        rest: tuple[Any, ...] | None = None,
    ) -> None:
        where, more, counts, _ = _beside_arrays(call)
        mean, of_groups = mean if mean.size else np.empty(view.groups), np.empty(view.groups)
        sums = np.empty(pieces * 2 * width)
        columns.reduce.parallel(pieces, x, where, shape, centered, False, sums, like)
        roots, wanted = (rooted, var) if var.size else (False, of_groups)
        columns.finish.serial(units, x, where, shape, centered, sums, counts, mean, of_groups, roots, eps, wanted)
        scale(threads, x, y, w, b, eps, mean, of_groups, more)

    return run


def scale_plan(view: View, y: Array, threads: int = 1, parts: int = 1) -> Array:
    """What `runs.scale` or `columns.scale` is told in numbers; threads, parts of a block: by columns."""
    if view.columns:
        return _plan(*view.geometry, view.blocks * parts, threads, parts, _past_cache(view, y))
    count, groups, _, length, _ = view.geometry
    return _plan(*view.geometry, runs.pieces(count * groups, length), _past_cache(view, y))


def apply(view: View, call: Forward) -> None:
    """Normalize x into y with given statistics, a channel or a group each; an eps of None: `var` is rstd."""
    with_threads(_apply, view, call.y, call)


def _apply(threads: int, view: View, call: Forward) -> None:
    x, y, w, b, eps, mean, var, _, more, *_ = call
    direct_apply(view, y)(threads, x, y, w, b, eps, mean, var, more)


def direct_apply(view: View, x: Array) -> Callable[..., None]:
    """As `apply` of arrays like x, with all decided beforehand: a function of the threads and the arrays."""
    if not view.columns:
        plan_of_runs, by_runs = scale_plan(view, x), repeated(runs.scale)

        def scale_runs(
            threads: int, x: Array, y: Array, w: Maybe, b: Maybe, eps: float | None, mean: Array, var: Array, more: More
        ) -> None:
            by_runs(threads > 1, plan_of_runs, x, y, w, b, eps, mean, var, more)

        return scale_runs
    rows, _, fold, *_ = view.geometry
    most = max(1, _ceil(rows, fold) // _LEAST_ROWS)
    like, by_columns = LIKE[computed_in(x)], repeated(columns.scale)
    plans: dict[int, Array] = {}

    def scale_columns(
        threads: int, x: Array, y: Array, w: Maybe, b: Maybe, eps: float | None, mean: Array, var: Array, more: More
    ) -> None:
        plan = plans.get(threads)
        if plan is None:
            parts = 1 if threads == 1 else min(_ceil(4 * threads, view.blocks), most)
            plan = plans[threads] = scale_plan(view, x, threads, parts)
        by_columns(threads > 1, plan, x, y, *by_channel_or_not(view, w, b), eps, mean, var, like, more)

    return scale_columns


def sums(view: View, x: Array, shift: Array, s: Array, q: Array) -> None:
    """The sums of d and d^2 over every group, d being the distance from `shift`, an element; all: float64 (groups,)."""
    with_threads(_sums, view, x, x, shift, s, q)


def _sums(threads: int, view: View, x: Array, shift: Array, s: Array, q: Array) -> None:
    shape, parallel = view.geometry, threads > 1
    if view.columns:
        pieces, _, _ = extent(view)
        _, width, fold, span, *_ = shape
        of_pieces = np.empty((view.blocks, pieces, 2, fold, width // span, span))
        wide = LIKE[np.dtype(np.float64)]  # where nothing but the sums is wanted, float64 costs little
        columns.reduce[parallel](view.blocks * pieces, x, None, shape, True, True, of_pieces.reshape(-1), wide)
        totals = of_pieces.sum(axis=(1, 3, 5))
        s[:], q[:] = totals[:, 0].ravel(), totals[:, 1].ravel()
        of_columns = np.empty((view.blocks, fold, width // span, span))
        columns.shifts.serial(view.blocks, x, None, shape, of_columns.reshape(-1))
        shift[:] = of_columns[:, 0, :, 0].ravel()
        return
    count, groups, parts, length, _ = shape
    per_group = runs.pieces(count, parts * length)
    of_pieces = np.empty((groups * per_group, 3))
    runs.reduce[parallel](groups * per_group, x, None, shape, per_group, True, True, of_pieces)
    _, s[:], q[:] = of_pieces.reshape(groups, per_group, 3).sum(axis=1).T
    shift[:] = of_pieces[::per_group, 0]


def backward(view: View, call: Backward, dweight: Array, dbias: Array) -> None:
    """The gradients of `forward`."""
    with_threads(_backward, view, call.x, call, dweight, dbias)


def _backward(threads: int, view: View, call: Backward, dweight: Array, dbias: Array) -> None:
    centered = call.mean is not None
    arrays = call.dy, call.x, call.dx, call.w, call.mean, call.rstd, dweight, dbias, call
    if call.dx is None:
        _back_by_steps(view, call.x, centered)(threads, *arrays)
        return
    rest = call.rest(*by_channel_or_not(view, call.b, None)[::2])
    direct_backward(view, call.x, centered)(threads, *arrays, rest)


def direct_backward(view: View, x: Array, centered: bool = True) -> Callable[..., None]:
    """As `backward` of arrays like x, with all decided beforehand: a function of the threads and the arrays."""
    plan, like = backward_plan(view, x, centered), LIKE[computed_in(x)]
    units, whole = plan[_UNITS[view.columns]], undivided_back(view)
    size, by_row = (_blocks_of_gradients(view, x), 2, view.weights), view.affine == "row"
    by_steps, collect = _back_by_steps(view, x, centered), _collecting(size)
    of_runs = runs.rows_backward if view.affine == "element" else runs.backward
    kernel = repeated(columns.backward if view.columns else of_runs)

    def run(
        threads: int,
        dy: Array,
        x: Array,
        dx: Array,
        w: Maybe,
        mean: Maybe,
        rstd: Array,
        dweight: Array,
        dbias: Array,
        call: Backward | None = None,
        rest: tuple[Any, ...] | None = None,
    ) -> None:
        parallel = threads > 1
        if parallel and not whole and not _busy(units, threads):
            by_steps(threads, dy, x, dx, w, mean, rstd, dweight, dbias, call)
            return
        grads = np.empty(size)
        if view.columns:
            weights = (None, w) if by_row else (w, None)
            gradients = (None, grads) if by_row else (grads, None)
            mean = np.zeros(view.groups) if mean is None else mean
            kernel(parallel, plan, dy, x, dx, *weights, mean, rstd, *gradients, like, rest)
        elif view.affine == "element":
            kernel(parallel, plan, dy, x, dx, w, mean, rstd, grads, like, rest)
        else:
            kernel(parallel, plan, dy, x, dx, w, mean, rstd, grads, rest)
        collect(parallel, grads, dweight, dbias)

    return run


def _blocks_of_gradients(view: View, x: Array) -> int:
    """How many blocks have gradients of the weights of their own."""
    if view.columns:
        return view.blocks * (extent(view)[1] if view.affine == "row" else 1)
    if view.affine == "element":
        return _blocks_of_rows(view)[0]
    samples, per_block = _blocks_of_samples(view, x.itemsize)
    return _ceil(samples, per_block)


def _back_by_steps(view: View, x: Array, centered: bool) -> Callable[..., None]:
    """As `direct_backward`, one step after the other, for groups are too few or dx is not wanted."""
    if view.columns:
        return _columns_back_by_steps(view, x, centered)
    in_pieces = _rows_in_pieces if view.affine == "element" else _runs_in_pieces

    def run(
        threads: int,
        dy: Array,
        x: Array,
        dx: Maybe,
        w: Maybe,
        mean: Maybe,
        rstd: Array,
        dweight: Array,
        dbias: Array,
        call: Backward | None,
    ) -> None:
        in_pieces(view, call or Backward(dy, x, dx, w, mean, rstd), dweight, dbias, threads)

    return run


def _runs_in_pieces(view: View, call: Backward, dweight: Array, dbias: Array, threads: int) -> None:
    count, groups, parts, length, channels = view.geometry
    samples, per_block = _blocks_of_samples(view, call.x.itemsize)
    totals = np.zeros(channels), np.zeros(channels)
    for first in range(0, samples, per_block):
        n = min(per_block, samples - first)
        shape = (count, groups // samples * n, parts, length, channels)
        own, elements = (
            slice(n_of * first, n_of * (first + n)) for n_of in (groups // samples, call.x.size // samples)
        )
        part = call if n == samples else call.part(elements, own)
        _runs_backward_of(shape, part, *totals, _past_cache(view, call.x, share=2), threads)
    dweight[:], dbias[:] = totals


def _blocks_of_samples(view: View, itemsize: int) -> tuple[int, int]:
    """How many samples there are, and in a block of them: those of batch norm are one, whose groups lie in all."""
    _, groups, parts, length, channels = view.geometry
    samples = groups * parts // channels
    return samples, max(_ceil(_PER_BLOCK, length * itemsize), _ceil(samples, _MOST_BLOCKS))


def _blocks_of_rows(view: View) -> tuple[int, int]:
    """How many blocks of rows there are, and the rows of one."""
    rows = view.geometry[1]
    block = max(_ROW_BLOCK, _ceil(rows, _MOST_BLOCKS))
    return _ceil(rows, block), block


def undivided_back(view: View) -> bool:
    """As `undivided`, of backward, where every part of a group is a piece at least."""
    if view.columns or view.affine == "element":
        return undivided(view)
    return undivided(view) and view.geometry[2] == 1


def backward_plan(view: View, x: Array, centered: bool = True) -> Array:
    """What the kernel of whole groups is told in numbers."""
    if view.columns:
        past_cache = _past_cache(view, x, share=2)
        return _plan(*view.geometry, view.blocks * extent(view)[1], centered, past_cache)
    count, groups, parts, length, _ = view.geometry
    if view.affine == "element":
        rows, per_row, next_rows = _blocks_of_rows(view), runs.pieces(1, length), ROWS_AT_ONCE * length
        past_cache = _past_cache(view, x, share=2)
        if past_cache and 2 * next_rows * x.itemsize <= _ROWS_BYTES:  # x is fetched while there are sums, dy with dx
            return _plan(*view.geometry, *rows, per_row, next_rows, next_rows, 0, False)
        collected = not past_cache and 2 * x.nbytes >= PAST_CACHE_BYTES
        ahead = AHEAD if collected else min(past_cache, runs.NEAR)
        return _plan(*view.geometry, *rows, per_row, past_cache, ahead, ahead, collected)
    samples, per_block = _blocks_of_samples(view, x.itemsize)
    of_sample = groups // samples
    units = of_sample * _ceil(samples, per_block)
    past_cache = _past_cache(view, x, _to_next_group(count, parts * length, 2 * x.itemsize), share=2)
    ahead = _ahead(x, count, past_cache)
    collected = not past_cache and count == 1 and 2 * x.nbytes >= PAST_CACHE_BYTES and parts * length <= _COLLECTED
    return _plan(*view.geometry, units, of_sample, per_block, runs.pieces(count, length), ahead, past_cache, collected)


def _runs_backward_of(
    shape: tuple[int, ...], call: Backward, dweight: Array, dbias: Array, past_cache: int, threads: int
) -> None:
    """dx of some samples, piece by piece, and what they add to dweight and dbias (float64)."""
    parallel = threads > 1
    dy, x, dx, w, mean, rstd, counts, *_ = call
    count, groups, parts, length, channels = shape
    per_part, per_group = runs.pieces(count, length), runs.pieces(count, parts * length)
    pieces = groups * parts * per_part
    if call.differentiate:
        given = w, call.b, None, None, None, 0, mean, rstd, call.more
        runs.apply[parallel](groups * per_group, threads, x, dy, shape, per_group, *given)
    sums, slopes = np.empty((pieces, 2)), np.empty((groups, 2))
    runs.reduce_back[parallel](pieces, dy, x, call.where, shape, per_part, None, mean, rstd, sums)
    runs.finish_back.serial(groups, shape, per_part, w, rstd, sums, counts, slopes)
    if dx is not None:
        statistics = mean, rstd, slopes, call.beside
        runs.apply_back[parallel](pieces, threads, dy, x, dx, shape, per_part, w, past_cache, *statistics)
    runs.collect.serial(channels, sums, per_part, dweight, dbias)


def _rows_in_pieces(view: View, call: Backward, dweight: Array, dbias: Array, threads: int) -> None:
    dy, x, dx, w, mean, rstd, counts, *_ = call
    shape, parallel = view.geometry, threads > 1
    _, rows, _, length, weights = shape
    per_row, (blocks, block) = runs.pieces(1, length), _blocks_of_rows(view)
    grads = np.zeros((blocks, 2, weights))
    if call.differentiate:
        given = None, None, w, call.b, None, 0, np.zeros(rows) if mean is None else mean, rstd, call.more
        runs.apply[parallel](rows * per_row, threads, x, dy, shape, per_row, *given)
    sums, slopes = np.empty((rows * per_row, 2)), np.empty((rows, 2))
    runs.reduce_back[parallel](rows * per_row, dy, x, call.where, shape, per_row, w, mean, rstd, sums)
    runs.finish_rows.serial(rows, shape, per_row, mean is not None, rstd, sums, counts, slopes)
    past_cache, like = _past_cache(view, x, share=2), LIKE[computed_in(x)]
    statistics: tuple[Any, ...] = mean, rstd, block, grads, slopes, like, call.beside
    runs.apply_rows[parallel](per_row, dy, x, dx, shape, w, past_cache, *statistics)
    _collecting(grads.shape)(parallel, grads, dweight, dbias)


def _columns_back_by_steps(view: View, x: Array, centered: bool) -> Callable[..., None]:
    """As `_back_by_steps`."""
    shape, like, by_row = view.geometry, LIKE[computed_in(x)], view.affine == "row"
    pieces, panels, width = extent(view)
    units, pieces, past_cache = view.blocks * panels, view.blocks * pieces, _past_cache(view, x, share=2)
    of_panels = units * 6 * columns.apart(shape[6]) + LANES
    collect = _collecting((units, 2, shape[0]) if by_row else (view.blocks, 2, shape[5]))

    def run(
        threads: int,
        dy: Array,
        x: Array,
        dx: Maybe,
        w: Maybe,
        mean: Maybe,
        rstd: Array,
        dweight: Array,
        dbias: Array,
        call: Backward | None,
    ) -> None:
        parallel, where, counts, beside = threads > 1, None, None, None
        mean = np.zeros(view.groups) if mean is None else mean
        channel, row = (None, w) if by_row else (w, None)
        grads: Any = None if by_row else np.empty((view.blocks, 2, shape[5]))
        row_grads: Any = np.empty((units, 2, shape[0])) if by_row else None
        if call is not None:
            where, counts, beside = call.where, call.counts, call.beside
            if call.differentiate:
                direct_apply(view, x)(threads, x, dy, w, call.b, None, mean, rstd, call.more)
        sums, coefficients = np.empty(pieces * 2 * width), np.empty(of_panels, like.dtype)
        columns.reduce_back[parallel](pieces, dy, x, where, shape, row, mean, rstd, sums, like)
        columns.finish_back.serial(units, x, shape, channel, centered, sums, counts, mean, rstd, grads, coefficients)
        if dx is not None:
            given = past_cache, row_grads, coefficients, beside
            columns.apply_back[parallel](pieces, threads, dy, x, dx, shape, row, *given)
        collect(parallel, row_grads if by_row else grads, dweight, dbias)

    return run


def _collecting(size: tuple[int, ...]) -> Callable[..., None]:
    """What adds up gradients of blocks, of this size: a function of (parallel, grads, dweight, dbias)."""
    units, kernel = _ceil(prod(size), runs.COLLECTED), repeated(runs.collect_rows)

    def collect(parallel: bool, *arrays: Array) -> None:
        kernel(parallel and units > 1, units, *arrays)

    return collect


def extent(view: View) -> tuple[int, int, int]:
    """Pieces and panels of a block, and columns of a folded row."""
    rows, width, fold, _, _, _, panel, piece = view.geometry
    return _ceil(_ceil(rows, fold), piece), _ceil(width * fold, panel), width * fold


def computed_in(x: Array) -> np.dtype[Any]:
    return np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
