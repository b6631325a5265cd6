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
    with pytest.raises(TypeError, match="data is of type ndarray"):
        fastbn.xarray.moments(np.ones(3), "x")
    with pytest.raises(TypeError, match="where is of type ndarray; expected a DataArray of bool"):
        fastbn.xarray.moments(weather["t"], "time", where=np.ones(3, bool))
    with pytest.raises(TypeError, match="expected a mapping"):
        fastbn.xarray.normalize(weather, fastbn.Moments())
    with pytest.raises(ValueError, match="moments keep the dimension 'level'"):
        fastbn.xarray.normalize(weather["rain"], fastbn.xarray.moments(weather["t"], REDUCED))


def test_statistics_go_by_labels(weather):
    data = weather["t"]
    moments = fastbn.xarray.moments(data, REDUCED)
    expected = fastbn.xarray.normalize(data, moments)
    for other in (data.isel(level=[2, 0, 1]), data.sel(level=[500])):
        for given in (other, other.chunk({"time": 7})):
            y = fastbn.xarray.normalize(given, moments)
            np.testing.assert_array_equal(y, expected.sel(level=other.level))
    with pytest.raises(ValueError, match=r"moments has no label \S*700\S* along 'level'"):
        fastbn.xarray.normalize(data.assign_coords(level=[1000, 700, 500]), moments)


def test_a_mask_goes_by_labels(weather):
    data = weather["t"].assign_coords(lat=np.arange(6.0)[::-1])
    land = xr.DataArray(np.random.default_rng(1).random((8, 6)) < 0.5, {"lat": np.arange(6.0)}, ("lon", "lat"))
    for given in (data, data.chunk({"lat": 2})):
        assert_as_xarray(fastbn.xarray.moments(given, REDUCED, where=land), data.where(land), REDUCED)
    with pytest.raises(ValueError, match=r"where has no label \S*5\.0\S* along 'lat'"):
        fastbn.xarray.moments(data, REDUCED, where=land.isel(lat=slice(5)))


def test_moments_of_other_names_or_labels_do_not_merge(weather):
    data = weather["t"]
    moments = fastbn.xarray.moments(data, REDUCED)
    assert (moments + fastbn.xarray.moments(data, REDUCED)).count.tolist() == (2 * moments.count).tolist()
    with pytest.raises(ValueError, match="other has other labels along 'level'"):
        moments.merge(fastbn.xarray.moments(data.isel(level=[2, 0, 1]), REDUCED))
    with pytest.raises(ValueError, match=r"other keeps the dimensions \('lat',\); expected \('level',\)"):
        moments.merge(fastbn.xarray.moments(data, ["time", "level", "lon"]))


def test_a_variable_without_the_dimensions_stays_as_it_is(weather):
    data = weather.assign(height=("lat", np.arange(6.0)))
    seen = fastbn.xarray.moments(data, ["time", "lon"])
    assert set(seen) == {"t", "rain"}
    xr.testing.assert_identical(fastbn.xarray.normalize(data, seen)["height"], data["height"])


@pytest.mark.parametrize("chunks", [None, {}])
def test_packed_data_are_not_packed_again_by_their_old_range(weather, tmp_path, chunks):
    packed = {"t": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 250.0, "_FillValue": -32768}}
    weather[["t"]].to_zarr(tmp_path / "packed.zarr", encoding=packed)
    with xr.open_zarr(tmp_path / "packed.zarr", chunks=chunks) as data:
        y = fastbn.xarray.normalize(data, fastbn.xarray.moments(data, REDUCED))
        y.to_zarr(tmp_path / "normalized.zarr")
        with xr.open_zarr(tmp_path / "normalized.zarr", chunks=None) as back:
            np.testing.assert_array_equal(back["t"], y["t"])


@pytest.mark.parametrize("dim", [("lat", "lon"), ("level", "lat", "lon"), "lon", "time"])
def test_data_are_read_some_at_a_time_whatever_is_kept(weather, tmp_path, dim, monkeypatch):
    from fastbn import xarray

    monkeypatch.setattr(xarray, "_READ", 300)
    data = weather["t"].assign_coords(lat=np.arange(6.0))
    assert_as_xarray(fastbn.xarray.moments(data, dim), data, dim)
    whole = (weather["t"].fillna(0) > 280).astype(np.uint8)
    assert_as_xarray(fastbn.xarray.moments(whole, dim), whole, dim)


@pytest.mark.parametrize("chunks", [None, {"time": 7, "lat": 2}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_nothing_was_counted_the_result_is_missing(weather, chunks, dtype):
    land = xr.DataArray(np.random.default_rng(1).random((6, 8)) < 0.5, dims=("lat", "lon"))
    rain = weather["rain"].astype(dtype).assign_attrs(units="mm")
    sea = rain.where(~land)
    seen = fastbn.xarray.moments(sea, "time")
    y = fastbn.xarray.normalize(sea if chunks is None else sea.chunk(chunks), seen)
    expected = ((rain - rain.mean("time")) / rain.std("time")).where(~land)
    assert (y.dims, y.dtype, y.attrs) == (rain.dims, rain.dtype, {"units": "mm"})
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)
    assert bool(fastbn.xarray.normalize(rain, seen).isnull().all("time").equals(land))
    with pytest.raises(ValueError, match="groups without a finite mean"):
        fastbn.xarray.normalize(rain, fastbn.xarray.moments(rain.where(False), "time"))


def test_records_are_no_numbers(weather):
    records = np.zeros(20, [("station", "i4"), ("rain", "f4")])
    data = weather.assign(records=("time", records))
    assert set(fastbn.xarray.moments(data, REDUCED)) == {"t", "rain"}


def test_names_of_dimensions_stay_with_a_sum(weather):
    data = weather["t"]
    moments, turned = fastbn.xarray.moments(data, REDUCED), data.transpose("lon", "level", "lat", "time")
    expected = fastbn.xarray.normalize(turned, moments)
    for total in (sum([moments]), fastbn.Moments(1) + moments, fastbn.Moments(1).merge(moments)):
        xr.testing.assert_equal(fastbn.xarray.normalize(turned, total), expected)


def test_a_mask_of_another_length_is_told_by_its_dimension(weather):
    for given in (weather["t"], weather["t"].chunk({"time": 7})):
        with pytest.raises(ValueError, match="where has 5 elements along 'lat'; expected 6, as many as data"):
            fastbn.xarray.moments(given, REDUCED, where=xr.DataArray(np.ones(5, bool), dims="lat"))


def test_errors_of_a_dataset_name_the_variable(weather):
    if np.longdouble == np.float64:
        pytest.skip("long double is float64 here")
    data = weather.assign(wide=weather["rain"].astype(np.longdouble))
    with pytest.raises(TypeError, match="data has dtype float") as caught:
        fastbn.xarray.moments(data, REDUCED)
    assert caught.value.__notes__ == ["in the variable 'wide'"]
    seen = fastbn.xarray.moments(weather, REDUCED)
    with pytest.raises(TypeError) as caught:
        fastbn.xarray.normalize(weather, seen | {"rain": 3})
    assert caught.value.__notes__ == ["in the variable 'rain'"]
