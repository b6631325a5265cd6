"""Arrays whose groups are summed where they lie: as (outer, groups, inner) in the order of memory."""

from math import prod
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastbn.engine import pace, views
from fastbn.engine.arrays import flattened, writable
from fastbn.kernels import selected
from fastbn.kernels.plans import Selected

Array = NDArray[Any]

_COLUMNS = 64  # elements: where a run is no longer, its elements are columns, unless those have few rows


class Laid(NamedTuple):
    """Where the kept axes lie among those from the slowest to the fastest in memory."""

    axes: tuple[int, ...]
    lengths: tuple[int, ...]
    kept: tuple[int, ...]  # in x's order
    first: int  # of the axes from the first kept one
    last: int  # to the one behind the last

    @classmethod
    def of(cls, x: Array, kept: tuple[int, ...]) -> Self | None:
        """None where there are holes or overlaps."""
        order = views.memory_order(x)
        if order is False:
            return None
        axes = tuple(range(x.ndim)) if order is None else order
        places = [k for k, a in enumerate(axes) if a in kept]
        first, last = (places[0], places[-1] + 1) if places else (0, 0)
        return cls(axes, tuple(x.shape[a] for a in axes), kept, first, last)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of outer, groups (those of axes between kept ones included) and inner."""
        return prod(self.lengths[: self.first]), prod(self.block), prod(self.lengths[self.last :])

    @property
    def block(self) -> tuple[int, ...]:
        return self.lengths[self.first : self.last]

    @property
    def between(self) -> tuple[int, ...]:
        """Axes of the block that are not kept."""
        return tuple(k for k in range(len(self.block)) if self.axes[self.first + k] not in self.kept)

    def strides(self, v: Array) -> tuple[int, int, int] | None:
        """How many elements of v, broadcast to x, lie between adjacent ones of each kind; None if that varies."""
        steps = [v.strides[a] // v.itemsize for a in self.axes]
        parts = slice(self.first), slice(self.first, self.last), slice(self.last, None)
        found = [_stride(self.lengths[part], steps[part]) for part in parts]
        return None if None in found else (found[0] or 0, found[1] or 0, found[2] or 0)

    def of_kept(self, sums: Array) -> Array:
        """Sums of all groups, behind one other axis, as those of the kept axes."""
        given = [a for a in self.axes[self.first : self.last] if a in self.kept]
        whole = summed(sums.reshape(-1, *self.block), tuple(k + 1 for k in self.between))
        return whole.transpose(0, *(1 + given.index(a) for a in self.kept))


def _stride(lengths: tuple[int, ...], steps: list[int]) -> int | None:
    """How far the next element of these axes, taken as one, lies; None if it is not always as far."""
    own, expected = None, 0
    for n, step in zip(reversed(lengths), reversed(steps), strict=True):
        if n == 1:
            continue
        if own is None:
            own = step
        elif step != expected:
            return None
        expected = step * n
    return own or 0


def summed(sums: Array, axes: Any) -> Array:
    """The sum over some axes; of integers, in Python's where int64 might overflow."""
    if sums.dtype == np.float64:
        return np.asarray(sums.sum(axis=axes))
    terms = prod(sums.shape[a] for a in (axes if isinstance(axes, tuple) else (axes,)))
    largest = max(abs(int(sums.max())), abs(int(sums.min()))) if sums.size else 0
    wide = sums if sums.dtype == np.int64 and largest * terms < 1 << 63 else sums.astype(object)
    return np.asarray(wide.sum(axis=axes))


# Beside what tells how often elements count ---------------------------------------------------------------------------


class Beside(NamedTuple):
    """An array and what lies beside it, for kernels.selected."""

    laid: Laid
    x: Array  # flat
    w: Array | None
    steps: tuple[int, int, int]
    columns: bool
    kinds: tuple[int | None, int | None, int | None]  # see kernels.selected

    @classmethod
    def of(cls, x: Array, kept: tuple[int, ...], w: Array | None) -> Self | None:
        """Where kernels read both as they lie; else None.  w: broadcasts to x."""
        laid = Laid.of(x, kept)
        if laid is None:
            return None
        steps: tuple[int, int, int] | None = (0, 0, 0)
        if w is not None:
            order = views.memory_order(w)
            w = np.ascontiguousarray(w) if order is False else w
            steps = laid.strides(np.broadcast_to(w, x.shape))
            w = _flat(w, None if order is False else order)
        if steps is None or steps[2] not in (0, 1):
            return None
        outer, groups, inner = laid.shape
        columns, adjacent = inner < _COLUMNS and 4 * outer >= inner, steps[2]
        if columns:  # all of a row are taken alike
            adjacent = steps[1] if inner == 1 else steps[2]
            alike = inner == 1 or groups == 1 or steps[1] == inner * steps[2]
            columns = alike and adjacent in (0, 1)
            adjacent = adjacent if columns else steps[2]
        kinds = 1 if x.dtype.kind in "iub" else None, None if w is None or w.dtype.kind == "f" else 1
        flat = _flat(x, laid.axes)
        return cls(laid, flat, w, (*steps[:2], adjacent), columns, (*kinds, 1 if adjacent else None))

    def plan(self) -> tuple[int, Selected]:
        """The number of work items, and what they are."""
        outer, groups, inner = self.laid.shape
        if self.columns:
            width = groups * inner
            of_unit = max(selected.LEAST_ROWS, selected.NEAR // width)
            pieces = -(-width // selected.PANEL)
            units = -(-outer // of_unit) * pieces
        else:
            of_unit, pieces = max(1, selected.UNIT // inner), -(-inner // selected.UNIT)
            units = -(-outer // of_unit) * groups * pieces
        return units, Selected(outer, groups, inner, of_unit, pieces, *self.steps)


def _flat(a: Array, order: Any) -> Array:
    """One axis, in memory order; booleans and half precision by their bits."""
    if a.dtype.kind not in "iub":
        return flattened(a, order)
    flat = (a if order is None else a.transpose(order)).reshape(-1)
    return writable(flat.view(np.uint8) if flat.dtype == bool else flat)


def run(kernel: Any, units: int, plan: tuple[int, ...], args: tuple[Any, ...]) -> None:
    """Call a driver, by one thread or all; args[0]: flat x."""
    told = np.array(plan, np.int64)

    def call(threads: int) -> None:
        kernel[threads > 1](units, told, *args)

    kinds = tuple(getattr(v, "dtype", v) for v in args[:2])
    pace.with_team((kernel.serial.__name__, *kinds, *plan, units), args[0].nbytes, call)
