"""The numbers that kernels go by, under their names: how an array is seen, and what is decided beside that.

A kernel takes both as one array of int64, of all forms the one that costs its caller least and that Numba can hand to
its threads; `read` gives the numbers their names back.  Truth values are 0 or 1.
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

# How an array is seen -------------------------------------------------------------------------------------------------


class Runs(NamedTuple):
    """As chunks of contiguous runs, see `runs`."""

    chunks: int  # of a group
    groups: int
    parts: int  # of a chunk, each with one weight
    length: int  # of a part
    weights: int


class Columns(NamedTuple):
    """As columns of row-major blocks, see `columns`."""

    rows: int
    width: int
    fold: int  # rows that are taken as one
    span: int  # adjacent columns of one group
    repeat: int  # adjacent columns of one weight
    weights: int
    panel: int  # columns of a panel
    piece: int  # folded rows of a piece


# What is decided beside that ------------------------------------------------------------------------------------------


class RunsForward(NamedTuple):
    units: int  # work items, each some groups,
    groups: int  # so many, but for the last one
    pieces: int  # of a group
    centered: int  # whether the mean is taken away
    rooted: int  # whether `var` takes rstd
    # 0, or how many elements x is fetched ahead while y is written past the cache; negative: only where the parts of y
    # are whole cache lines.
    past_cache: int
    ahead: int  # 0, or x is fetched so many elements ahead while it is summed


class RunsScale(NamedTuple):
    units: int  # pieces of all runs
    past_cache: int


class RunsBackward(NamedTuple):
    units: int  # a group of the samples of a block; x of batch norm is one sample
    groups: int  # of a sample
    samples: int  # of a block
    pieces: int  # of a part
    ahead: int  # 0, or dy and x are fetched so many elements ahead while they are summed
    past_cache: int
    collected: int  # whether a group is collected before it is written past the cache


class Adjacent(NamedTuple):
    units: int  # work items, each some groups,
    groups: int  # so many, but for the last one
    chunks: int  # of a piece


class RowsBackward(NamedTuple):
    units: int  # blocks of rows
    rows: int  # of a block
    pieces: int  # of a row
    past_cache: int
    ahead: int  # see `cross_products`
    dy_ahead: int
    collected: int  # whether rows that are not whole cache lines are collected before they are written past the cache


class ColumnsForward(NamedTuple):
    units: int  # panels of all blocks
    centered: int
    rooted: int
    past_cache: int


class ColumnsScale(NamedTuple):
    units: int  # parts of all blocks
    threads: int
    parts: int  # of a block
    past_cache: int


class ColumnsBackward(NamedTuple):
    units: int  # panels of all blocks
    centered: int
    past_cache: int


# Of the kernels of `pixels` -------------------------------------------------------------------------------------------


class Planes(NamedTuple):
    """Arrays of (any, channels, length)."""

    channels: int
    length: int
    pieces: int  # of a run
    past_cache: int


class Repeating(NamedTuple):
    """Arrays whose channels repeat."""

    size: int
    period: int
    past_cache: int


class Moved(NamedTuple):
    """Samples of (length, channels) and of (channels, length)."""

    length: int
    channels: int
    blocks: int  # of a sample
    past_cache: int


class SumsOfColumns(NamedTuple):
    rows: int
    width: int
    of_unit: int  # rows of a work item


class SumsOfRuns(NamedTuple):
    length: int
    pieces: int  # of a run


class Selected(NamedTuple):
    """An array of (outer, groups, inner) with a mask or weights beside it, see `selected`."""

    outer: int
    groups: int
    inner: int
    of_unit: int  # outer ones of a work item
    pieces: int  # of what lies inside them
    w_outer: int  # how far apart the weights of adjacent elements are, along each
    w_group: int
    w_inner: int  # 0 or 1


# Names for numbers ----------------------------------------------------------------------------------------------------


def _kind(named_tuple):
    return types.NamedUniTuple(types.int64, len(named_tuple.instance_class._fields), named_tuple.instance_class)


def _numbers(context, builder, kind, value):
    """The integers of an array, without their number, or of a tuple, or a tuple of tuples."""
    if isinstance(kind, types.Array):
        begin = context.make_array(kind)(context, builder, value).data
        return lambda k: builder.load(builder.gep(begin, [ir.Constant(ir.IntType(64), k)]))
    values = _flat(context, builder, kind, value)
    return values.__getitem__


def _flat(context, builder, kind, value):
    if isinstance(kind, types.BaseTuple):
        parts = zip(kind, cgutils.unpack_tuple(builder, value), strict=True)
        return [number for k, v in parts for number in _flat(context, builder, k, v)]
    return [context.cast(builder, value, kind, types.int64)]


@intrinsic
def read(typing, plan, first, second):
    """Two named tuples, whose numbers an array holds one after the other, or a tuple of both."""
    kinds = _kind(first), _kind(second)
    result = types.Tuple(kinds)

    def codegen(context, builder, sig, args):
        number = _numbers(context, builder, plan, args[0])
        places = range(len(kinds[0])), range(len(kinds[0]), len(kinds[0]) + len(kinds[1]))
        made = [context.make_tuple(builder, k, [number(i) for i in p]) for k, p in zip(kinds, places, strict=True)]
        return context.make_tuple(builder, result, made)

    return result(plan, first, second), codegen


@intrinsic
def named(typing, numbers, kind):
    """The named tuple whose numbers an array or a tuple holds."""
    result = _kind(kind)

    def codegen(context, builder, sig, args):
        number = _numbers(context, builder, numbers, args[0])
        return context.make_tuple(builder, result, [number(k) for k in range(len(result))])

    return result(numbers, kind), codegen


if config.DISABLE_JIT:

    def read(plan, first, second):
        numbers = [int(number) for number in plan]
        return first(*numbers[: len(first._fields)]), second(*numbers[len(first._fields) :])

    def named(numbers, kind):
        return kind(*(int(number) for number in numbers))
