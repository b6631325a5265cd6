"""Statistics of a data set: of anything that is sliced like an array, or that yields arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn.engine import arguments
from fastbn.moments._class import Moments
from fastbn.moments._measure import measured, without_nan
from fastbn.moments._progress import tracked

Array = NDArray[Any]

_READ = 1 << 24  # elements of a data set that are read between two steps of the progress bar
_RECORD = 3  # arrays in a list that may be inputs, labels and weights
_PIXEL = (1, 3, 4)  # numbers of channels of images


def dataset_statistics(
    data: Any,
    axis: int | tuple[int, ...] | None = None,
    *,
    where: ArrayLike | Iterable[ArrayLike] | Callable[[Any], ArrayLike] | None = None,
    skipna: bool = False,
    progress: bool = True,
) -> Moments:
    """Mean and variance of data that need not fit into memory.

    Parameters
    ----------
    data : array or iterable of arrays
        Of floats, integers or booleans, as `Moments.update` takes them; axis 0 counts samples.  An array is anything
        that has a shape and is sliced like one: ``numpy.load(path, mmap_mode="r")``, ``numpy.memmap``, an array of
        HDF5, Zarr, Dask or xarray.  Of masked arrays, what is not masked counts.
    axis : int or tuple of int, optional
        The axes that are kept, as for `Moments`; not that of the samples.  1 if it is left out; with a warning where x
        looks like images with their channels last, for which it is -1.
    where : array_like of bool, callable or iterable, optional
        True where an element counts: an array that broadcasts to `data`, or to each array that `data` yields; a
        function of a part of the data, of any number of samples, that returns such an array; or, if `data` is an
        iterable, an iterable of as many.
    skipna : bool
        Whether NaN is left out.
    progress : bool
        Whether to draw a bar, if Rich is installed and standard error is a terminal.

    Returns
    -------
    Moments

    Raises
    ------
    TypeError, ValueError
        As `Moments.update`; if `data` is not iterable, if `axis` names the axis of the samples, or if `where` does
        not have as many parts as `data`.

    Warns
    -----
    UserWarning
        If `axis` is left out, x has four axes or more, and the last one is 1, 3 or 4 long while axis 1 is not; if
        `data` yields lists or tuples of up to three arrays, which look like inputs and labels.

    Notes
    -----
    Arrays are read some 16 million elements at a time, along axis 0, and in whole chunks of those that have chunks.
    Integers are summed exactly.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> batches = (np.full((10, 3), float(i)) for i in range(5))
    >>> statistics = fastbn.dataset_statistics(batches)
    >>> statistics.count, statistics.mean, statistics.var()
    (array([50., 50., 50.]), array([2., 2., 2.]), array([2., 2., 2.]))

    Images with their channels last:

    >>> images = np.zeros((10, 32, 32, 3), np.uint8)
    >>> fastbn.dataset_statistics(images, axis=-1)
    Moments(axis=-1, shape=(3,), count=10240)
    """
    moments = Moments(1 if axis is None else axis)
    skip = arguments.flag(skipna, "skipna")
    arrays, total = _arrays(data)
    first = True
    for part, mask in tracked(_parts(arrays, where, single=hasattr(data, "shape")), "statistics", progress, total):
        x = arguments.anyarray(part, "data")  # whose mask, if it has one, says what counts
        arguments.number_dtype(x.dtype, "data")
        for a in moments._axes:
            arguments.sample_axis(a, x, "data")
        if first:
            _warn_of_records(part, x.shape)
        if first and axis is None:
            _warn_of_channels(x.shape)
        first = False
        mask = without_nan(x, mask) if skip else mask
        moments._add(measured(x, moments._axes, mask, None, "data"), "data")
    return moments


def _arrays(data: Any) -> tuple[Iterable[Any], int | None]:
    """The arrays that data are, and in how many parts they are read, if that is known."""
    arrays = [data] if hasattr(data, "shape") else data
    if not isinstance(arrays, Iterable) or isinstance(arrays, str | bytes) or hasattr(arrays, "keys"):
        raise TypeError(f"data is of type {type(data).__name__}; expected an array or an iterable of arrays")
    if not isinstance(arrays, Sequence):
        return arrays, None
    return arrays, sum(len(_slices(array)) for array in arrays)


def _slices(array: Any) -> list[slice | None]:
    """Where an array is cut along axis 0; None: it is no array, and taken as a whole."""
    shape = getattr(array, "shape", None)
    if shape is None:
        return [None]
    if not len(shape):
        raise ValueError("data has shape (); expected at least one axis, that of the samples")
    if any(n != n for n in shape):
        raise ValueError("data has chunks of unknown size; expected known ones: call data.compute_chunk_sizes()")
    step = max(1, _READ // max(1, prod(int(n) for n in shape[1:])))
    chunk = _chunk(array)
    if chunk and step > chunk:
        step -= step % chunk
    elif chunk and chunk <= 8 * step:
        step = chunk
    return [slice(start, start + step) for start in range(0, max(1, int(shape[0])), step)]


def _chunk(array: Any) -> int | None:
    """How many samples a chunk of an array of Dask, Zarr or HDF5 has."""
    chunks = getattr(array, "chunks", None)
    try:
        first = chunks[0]  # type: ignore[index]  # what it is not is seen below
        return int(max(first) if isinstance(first, tuple) else first) or None
    except (TypeError, ValueError, IndexError, KeyError):
        return None


def _parts(arrays: Iterable[Any], where: Any, single: bool) -> Iterator[tuple[Any, Any]]:
    """The arrays in slices along axis 0, read one by one, each with its mask."""
    for array, mask in _with_masks(arrays, where, single):
        for part in _slices(array):
            x = array if part is None else _by_place(array)[part]
            yield x, _sliced(mask(x) if callable(mask) else mask, x, part, array)


def _with_masks(arrays: Iterable[Any], where: Any, single: bool) -> Iterator[tuple[Any, Any]]:
    alone = where is None or callable(where) or hasattr(where, "shape") or isinstance(where, bool)
    if alone or (single and not isinstance(where, Iterator)):
        as_it_is = where is None or callable(where) or hasattr(where, "shape")
        one = where if as_it_is else arguments.ndarray(where, "where")
        return ((array, one) for array in arrays)
    if not isinstance(where, Iterable):
        raise TypeError(
            f"where is {where!r}; expected an array of bool, a function of a part, or an iterable of arrays"
        )
    return _in_step(arrays, where)


def _in_step(arrays: Iterable[Any], where: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    masks, end = iter(where), object()
    for array in arrays:
        mask = next(masks, end)
        if mask is end:
            raise ValueError("where has fewer arrays than data; expected one for each")
        yield array, mask if hasattr(mask, "shape") else arguments.ndarray(mask, "where")
    if next(masks, end) is not end:
        raise ValueError("where has more arrays than data; expected one for each")


def _sliced(mask: Any, x: Any, part: slice | None, array: Any) -> Any:
    """What a mask says about a part of its array."""
    if mask is None or part is None:
        return mask
    shape = tuple(getattr(mask, "shape", ()))
    own = np.shape(x) if not hasattr(x, "shape") else tuple(x.shape)
    if shape == own:
        return mask
    if len(shape) == len(own) and shape[0] != 1:
        if shape[0] != array.shape[0]:
            raise ValueError(f"where has shape {shape}; expected one that broadcasts to {tuple(array.shape)}, data's")
        return _by_place(mask)[part]
    return mask


def _by_place(array: Any) -> Any:
    """What is sliced by places: before version 3, pandas slices by labels where its index is of floats."""
    return getattr(array, "iloc", array)


def _warn_of_records(part: Any, shape: tuple[int, ...]) -> None:
    """Loaders of PyTorch yield a list, of inputs alone too, which NumPy makes one array of."""
    if (
        isinstance(part, list | tuple)
        and 0 < len(part) <= _RECORD
        and all(np.ndim(v) and hasattr(v, "shape") for v in part)
    ):
        warnings.warn(
            f"data yields a {type(part).__name__} of {len(part)} arrays, taken as one array of shape {shape}; expected "
            "arrays: if these are inputs and labels, (batch[0] for batch in data)",
            UserWarning,
            stacklevel=3,
        )


def _warn_of_channels(shape: tuple[int, ...]) -> None:
    if len(shape) >= 4 and shape[-1] in _PIXEL and shape[1] not in _PIXEL:
        warnings.warn(
            f"data has shape {shape}, as images with their channels last, and axis was left out: these are statistics "
            "of every index of axis 1; expected axis=-1 for channels last, or axis=1 to say that this is meant",
            UserWarning,
            stacklevel=3,
        )
