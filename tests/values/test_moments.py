"""Moments: against sums in exact arithmetic, in every order of merging; precise batch norm; data sets in parts."""

import copy
import io
import pickle
import sys
import tracemalloc
from fractions import Fraction

import internals
import ml_dtypes
import numpy as np
import pytest

import fastbn


def exact(values, weights=None):
    """Count, mean and variance of a few numbers, rounded once."""
    values = [Fraction(float(v)) for v in values]
    weights = [Fraction(float(w)) for w in (np.ones(len(values)) if weights is None else weights)]
    n = sum(weights)
    mean = sum(v * w for v, w in zip(values, weights, strict=True)) / n
    var = sum((v - mean) ** 2 * w for v, w in zip(values, weights, strict=True)) / n
    return float(n), float(mean), float(var)


def numpys(x, axes):
    """Count, mean and variance by NumPy in float64; fit for data of mean about 0."""
    rest = tuple(set(range(x.ndim)) - {a % x.ndim for a in axes})
    x = x.astype(np.float64)
    mean = x.mean(rest)
    return np.full(mean.shape, x.size / mean.size), mean, x.var(rest)


def assert_are(moments, count, mean, var):
    np.testing.assert_array_equal(moments.count, count)
    assert (abs(moments.mean - mean) <= 1e-12 * (np.sqrt(var) + abs(np.asarray(mean)))).all()
    np.testing.assert_allclose(moments.var(), var, rtol=1e-12)


@pytest.mark.parametrize("memory", ["C", "F", "reversed"])
@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        (1, (6, 5, 7)),
        (1, (40, 3)),
        (-1, (6, 200, 5)),
        (1, (3, 2, 300, 300)),  # several pieces
        (0, (5, 600)),
        (0, (600,)),
        ((), (6, 5, 7)),
        ((), (9,)),
        ((0, 1), (6, 5, 7)),  # instance norm
        ((0, -1), (6, 7, 5)),
        ((-1, 0), (3, 1000, 70)),  # and its columns in blocks, in several pieces
        ((0, 1), (6, 5)),
        ((1, 3), (4, 5, 6, 7)),  # by chunks
        ((1, 2), (4, 5, 6)),
    ],
)
def test_of_one_array(axis, shape, memory):
    x = np.random.default_rng(0).normal(0, 1, shape)
    x = {"C": x, "F": np.asfortranarray(x), "reversed": np.flip(x)}[memory]
    axes = axis if isinstance(axis, tuple) else (axis,)
    assert_are(fastbn.Moments(axis).update(x), *numpys(x, axes))


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", ">f8"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(6, 5, 70), (3, 5, 300)])  # read as columns, and as runs
def test_dtypes(dtype, masked, shape):
    if dtype == "bfloat16":
        dtype = ml_dtypes.bfloat16
    x = np.random.default_rng(0).normal(0, 1, shape).astype(dtype)
    x.flags.writeable = False
    assert_are(fastbn.Moments().update(x, where=True if masked else None), *numpys(x, (1,)))


@pytest.mark.full
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mean", [0.0, 1e4, 1e9])
def test_merges_in_any_order(mean, masked):
    rng = np.random.default_rng(1)
    parts = [mean + rng.normal(i, 1 + i, 40 * i + 1) for i in range(12)]  # no part is like another
    expected = exact(np.concatenate(parts))
    where = True if masked else None
    states = [fastbn.Moments(0).update(part[None], where=where) for part in parts]

    def tree(states):
        half = len(states) // 2
        return copy.copy(states[0]) if half == 0 else tree(states[:half]).merge(tree(states[half:]))

    for order in (rng.permutation(12) for _ in range(4)):
        in_turn = fastbn.Moments(0)
        for i in order:
            assert in_turn.update(parts[i][None], where=where) is in_turn
        for moments in (in_turn, tree([states[i] for i in order])):
            count, mean, var = (float(v[0]) for v in (moments.count, moments.mean, moments.var()))
            assert count == expected[0]
            assert abs(mean - expected[1]) <= 1e-12 * np.sqrt(expected[2]) + abs(expected[1]) * 2.0**-52
            assert var == pytest.approx(expected[2], rel=1e-12, abs=0)


