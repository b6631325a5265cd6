"""The arithmetic of plans: functions of integers alone, so that Numba compiles them as well where it has to.

Python decides about a call by these (`numbers`, `views`), and so may whatever calls kernels without Python.
Whatever a plan says beside the geometry, the bits of the results are the same.  Truth values are 0 or 1 in a plan.
"""

from typing import NamedTuple

from fastbn.kernels.adjacent import ADJACENT
from fastbn.kernels.loops import AHEAD, ROWS_AT_ONCE
from fastbn.kernels.plans import (
    Adjacent,
    Columns,
    ColumnsBackward,
    ColumnsForward,
    ColumnsScale,
    RowsBackward,
    Runs,
    RunsBackward,
    RunsForward,
    RunsScale,
)
from fastbn.kernels.runs import MOST, NEAR, PIECE, pieces

# Geometry -------------------------------------------------------------------------------------------------------------

_NARROW_PLANE = 48  # elements: below it, a channel's runs are too short to be read one by one,
_NARROW_PLANE_OF_MANY = 65  # and below this one where they lie far apart, in an array of
_MANY = 1 << 20  # elements, or of
_MANY_SAMPLES = 48  # and
_MANY_IN_SAMPLES = 1 << 18  # elements,
_NARROWEST_PLANE = 16  # and below this one even where they need only be scaled
_FOLDED_WIDTH = 512  # columns: narrower rows are taken several at a time
_PIECE = 131072  # elements of a piece of columns at most,
_PIECES = 4  # of which a block has a multiple of so many, for as many threads,
_MOST_PIECES = 64  # but no more than these, so that their sums stay small beside x,
_LEAST_PIECE = 64  # nor fewer rows in one
_PANEL = 131072  # elements: what stays in a core's own cache between being read and being written,
_NARROWEST_PANEL = 512  # columns: if its rows are not too short for that to pay
_PANEL_STEP = 32  # columns: two cache lines of float32, where groups have one column


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def channels_are_columns(outer: int, channels: int, inner: int, statistics: int) -> bool:
    """Whether the channels of (outer, channels, inner) are read as columns; statistics: whether they are computed."""
    narrow = _NARROWEST_PLANE
    if statistics:
        many = outer * channels * inner >= (_MANY_IN_SAMPLES if outer >= _MANY_SAMPLES else _MANY)
        narrow = _NARROW_PLANE_OF_MANY if many else _NARROW_PLANE
    return inner == 1 or (outer > 3 and inner < narrow)


