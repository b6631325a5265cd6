"""Statistics and normalization of Dask arrays; needs ``pip install "fastbn[dask]"``."""

from collections.abc import Iterable
from copy import copy
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn._doors import need
from fastbn.engine import arguments
from fastbn.engine.threads import num_threads
from fastbn.moments import Moments
from fastbn.moments._measure import axes_of, kept_axes, measured, without_nan
from fastbn.moments._states import State, concatenated, merged

__all__ = ["moments", "normalize"]

Array = NDArray[Any]

_AT_ONCE = 8  # states that one task merges


def moments(
    array: Any,
    axis: int | tuple[int, ...] = 1,
    *,
    where: Any = None,
    weights: Any = None,
    skipna: bool = False,
) -> Any:
    """Mean and variance of a Dask array, chunk by chunk, merged in a tree.

    Parameters
    ----------
    array : dask.array.Array
        Floats, integers or booleans, in chunks of any layout, those of the kept axes included.
    axis : int or tuple of int
        The axes that are kept, as for `fastbn.Moments`.
    where : array_like of bool, broadcastable to array, optional
        True where an element counts; a Dask or NumPy array.
    weights : array_like, broadcastable to array, optional
        As for `fastbn.Moments.update`.
    skipna : bool
        Whether NaN is left out.

    Returns
    -------
    moments : dask.delayed.Delayed
        Of `fastbn.Moments`: ``.compute()`` makes them, with whatever scheduler and progress bar Dask is told to use.

    Raises
    ------
    ImportError
        If Dask is not installed.
    TypeError, ValueError
        If the array is no Dask array, is not of numbers, lacks a kept axis, or has chunks of unknown size; if `where`
        is not of bool or `weights` not of numbers, or either does not broadcast; for a weight that is negative or not
        finite, when it is computed.

    Notes
    -----
    Each task reads and measures one chunk, by one thread, since Dask hands out the cores; a merge moves some 40 bytes
    for each group and part, 8 parts at a time, so 10,000 chunks make a tree of 5 levels.  Other chunks give the same to
    1e-12 relative, and of integers to the bit.  float16 and bfloat16 are summed in float64.

    Examples
    --------
    >>> import fastbn
    >>> import dask.array as da  # doctest: +SKIP
    >>> x = da.random.normal(5.0, 2.0, (10_000, 3), chunks=(1000, 3))  # doctest: +SKIP
    >>> fastbn.dask.moments(x).compute()  # doctest: +SKIP
    Moments(axis=1, shape=(3,), count=10000)
    """
    delayed = need("dask", "dask").delayed
    axes, kept = _kept(array, axis)
    _of_numbers(array, "array")
    skip = arguments.flag(skipna, "skipna")
    beside = [_as_chunked(v, name, array) for v, name in ((where, "where"), (weights, "weights"))]
    # To Dask the states are an array as well, so that one task reads and measures a chunk.
    alone, nothing = (1,) * array.ndim, np.empty((0,) * array.ndim, object)
    measured = array.map_blocks(_measured, *beside, axes, skip, dtype=object, chunks=alone, meta=nothing)
    blocks, merge = measured.to_delayed(), delayed(_merged, pure=True)
    states = np.empty([array.numblocks[a] for a in kept], object)
    for place in np.ndindex(*states.shape):
        parts = [blocks[i] for i in _with(place, kept, array.numblocks)]
        while len(parts) > 1:
            parts = [merge(parts[i : i + _AT_ONCE]) for i in range(0, len(parts), _AT_ONCE)]
        states[place] = parts[0]
    return delayed(_assembled, pure=True)(axes, states.shape, states.ravel().tolist())


def normalize(array: Any, moments: Any, *, eps: float = 0.0) -> Any:
    """Normalize a Dask array by statistics, lazily: (x - mean) / sqrt(var + eps), a constant group at scale 1.

    Parameters
    ----------
    array : dask.array.Array
        What `fastbn.Moments.normalize` takes.
    moments : fastbn.Moments or dask.delayed.Delayed of them
        The statistics, with the axes that they keep.
    eps : float
        Added to the variance; zero or positive.

    Returns
    -------
    y : dask.array.Array
        Of the shape, chunks and dtype of `array`, or float32 where that is of integers or booleans.

    Raises
    ------
    ImportError
        If Dask is not installed.
    TypeError, ValueError
        If `array` is no Dask array or not of numbers, `eps` is negative, or `moments` are of another shape; as
        `fastbn.Moments.normalize` when it is computed.
    """
    _checked(array)
    if not isinstance(moments, Moments) and not hasattr(moments, "dask"):
        raise TypeError(f"moments is of type {type(moments).__name__}; expected Moments, or a Delayed of them")
    number = arguments.eps(eps)
    _of_numbers(array, "array")
    _refuse_mask(array, "array")
    if isinstance(moments, Moments):
        _fitting(moments, array.shape)
        moments = copy(moments)  # what they count from now on is of no concern to a result that is made later
    dtype = np.dtype(np.float32) if array.dtype.kind in "iub" else array.dtype.newbyteorder("=")
    empty = np.empty((0,) * array.ndim, dtype)
    return array.map_blocks(_normalized, moments, array.shape, number, dtype=dtype, meta=empty)


