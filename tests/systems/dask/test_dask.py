"""fastbn.dask: arrays in chunks of every layout, on threads and on a cluster of processes."""

import dask.array as da
import numpy as np
import pytest
import zarr
from dask.distributed import Client, LocalCluster

import fastbn


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(5.0, 2.0, (60, 7, 11)).astype(np.float32)


def assert_equal_moments(one, other, rtol=1e-12):
    np.testing.assert_array_equal(one.count, other.count)
    np.testing.assert_allclose(one.mean, other.mean, rtol=rtol)
    np.testing.assert_allclose(one.var(), other.var(), rtol=rtol)


@pytest.mark.parametrize("axis", [1, -1, 0, (0, 2), (2, 1), ()])
@pytest.mark.parametrize("chunks", [(60, 7, 11), (13, 3, 4), (1, 7, 2), ((10, 50), (7,), (5, 6))])
def test_every_layout_of_chunks(x, axis, chunks):
    moments = fastbn.dask.moments(da.from_array(x, chunks=chunks), axis)
    assert hasattr(moments, "compute")
    assert_equal_moments(moments.compute(), fastbn.Moments(axis).update(x))


def test_integers_to_the_bit():
    x = np.random.default_rng(0).integers(0, 256, (50, 3, 9)).astype(np.uint8)
    whole = fastbn.Moments(1).update(x)
    for chunks in ((7, 3, 9), (50, 1, 4)):
        assert fastbn.dask.moments(da.from_array(x, chunks=chunks)).compute().to_dict() == whole.to_dict()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(x, dtype):
    import ml_dtypes

    half = (x * 60).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    moments = fastbn.dask.moments(da.from_array(half, chunks=(13, 7, 11))).compute()
    wide = half.astype(np.float64)
    np.testing.assert_allclose(moments.mean, wide.mean((0, 2)), rtol=1e-12)
    np.testing.assert_allclose(moments.var(), wide.var((0, 2)), rtol=1e-12)


def test_masks_weights_and_nan(x):
    rng = np.random.default_rng(1)
    where, weights = rng.random((60, 1, 11)) < 0.7, rng.uniform(0, 2, (60, 1, 1))
    array = da.from_array(x, chunks=(13, 3, 4))
    for w in (where, da.from_array(where, chunks=(20, 1, 11))):
        moments = fastbn.dask.moments(array, where=w, weights=weights).compute()
        np.testing.assert_allclose(moments.mean, fastbn.Moments(1).update(x, where, weights).mean, rtol=1e-12)
    holed = np.where(x < 2, np.nan, x)
    moments = fastbn.dask.moments(da.from_array(holed, chunks=20), skipna=True).compute()
    assert_equal_moments(moments, fastbn.Moments(1).update(x, where=~(x < 2)))


@pytest.mark.parametrize("axis", [1, (0, 2), ()])
def test_normalize_is_lazy(x, axis):
    array = da.from_array(x, chunks=(13, 3, 4))
    expected = fastbn.Moments(axis).update(x).normalize(x, eps=1e-5)
    for moments in (fastbn.dask.moments(array, axis), fastbn.Moments(axis).update(x)):
        y = fastbn.dask.normalize(array, moments, eps=1e-5)
        assert isinstance(y, da.Array)
        assert (y.shape, y.chunks, y.dtype) == (array.shape, array.chunks, array.dtype)
        np.testing.assert_allclose(y.compute(), expected, rtol=0, atol=1e-6)


def test_a_constant_and_no_rows():
    assert not fastbn.dask.normalize(da.ones((6, 2)), fastbn.dask.moments(da.ones((6, 2)))).compute().any()
    empty = fastbn.dask.moments(da.zeros((0, 3), chunks=(1, 3))).compute()
    assert empty.count.tolist() == [0, 0, 0]


def test_wrong_calls(x):
    array = da.from_array(x)
    with pytest.raises(TypeError, match="array is of type ndarray; expected a Dask array"):
        fastbn.dask.moments(x)
    with pytest.raises(ValueError, match="axis is 3"):
        fastbn.dask.moments(array, 3)
    with pytest.raises(ValueError, match=r"where has shape \(5,\)"):
        fastbn.dask.moments(array, where=np.ones(5, bool))
    with pytest.raises(ValueError, match="unknown size"):
        fastbn.dask.moments(array[array[:, 0, 0] > 5])
    with pytest.raises(TypeError, match="moments is of type int"):
        fastbn.dask.normalize(array, 3)
    with pytest.raises(ValueError, match=r"array has shape \(11,\)"):
        fastbn.dask.normalize(array, fastbn.Moments(-1).update(x[:, :, :5]))
    with pytest.raises(ValueError, match=r"array has shape \(7,\)"):
        fastbn.dask.normalize(array, fastbn.dask.moments(array[:, :5])).compute()
    with pytest.raises(ValueError, match="has counted nothing"):
        fastbn.dask.normalize(array, fastbn.Moments(1))


