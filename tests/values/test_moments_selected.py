"""Moments with masks and weights, and of wide integers, in every way in which they may lie beside each other."""

import itertools
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

import fastbn

LAYOUTS = [  # kept axes, shape: runs, columns, few rows, groups between others
    (1, (3, 5, 200)),
    (1, (60, 5, 7)),
    (1, (500, 20)),
    (-1, (9, 4, 33)),
    ((0, 1), (5, 4, 90)),
    (0, (3, 700)),
    ((0, 2), (20, 9, 11)),
    ((1, 3), (4, 5, 6, 7)),
    ((), (1300,)),
    (1, (2, 700)),
]


def in_memory(x, memory):
    return {"C": x, "F": np.asfortranarray(x), "reversed": x[::-1].copy()[::-1]}[memory]


def rows(v, axis, shape):
    """The elements of every group, in one row each."""
    axes = axis if isinstance(axis, tuple) else (axis,)
    kept = sorted(a % len(shape) for a in axes)
    moved = np.broadcast_to(v, shape).transpose(*kept, *(a for a in range(len(shape)) if a not in kept))
    return moved.reshape(*moved.shape[: len(kept)], -1)


def masks(rng, shape):
    """None, as x, by samples, along the last axis, and as x in another order of memory."""
    first, last = (shape[0], *[1] * (len(shape) - 1)), shape[-1:]
    whole = rng.random(shape) < 0.6
    return [None, whole, rng.random(first) < 0.6, rng.random(last) < 0.6, np.asfortranarray(~whole)]


@pytest.mark.full
@pytest.mark.parametrize("memory", ["C", "F", "reversed"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32, bool])
@pytest.mark.parametrize(("axis", "shape"), LAYOUTS)
def test_where_and_weights_of_every_kind(axis, shape, dtype, memory):
    rng = np.random.default_rng(0)
    x = in_memory(rng.normal(5, 20, shape).astype(dtype), memory)
    kinds = [None, rng.random(shape), rng.random((shape[0], *[1] * (len(shape) - 1))).astype(np.float32)]
    kinds.append(rng.integers(0, 3, shape[-1:]))
    for where, weights in itertools.product(masks(rng, shape), kinds):
        counts = np.float64(1 if where is None else where) * np.float64(1 if weights is None else weights)
        w, v = rows(counts, axis, shape), rows(x.astype(np.float64), axis, shape)
        given = x
        if x.dtype.kind not in "ib":  # what does not count may be anything
            given = x.copy(order="K")
            given[np.broadcast_to(counts == 0, shape)] = np.nan
        moments = fastbn.Moments(axis).update(given, where, weights)
        n = w.sum(-1)
        with np.errstate(all="ignore"):
            mean = (v * w).sum(-1) / n
            var = ((v - mean[..., None]) ** 2 * w).sum(-1) / n
        np.testing.assert_allclose(moments.count, n, rtol=1e-13)
        np.testing.assert_allclose(moments.mean, mean, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moments.var(), var, rtol=1e-11, atol=1e-26)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize(("axis", "shape"), LAYOUTS)
def test_integers_under_masks_are_exact(axis, shape, dtype):
    rng = np.random.default_rng(0)
    if dtype == "bool":
        x = rng.random(shape) < 0.3
    else:
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
        x.flat[:50], x.flat[-50:] = info.min, info.max
    for memory, where in itertools.product(("C", "F", "reversed"), masks(rng, shape)):
        told = fastbn.Moments(axis).update(in_memory(x, memory), where).to_dict()["exact"]
        counts, values = rows(True if where is None else where, axis, shape), rows(x, axis, shape)
        sums = zip(told["count"], told["sum"], told["sum_of_squares"], strict=True)
        for k, found in zip(np.ndindex(*values.shape[:-1]), sums, strict=True):
            chosen = [int(v) for v in values[k][counts[k]]]
            assert found == (len(chosen), sum(chosen), sum(v * v for v in chosen))


