"""Data frames, and arrays in odd memory: read by places, whatever their index says."""

import internals
import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import StandardScaler

import fastbn

X = np.random.default_rng(0).normal(3.0, 2.0, (40, 3))


@pytest.mark.parametrize("start", [1e9, 0.5, -3.0])
@pytest.mark.parametrize("at_once", [7 * 3, 10**6])
def test_an_index_of_floats_is_not_taken_for_places(start, at_once, monkeypatch):
    """Seconds since 1970, for one; pandas before version 3 slices such frames by label."""
    internals.elements_read_at_once(at_once, monkeypatch)
    frame = pd.DataFrame(X, index=start + np.arange(40) / 4)
    expected = fastbn.Moments(1).update(X)

    def assert_expected(moments, times=1):
        np.testing.assert_array_equal(moments.count, times * expected.count)
        np.testing.assert_allclose(moments.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(moments.var(), expected.var(), rtol=1e-12)

    assert_expected(fastbn.dataset_statistics(frame))
    assert_expected(fastbn.dataset_statistics([frame, frame]), 2)
    assert fastbn.dataset_statistics(frame[0], axis=()).count == 40
    positive = fastbn.dataset_statistics(X, where=pd.DataFrame(X > 3, index=frame.index))
    np.testing.assert_array_equal(positive.count, (X > 3).sum(0))


def test_in_place_where_memory_is_misaligned():
    """Columns of records, of which an odd byte comes first."""
    for scaler in (StandardScaler(copy=False), fastbn.sklearn.Standardizer(copy=False)):
        records = np.zeros(40, [("flag", "u1"), ("values", "f8", 3)])
        records["values"] = X
        y = scaler.fit_transform(records["values"])
        np.testing.assert_allclose(y, (X - X.mean(0)) / X.std(0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(scaler.inverse_transform(y), X, rtol=1e-12)


@pytest.mark.parametrize("holed", [False, True])
def test_inverse_transform_refuses_another_number_of_features(holed):
    x = np.where(holed & (np.arange(3) == 1), np.nan, X)
    with pytest.raises(ValueError, match=r"^X has 2 features; expected 3, as Standardizer\(\) was fitted to$"):
        fastbn.sklearn.Standardizer().fit(x).inverse_transform(X[:, :2])


@pytest.mark.parametrize("rows", [1000, 1_000_000])
def test_times_are_scaled_however_many_rows_there_are(rows):
    """Milliseconds since 1970, within half a second, which StandardScaler takes for a constant in a million rows."""
    times = (1.76e12 + np.arange(rows) % 500)[:, None]
    scaler = fastbn.sklearn.Standardizer().fit(times)
    np.testing.assert_allclose(scaler.scale_, [((500**2 - 1) / 12) ** 0.5], rtol=1e-12)
    assert scaler.transform(times).std() == pytest.approx(1, rel=1e-12)
