"""The arithmetic of plans: functions of integers alone, so that Numba compiles them as well where it has to.

Python decides about a call by these (`numbers`, `views`), and so may whatever calls kernels without Python.
Whatever a plan says beside the geometry, the bits of the results are the same.  Truth values are 0 or 1 in a plan.
"""

from fastbn.kernels.loops import AHEAD, ROWS_AT_ONCE
from fastbn.kernels.runs import NEAR, pieces

Five = tuple[int, int, int, int, int]  # the `view` of kernels.runs
Eight = tuple[int, int, int, int, int, int, int, int]  # and of kernels.columns

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


def columns(rows: int, width: int, span: int, repeat: int, weights: int, by_row: int) -> Eight:
    """The `view` of `kernels.columns`. by_row: whether every row has its own weight."""
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
    return rows, width, fold, span, repeat, weights, min(panel, wide), piece


# Memory ---------------------------------------------------------------------------------------------------------------

PAST_CACHE_BYTES = 16 << 20  # of the result: from here on it is written past the cache, a gradient from half of it on,
_PAST_CACHE_ROW = 1536  # bytes: unless its runs have too many ends that share a cache line with their neighbours,
_PAST_CACHE_ROW_BACK = 1024  # which hurts a gradient less, that takes more arithmetic, and the rows of a panel,
_PAST_CACHE_LINES = 512  # those that are whole cache lines need no more,
_PAST_CACHE_PLANE = 512  # and least where those are another channel's

_COLLECTED = 16384  # elements at most of a group of short planes that is collected before it is written past the cache

_FAR_BYTES = 8 << 20  # of x: from here on the next group is fetched where it lies behind this one

_SLAB_BYTES = 448 << 10  # of a group: two of this size stay in a core's own cache

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


def _ahead(nbytes: int, count: int, past: int) -> int:
    """How many elements ahead to fetch while groups are summed that lie behind each other, unless it is done later."""
    return AHEAD if count == 1 and not past and nbytes >= _FAR_BYTES else 0


def extent(view: Eight) -> tuple[int, int, int]:
    """Pieces and panels of a block, and columns of a folded row."""
    rows, width, fold, _, _, _, panel, piece = view
    return ceil_div(ceil_div(rows, fold), piece), ceil_div(width * fold, panel), width * fold


def blocks_of_samples(view: Five, itemsize: int) -> tuple[int, int]:
    """How many samples there are, and in a block of them: those of batch norm are one, whose groups lie in all."""
    _, groups, parts, length, channels = view
    samples = groups * parts // channels
    return samples, max(ceil_div(_PER_BLOCK, length * itemsize), ceil_div(samples, _MOST_BLOCKS))


def blocks_of_rows(rows: int) -> tuple[int, int]:
    """How many blocks of rows there are, and the rows of one."""
    block = max(ROW_BLOCK, ceil_div(rows, _MOST_BLOCKS))
    return ceil_div(rows, block), block


# Plans ----------------------------------------------------------------------------------------------------------------


def runs_forward(
    view: Five, by_channel: int, nbytes: int, itemsize: int, centered: int, rooted: int
) -> tuple[int, int, int, int, int, int, int, int, int, int]:
    """The numbers of `Runs` and `RunsForward`, for `runs.forward`."""
    count, groups, parts, length, weights = view
    past = past_runs(length, by_channel, nbytes, itemsize, _to_next_group(count, parts * length, itemsize), 1)
    in_lines = not past and not by_channel and nbytes >= PAST_CACHE_BYTES and length * itemsize >= _PAST_CACHE_LINES
    # Half precision: arithmetic takes as long as memory does, so sums must not wait for it, nor it for them.
    ahead = past if itemsize == 2 else _ahead(nbytes, count, past)
    past = -AHEAD if in_lines else past
    return count, groups, parts, length, weights, pieces(count, parts * length), centered, rooted, past, ahead


