"""dataset_statistics: readers, masks, NaN, integers, generators, and images with their channels last."""

import warnings

import internals
import numpy as np
import pytest

import fastbn


class Reader:
    """A shape, a dtype and slices, as readers of files have; nothing else."""

    def __init__(self, data):
        self.shape, self.dtype, self.read = data.shape, data.dtype, []
        self._data = data

    def __getitem__(self, part):
        assert isinstance(part, slice)
        self.read.append(part)
        return self._data[part]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (20, 8, 6, 3), np.uint8)


@pytest.mark.parametrize("rows", [0, 1, 10])
def test_readers_are_sliced_however_few_rows_they_have(rows):
    data = np.arange(4.0 * rows, dtype=np.float32).reshape(rows, 4)
    reader = Reader(data)
    assert fastbn.dataset_statistics(reader) == fastbn.Moments().update(data)
    assert len(reader.read) == 1


def test_readers_are_read_piece_by_piece_and_in_whole_chunks(images, monkeypatch):
    internals.elements_read_at_once(images[:7].size, monkeypatch)
    reader = Reader(images)
    expected = fastbn.Moments(-1).update(images)
    assert fastbn.dataset_statistics(reader, -1) == expected
    assert [len(images[part]) for part in reader.read] == [7, 7, 6]
    reader = Reader(images)
    reader.chunks = (3, 8, 6, 3)
    assert fastbn.dataset_statistics([reader, images], -1) == expected + expected
    assert [len(images[part]) for part in reader.read] == [6, 6, 6, 2]


def test_images_with_channels_last_are_told_of(images):
    with pytest.warns(UserWarning, match=r"shape \(20, 8, 6, 3\), as images with their channels last") as caught:
        moments = fastbn.dataset_statistics(images)
    assert caught[0].filename == __file__
    assert repr(moments) == "Moments(axis=1, shape=(8,), count=360)"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(fastbn.dataset_statistics(images, axis=-1)) == "Moments(axis=-1, shape=(3,), count=960)"
        fastbn.dataset_statistics(images, axis=1)
        fastbn.dataset_statistics(np.moveaxis(images, -1, 1))
        fastbn.dataset_statistics(images[:, 0])  # rows of three features
    with pytest.warns(UserWarning, match="channels last"):
        fastbn.dataset_statistics(batch for batch in np.split(images, 4))


def test_where(images, monkeypatch):
    internals.elements_read_at_once(images[:6].size, monkeypatch)
    x = images.astype(np.float32)
    mask = np.random.default_rng(1).random((20, 8, 6, 1)) < 0.5
    land = mask[0]
    for where, full in ((mask, mask), (land, land), (mask[:1], mask[:1]), (lambda part: part > 100, x > 100)):
        expected = fastbn.Moments(-1).update(x, where=full)
        for data in (x, Reader(x), [x]):
            assert same(fastbn.dataset_statistics(data, -1, where=where), expected)
    assert same(fastbn.dataset_statistics(x, -1, where=Reader(mask)), fastbn.Moments(-1).update(x, where=mask))
    parts, masks = np.split(x, 4), np.split(mask, 4)
    for where in (masks, iter(masks)):
        assert same(fastbn.dataset_statistics(iter(parts), -1, where=where), fastbn.Moments(-1).update(x, where=mask))
    for where, message in ((masks[:3], "where has fewer arrays"), ([*masks, land], "where has more arrays")):
        with pytest.raises(ValueError, match=message):
            fastbn.dataset_statistics(parts, -1, where=where)
    with pytest.raises(ValueError, match=r"where has shape \(5, 8, 6, 1\); expected one that broadcasts"):
        fastbn.dataset_statistics(x, -1, where=masks[0])
    with pytest.raises(TypeError, match="where has dtype float32; expected bool"):
        fastbn.dataset_statistics(x, -1, where=x)


def same(a, b):
    np.testing.assert_array_equal(a.count, b.count)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12)
    np.testing.assert_allclose(a.var(), b.var(), rtol=1e-12)
    return True


def test_nan_is_left_out_where_asked(images):
    x = images.astype(np.float64)
    x[::3, 1] = np.nan
    known = ~np.isnan(x)
    assert np.isnan(fastbn.dataset_statistics(x, -1).mean).all()
    assert same(fastbn.dataset_statistics(x, -1, skipna=True), fastbn.Moments(-1).update(x, where=known))
    where = np.random.default_rng(2).random((8, 6, 1)) < 0.5
    expected = fastbn.Moments(-1).update(x, where=known & where)
    assert same(fastbn.dataset_statistics(x, -1, where=where, skipna=True), expected)
    masked = np.ma.array(x, mask=~np.broadcast_to(where, x.shape))
    assert same(fastbn.dataset_statistics(masked, -1, skipna=True), expected)
    whole = fastbn.dataset_statistics(images, -1, skipna=True)
    assert whole == fastbn.Moments(-1).update(images)
    assert "exact" in whole.to_dict()


def test_what_readers_of_netcdf_return():
    filled = np.ma.array([[1.0, 1e20], [3.0, 4.0]], mask=[[False, True], [False, False]])
    moments = fastbn.dataset_statistics(Reader(filled))
    np.testing.assert_array_equal(moments.count, [2, 1])
    np.testing.assert_array_equal(moments.mean, [2, 4])