def test_constants_have_no_variance_and_large_numbers_do():
    for where in (None, True):
        moments = fastbn.Moments()
        for _ in range(3):
            moments.update(np.full((7, 2, 3), [[[0.1], [1e150]]]), where=where)
        np.testing.assert_array_equal(moments.mean, [0.1, 1e150])
        np.testing.assert_array_equal(moments.var(), [0, 0])
    assert fastbn.Moments(()).update(np.array([0.0, 2e150])).std() == 1e150


def test_where_and_weights():
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, (30, 4, 50, 40)) + 1e6
    where = rng.random((30, 1, 50, 1)) < 0.5
    weights = rng.integers(0, 4, (4, 50, 1))
    w = np.broadcast_to(where * weights, x.shape)
    moments = fastbn.Moments().update(np.where(w > 0, x, np.nan), where, weights)  # the others may be anything
    d = (x - 1e6) * (w > 0)
    n = w.sum((0, 2, 3))
    mean = (w * d).sum((0, 2, 3)) / n
    var = (w * (d - mean[:, None, None]) ** 2).sum((0, 2, 3)) / n
    np.testing.assert_array_equal(moments.count, n)
    np.testing.assert_allclose(moments.mean - 1e6, mean, atol=2e-10)
    np.testing.assert_allclose(moments.var(), var, rtol=1e-12)
    only_where = fastbn.Moments().update(x[:2, :1, :2], where[:2, :, :2])
    assert_are(only_where, *exact(x[:2, :1, :2][np.broadcast_to(where[:2, :, :2], (2, 1, 2, 40))]))


@pytest.mark.parametrize("ddof", [0, 1, 2.5])
def test_weights_that_count_are_repetitions(ddof):
    x, times = np.array([1.0, 2.0, 5.0]), np.array([1, 3, 2])
    moments = fastbn.Moments(()).update(x, weights=times)
    repeated = np.repeat(x, times)
    assert moments.var(ddof) == pytest.approx(((repeated - repeated.mean()) ** 2).sum() / (6 - ddof))
    assert moments.std(ddof) == pytest.approx(np.sqrt(moments.var(ddof)))


@pytest.mark.parametrize("where", [None, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_channel(bad, where):
    x = np.random.default_rng(3).normal(0, 1, (6, 4, 5))
    y = x.copy()
    y[2, 1, 3] = y[0, 2, 0] = bad
    for order in ([x, y, x], [y, x]):
        moments, without = fastbn.Moments(), fastbn.Moments()
        for part in order:
            moments.update(part, where=where)
            without.update(x, where=where)
        finite = [True, False, False, True]
        np.testing.assert_array_equal(np.isfinite(moments.mean), finite)
        np.testing.assert_array_equal(np.isfinite(moments.var()), finite)
        np.testing.assert_array_equal(moments.mean[finite], without.mean[finite])
        np.testing.assert_array_equal(moments.var()[finite], without.var()[finite])


def test_of_nothing():
    empty = fastbn.Moments()
    assert empty.count == 0
    assert np.isnan(empty.mean)
    assert np.isnan(empty.var())
    x = np.array([[1.0, 1e200], [3.0, 1e200]])
    for nothing in (
        empty,
        fastbn.Moments().update(np.empty((0, 2))),
        fastbn.Moments().update(x, where=False),
        fastbn.Moments().update(x, weights=0),
    ):
        for moments in (copy.copy(nothing).update(x), fastbn.Moments().update(x).merge(nothing)):
            assert_are(moments, [2, 2], [2, 1e200], [1, 0])
    partly = fastbn.Moments().update(x, where=[True, False])
    np.testing.assert_array_equal(partly.count, [2, 0])
    np.testing.assert_array_equal(partly.mean, [2, np.nan])
    np.testing.assert_array_equal(partly.var(), [1, np.nan])
    np.testing.assert_array_equal(partly.var(ddof=2), [np.nan, np.nan])


def test_pickles_and_is_a_value():
    x = np.random.default_rng(4).normal(0, 1, (6, 3))
    moments = fastbn.Moments(-1).update(x)
    twin = pickle.loads(pickle.dumps(moments))
    assert repr(twin) == repr(moments) == "Moments(axis=-1, shape=(3,), count=6)"
    moments.count[...] = moments.mean[...] = 0
    moments.merge(moments)
    assert_are(moments, *numpys(np.concatenate([x, x]), (1,)))
    assert_are(twin, *numpys(x, (1,)))


X = np.ones((4, 3, 2))


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "x has dtype complex128", (np.ones((4, 3), complex),)),
        (TypeError, "x is None", (None,)),
        (ValueError, "axis is 1; expected -1 to 0, an axis of x", (np.ones(3),)),
        (ValueError, r"x has shape \(2,\) along the kept axes \(1\); expected \(3,\)", (np.ones((4, 2)),)),
        (ValueError, r"where has shape \(4,\); expected one that broadcasts to \(4, 3, 2\)", (X, np.ones(4, bool))),
        (TypeError, "where has dtype float64; expected bool", (X, X)),
        (ValueError, r"weights has shape \(4,\)", (X, None, np.ones(4))),
        (TypeError, "weights has dtype bool", (X, None, X > 0)),
        (ValueError, "weights holds a negative number", (X, None, -X)),
        (ValueError, "weights holds a negative number, infinity or NaN", (X, None, X * np.nan)),
    ],
)
def test_a_failed_update_changes_nothing(error, message, arguments):
    moments = fastbn.Moments().update(X + np.arange(2))
    with pytest.raises(error, match=message):
        moments.update(*arguments)
    assert_are(moments, [8] * 3, [1.5] * 3, [0.25] * 3)


