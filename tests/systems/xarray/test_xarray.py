"""fastbn.xarray: DataArrays and Datasets, in memory, in Dask arrays, and on disk."""

import numpy as np
import pytest
import xarray as xr

import fastbn


@pytest.fixture
def weather():
    rng = np.random.default_rng(0)
    t = rng.normal(280, 10, (20, 3, 6, 8)).astype(np.float32)
    t[0, 0, 0, :3] = np.nan
    dims = ("time", "level", "lat", "lon")
    coords = {"time": np.arange(20), "level": [1000, 850, 500]}
    temperature = xr.DataArray(t, coords, dims, attrs={"units": "K"})
    rain = xr.DataArray(rng.exponential(size=(20, 6, 8)), dims=("time", "lat", "lon"))
    return xr.Dataset({"t": temperature, "rain": rain, "name": ((), "a station")})


REDUCED = ["time", "lat", "lon"]


def assert_as_xarray(moments, data, dim):
    np.testing.assert_allclose(moments.mean, data.astype(np.float64).mean(dim), rtol=1e-12)
    np.testing.assert_allclose(moments.var(), data.astype(np.float64).var(dim), rtol=1e-12)
    np.testing.assert_array_equal(moments.count, data.count(dim))


@pytest.mark.parametrize("dim", [REDUCED, "time", ["level"], ["time", "level", "lat", "lon"]])
@pytest.mark.parametrize("chunks", [None, {"time": 7, "lon": 3}])
def test_as_xarrays_own(weather, dim, chunks):
    data = weather["t"] if chunks is None else weather["t"].chunk(chunks)
    assert_as_xarray(fastbn.xarray.moments(data, dim), weather["t"], dim)


def test_skipna_is_a_choice(weather):
    assert np.isnan(fastbn.xarray.moments(weather["t"], REDUCED, skipna=False).mean[0])


def test_a_dataset(weather):
    seen = fastbn.xarray.moments(weather, REDUCED)
    assert set(seen) == {"t", "rain"}  # a name is no number
    assert_as_xarray(seen["rain"], weather["rain"], REDUCED)
    y = fastbn.xarray.normalize(weather, seen)
    assert isinstance(y, xr.Dataset)
    assert y["t"].attrs == {"units": "K"}
    assert float(y["rain"].std()) == pytest.approx(1)
    assert y["name"] == weather["name"]


@pytest.mark.parametrize("chunks", [None, {"time": 7, "level": 2}])
def test_normalize_keeps_what_belongs_to_the_data(weather, chunks):
    data = weather["t"] if chunks is None else weather["t"].chunk(chunks)
    y = fastbn.xarray.normalize(data, fastbn.xarray.moments(data, REDUCED))
    assert y.dims == data.dims
    assert y.attrs == data.attrs
    assert y.dtype == data.dtype
    assert (y.chunks is None) == (chunks is None)
    xr.testing.assert_equal(y["level"], data["level"])
    wide = data.astype(np.float64)
    expected = (wide - wide.mean(REDUCED)) / wide.std(REDUCED)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)


def test_dimensions_go_by_their_names(weather):
    moments = fastbn.xarray.moments(weather["t"], ["time", "lat"])
    turned = weather["t"].transpose("lon", "time", "level", "lat")
    y = fastbn.xarray.normalize(turned, moments)
    expected = fastbn.xarray.normalize(weather["t"], moments).transpose(*turned.dims)
    np.testing.assert_array_equal(y, expected)


def test_where(weather):
    land = xr.DataArray(np.random.default_rng(1).random((6, 8)) < 0.5, dims=("lat", "lon"))
    for data in (weather["t"], weather["t"].chunk({"time": 7})):
        moments = fastbn.xarray.moments(data, REDUCED, where=land)
        assert_as_xarray(moments, weather["t"].where(land), REDUCED)


def test_on_disk(weather, tmp_path):
    weather.drop_vars("name").to_zarr(tmp_path / "weather.zarr")
    for chunks in (None, {}):
        with xr.open_zarr(tmp_path / "weather.zarr", chunks=chunks) as data:
            assert_as_xarray(fastbn.xarray.moments(data["t"], REDUCED), weather["t"], REDUCED)


def test_wrong_calls(weather):
    with pytest.raises(ValueError, match="dim names 'height'; data has the dimensions time, level, lat, lon"):
        fastbn.xarray.moments(weather["t"], "height")
    with pytest.raises(ValueError, match="dim names 'height'"):
        fastbn.xarray.moments(weather, "height")
    with pytest.raises(TypeError, match="data is a ndarray"):
        fastbn.xarray.moments(np.ones(3), "x")
    with pytest.raises(TypeError, match="where is a ndarray; expected a DataArray of bool"):
        fastbn.xarray.moments(weather["t"], "time", where=np.ones(3, bool))
    with pytest.raises(TypeError, match="expected a mapping"):
        fastbn.xarray.normalize(weather, fastbn.Moments())
    with pytest.raises(ValueError, match="moments keep the dimension 'level'"):
        fastbn.xarray.normalize(weather["rain"], fastbn.xarray.moments(weather["t"], REDUCED))
