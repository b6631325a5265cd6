"""Arrays as the kernels see them: flat, in the order of memory; and results as users see them."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn._quiet import cast
from fastbn.engine import memory, views

Array = NDArray[Any]
ViewOf = Callable[..., views.View | None]


class _Alias:
    """Another array over the memory of a read-only one: kernels take one array type and never write to inputs."""

    def __init__(self, array: Array) -> None:
        self.array = array
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def flattened(a: Array, order: Any = None) -> Array:
    """A contiguous array as Numba is to see it: one axis, in memory order, half precision by its bits, writable."""
    a = np.asarray(a)  # a matrix would stay two-dimensional
    flat = (a if order is None else a.transpose(order)).reshape(-1)
    if flat.itemsize == 2:
        flat = flat.view(np.uint16 if flat.dtype == np.float16 else np.int16)
    return writable(flat)


def writable(a: Array) -> Array:
    """The array, or a writable one over its memory, which nothing may be written to."""
    return a if a.flags.writeable else np.asarray(_Alias(a))


def inverse(order: Any) -> list[int]:
    """The axes that undo a transposition."""
    return sorted(range(len(order)), key=order.__getitem__)


class Reading(NamedTuple):
    """How arrays like one are read and written."""

    order: Any  # of axes in memory; None: C-contiguous
    view: views.View
    dtype: np.dtype[Any]
    empty: Callable[[], Array]  # makes memory for a result
    flat: Callable[[Array], Array]  # the elements of an array of the same shape in the order of memory


def reading(x: Array, view_of: ViewOf, args: tuple[Any, ...]) -> tuple[Array, Reading]:
    """x, copied where no kernel reads it as it lies, and how arrays like it are read."""
    order: Any = views.memory_order(x)
    if order is False:  # holes or overlaps: the same order without them
        x = memory.retried(x.copy, order="K")
        order = views.memory_order(x)
    view = view_of(x.shape, order, *args)
    if view is None:
        x, order = memory.retried(np.ascontiguousarray, x), None
        view = view_of(x.shape, None, *args)
        assert view is not None, "every operation reads C-contiguous arrays"
    if order is None:
        return x, Reading(order, view, x.dtype, memory.maker(x.shape, x.dtype), np.ndarray.ravel)
    make, back = memory.maker([x.shape[a] for a in order], x.dtype), inverse(order)
    empty, flat = (lambda: make().transpose(back)), (lambda values: values.transpose(order).ravel())
    return x, Reading(order, view, x.dtype, empty, flat)


def in_order(a: Array, order: Any) -> Array:
    """a with the given memory order, copied if it has another."""
    if order is None:
        return memory.retried(np.ascontiguousarray, a)
    return memory.retried(np.ascontiguousarray, a.transpose(order)).transpose(inverse(order))


def is_in_order(a: Array, order: Any) -> bool:
    """Whether the array has no holes and this memory order."""
    return (a if order is None else a.transpose(order)).flags.c_contiguous


def all_in_c_order(operands: Iterable[Array | None]) -> bool:
    """Whether kernels may take those that there are as they lie."""
    return all(a is None or a.flags.c_contiguous for a in operands)


# Weights and statistics -----------------------------------------------------------------------------------------------


def flat_weights(w: Array | None, view: views.View) -> Array | None:
    """A weight or bias, flat, in the order of the elements in memory."""
    if w is None or view.weight_order is None:
        return w if w is None else w.ravel()
    shape, tail = view.weight_order
    return w.reshape(shape).transpose(tail).ravel()


def shaped_gradient(g: Array, view: views.View, given: Array | None, shape: tuple[int, ...]) -> Array:
    """A weight's gradient in the weight's own order, shape and dtype."""
    if view.weight_order is not None:
        lengths, tail = view.weight_order
        g = g.reshape([lengths[a] for a in tail]).transpose(inverse(tail))
    g = g.reshape(shape)
    return g if given is None else cast(g, given.dtype)


def flat_statistics(values: Array, view: views.View) -> Array:
    """What users see, flat in memory order."""
    if view.stats_axes is not None:
        values = values.transpose(inverse(view.stats_axes))
    return values.ravel()


def shaped_statistics(values: Array, view: views.View) -> Array:
    """Those of every group with their axes as users see them."""
    return values if view.stats_axes is None else values.transpose(view.stats_axes)