def test_refuses_by_name():
    for axis, message in (("a", "axis is 'a'"), ((1, 0.5), "axis is")):
        with pytest.raises(TypeError, match=message):
            fastbn.Moments(axis)
    with pytest.raises(ValueError, match=r"axis is \(1, -2\), which names an axis of x"):
        fastbn.Moments((1, -2)).update(X)
    moments = fastbn.Moments().update(X)
    with pytest.raises(TypeError, match="other is of type ndarray; expected Moments"):
        moments.merge(X)
    with pytest.raises(ValueError, match=r"other has shape \(2,\) along the kept axes \(1\); expected \(3,\)"):
        moments.merge(fastbn.Moments(-1).update(X))
    with pytest.raises(ValueError, match=r"other keeps the axes \(0, 1\); expected 1 of them, as 1"):
        moments.merge(fastbn.Moments((0, 1)))
    with pytest.raises(TypeError, match="ddof is None"):
        moments.var(None)


@pytest.mark.parametrize("options", [{}, {"where": True}, {"weights": 2.0}])
def test_no_temporary_is_as_large_as_x(options):
    x = np.ones((4, 64, 128, 256), np.float32)
    fastbn.Moments().update(x[:, :, :8], **options)  # what is compiled or cached is no temporary
    tracemalloc.start()
    try:
        fastbn.Moments().update(x, **options)
        assert tracemalloc.get_traced_memory()[1] < x.nbytes / 4
    finally:
        tracemalloc.stop()


# Data sets ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data():
    return np.random.default_rng(6).normal(0, 1, (100, 3, 5)).astype(np.float32)


def test_data_set(data, tmp_path, monkeypatch):
    internals.elements_read_at_once(40, monkeypatch)  # two samples at a time
    np.save(tmp_path / "data.npy", data)
    mapped = np.load(tmp_path / "data.npy", mmap_mode="r")
    for form in (data, mapped, [mapped[:30], data[30:]], (part for part in np.split(data, 4)), [data[:0], data]):
        assert_are(fastbn.dataset_statistics(form), *numpys(data, (1,)))
    assert_are(fastbn.dataset_statistics(data, -1), *numpys(data, (2,)))
    assert_are(fastbn.dataset_statistics(data, (1, 2)), *numpys(data, (1, 2)))
    pixels = np.arange(240, dtype=np.uint8).reshape(20, 3, 4)
    assert_are(fastbn.dataset_statistics(pixels), *numpys(pixels, (1,)))


