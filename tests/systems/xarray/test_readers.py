"""dataset_statistics of arrays of Dask, xarray, Zarr and HDF5: integers exact, masks and NaN, progress."""

import io
import sys

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

import fastbn


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (50, 8, 6, 3), np.uint8)


@pytest.fixture
def readers(images, tmp_path):
    chunked = zarr.create_array(tmp_path / "a.zarr", shape=images.shape, chunks=(9, 8, 6, 3), dtype=images.dtype)
    chunked[:] = images
    with h5py.File(tmp_path / "a.h5", "w") as file:
        lazy = da.from_array(images, chunks=(7, 8, 2, 3))
        yield [
            lazy,
            xr.DataArray(images),
            xr.DataArray(lazy),
            chunked,
            file.create_dataset("x", data=images, chunks=True),
        ]


def test_readers_are_read_in_parts(images, readers, monkeypatch):
    monkeypatch.setattr(fastbn.moments._datasets, "_READ", images[:10].size)
    expected = fastbn.Moments(-1).update(images)
    for reader in readers:
        assert fastbn.dataset_statistics(reader, -1) == expected
    blocks = (readers[0].blocks[i] for i in range(readers[0].numblocks[0]))
    assert fastbn.dataset_statistics(blocks, -1) == expected


def test_masks_that_are_read_too(images, readers):
    lazy = readers[0]
    expected = fastbn.Moments(-1).update(images, where=images > 9)
    assert fastbn.dataset_statistics(lazy, -1, where=lazy > 9) == expected
    known = da.where(lazy > 9, lazy, np.nan)
    moments = fastbn.dataset_statistics(known, -1, skipna=True)
    np.testing.assert_array_equal(moments.count, expected.count)
    np.testing.assert_allclose(moments.var(), expected.var(), rtol=1e-12)


def test_a_dataset_of_several_variables_is_refused():
    with pytest.raises(TypeError, match="data is of type Dataset; expected an array or an iterable of arrays"):
        fastbn.dataset_statistics(xr.Dataset({"a": ("x", [1.0, 2.0])}), 0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_each(images, readers, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for data in (*readers, (image[None] for image in images)):
        monkeypatch.setattr(sys, "stderr", Terminal())
        fastbn.dataset_statistics(data, -1)
        assert "statistics" in sys.stderr.getvalue()
