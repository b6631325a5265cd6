"""Scales of every sample and channel, applied some samples at a time."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from fastbn import functional as F
from fastbn.engine import arguments, plans
from fastbn.norms.batch import EVALUATION
from fastbn.variants._arguments import Array, of_samples

_SLAB_BYTES = 1 << 19  # that are taken at a time, as computed: with what is made of them, they stay near a core


def slabs(x: Array) -> Iterator[slice]:
    """All samples, some at a time."""
    if x.size:
        step = _step(x, len(x))
        yield from (slice(first, first + step) for first in range(0, len(x), step))


def _step(x: Array, length: int) -> int:
    """How many indices of an axis of this length have as many elements of x as are taken at a time."""
    return max(1, _SLAB_BYTES * length // (x.size * arguments.COMPUTED_IN[x.dtype].itemsize))


def planes(channel: int, *arrays: Array | None) -> Iterator[tuple[slice, int, list[Any]]]:
    """Samples, the channels' axis, and the arrays there: all samples at once where their channels can be one axis."""
    shape = next(a.shape for a in arrays if a is not None)
    if channel == 1 and all(a is None or a.flags.c_contiguous for a in arrays):
        rows = shape[0] * shape[1]
        yield slice(shape[0]), 0, [None if a is None else a.reshape(rows, prod(shape[2:])) for a in arrays]
        return
    for i in range(shape[0]):
        yield slice(i, i + 1), channel, [None if a is None else a[i : i + 1] for a in arrays]


def _no_statistics(groups: int) -> tuple[Array, Array]:
    """A mean and a variance, or rstd, that change nothing."""
    return np.zeros(groups), np.ones(groups)


def scale_planes(
    x: Array,
    channel: int,
    scale: Array,
    shift: Array | None,
    y: Array,
    where: Array | None = None,
    added: Array | None = None,
) -> None:
    """y <- x * scale + shift + added, with a scale a sample and channel, and a shift a channel."""
    compute = arguments.COMPUTED_IN[x.dtype]
    scale, shift = scale.astype(compute), None if shift is None else shift.astype(compute)
    for samples, axis, (part, result, mask, residual) in planes(channel, x, y, where, added):
        a = scale[samples].ravel()
        b = None if shift is None else np.resize(shift, a.size)
        same = result.dtype == part.dtype  # half precision: computed wider, and rounded once
        others = *_no_statistics(a.size), residual, mask, result if same else None
        scaled = plans.call(EVALUATION, (axis, 0.0, None, 0.0), part, a, b, others)
        if not same:
            result[...] = scaled


def scale_planes_backward(
    dy: Array, x: Array, channel: int, scale: Array, shift: Array | None = None, where: Array | None = None
) -> tuple[Array, Array, Array]:
    """dz * scale, and the sums of dz * x and dz of every channel of every sample.

    dz is dy, or with a shift, one a channel, the part of it where x * scale + shift is positive.
    """
    direct, products, of_dz = np.empty_like(x, subok=False), np.empty(scale.shape), np.empty(scale.shape)
    for samples, axis, (g, part, result, mask) in planes(channel, dy, x, direct, where):
        a = scale[samples].ravel()
        named: dict[str, Any] = {"axis": axis, "training": False, "where": mask, "out": result}
        if shift is not None:
            named |= {"bias": np.resize(shift, a.size), "activation": "relu"}
        _, p, s = F.batch_norm_backward(g, part, *_no_statistics(a.size), a, **named)
        products[samples], of_dz[samples] = p.reshape(-1, scale.shape[1]), s.reshape(-1, scale.shape[1])
    return direct, products, of_dz


def kept_of(mask: Array | None, part: slice, x: Array) -> Array | None:
    """A mask for some samples, whose elements are x, an element each."""
    mask = of_samples(mask, part)
    return None if mask is None else np.ascontiguousarray(np.broadcast_to(mask, x.shape))
