"""One table: operation, shape and memory order -> how the kernels see the array.

An operation gives every axis a role.  Read in memory order, with axes of length one left out and neighbours of the same
role joined, the roles spell a word, and the word tells the view:

    kept n (sample), g (group), c (channel, with a weight)        reduced k (with a weight), r (without)

A word that is not in the table below belongs to an array whose memory order no kernel reads; it is copied first.
"""

from functools import lru_cache
from math import prod
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from fastbn.engine import integers
from fastbn.kernels.plans import Runs

__all__ = ["View", "batch_view", "group_view", "layer_view", "memory_order"]

Shape = tuple[int, ...]
Order = tuple[int, ...] | None  # axes from slowest to fastest in memory; None: C-contiguous


class View(NamedTuple):
    """What the kernels are told about one array."""

    columns: bool  # which family
    geometry: Any  # Runs or Columns, of kernels.plans
    affine: str  # a weight a "channel", an "element" or a "row"
    weights: int
    weight_order: tuple[tuple[int, ...], tuple[int, ...]] | None  # shape and axes that bring weights to memory order
    blocks: int  # of columns; 1 for runs
    groups: int  # all groups with their own statistics
    stats_shape: tuple[int, ...]  # of mean and rstd, axes in memory order
    stats_axes: tuple[int, ...] | None  # and what brings them to the order of x's axes; None: they are


def memory_order(x: NDArray[Any]) -> Order | Literal[False]:
    """Axes of x from slowest to fastest in memory, None if x is C-contiguous; False if there are holes or overlaps."""
    if x.flags.c_contiguous:
        return None
    order = tuple(sorted(range(x.ndim), key=lambda a: (-x.strides[a], a) if x.shape[a] != 1 else (0, a)))
    return order if x.transpose(order).flags.c_contiguous else False


@lru_cache(maxsize=4096)
def batch_view(shape: Shape, order: Order, axis: int, statistics: bool = True) -> View:
    """Batch norm: a group is a channel; statistics: whether they are to be computed."""
    roles = ["r"] * len(shape)
    roles[axis] = "c"
    word, sizes = _spell(shape, order, roles)
    outer = sizes[0] if word in ("rc", "rcr") else 1
    inner = sizes[-1] if word in ("cr", "rcr", "r") else 1
    channels = shape[axis]
    common: dict[str, Any] = {"stats_shape": (channels,), "groups": channels, "weights": channels}
    if integers.channels_are_columns(outer, channels, inner, statistics):
        return _columns(1, outer, channels * inner, inner, inner, channels, **common)
    return _runs(outer, channels, 1, inner, channels, "channel", **common)


@lru_cache(maxsize=4096)
def group_view(shape: Shape, order: Order, axis: int, num_groups: int) -> View | None:
    """Group norm, and instance norm with as many groups as channels; None where the memory order is not read."""
    channels = shape[axis]
    span = channels // max(num_groups, 1)
    split = (*shape[:axis], num_groups, span, *shape[axis + 1 :])
    roles = ["r"] * len(split)
    roles[0], roles[axis], roles[axis + 1] = "n", "g", "k"
    if order is not None:
        order = tuple(b for a in order for b in ((axis, axis + 1) if a == axis else (a + (a > axis),)))
    word, sizes = _spell(split, order, roles)
    n, plane = shape[0], prod(shape[1:axis]) * prod(shape[axis + 1 :])
    common: dict[str, Any] = {"stats_shape": (n, num_groups), "groups": n * num_groups, "weights": channels}
    if _is_part(word, "ngkr"):
        if plane == 1 and span > 1:
            return _runs(1, n * num_groups, 1, span, channels, "element", **common)
        return _runs(1, n * num_groups, span, plane, channels, "channel", **common)
    if _is_part(word, "nrgkr"):
        inner = sizes[-1] if word.endswith("r") else 1
        return _columns(n, plane // inner, channels * inner, span * inner, inner, channels, **common)
    return None


@lru_cache(maxsize=4096)
def layer_view(shape: Shape, order: Order, trailing: int) -> View | None:
    """Layer and RMS norm over the last `trailing` axes; None where the memory order is not read."""
    kept = len(shape) - trailing
    roles = ["n"] * kept + ["k"] * trailing
    word, sizes = _spell(shape, order, roles)
    length = prod(shape[kept:])
    axes = tuple(range(len(shape))) if order is None else order
    lead = tuple(a for a in axes if a < kept)
    tail = tuple(a - kept for a in axes if a >= kept)
    common: dict[str, Any] = {
        "stats_shape": tuple(shape[a] for a in lead),
        "groups": prod(shape[:kept]),
        "weights": length,
        "stats_axes": _inverse(lead),
        "weight_order": None if _inverse(tail) is None else (shape[kept:], tail),
    }
    if _is_part(word, "nk"):
        return _runs(1, common["groups"], 1, length, length, "element", **common)
    # Where the samples themselves are the columns, how the rows are cut would depend on how many samples there are.
    samples_are_columns = shape[0] > 1 and axes.index(0) > min(axes.index(a) for a in range(kept, len(shape)))
    if word in ("kn", "nkn") and not samples_are_columns:
        blocks = sizes[0] if word == "nkn" else 1
        return _columns(blocks, length, sizes[-1], 1, 1, length, affine="row", **common)
    return None


def _spell(shape: Shape, order: Order, roles: list[str]) -> tuple[str, list[int]]:
    """The roles in memory order as a word, and the sizes of its letters."""
    word = ""
    sizes: list[int] = []
    for a in range(len(shape)) if order is None else order:
        if shape[a] == 1:
            continue
        if word.endswith(roles[a]) and sizes:
            sizes[-1] *= shape[a]
        else:
            word += roles[a]
            sizes.append(shape[a])
    return word, sizes


def _is_part(word: str, whole: str) -> bool:
    """Whether `word` is `whole` with some letters left out."""
    letters = iter(whole)
    return all(letter in letters for letter in word)


def _inverse(order: tuple[int, ...]) -> Order:
    """The axes that undo a transposition; None where there is nothing to undo."""
    inverse = tuple(sorted(range(len(order)), key=order.__getitem__))
    return None if inverse == tuple(range(len(order))) else inverse


def _runs(chunks: int, rows: int, parts: int, length: int, weights_: int, affine: str, **common: Any) -> View:
    defaults = {"weight_order": None, "stats_axes": None}
    return View(False, Runs(chunks, rows, parts, length, weights_), affine, blocks=1, **(defaults | common))


def _columns(
    blocks: int,
    rows: int,
    width: int,
    span: int,
    repeat: int,
    weights_: int,
    affine: str = "channel",
    **common: Any,
) -> View:
    defaults = {"weight_order": None, "stats_axes": None}
    geometry = integers.columns(rows, width, span, repeat, weights_, affine == "row")
    return View(True, geometry, affine, blocks=blocks, **(defaults | common))
