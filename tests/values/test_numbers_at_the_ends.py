"""normalize and denormalize where a step in between leaves the range of float64, and the result does not."""

import numpy as np
import pytest

import fastbn


@pytest.mark.parametrize(
    ("x", "mean", "std", "scale", "expected"),
    [
        (1.7e308, -1.7e308, 1e308, None, 3.4),
        (-1.7e308, 1.6e308, 1.1e308, None, -3.0),
        (1.0, 1e300, 1e275, 1e-10, -1e25),  # mean / scale is infinite
        (0.0, 1e-300, 1e-265, 1e20, -1e-35),  # and here it is next to 0
        (5e-324, 0.0, 5e-324, None, 1.0),
    ],
)
def test_there_and_back(x, mean, std, scale, expected):
    y = fastbn.normalize([x], mean, std, scale=scale, dtype=np.float64)
    np.testing.assert_allclose(y, [expected], rtol=1e-12)
    y = fastbn.normalize([[x, x]], [mean, mean], [std, 1e308], axis=1, scale=scale, dtype=np.float64)
    np.testing.assert_allclose(y[0, 0], expected, rtol=1e-12)
    back = fastbn.denormalize([expected], mean, std, scale=scale)
    np.testing.assert_allclose(back * (scale or 1), [x * (scale or 1)], rtol=0, atol=1e-12 * max(abs(mean), std))


def test_a_product_past_the_range_that_scale_brings_back():
    np.testing.assert_allclose(fastbn.denormalize([2.0], 0.0, 1e308, scale=10.0), [2e307], rtol=1e-12)
    assert fastbn.denormalize([2.0], 0.0, 1e308, scale=1e300, dtype=np.int64).tolist() == [200_000_000]


@pytest.mark.parametrize("rows", [10, 3000])
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_moments_of_the_largest_numbers(rows, parts):
    """The mean lies farther from the first element than float64 reaches."""
    x = np.full((rows, 2), -1.7e308)
    x[: rows // 10] = 1.7e308
    x[:, 1] *= -1
    moments = sum(fastbn.Moments(1).update(part) for part in np.array_split(x, parts))
    np.testing.assert_allclose(moments.mean, [-1.36e308, 1.36e308], rtol=1e-12)
    np.testing.assert_allclose(moments.std(), [1.02e308] * 2, rtol=1e-12)
    y = moments.normalize(x)
    np.testing.assert_allclose(y[[0, -1], 0], [3, -1 / 3], rtol=1e-12)
    np.testing.assert_allclose(moments.denormalize(y), x, rtol=1e-12)
    back = fastbn.Moments.from_dict(moments.to_dict())
    np.testing.assert_array_equal(back.mean, moments.mean)