def columns(rows: int, width: int, span: int, repeat: int, weights: int, by_row: int) -> Columns:
    """by_row: whether every row has its own weight."""
    fold = 1
    if not by_row and width < _FOLDED_WIDTH:
        fold = min(-(-_FOLDED_WIDTH // max(width, 1)), max(1, rows // 64))
    folded, wide = -(-rows // fold), width * fold
    cuts = min(-(-folded * wide // (_PIECE * _PIECES)) * _PIECES, _MOST_PIECES)
    piece = max(_LEAST_PIECE, -(-folded // max(cuts, 1)))
    panel = wide
    if fold == 1 and rows * wide > _PANEL and rows * _NARROWEST_PANEL <= _PANEL:
        step = span if span > 1 else _PANEL_STEP
        panels = -(-wide // max(span, _PANEL // rows // span * span))
        panel = -(-wide // (panels * step)) * step
    return Columns(rows, width, fold, span, repeat, weights, min(panel, wide), piece)


# Memory ---------------------------------------------------------------------------------------------------------------

PAST_CACHE_BYTES = 16 << 20  # of the result: from here on it is written past the cache, a gradient from half of it on,
_PAST_CACHE_ROW = 1536  # bytes: unless its runs have too many ends that share a cache line with their neighbours,
_PAST_CACHE_ROW_BACK = 1024  # which hurts a gradient less, that takes more arithmetic, and the rows of a panel,
_PAST_CACHE_LINES = 512  # those that are whole cache lines need no more,
_PAST_CACHE_PLANE = 512  # and least where those are another channel's

_COLLECTED = 16384  # elements at most of a group of short planes that is collected before it is written past the cache

_FAR_BYTES = 8 << 20  # of x: from here on the next group is fetched where it lies behind this one

_COLD_BYTES = 256 << 10  # from here on rows are fetched, which costs nothing where they are in a cache

_SLAB_BYTES = 448 << 10  # of a group: two of this size stay in a core's own cache

_LONG_STRETCH = 2048  # elements at most of adjacent runs that are taken together,
_SHORT_STRETCH = 512  # and at least,
_UNITS_A_THREAD = 4  # unless there would be fewer work items

_ROWS_BYTES = 256 << 10  # of rows whose gradients are computed together: as many are fetched before they are needed

_PER_BLOCK = 256  # bytes of a channel at least, for which there are two sums,
_MOST_BLOCKS = 64  # unless there would be more blocks of samples or rows, whose gradients of the weights are added up

ROW_BLOCK = 64  # rows of a block at least


def past_runs(length: int, by_channel: int, nbytes: int, itemsize: int, ahead: int, share: int) -> int:
    """How many elements ahead to fetch while a result of so many bytes is written past the cache; 0: it is not."""
    least = _PAST_CACHE_ROW_BACK if share > 1 else _PAST_CACHE_ROW
    if by_channel:
        least = _PAST_CACHE_PLANE
    return ahead if share * nbytes >= PAST_CACHE_BYTES and length * itemsize >= least else 0


def past_columns(panel: int, nbytes: int, itemsize: int, share: int) -> int:
    """As `past_runs`, of panels of so many columns."""
    return AHEAD if share * nbytes >= PAST_CACHE_BYTES and panel * itemsize >= _PAST_CACHE_ROW_BACK else 0


def _to_next_group(count: int, chunk: int, nbytes: int) -> int:
    """How many elements ahead the next group lies; others, if that is near or both would not stay in the cache."""
    return chunk if count * chunk * nbytes <= _SLAB_BYTES and (count > 1 or chunk >= 2 * AHEAD) else AHEAD


def _ahead(nbytes: int, count: int, past: int, least: int) -> int:
    """How many elements ahead to fetch while groups are summed that lie behind each other, unless it is done later."""
    return AHEAD if count == 1 and not past and nbytes >= least else 0


class Extent(NamedTuple):
    """How large a block of columns is."""

    pieces: int
    panels: int
    width: int  # columns of a folded row


def extent(view: Columns) -> Extent:
    folded, width = ceil_div(view.rows, view.fold), view.width * view.fold
    return Extent(ceil_div(folded, view.piece), ceil_div(width, view.panel), width)


class Blocks(NamedTuple):
    """How samples or rows are parted."""

    number: int
    size: int  # of a block
    all: int  # how many samples or rows there are


def blocks_of_samples(view: Runs, itemsize: int) -> Blocks:
    """Of samples, of which those of batch norm are one, whose groups lie in all."""
    samples = view.groups * view.parts // view.weights
    size = max(ceil_div(_PER_BLOCK, view.length * itemsize), ceil_div(samples, _MOST_BLOCKS))
    return Blocks(ceil_div(samples, size), size, samples)


_AT_ONCE = 16 << 10  # bytes of groups: what stays in the nearest cache with what is made of them


def blocks_of_rows(rows: int) -> Blocks:
    size = max(ROW_BLOCK, ceil_div(rows, _MOST_BLOCKS))
    return Blocks(ceil_div(rows, size), size, rows)


# What kernels are told beside the view --------------------------------------------------------------------------------


def runs_forward(view: Runs, by_channel: int, nbytes: int, itemsize: int, centered: int, rooted: int) -> RunsForward:
    """For `runs.forward` and `rows.forward`."""
    chunk = view.parts * view.length
    past = past_runs(view.length, by_channel, nbytes, itemsize, _to_next_group(view.chunks, chunk, itemsize), 1)
    large = nbytes >= PAST_CACHE_BYTES and view.length * itemsize >= _PAST_CACHE_LINES
    # Half precision: arithmetic takes as long as memory does, so sums must not wait for it, nor it for them.
    ahead = past if itemsize == 2 else _ahead(nbytes, view.chunks, past, _FAR_BYTES if by_channel else _COLD_BYTES)
    past = -AHEAD if large and not past and not by_channel else past
    many = min(max(_AT_ONCE // max(view.chunks * chunk * itemsize, 1), 1), MOST)
    return RunsForward(ceil_div(view.groups, many), many, pieces(view.chunks, chunk), centered, rooted, past, ahead)


def columns_forward(
    view: Columns, blocks: int, nbytes: int, itemsize: int, centered: int, rooted: int
) -> ColumnsForward:
    """For `columns.forward`."""
    past = past_columns(view.panel, nbytes, itemsize, 1)
    return ColumnsForward(blocks * extent(view).panels, centered, rooted, past)


def runs_scale(view: Runs, by_channel: int, nbytes: int, itemsize: int) -> RunsScale:
    """For `runs.scale`."""
    past = past_runs(view.length, by_channel, nbytes, itemsize, AHEAD, 1)
    return RunsScale(pieces(view.chunks * view.groups, view.length), past)


def columns_scale(view: Columns, blocks: int, nbytes: int, itemsize: int, threads: int, parts: int) -> ColumnsScale:
    """For `columns.scale`; parts: of a block."""
    return ColumnsScale(blocks * parts, threads, parts, past_columns(view.panel, nbytes, itemsize, 1))


def runs_backward(view: Runs, nbytes: int, itemsize: int) -> RunsBackward:
    """For `runs.backward`."""
    blocks, chunk = blocks_of_samples(view, itemsize), view.parts * view.length
    of_sample = view.groups // blocks.all
    # Of more chunks than one, the next group lies behind this one.
    next_group = _to_next_group(view.chunks, chunk, 2 * itemsize) if view.chunks > 1 else AHEAD
    past = past_runs(view.length, 1, nbytes, itemsize, next_group, 2)
    ahead = _ahead(nbytes, view.chunks, past, _FAR_BYTES)
    collected = not past and view.chunks == 1 and 2 * nbytes >= PAST_CACHE_BYTES and chunk <= _COLLECTED
    of_part = pieces(view.chunks, view.length)
    return RunsBackward(of_sample * blocks.number, of_sample, blocks.size, of_part, ahead, past, int(collected))


def adjacent(view: Runs, itemsize: int, threads: int) -> Adjacent:
    """For `adjacent.backward`, on so many threads; of no units where it is not worth it."""
    if view.chunks == 1 or view.parts > 1:
        return Adjacent(0, 1, 1)
    both = 2 * view.chunks * view.length * itemsize  # bytes of a group of two arrays
    many = min(ADJACENT, _LONG_STRETCH // view.length, _SLAB_BYTES // both)
    if threads > 1:
        many = min(many, view.groups // (_UNITS_A_THREAD * threads))
    if many < 2 or many * view.length < _SHORT_STRETCH:
        return Adjacent(0, 1, 1)
    return Adjacent(ceil_div(view.groups, many), many, PIECE // view.length)


def rows_backward(view: Runs, nbytes: int, itemsize: int) -> RowsBackward:
    """For `runs.rows_backward`."""
    blocks, next_rows = blocks_of_rows(view.groups), ROWS_AT_ONCE * view.length
    past = past_runs(view.length, 0, nbytes, itemsize, AHEAD, 2)
    collected = not past and 2 * nbytes >= PAST_CACHE_BYTES
    ahead = min(past, NEAR)
    if not past and nbytes >= _COLD_BYTES:
        ahead = AHEAD
    dy_ahead = ahead
    if past and 2 * next_rows * itemsize <= _ROWS_BYTES:  # x is fetched while there are sums, dy with dx
        past, ahead, dy_ahead = next_rows, next_rows, 0
    per_row = pieces(1, view.length)
    return RowsBackward(blocks.number, blocks.size, per_row, past, ahead, dy_ahead, int(collected))


def columns_backward(view: Columns, blocks: int, nbytes: int, itemsize: int, centered: int) -> ColumnsBackward:
    """For `columns.backward`."""
    return ColumnsBackward(blocks * extent(view).panels, centered, past_columns(view.panel, nbytes, itemsize, 2))
