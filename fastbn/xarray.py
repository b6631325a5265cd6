"""Statistics and normalization of xarray's DataArrays and Datasets; needs ``pip install "fastbn[xarray]"``."""

from collections.abc import Hashable, Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from fastbn._doors import need
from fastbn.engine import arguments
from fastbn.moments import Moments

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
        True where an element counts; broadcast by the names of its dimensions.

    Returns
    -------
    moments : fastbn.Moments, or dict of str to fastbn.Moments
        A dict by variable for a Dataset; variables that are not of numbers are left out.  The kept axes are those of
        the data's other dimensions, and their names are remembered for `normalize`.

    Raises
    ------
    ImportError
        If xarray is not installed, or the data are Dask arrays and Dask is not.
    TypeError, ValueError
        If `data` is neither, a dimension is missing, or `where` does not fit.

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
        numeric = {name: v for name, v in data.data_vars.items() if v.dtype.kind in "fiubV"}
        return {name: _of(v, [n for n in names if n in v.dims], skip, where) for name, v in numeric.items()}
    if not isinstance(data, xr.DataArray):
        raise TypeError(f"data is a {type(data).__name__}; expected a DataArray or a Dataset of xarray")
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
        Coordinates, attributes and dimensions are kept.  Data in Dask arrays stay lazy.

    Raises
    ------
    ImportError
        If xarray is not installed.
    TypeError, ValueError
        If an argument is of another type, a dimension is missing, or lengths differ; as `fastbn.Moments.normalize`.
    """
    xr = need("xarray", "xarray")
    number = arguments.eps(eps)
    if isinstance(data, xr.Dataset):
        if not isinstance(moments, Mapping):
            raise TypeError(f"moments is a {type(moments).__name__}; expected a mapping of names to Moments")
        if missing := [name for name in moments if name not in data.data_vars]:
            raise ValueError(f"moments has the variable {missing[0]!r}, which data does not have")
        return data.assign({name: _normalized(data[name], m, number) for name, m in moments.items()})
    if not isinstance(data, xr.DataArray):
        raise TypeError(f"data is a {type(data).__name__}; expected a DataArray or a Dataset of xarray")
    return _normalized(data, moments, number)


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
    result._names = tuple(kept)
    return result


def _read(data: Any, axes: tuple[int, ...], mask: Any, skipna: bool) -> Moments:
    """In slices along the first axis: what lies on disk need not fit into memory."""
    result = Moments(axes)
    if not data.ndim:
        return result.update(_known(data.values, mask, skipna)[0])
    step = max(1, _READ // max(1, prod(data.shape[1:])))
    lengthwise = 0 in axes  # then every slice has groups of its own, and all must be there at once
    for start in range(0, max(1, data.shape[0]), max(1, data.shape[0]) if lengthwise else step):
        part = data[start : start + (data.shape[0] if lengthwise else step)]
        selected = None if mask is None else mask[start : start + len(part)]
        x, counted = _known(part.values, selected, skipna)
        result.update(x, counted)
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
        raise TypeError(f"where is a {type(where).__name__}; expected a DataArray of bool")
    if where.dtype != bool:
        raise TypeError(f"where has dtype {where.dtype}; expected bool, true where an element counts")
    if extra := [name for name in where.dims if name not in data.dims]:
        raise ValueError(f"where has the dimension {extra[0]!r}, which data does not have")
    return where.broadcast_like(data).transpose(*data.dims)


def _normalized(data: Any, moments: Any, eps: float) -> Any:
    if not isinstance(moments, Moments):
        raise TypeError(f"moments is a {type(moments).__name__}; expected Moments")
    here = _placed(moments, data.dims)
    if data.chunks is None:
        return data.copy(data=here.normalize(data.values, eps=eps))
    from fastbn import dask

    return data.copy(data=dask.normalize(data.data, here, eps=eps))


def _placed(moments: Moments, dims: tuple[Hashable, ...]) -> Moments:
    """The moments with their axes where the data have the dimensions of these names."""
    names = moments._names
    if names is None:
        return moments
    if missing := [name for name in names if name not in dims]:
        raise ValueError(f"moments keep the dimension {missing[0]!r}; data has {', '.join(map(str, dims))}")
    order = sorted(range(len(names)), key=lambda i: dims.index(names[i]))
    result = Moments(tuple(dims.index(names[i]) for i in order))
    result._state = type(moments._state)(*(np.asarray(v).transpose(order) for v in _whole(moments._state)))
    return result


def _whole(state: Any) -> Any:
    return (np.broadcast_to(v, state.n.shape) for v in state)