def _fitting(moments: Moments, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that the moments keep of an array of this shape, in its order."""
    kept = kept_axes(moments._axes, np.broadcast_to(0, shape))
    given, own = tuple(shape[a] for a in kept), moments._state.n.shape
    if own != given and not moments._state.n.any():
        raise ValueError(f"{moments} has counted nothing; expected the moments of data")
    if own != given:
        raise ValueError(f"array has shape {given} along the kept axes ({moments.axis}); expected {own}")
    return kept


# Graph ----------------------------------------------------------------------------------------------------------------


def _checked(array: Any) -> None:
    if not isinstance(array, need("dask.array", "dask").Array):
        raise TypeError(f"array is of type {type(array).__name__}; expected a Dask array")
    if any(n != n for n in array.shape):
        raise ValueError("array has chunks of unknown size; expected known ones: call array.compute_chunk_sizes()")


def _kept(array: Any, axis: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes as given, and as axes of the array, in its order."""
    _checked(array)
    axes = axes_of(axis)
    kept = sorted(arguments.axis(a, array, of="array") for a in axes)
    if len(set(kept)) < len(kept):
        raise ValueError(f"axis is {axis}, which names an axis of array, of shape {array.shape}, twice")
    return axes, tuple(kept)


def _as_chunked(value: Any, name: str, array: Any) -> Any:
    """A mask or weights with the array's shape and chunks."""
    if value is None:
        return None
    da = need("dask.array", "dask")
    given = da.asarray(value if hasattr(value, "dask") else arguments.ndarray(value, name))
    _refuse_mask(given, name)
    if name == "where" and given.dtype != bool:
        raise TypeError(f"where has dtype {given.dtype}; expected bool, true where an element counts")
    if name == "weights":
        if given.dtype == bool:
            raise TypeError("weights has dtype bool; expected numbers, or where=, which takes what counts as booleans")
        _of_numbers(given, name)
    try:
        return da.broadcast_to(given, array.shape).rechunk(array.chunks)
    except ValueError:
        raise ValueError(f"{name} has shape {np.shape(value)}; expected one that broadcasts to {array.shape}") from None


def _of_numbers(array: Any, name: str) -> None:
    """Refuse now what the kernels would refuse in the first task."""
    arguments.number_dtype(array.dtype, name)


def _refuse_mask(array: Any, name: str) -> None:
    if isinstance(array._meta, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, and its mask would be ignored; expected dask.array.ma.filled({name}, value)"
        )


def _with(place: tuple[int, ...], kept: tuple[int, ...], numbers: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
    """The indices of all blocks that have this place along the kept axes."""
    fixed = dict(zip(kept, place, strict=True))
    return product(*([fixed[a]] if a in fixed else range(n) for a, n in enumerate(numbers)))


# Tasks ----------------------------------------------------------------------------------------------------------------


def _measured(x: Array, where: Any, weights: Any, axes: tuple[int, ...], skipna: bool) -> Array:
    """The state of a chunk, as the only element of an array of objects."""
    where = without_nan(x, where) if skipna else where
    result = np.empty((1,) * x.ndim, object)
    with num_threads(1):  # Dask hands out the cores
        result.reshape(-1)[0] = measured(x, axes, where, weights, "array")
    return result


def _merged(states: list[Any]) -> State:
    return reduce(merged, map(_state, states))


def _state(value: Any) -> Any:
    """A state, as a block's only element or as it is."""
    return value.item() if isinstance(value, np.ndarray) else value


def _assembled(axes: tuple[int, ...], shape: tuple[int, ...], states: list[Any]) -> Moments:
    """The moments of all groups, from the states of the blocks of the kept axes."""
    result = Moments(axes)
    result._state = concatenated([_state(block) for block in states], shape)
    return result


def _normalized(x: Array, moments: Moments, shape: tuple[int, ...], eps: float, block_info: Any = None) -> Array:
    if not isinstance(moments, Moments):
        raise TypeError(f"moments is of type {type(moments).__name__}; expected Moments, or a Delayed of them")
    where = block_info[0]["array-location"] if block_info else [(0, n) for n in x.shape]
    kept, own = _fitting(moments, shape), moments._state.n.shape
    part = Moments(moments._axes)
    place = tuple(slice(*where[a]) for a in kept)
    part._state = type(moments._state)(*(np.broadcast_to(v, own)[place] for v in moments._state))
    with num_threads(1):
        return part.normalize(x, eps=eps)
