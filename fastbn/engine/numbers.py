"""From a view to the numbers that kernels go by: plain functions of integers, and the one place that decides them.

Whatever is chosen here, the bits of the results are the same.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn.engine.views import View
from fastbn.kernels import runs
from fastbn.kernels.tile import AHEAD, ROWS_AT_ONCE

Array = NDArray[Any]

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

LEAST_ROWS = 32  # of columns: for fewer it costs too much to work out what each column is scaled by

ROW_BLOCK = 64  # rows of a block at least


class Elements(NamedTuple):
    """Of the array that is read or written."""

    nbytes: int
    itemsize: int


def of(x: Array) -> Elements:
    return Elements(x.nbytes, x.itemsize)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def busy(units: int, threads: int) -> bool:
    """Whether so many units keep all threads about equally busy."""
    return units >= 4 * threads or units % threads == 0


def past_cache(view: View, y: Elements, ahead: int = AHEAD, share: int = 1) -> int:
    """How many elements ahead to fetch while y is written past the cache; 0: it is not."""
    run = view.geometry[6 if view.columns else 3]
    least = _PAST_CACHE_ROW_BACK if share > 1 or view.columns else _PAST_CACHE_ROW
    if view.affine == "channel" and not view.columns:
        least = _PAST_CACHE_PLANE
    return ahead if share * y.nbytes >= PAST_CACHE_BYTES and run * y.itemsize >= least else 0


def _to_next_group(count: int, chunk: int, nbytes: int) -> int:
    """How many elements ahead the next group lies; others, if that is near or both would not stay in the cache."""
    return chunk if count * chunk * nbytes <= _SLAB_BYTES and (count > 1 or chunk >= 2 * AHEAD) else AHEAD


def _ahead(x: Elements, count: int, past: int) -> int:
    """How many elements ahead to fetch while groups are summed that lie behind each other, unless it is done later."""
    return AHEAD if count == 1 and not past and x.nbytes >= _FAR_BYTES else 0


def extent(view: View) -> tuple[int, int, int]:
    """Pieces and panels of a block, and columns of a folded row."""
    rows, width, fold, _, _, _, panel, piece = view.geometry
    return ceil_div(ceil_div(rows, fold), piece), ceil_div(width * fold, panel), width * fold


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
    _, groups, parts, length, channels = view.geometry
    samples = groups * parts // channels
    return samples, max(ceil_div(_PER_BLOCK, length * itemsize), ceil_div(samples, _MOST_BLOCKS))


def blocks_of_rows(view: View) -> tuple[int, int]:
    """How many blocks of rows there are, and the rows of one."""
    rows = view.geometry[1]
    block = max(ROW_BLOCK, ceil_div(rows, _MOST_BLOCKS))
    return ceil_div(rows, block), block


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
        return _numbers(*view.geometry, view.blocks * extent(view)[1], centered, rooted, past_cache(view, y))
    count, _, parts, length, _ = view.geometry
    past = past_cache(view, y, _to_next_group(count, parts * length, y.itemsize))
    # Half precision: arithmetic takes as long as memory does, so sums must not wait for it, nor it for them.
    ahead = past if y.itemsize == 2 else _ahead(y, count, past)
    return _numbers(*view.geometry, runs.pieces(count, parts * length), centered, rooted, past, ahead)


def scale(view: View, y: Elements, threads: int = 1, parts: int = 1) -> Array:
    """For `runs.scale` or `columns.scale`; threads, parts of a block: by columns."""
    if view.columns:
        return _numbers(*view.geometry, view.blocks * parts, threads, parts, past_cache(view, y))
    count, groups, _, length, _ = view.geometry
    return _numbers(*view.geometry, runs.pieces(count * groups, length), past_cache(view, y))


def backward(view: View, x: Elements, centered: bool) -> tuple[Array, int]:
    """For the kernel of whole groups, and the number of its units."""
    if view.columns:
        units = view.blocks * extent(view)[1]
        return _numbers(*view.geometry, units, centered, past_cache(view, x, share=2)), units
    if view.affine == "element":
        return _rows_backward(view, x)
    count, groups, parts, length, _ = view.geometry
    samples, per_block = blocks_of_samples(view, x.itemsize)
    of_sample = groups // samples
    units = of_sample * ceil_div(samples, per_block)
    past = past_cache(view, x, _to_next_group(count, parts * length, 2 * x.itemsize), share=2)
    ahead = _ahead(x, count, past)
    collected = not past and count == 1 and 2 * x.nbytes >= PAST_CACHE_BYTES and parts * length <= _COLLECTED
    pieces = runs.pieces(count, length)
    return _numbers(*view.geometry, units, of_sample, per_block, pieces, ahead, past, collected), units


def _rows_backward(view: View, x: Elements) -> tuple[Array, int]:
    *_, length, _ = view.geometry
    (blocks, block), per_row, next_rows = blocks_of_rows(view), runs.pieces(1, length), ROWS_AT_ONCE * length
    past = past_cache(view, x, share=2)
    if past and 2 * next_rows * x.itemsize <= _ROWS_BYTES:  # x is fetched while there are sums, dy with dx
        return _numbers(*view.geometry, blocks, block, per_row, next_rows, next_rows, 0, False), blocks
    collected = not past and 2 * x.nbytes >= PAST_CACHE_BYTES
    ahead = AHEAD if collected else min(past, runs.NEAR)
    return _numbers(*view.geometry, blocks, block, per_row, past, ahead, ahead, collected), blocks


def _numbers(*numbers: int) -> Array:
    return np.array(numbers, np.int64)