def test_dtypes_are_refused_before_anything_is_computed(x):
    array = da.from_array(x)
    for where in (np.ones(11), da.ones(11), "yes"):
        with pytest.raises(TypeError, match=r"^where has dtype \S+; expected bool"):
            fastbn.dask.moments(array, where=where)
    with pytest.raises(TypeError, match=r"^weights has dtype bool"):
        fastbn.dask.moments(array, weights=da.ones(11, dtype=bool))
    with pytest.raises(TypeError, match=r"^weights has dtype complex128"):
        fastbn.dask.moments(array, weights=da.ones(11, dtype=complex))
    with pytest.raises(TypeError, match=r"^skipna is 'yes'; expected True or False"):
        fastbn.dask.moments(array, skipna="yes")
    for call in (fastbn.dask.moments, lambda a: fastbn.dask.normalize(a, fastbn.dask.moments(array))):
        with pytest.raises(TypeError, match=r"^array has dtype complex64"):
            call(array.astype(np.complex64))


def test_a_cluster_of_processes_reads_zarr(x, tmp_path):
    stored = zarr.create_array(str(tmp_path / "x.zarr"), shape=x.shape, chunks=(10, 7, 11), dtype=x.dtype)
    stored[...] = x
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        array = da.from_zarr(str(tmp_path / "x.zarr"))
        moments = fastbn.dask.moments(array)
        assert_equal_moments(moments.compute(), fastbn.Moments(1).update(x))
        y = fastbn.dask.normalize(array, moments).compute()
    np.testing.assert_allclose(y, fastbn.Moments(1).update(x).normalize(x), rtol=0, atol=1e-6)


def killed(block):
    import os

    os._exit(3)


def test_a_worker_that_dies_ends_in_dasks_own_error(x):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        array = da.from_array(x, chunks=(30, 7, 11)).map_blocks(killed, dtype=x.dtype, meta=x[:0])
        future = client.compute(fastbn.dask.moments(array), retries=0)
        with pytest.raises(Exception, match="worker"):
            future.result(timeout=300)


def test_masks_of_chunks_are_not_dropped():
    """Dask's own conversion to an array of NumPy drops them."""
    values = np.arange(24.0).reshape(6, 4)
    masked = da.ma.masked_greater(da.from_array(values, chunks=(3, 4)), 20)
    with pytest.raises(TypeError, match=r"^x is a masked array"):
        fastbn.BatchNorm1d(4)(masked)
    assert fastbn.dataset_statistics(masked, axis=1).count.tolist() == [6, 5, 5, 5]
    assert fastbn.Moments(axis=1).update(masked).count.tolist() == [6, 5, 5, 5]
    assert fastbn.dask.moments(masked, axis=1).compute().count.tolist() == [6, 5, 5, 5]


def test_masked_arrays_with_nan_and_another_mask():
    values = np.arange(24.0).reshape(6, 4)
    array = da.from_array(values, chunks=(3, 4))
    masked = da.ma.masked_greater(da.where(array < 4, np.nan, array), 20)
    moments = fastbn.dask.moments(masked, where=array != 8, skipna=True).compute()
    assert moments.count.tolist() == [4, 4, 4, 4]


def test_the_other_byte_order(x):
    array = da.from_array(x.astype(">f4"), chunks=20)
    moments = fastbn.dask.moments(array)
    assert_equal_moments(moments.compute(), fastbn.Moments(1).update(x))
    y = fastbn.dask.normalize(array, moments)
    assert y.dtype == y.compute().dtype == np.float32


def test_a_data_set_of_unknown_size_is_refused_by_name(x):
    array = da.from_array(x)
    with pytest.raises(ValueError, match=r"^data has chunks of unknown size; expected known ones"):
        fastbn.dataset_statistics(array[array[:, 0, 0] > 5])