def columns_forward(
    view: Eight, blocks: int, nbytes: int, itemsize: int, centered: int, rooted: int
) -> tuple[int, int, int, int, int, int, int, int, int, int, int, int]:
    """The numbers of `Columns` and `ColumnsForward`, for `columns.forward`."""
    rows, width, fold, span, repeat, weights, panel, piece = view
    units, past = blocks * extent(view)[1], past_columns(panel, nbytes, itemsize, 1)
    return rows, width, fold, span, repeat, weights, panel, piece, units, centered, rooted, past


def runs_scale(view: Five, by_channel: int, nbytes: int, itemsize: int) -> tuple[int, int, int, int, int, int, int]:
    """The numbers of `Runs` and `RunsScale`, for `runs.scale`."""
    count, groups, parts, length, weights = view
    past = past_runs(length, by_channel, nbytes, itemsize, AHEAD, 1)
    return count, groups, parts, length, weights, pieces(count * groups, length), past


def columns_scale(
    view: Eight, blocks: int, nbytes: int, itemsize: int, threads: int, parts: int
) -> tuple[int, int, int, int, int, int, int, int, int, int, int, int]:
    """The numbers of `Columns` and `ColumnsScale`, for `columns.scale`; parts: of a block."""
    rows, width, fold, span, repeat, weights, panel, piece = view
    past = past_columns(panel, nbytes, itemsize, 1)
    return rows, width, fold, span, repeat, weights, panel, piece, blocks * parts, threads, parts, past


def runs_backward(
    view: Five, nbytes: int, itemsize: int
) -> tuple[int, int, int, int, int, int, int, int, int, int, int, int]:
    """The numbers of `Runs` and `RunsBackward`, for `runs.backward`."""
    count, groups, parts, length, weights = view
    samples, per_block = blocks_of_samples(view, itemsize)
    of_sample = groups // samples
    units = of_sample * ceil_div(samples, per_block)
    next_group = _to_next_group(count, parts * length, 2 * itemsize) if count > 1 else AHEAD  # else behind this one
    past = past_runs(length, 1, nbytes, itemsize, next_group, 2)
    ahead = _ahead(nbytes, count, past)
    collected = not past and count == 1 and 2 * nbytes >= PAST_CACHE_BYTES and parts * length <= _COLLECTED
    of_part = pieces(count, length)
    return count, groups, parts, length, weights, units, of_sample, per_block, of_part, ahead, past, int(collected)


def rows_backward(
    view: Five, nbytes: int, itemsize: int
) -> tuple[int, int, int, int, int, int, int, int, int, int, int, int]:
    """The numbers of `Runs` and `RowsBackward`, for `runs.rows_backward`."""
    count, groups, parts, length, weights = view
    blocks, block = blocks_of_rows(groups)
    per_row, next_rows = pieces(1, length), ROWS_AT_ONCE * length
    past = past_runs(length, 0, nbytes, itemsize, AHEAD, 2)
    if past and 2 * next_rows * itemsize <= _ROWS_BYTES:  # x is fetched while there are sums, dy with dx
        return count, groups, parts, length, weights, blocks, block, per_row, next_rows, next_rows, 0, 0
    collected = not past and 2 * nbytes >= PAST_CACHE_BYTES
    ahead = AHEAD if collected else min(past, NEAR)
    return count, groups, parts, length, weights, blocks, block, per_row, past, ahead, ahead, int(collected)


def columns_backward(
    view: Eight, blocks: int, nbytes: int, itemsize: int, centered: int
) -> tuple[int, int, int, int, int, int, int, int, int, int, int]:
    """The numbers of `Columns` and `ColumnsBackward`, for `columns.backward`."""
    rows, width, fold, span, repeat, weights, panel, piece = view
    units, past = blocks * extent(view)[1], past_columns(panel, nbytes, itemsize, 2)
    return rows, width, fold, span, repeat, weights, panel, piece, units, centered, past
