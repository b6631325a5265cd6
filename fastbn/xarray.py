"""Statistics and normalization of xarray's DataArrays and Datasets; needs ``pip install "fastbn[xarray]"``."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from math import prod
from typing import Any

import numpy as np

from fastbn._doors import need
from fastbn.engine import arguments
from fastbn.moments import Moments
from fastbn.moments._measure import measured
from fastbn.moments._states import concatenated, merged

__all__ = ["moments", "normalize"]

_READ = 1 << 24  # elements that are read at a time of data on disk


def moments(data: Any, dim: Any, *, skipna: bool = True, where: Any = None) -> Any:
    """Mean and variance over the named dimensions, for every index of the others.

    Parameters
    ----------
    data : xarray.DataArray or xarray.Dataset
        Floats, integers or booleans, in NumPy or Dask arrays, or on disk.
    dim : str or iterable of hashable
        The dimensions that are reduced.  Of a variable of a Dataset, those that it has.
    skipna : bool
        Whether NaN is left out.
    where : xarray.DataArray of bool, optional
        True where an element counts; broadcast by the names of its dimensions, and matched by their labels.

    Returns
    -------
    moments : fastbn.Moments, or dict of str to fastbn.Moments
        A dict by variable for a Dataset; variables that are not of numbers, or have none of the dimensions, are left
        out.  The kept axes are those of the data's other dimensions, whose names and labels are remembered for
        `normalize`.

    Raises
    ------
    ImportError
        If xarray is not installed, or the data are Dask arrays and Dask is not.
    TypeError, ValueError
        If `data` is neither, a dimension is missing, or `where` does not fit or lacks a label of the data.

    Notes
    -----
    Dask arrays are computed chunk by chunk by `fastbn.dask.moments`, with Dask's own scheduler and progress bar; arrays
    on disk are read some 16 million elements at a time.  Errors are those of `fastbn.Moments`.

    Examples
    --------
    >>> import fastbn
    >>> import xarray as xr  # doctest: +SKIP
    >>> weather = xr.open_zarr("weather.zarr")  # doctest: +SKIP
    >>> seen = fastbn.xarray.moments(weather, ["time", "lat", "lon"])  # doctest: +SKIP
    >>> seen["temperature"].mean  # doctest: +SKIP
    """
    xr = need("xarray", "xarray")
    skip, names = arguments.flag(skipna, "skipna"), _names(dim)
    if isinstance(data, xr.Dataset):
        if missing := [name for name in names if name not in data.dims]:
            raise ValueError(f"dim names {missing[0]!r}; data has the dimensions {', '.join(map(str, data.dims))}")
        numeric = {name: v for name, v in data.data_vars.items() if _of_numbers(v.dtype)}
        own = {name: [n for n in names if n in v.dims] for name, v in numeric.items()}
        result = {}
        for name, variable in numeric.items():
            if own[name]:
                with _told_of(name):
                    result[name] = _of(variable, own[name], skip, where)
        return result
    if not isinstance(data, xr.DataArray):
        raise TypeError(f"data is of type {type(data).__name__}; expected a DataArray or a Dataset of xarray")
    return _of(data, names, skip, where)


def normalize(data: Any, moments: Any, *, eps: float = 0.0) -> Any:
    """Normalize by statistics: (x - mean) / sqrt(var + eps), a constant group at scale 1.

    Parameters
    ----------
    data : xarray.DataArray or xarray.Dataset
        With the dimensions that the statistics keep.
    moments : fastbn.Moments, or mapping of names to them for a Dataset
        What `moments` returned, of these or of other data.  Variables without an entry stay as they are.
    eps : float
        Added to the variance; zero or positive.

    Returns
    -------
    y : the type of data
        Coordinates, attributes and dimensions are kept, and not how the data were packed on disk (`encoding`).  Data in
        Dask arrays stay lazy.

    Raises
    ------
    ImportError
        If xarray is not installed.
    TypeError, ValueError
        If an argument is of another type, a dimension or a label is missing, or lengths differ; as
        `fastbn.Moments.normalize`.

    Notes
    -----
    Statistics go to the data by the names of dimensions, and along them by labels where both have them, whatever their
    order; the data may have a part of the labels.  Where nothing was counted, as in a cell that is always missing, the
    result is NaN.
    """
    xr = need("xarray", "xarray")
    number = arguments.eps(eps)
    if isinstance(data, xr.Dataset):
        if not isinstance(moments, Mapping):
            raise TypeError(f"moments is of type {type(moments).__name__}; expected a mapping of names to Moments")
        if missing := [name for name in moments if name not in data.data_vars]:
            raise ValueError(f"moments has the variable {missing[0]!r}, which data does not have")
        normalized = {}
        for name, m in moments.items():
            with _told_of(name):
                normalized[name] = _normalized(data[name], m, number)
        return data.assign(normalized)
    if not isinstance(data, xr.DataArray):
        raise TypeError(f"data is of type {type(data).__name__}; expected a DataArray or a Dataset of xarray")
    return _normalized(data, moments, number)


def _of_numbers(dtype: Any) -> bool:
    """Whether it is of floats, integers or booleans; ml_dtypes' floats are of the kind of structures."""
    return dtype.kind in "fiub" or (dtype.kind == "V" and dtype.type is not np.void)


