"""Arrays cut into parts that are small enough to be widened."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CHUNK = 1 << 15  # elements that are widened to float64 at a time: twice as many took three times as long each
LARGE_CHUNK = 1 << 18  # and that are brought together for a kernel


def arranged(kept: tuple[int, ...], x: Array, *beside: Array) -> list[Array]:
    """The arrays, of the shape of x, with the kept axes first and the others in the order of memory."""
    reduced = sorted(set(range(x.ndim)) - set(kept), key=lambda a: -abs(x.strides[a]))
    return [np.broadcast_to(v, x.shape).transpose(*kept, *reduced) for v in (x, *beside)]


def chunks(shape: tuple[int, ...], most: int) -> Iterator[tuple[int | slice, ...]]:
    """Indices that cut an array of this shape into parts of at most so many elements."""
    if not shape:
        yield ()
        return
    axis = next(a for a in range(len(shape)) if prod(shape[a + 1 :]) <= most)
    step = most // max(1, prod(shape[axis + 1 :]))
    for lead in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], step):
            yield *lead, slice(start, start + step)