def test_data_set_refuses_by_name(data):
    for error, message, arguments in (
        (TypeError, "data is of type int; expected an array or an iterable", (5,)),
        (ValueError, "axis is 0, the axis of the samples", (data, 0)),
        (ValueError, "axis is -3, the axis of the samples", (data, (-3, 1))),
        (TypeError, "data has dtype complex64", (data * 1j,)),
        (ValueError, r"data has shape \(2,\) along the kept axes", ([data, data[:, :2]],)),
    ):
        with pytest.raises(error, match=message):
            fastbn.dataset_statistics(*arguments)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_drawn_on_terminals_alone(data, monkeypatch, capsys):
    fastbn.dataset_statistics([data, data])
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    fastbn.dataset_statistics([data, data], progress=False)
    assert sys.stderr.getvalue() == ""
    monkeypatch.setenv("TERM", "xterm")
    fastbn.dataset_statistics([data, data])
    assert "statistics" in sys.stderr.getvalue()


# Trained networks -----------------------------------------------------------------------------------------------------


def network():
    rng = np.random.default_rng(7)
    first, second = fastbn.BatchNorm1d(4, dtype=np.float64), fastbn.BatchNorm2d(3, axis=-1, dtype=np.float64)
    first.weight = rng.normal(1, 0.3, 4)
    mixing = rng.normal(0, 1, (4, 12))
    inputs = []

    def forward(x):
        between = np.maximum(first(x), 0) @ mixing
        inputs.append((x, between))
        return second(between.reshape(-1, 2, 2, 3))

    return first, second, forward, inputs


def test_population_statistics():
    first, second, forward, inputs = network()
    x = np.random.default_rng(8).normal(3, 2, (90, 4))
    first.eval()
    first.num_batches_tracked[...] = 5
    held = first.running_mean
    seen = fastbn.population_statistics([first, second], [x[:20], x[20:50], x[50:]], forward)
    assert not first.training
    assert second.training
    assert first.running_mean is held
    assert (first.num_batches_tracked, second.num_batches_tracked) == (5, 0)
    assert_are(seen[0], *numpys(x, (1,)))
    between = np.concatenate([b for _, b in inputs]).reshape(-1, 3)
    for layer, values in ((first, x), (second, between)):
        np.testing.assert_allclose(layer.running_mean, values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(layer.running_var, values.var(0), rtol=1e-12)
    with pytest.raises(ValueError, match="no context is left"):
        second.backward(between)  # the run left no context behind
    h = (x - x.mean(0)) / np.sqrt(x.var(0) + first.eps) * first.weight
    np.testing.assert_allclose(first(x), h, rtol=1e-12, atol=1e-12)  # its forward is the class's own again
    fastbn.population_statistics([first], [x], forward, ddof=1)
    np.testing.assert_allclose(first.running_var, x.var(0, ddof=1), rtol=1e-12)


def test_population_statistics_without_padding():
    layer, rng = fastbn.BatchNorm1d(4, activation="relu", dtype=np.float64), np.random.default_rng(8)
    batches = [(rng.normal(3, 2, (5, 4, 9)), rng.random((5, 1, 9)) < 0.6) for _ in range(3)]
    fastbn.population_statistics([layer], batches, lambda batch: layer(batch[0], where=batch[1]))
    counted = np.concatenate([np.moveaxis(x, 1, 2)[where[:, 0]] for x, where in batches])
    np.testing.assert_allclose(layer.running_mean, counted.mean(0), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, counted.var(0), rtol=1e-12)


def test_population_statistics_change_nothing_if_they_fail():
    first, second, forward, _ = network()
    x = np.random.default_rng(8).normal(3, 2, (20, 4))
    state = first.state_dict()
    for layers, error, message, batches in (
        ([first, second], ValueError, "expected 2D or 3D", [x, x[0]]),
        ([first, fastbn.BatchNorm1d(4)], ValueError, r"layers\[1\], BatchNorm1d.*saw no input", [x]),
        ([first], ValueError, "saw no input", []),
        ([first, fastbn.LayerNorm(4)], TypeError, r"layers\[1\] is of type LayerNorm; expected a batch norm", [x]),
        ([fastbn.BatchNorm1d(4, track_running_stats=False)], ValueError, "has no running statistics", [x]),
        ([first, first], ValueError, r"layers\[1\], BatchNorm1d.*is named twice", [x]),
        (first, TypeError, r"layers is of type BatchNorm1d; expected batch norm layers, as in \[layer\]", [x]),
    ):
        with pytest.raises(error, match=message):
            fastbn.population_statistics(layers, batches, forward)
        assert first.training
        assert "forward" not in vars(first)
        for name, value in first.state_dict().items():
            np.testing.assert_array_equal(value, state[name])