@contextmanager
def _told_of(name: Hashable) -> Iterator[None]:
    """Say in an error's note of which variable it is."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the variable {name!r}")
        raise


def _names(dim: Any) -> list[Hashable]:
    if isinstance(dim, str) or not isinstance(dim, Iterable):
        return [dim]
    return list(dim)


def _of(data: Any, names: list[Hashable], skipna: bool, where: Any) -> Moments:
    if missing := [name for name in names if name not in data.dims]:
        raise ValueError(f"dim names {missing[0]!r}; data has the dimensions {', '.join(map(str, data.dims))}")
    kept = [name for name in data.dims if name not in names]
    axes = tuple(data.dims.index(name) for name in kept)
    mask = None if where is None else _mask(where, data)
    if data.chunks is not None:
        from fastbn import dask

        result: Moments = dask.moments(
            data.data, axes, where=None if mask is None else mask.data, skipna=skipna
        ).compute()
    else:
        result = _read(data, axes, mask, skipna)
    result._names, result._labels = tuple(kept), tuple(data.indexes.get(name) for name in kept)
    return result


def _read(data: Any, axes: tuple[int, ...], mask: Any, skipna: bool) -> Moments:
    """In slices along the first axis: what lies on disk need not fit into memory."""
    result = Moments(axes)
    if not data.ndim:
        return result.update(*_known(data.values, mask, skipna))
    step = max(1, _READ // max(1, prod(data.shape[1:])))
    states = []
    for start in range(0, max(1, data.shape[0]), step):
        part = data[start : start + step]
        selected = None if mask is None else mask[start : start + len(part)]
        x, counted = _known(part.values, selected, skipna)
        states.append(measured(x, axes, counted, None, "data"))
    if 0 in axes:  # every slice has groups of its own
        result._state = concatenated(states, (len(states), *[1] * (len(axes) - 1)))
    else:
        result._state = reduce(merged, states)
    return result


def _known(x: Any, mask: Any, skipna: bool) -> tuple[Any, Any]:
    counted = None if mask is None else mask.values
    if skipna and x.dtype.kind not in "iub":
        known = np.equal(x, x)
        counted = known if counted is None else known & counted
    return x, counted


def _mask(where: Any, data: Any) -> Any:
    xr = need("xarray", "xarray")
    if not isinstance(where, xr.DataArray):
        raise TypeError(f"where is of type {type(where).__name__}; expected a DataArray of bool")
    if where.dtype != bool:
        raise TypeError(f"where has dtype {where.dtype}; expected bool, true where an element counts")
    if extra := [name for name in where.dims if name not in data.dims]:
        raise ValueError(f"where has the dimension {extra[0]!r}, which data does not have")
    where = _by_labels(where, data)
    if wrong := [name for name in where.dims if where.sizes[name] != data.sizes[name]]:
        own, given = data.sizes[wrong[0]], where.sizes[wrong[0]]
        raise ValueError(f"where has {given} elements along {wrong[0]!r}; expected {own}, as many as data")
    return where.broadcast_like(data).transpose(*data.dims)


def _by_labels(where: Any, data: Any) -> Any:
    """The mask with its labels in the order of the data's."""
    for name in where.dims:
        own, given = data.indexes.get(name), where.indexes.get(name)
        if own is None or given is None or own.equals(given):
            continue
        where = where.isel({name: _places(own, given, name, "where")})
        where = where.assign_coords({name: data[name]})
    return where


def _places(own: Any, given: Any, name: Hashable, of: str) -> Any:
    """Where each label of the data stands among given ones."""
    if not given.is_unique:
        raise ValueError(f"{of} has a label twice along {name!r}; expected each once, or the data's labels")
    places = given.get_indexer(own)
    if len(places) and places.min() < 0:
        missing = own[int(np.argmin(places))]
        raise ValueError(f"{of} has no label {missing!r} along {name!r}, as data has")
    return places


def _normalized(data: Any, moments: Any, eps: float) -> Any:
    if not isinstance(moments, Moments):
        raise TypeError(f"moments is of type {type(moments).__name__}; expected Moments")
    placed = _placed(moments, data)
    here, counted = _of_something(placed)
    if data.chunks is None:
        y = data.copy(data=here.normalize(data.values, eps=eps))
    else:
        from fastbn import dask

        y = data.copy(data=dask.normalize(data.data, here, eps=eps))
    if not counted.all():
        xr = need("xarray", "xarray")
        dims = [data.dims[axis] for axis in sorted(a % data.ndim for a in here._axes)]
        y = y.where(xr.DataArray(counted, dims=dims))
    y.encoding = {}  # which would pack it by the range of the data
    return y


def _of_something(moments: Moments) -> tuple[Moments, Any]:
    """The moments with some number where they have counted nothing, if they have elsewhere; and where they have."""
    counted = np.asarray(moments._state.n != 0)
    if counted.all() or not counted.any():
        return moments, np.True_
    result = Moments(moments._axes)
    state = [np.asarray(v) for v in _whole(moments._state)]
    result._state = type(moments._state)(np.where(counted, state[0], 1), *state[1:])
    return result, counted


def _placed(moments: Moments, data: Any) -> Moments:
    """The moments with their axes where the data have the dimensions of these names, and in the order of its labels."""
    names, dims = moments._names, data.dims
    if names is None:
        return moments
    if missing := [name for name in names if name not in dims]:
        raise ValueError(f"moments keep the dimension {missing[0]!r}; data has {', '.join(map(str, dims))}")
    order = sorted(range(len(names)), key=lambda i: dims.index(names[i]))
    result = Moments(tuple(dims.index(names[i]) for i in order))
    state = [np.asarray(v) for v in _whole(moments._state)]
    for k, (name, labels) in enumerate(zip(names, moments._labels, strict=False)):
        own = data.indexes.get(name)
        if own is not None and labels is not None and not own.equals(labels) and len(labels) == state[0].shape[k]:
            places = _places(own, labels, name, "moments")
            state = [v.take(places, axis=k) for v in state]
    result._state = type(moments._state)(*(v.transpose(order) for v in state))
    return result


def _whole(state: Any) -> Any:
    return (np.broadcast_to(v, state.n.shape) for v in state)