def test_wide_integers_at_their_ends():
    for dtype in ("int32", "uint32", "int64", "uint64"):
        for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
            x = np.full((3, 2, 5000), value, dtype)
            told = fastbn.Moments(1).update(x).to_dict()["exact"]
            value = int(value)
            assert told == {
                "count": [15000] * 2,
                "sum": [15000 * value] * 2,
                "sum_of_squares": [15000 * value * value] * 2,
            }


@pytest.mark.parametrize("axis", [1, -1])
def test_a_large_mean_and_an_outlier_cost_no_digits(axis):
    rng = np.random.default_rng(1)
    x = 1e8 + rng.normal(0, 1, (40, 3, 50))
    x[0, 0, 0] = -1e9
    x = x if axis == 1 else np.ascontiguousarray(np.moveaxis(x, 1, -1))
    where, weights = rng.random(x.shape) < 0.7, rng.integers(1, 4, (40, 1, 1)) / 4
    where.flat[0] = True
    moments = fastbn.Moments(axis).update(x, where, weights)
    for g in range(3):
        values = np.moveaxis(x, axis, 0)[g].ravel().tolist()
        times = np.moveaxis(where * weights, axis, 0)[g].ravel().tolist()
        pairs = [(Fraction(v), Fraction(w)) for v, w in zip(values, times, strict=True)]
        n = sum(w for _, w in pairs)
        mean = sum(v * w for v, w in pairs) / n
        var = sum((v - mean) ** 2 * w for v, w in pairs) / n
        assert moments.count[g] == float(n)
        assert abs(moments.mean[g] - float(mean)) <= 1e-12 * float(var) ** 0.5 + 1e-16 * float(abs(mean))
        assert moments.var()[g] == pytest.approx(float(var), rel=1e-12)


@pytest.mark.parametrize("shape", [pytest.param((70, 6, 70, 90), marks=pytest.mark.full), (200, 40, 80)])
def test_the_number_of_threads_makes_no_difference(shape):
    rng = np.random.default_rng(2)
    x, where = rng.normal(0, 1, shape), rng.random(shape) < 0.5
    weights = rng.random((shape[0], *[1] * (len(shape) - 1)))
    for axis in (1, -1):
        found = []
        for threads in (1, 2):
            with fastbn.num_threads(threads):
                state = [fastbn.Moments(axis).update(x, where), fastbn.Moments(axis).update(x, weights=weights)]
                state.append(fastbn.Moments(axis).update((x * 1e9).astype(np.int64), where))
                found.append([s.to_dict() for s in state])
        assert found[0] == found[1]


def test_groups_of_which_nothing_counts():
    x = np.full((40, 3, 50), np.nan)
    x[:, 1] = 5.0
    moments = fastbn.Moments(1).update(x, np.array([False, True, False])[:, None])
    assert moments.count.tolist() == [0, 2000, 0]
    assert moments.var().tolist()[1] == 0
    assert np.isnan(moments.mean).tolist() == [True, False, True]


@pytest.mark.parametrize("shape", [(5, 4), (400, 4)])
def test_very_small_and_large_weights(shape):
    x = np.random.default_rng(3).normal(0, 1, shape)
    x[[0, -1, len(x) // 2], 0] = 0.0  # what the sums of this one are about
    expected = fastbn.Moments(1).update(x, weights=1.0)
    for weight in (1e-300, 1e-200, 1e250, 1e300):
        moments = fastbn.Moments(1).update(x, weights=weight)
        np.testing.assert_allclose(moments.mean, expected.mean, rtol=0, atol=1e-13)
        np.testing.assert_allclose(moments.std(), expected.std(), rtol=1e-12)


def test_booleans_are_no_weights():
    with pytest.raises(TypeError, match="weights has dtype bool; expected numbers, or where="):
        fastbn.Moments(1).update(np.ones((3, 2)), weights=np.array([True, False]))
