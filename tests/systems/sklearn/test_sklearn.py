"""fastbn.sklearn.Standardizer: scikit-learn's own checks, and beside StandardScaler and the exact values."""

import pickle
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import fastbn

Standardizer = fastbn.sklearn.Standardizer


def data(shape=(200, 5), mean=3.0, spread=2.0, seed=0):
    return np.random.default_rng(seed).normal(mean, spread, shape)


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks():
    results = check_estimator(Standardizer())
    status = {result["check_name"]: result["status"] for result in results}
    # skipped by scikit-learn itself unless SciPy is told to dispatch arrays of other libraries
    assert {name for name, told in status.items() if told != "passed"} <= {"check_array_api_input"}
    assert len(status) > 40


@pytest.mark.parametrize("options", [{}, {"with_mean": False}, {"with_std": False}])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_as_standard_scaler(options, dtype):
    x = data().astype(dtype)
    x[3, 2] = np.nan
    ours, theirs = Standardizer(**options).fit(x), StandardScaler(**options).fit(x)
    y, expected = ours.transform(x), theirs.transform(x)
    assert y.dtype == expected.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 if dtype == np.float64 else 2e-6)
    np.testing.assert_allclose(ours.inverse_transform(y), x, rtol=0, atol=16 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(ours.n_samples_seen_, theirs.n_samples_seen_)


def test_parts_and_weights():
    x, weights = data(), np.random.default_rng(1).uniform(0, 2, 200)
    whole, parts = Standardizer().fit(x, sample_weight=weights), Standardizer()
    for part in np.array_split(np.arange(200), 7):
        parts.partial_fit(x[part], sample_weight=weights[part])
    np.testing.assert_allclose(parts.scale_, whole.scale_, rtol=1e-13)
    theirs = StandardScaler().fit(x, sample_weight=weights)
    np.testing.assert_allclose(whole.mean_, theirs.mean_, rtol=1e-13)
    np.testing.assert_allclose(whole.var_, theirs.var_, rtol=1e-12)


def exact(column):
    values = [Fraction(float(v)) for v in column]
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / len(values)


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1e307), (1e8, 1.0), (1e12, 1e-3), (0.0, 1e-300), (5e306, 1e306)])
def test_where_digits_are_lost_elsewhere(mean, spread):
    x = data((101, 3), 0.0, 1.0) * spread + mean
    scaler = Standardizer().fit(x)
    for j, column in enumerate(x.T):
        true_mean, true_var = exact(column)
        scale = Fraction(10) ** 300 if spread > 1e200 else Fraction(1, 10**290) if spread < 1e-200 else Fraction(1)
        std = float(true_var / scale**2) ** 0.5 * float(scale)
        assert scaler.scale_[j] == pytest.approx(std, rel=1e-12)
        y = np.array([float((Fraction(float(v)) - true_mean) / Fraction(std)) for v in column])
        rounding = 2.3e-16 * abs(mean) / spread  # of the mean itself, which no later step can undo
        np.testing.assert_allclose(scaler.transform(x)[:, j], y, rtol=0, atol=1e-12 + rounding)


def test_constants_and_float16():
    x = np.full((50, 2), 0.1)
    assert Standardizer().fit(x).transform(x).tolist() == np.zeros((50, 2)).tolist()
    half = data((4000, 2), 300.0, 20.0).astype(np.float16)
    scaler = Standardizer().fit(half)
    assert scaler.transform(half).dtype == np.float16
    np.testing.assert_allclose(scaler.scale_, half.astype(np.float64).std(0), rtol=1e-12)


def test_in_a_pipeline_with_names_and_pandas():
    frame = pd.DataFrame(data(), columns=list("abcde"))
    scaler = Standardizer().set_output(transform="pandas").fit(frame)
    assert list(scaler.get_feature_names_out()) == list("abcde")
    assert list(scaler.transform(frame).columns) == list("abcde")
    model = make_pipeline(clone(scaler), LogisticRegression()).fit(frame, frame["a"] > 3)
    assert model.score(frame, frame["a"] > 3) > 0.95


def test_saved_and_added_up():
    x = data()
    scaler = pickle.loads(pickle.dumps(Standardizer().fit(x)))
    np.testing.assert_array_equal(scaler.transform(x), Standardizer().fit(x).transform(x))
    halves = [Standardizer().fit(x[:100]).moments_, Standardizer().fit(x[100:]).moments_]
    np.testing.assert_allclose(sum(halves).std(), scaler.scale_, rtol=1e-13)


def test_masked_arrays_are_refused_by_name():
    """scikit-learn would drop the mask."""
    x = data((6, 4))
    masked = np.ma.masked_greater(x, 3.0)
    fitted = Standardizer().fit(x)
    for call in (Standardizer().fit, Standardizer().partial_fit, fitted.transform, fitted.inverse_transform):
        with pytest.raises(TypeError, match=r"^X is a masked array"):
            call(masked)
    with pytest.raises(TypeError, match=r"^sample_weight is a masked array"):
        Standardizer().fit(x, sample_weight=np.ma.masked_equal([1, 1, 1, 1, 1, 9], 9))


def test_what_partial_fit_does_not_look_at_itself():
    """Plain arrays are measured before scikit-learn looks at them, which says the same of them afterwards."""
    x = data((50, 4))
    for bad, error in (
        (np.where(x == x[3, 1], np.inf, x), "infinity"),
        (x[:, :3], "X has 3 features, but Standardizer is expecting 4"),
        (x[:0], "0 sample"),
        (x[0], "Expected 2D array"),
    ):
        scaler = Standardizer().fit(x)
        before = scaler.moments_.to_dict()
        with pytest.raises(ValueError, match=error):
            scaler.partial_fit(bad)
        assert scaler.moments_.to_dict() == before
    holed = np.where(x == x[3, 1], np.nan, x)
    assert Standardizer().fit(x).partial_fit(holed).n_samples_seen_.tolist() == [100, 99, 100, 100]
    frame = pd.DataFrame(x, columns=list("abcd"))
    assert not hasattr(Standardizer().fit(frame).fit(x), "feature_names_in_")
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        Standardizer().fit(frame).partial_fit(x)
    with pytest.raises(ValueError, match="sample_weight"):
        Standardizer().fit(x, sample_weight=-np.ones(50))
    for kind in (np.asfortranarray(x), x[::-1], x.astype(">f8"), x.astype(np.float32), x.tolist()):
        np.testing.assert_allclose(Standardizer().fit(kind).mean_, np.mean(kind, axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", ["copy", "with_mean", "with_std"])
def test_text_is_no_flag(name):
    with pytest.raises(TypeError, match=f"^{name} is 'no'; expected True or False$"):
        Standardizer(**{name: "no"}).fit(np.ones((3, 2)))
