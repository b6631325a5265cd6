"""fastbn.dask: what happens between a call and its computation, and masks of what selects elements."""

import dask.array as da
import numpy as np
import pytest

import fastbn


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(5.0, 2.0, (60, 7, 11)).astype(np.float32)


def test_what_moments_count_later_does_not_change_a_result(x):
    array, moments = da.from_array(x, chunks=20), fastbn.Moments(1).update(x)
    expected = moments.normalize(x)
    y = fastbn.dask.normalize(array, moments)
    moments.update(100 * x)
    np.testing.assert_array_equal(y.compute(), expected)
    assert not np.array_equal(fastbn.dask.normalize(array, moments).compute(), expected)


@pytest.mark.parametrize("name", ["where", "weights"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_masked_array_selects_nothing(x, name, lazy):
    """As with Moments in memory: Dask would drop the mask of one, or keep it and count what it hides."""
    masked = np.ma.masked_array(np.ones(11, bool if name == "where" else float), np.arange(11) < 5)
    with pytest.raises(TypeError, match=f"^{name} is a masked array"):
        fastbn.Moments(1).update(x, **{name: masked})
    given = da.from_array(masked, chunks=4) if lazy else masked
    with pytest.raises(TypeError, match=f"^{name} is a masked array"):
        fastbn.dask.moments(da.from_array(x, chunks=20), **{name: given})


def test_masked_arrays_are_refused_by_normalize_at_once(x):
    masked = da.ma.masked_greater(da.from_array(x, chunks=20), 5)
    with pytest.raises(TypeError, match=r"^array is a masked array.*expected dask\.array\.ma\.filled"):
        fastbn.dask.normalize(masked, fastbn.Moments(1).update(x))
