"""Moments of integers, exact; arithmetic, equality and forms of Moments; what is far from 1; their normalize."""

import json
import pickle
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest

import fastbn

INTEGERS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def numbers(dtype, shape, seed=0):
    """Integers over the whole range of the dtype, both ends included."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < 0.3
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    x.flat[0], x.flat[-1] = info.min, info.max
    return x


def exact(values):
    """Count, sum, sum of squares, and mean and variance rounded once."""
    values = [int(v) for v in np.ravel(values)]
    n, s, q = len(values), sum(values), sum(v * v for v in values)
    return n, s, q, float(Fraction(s, n)), float(Fraction(n * q - s * s, n * n))


def sums(moments):
    return tuple(moments.to_dict()["exact"][name] for name in ("count", "sum", "sum_of_squares"))


@pytest.mark.full
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(
    ("axis", "shape", "memory"),
    [
        (1, (6, 3, 70), "C"),
        (-1, (40, 3, 3), "C"),
        (-1, (5, 700), "C"),
        (1, (30, 1), "C"),
        ((), (301,), "C"),
        (0, (3, 301), "C"),
        ((0, 1), (3, 2, 130), "C"),
        ((0, 2), (3, 67, 2), "C"),
        (1, (6, 3, 70), "F"),
        (-1, (40, 3, 5), "reversed"),
    ],
)
def test_integers_are_summed_exactly(dtype, axis, shape, memory):
    x = numbers(dtype, shape)
    x = {"C": x, "F": np.asfortranarray(x), "reversed": x[::-1, :, ::-1] if x.ndim == 3 else x}[memory]
    moments = fastbn.Moments(axis).update(x[: len(x) // 2] if axis not in (0, (0, 1), (0, 2)) else x[..., :1])
    moments.update(x[len(x) // 2 :] if axis not in (0, (0, 1), (0, 2)) else x[..., 1:]) if axis != (0, 2) else None
    if axis == (0, 2):
        moments = fastbn.Moments(axis).update(x)
    axes = axis if isinstance(axis, tuple) else (axis,)
    groups = np.moveaxis(x, axes, range(len(axes)))
    lead = groups.shape[: len(axes)]
    expected = [exact(groups[k]) for k in np.ndindex(*lead)]
    assert list(zip(*sums(moments), strict=True)) == [e[:3] for e in expected]
    np.testing.assert_array_equal(moments.count.ravel(), [e[0] for e in expected])
    np.testing.assert_array_equal(moments.mean.ravel(), [e[3] for e in expected])
    np.testing.assert_array_equal(moments.var().ravel(), [e[4] for e in expected])


@pytest.mark.full
@pytest.mark.parametrize("dtype", INTEGERS)
def test_any_split_and_order_of_integers_is_the_same_to_the_bit(dtype):
    x, rng = numbers(dtype, (50, 4)), np.random.default_rng(1)
    whole = fastbn.Moments().update(x)
    for _ in range(3):
        cuts = np.sort(rng.integers(0, 51, 6))
        parts = [fastbn.Moments().update(part) for part in np.split(rng.permutation(x), cuts)]
        joined = sum(parts)
        assert joined == whole
        assert joined.to_dict() == whole.to_dict()


def test_masks_and_byte_orders_of_integers():
    x = numbers("int64", (30, 4, 5))
    where = np.random.default_rng(2).random((30, 1, 5)) < 0.5
    expected = [exact(x[:, c][where[:, 0]]) for c in range(4)]
    masked = np.ma.array(x, mask=~np.broadcast_to(where, x.shape))
    for moments in (
        fastbn.Moments().update(x, where=where),
        fastbn.Moments().update(x.astype(">i8"), where=where),
        fastbn.Moments().update(masked),
        fastbn.Moments().update(masked, where=where),
        fastbn.dataset_statistics(masked),
        fastbn.dataset_statistics(x, where=where),
    ):
        assert list(zip(*sums(moments), strict=True)) == [e[:3] for e in expected]


def test_a_float_part_or_weights_end_exactness_and_lose_nothing_else():
    x = numbers("int32", (20, 3))
    moments = fastbn.Moments().update(x)
    assert "exact" in moments.update(np.empty((0, 3))).to_dict()  # nothing joined
    for other in (fastbn.Moments().update(x.astype(float)), fastbn.Moments().update(x, weights=np.ones(3))):
        for both in (moments + other, other + moments):
            assert "float" in both.to_dict()
            np.testing.assert_array_equal(both.count, 40)
            np.testing.assert_allclose(both.mean, moments.mean, rtol=1e-15)
            np.testing.assert_allclose(both.var(), moments.var(), rtol=1e-14)
    far = fastbn.Moments(()).update(np.array([2**62, 2**62 + 2])) + fastbn.Moments(()).update(np.array([2.0**62]))
    assert far.mean == 2.0**62  # of 2**62 + 2/3
    np.testing.assert_allclose(far.var(), 8 / 9, rtol=1e-12)


def test_moments_add_and_operands_stay():
    x = np.random.default_rng(3).normal(5, 2, (40, 3))
    parts = [fastbn.Moments().update(part) for part in np.split(x, 4)]
    before = [part.to_dict() for part in parts]
    merged = reduce(lambda a, b: a.merge(b), parts, fastbn.Moments())
    assert sum(parts) == parts[0] + parts[1] + parts[2] + parts[3] == merged
    assert [part.to_dict() for part in parts] == before
    assert parts[0] + 0 == 0 + parts[0] == parts[0]
    assert (parts[0] + 0) is not parts[0]
    total = parts[0]
    total += parts[1]
    assert parts[0].to_dict() == before[0]
    with pytest.raises(TypeError, match="unsupported operand"):
        parts[0] + 1
    with pytest.raises(ValueError, match="along the kept axes"):
        parts[0] + fastbn.Moments().update(x[:, :2])


def test_equality_and_repr():
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    assert fastbn.Moments().update(x) == fastbn.Moments().update(x)
    assert fastbn.Moments().update(x) != fastbn.Moments().update(x + 1)
    assert fastbn.Moments().update(x) != fastbn.Moments(0).update(x)
    assert fastbn.Moments() != 0
    assert fastbn.Moments().update([[1, 2], [3, 5]]) == fastbn.Moments().update([[1.0, 2.0], [3.0, 5.0]])
    assert repr(fastbn.Moments()) == "Moments(axis=1, shape=(), count=0)"
    assert repr(fastbn.Moments().update(x, where=x > 0)) == "Moments(axis=1, shape=(2,), count=1 to 2)"
    assert repr(fastbn.Moments(()).update([1.0, 2.0], weights=1e308)) == "Moments(axis=(), shape=(), count=inf)"
    assert repr(fastbn.Moments(()).update(x, weights=0.375)) == "Moments(axis=(), shape=(), count=1.5)"


@pytest.mark.parametrize("kind", ["empty", "integers", "uint64", "floats", "masked", "huge", "nan", "scalar"])
def test_every_form_gives_the_same_moments_back(kind):
    x = np.random.default_rng(4).normal(1e6, 1, (30, 2, 3))
    moments = {
        "empty": lambda: fastbn.Moments((1, 2)),
        "integers": lambda: fastbn.Moments((1, 2)).update(x.astype(int)),
        "uint64": lambda: fastbn.Moments().update(numbers("uint64", (9, 4))),
        "floats": lambda: fastbn.Moments(-1).update(x),
        "masked": lambda: fastbn.Moments().update(x, where=x > 1e6),
        "huge": lambda: fastbn.Moments().update(x * 1e300),
        "nan": lambda: fastbn.Moments().update(np.where(x > 1e6, x, np.nan)),
        "scalar": lambda: fastbn.Moments(()).update([1, 2, 3]),
    }[kind]()
    more = np.ones((2, *moments.count.shape)) if kind == "empty" else None
    for twin in (
        fastbn.Moments.from_dict(moments.to_dict()),
        fastbn.Moments.from_dict(json.loads(json.dumps(moments.to_dict()))),
        pickle.loads(pickle.dumps(moments)),
    ):
        assert twin == moments
        assert twin.axis == moments.axis
        assert json.dumps(twin.to_dict()) == json.dumps(moments.to_dict())
        assert more is not None or (twin + moments) == (moments + moments)


def test_from_dict_refuses_by_name():
    good = fastbn.Moments().update([[1, 2], [3, 4]]).to_dict()
    floats = fastbn.Moments().update([[1.0, 2.0], [3.0, 4.0]]).to_dict()
    for data, error, message in (
        (5, TypeError, "data is of type int; expected the dict that Moments.to_dict returned"),
        ({}, ValueError, "data has the format None"),
        (good | {"version": 2}, ValueError, "data has version 2 of its form"),
        (good | {"shape": [3]}, ValueError, "data is damaged: ValueError: expected 3 numbers each"),
        (good | {"axis": [1, 2]}, ValueError, r"a length for each of the axes \(1, 2\), not the shape \(2,\)"),
        (fastbn.Moments(()).update([1, 2]).to_dict() | {"axis": [1]}, ValueError, r"axes \(1,\), not the shape \(\)"),
        ({k: v for k, v in good.items() if k != "exact"}, ValueError, "data is damaged: KeyError"),
        (good | {"exact": {"count": [1.5, 1], "sum": [1, 2], "sum_of_squares": [1, 2]}}, ValueError, "integers"),
        (good | {"axis": "ab"}, ValueError, "data is damaged"),
        (good | {"exact": good["exact"] | {"count": [-1, 2]}}, ValueError, "data is damaged: .*counts of zero or more"),
        (good | {"exact": good["exact"] | {"count": [0, 2]}}, ValueError, "sums of zero where the count is zero"),
        (good | {"exact": good["exact"] | {"sum_of_squares": [0, 20]}}, ValueError, "at least the square of the sum"),
        (floats | {"float": floats["float"] | {"m2": [-1.0, 2.0]}}, ValueError, "m2, sums of squares, of zero or more"),
        (floats | {"float": floats["float"] | {"count": [np.inf, 2.0]}}, ValueError, "finite counts"),
        (floats | {"float": floats["float"] | {"count": [0.0, 2.0]}}, ValueError, "sums of zero where the count is"),
        (floats | {"float": floats["float"] | {"power": [0.5, 0.0]}}, ValueError, "powers that are whole numbers"),
    ):
        with pytest.raises(error, match=message):
            fastbn.Moments.from_dict(data)


@pytest.mark.parametrize("size", [1e307, 1e200, 1e155, 1e-155, 1e-170, 1e-300])
@pytest.mark.parametrize("way", ["kernel", "where", "parts", "singly"])
def test_deviations_whose_squares_leave_the_range_of_float64(size, way):
    z = np.random.default_rng(5).uniform(-3, 4, (60, 2))
    z[:, 1] = 0.5  # a constant
    x = z * size
    moments = fastbn.Moments()
    if way in ("kernel", "where"):
        moments.update(x, where=True if way == "where" else None)
    for part in np.split(x, 6 if way == "parts" else 60) if way in ("parts", "singly") else ():
        moments = fastbn.Moments().update(part) + moments
    scaled = fastbn.Moments().update(x / size)
    np.testing.assert_allclose(moments.std()[0], scaled.std()[0] * size, rtol=1e-12)
    assert moments.std()[1] == 0
    np.testing.assert_allclose(moments.mean, scaled.mean * size, rtol=1e-12)
    y = moments.normalize(x)
    np.testing.assert_allclose(y[:, 0], (z[:, 0] - z[:, 0].mean()) / z[:, 0].std(), rtol=0, atol=1e-12)
    assert fastbn.Moments.from_dict(moments.to_dict()) == moments


def test_large_and_small_parts_meet():
    parts = [np.array([1e307, -1e307]), np.array([1.0, 2.0]), np.array([1e-300, 3e-300]), np.array([0.0, 0.0])]
    states = [fastbn.Moments(()).update(part) for part in parts]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        np.testing.assert_allclose(sum(states[k] for k in order).std(), 1e307 / 2, rtol=1e-12)
    np.testing.assert_allclose((states[2] + states[1]).std(), np.std([0, 0, 1, 2]), rtol=1e-12)
    np.testing.assert_allclose((states[2] + states[3]).std(), 1e-300 * np.std([1, 3, 0, 0]), rtol=1e-12)
    with np.errstate(all="raise"):
        assert np.isnan(fastbn.Moments(()).update([1.0, np.inf]).std())
        assert np.isfinite(sum(states).std())
        fastbn.Moments(()).update(np.array([1e-300, 3e-300]), weights=np.array([1e-10, 2.0])).var()


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float16", "float32", "float64"])
@pytest.mark.parametrize("axis", [1, -1, (1, 2), (0, 2), ()])
@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_normalize_and_back(dtype, axis, eps):
    rng = np.random.default_rng(6)
    x = (rng.random((8, 3, 4)) * 9).astype(dtype)
    x[:, :, 1] = 1  # constant where the last axis is kept
    moments = fastbn.Moments(axis).update(x)
    y = moments.normalize(x, eps=eps)
    assert y.dtype == (x.dtype if x.dtype.kind == "f" else np.float32)
    axes = tuple(a % 3 for a in (axis if isinstance(axis, tuple) else (axis,)))
    rest = tuple(a for a in range(3) if a not in axes)
    wide = x.astype(np.float64)
    mean, var = wide.mean(rest, keepdims=True), wide.var(rest, keepdims=True)
    scale = np.where(var == 0, 1.0, np.sqrt(var + eps))
    tolerance = {"float16": 2e-3, "float64": 1e-12}.get(dtype, 5e-7)
    np.testing.assert_allclose(y, (wide - mean) / scale, rtol=0, atol=tolerance * 5)
    if y.dtype != np.float16:
        np.testing.assert_allclose(moments.denormalize(y, eps=eps), wide, rtol=0, atol=tolerance * 20)


def test_normalize_refuses_by_name():
    moments = fastbn.Moments().update([[1.0, np.nan], [2.0, 3.0]])
    with pytest.raises(ValueError, match="without a finite mean and variance"):
        moments.normalize([[1.0, 2.0]])
    with pytest.raises(ValueError, match="without a finite mean and variance"):
        fastbn.Moments().normalize([[1.0, 2.0]])
    moments = fastbn.Moments().update([[1, 2], [2, 3]])
    with pytest.raises(ValueError, match=r"x has shape \(3,\) along the kept axes \(1\); expected \(2,\)"):
        moments.normalize([[1.0, 2.0, 3.0]])
    with pytest.raises(TypeError, match="x is a masked array"):
        moments.normalize(np.ma.array([[1.0, 2.0]], mask=[[True, False]]))
    with pytest.raises(TypeError, match="y has dtype int64"):
        moments.denormalize([[1, 2]])
    with pytest.raises(ValueError, match="eps is -1"):
        moments.normalize([[1.0, 2.0]], eps=-1)
    for name in ("where", "weights"):
        with pytest.raises(TypeError, match=f"{name} is a masked array"):
            fastbn.Moments().update([[1.0, 2.0]], **{name: np.ma.array([[True, True]], mask=[[True, False]])})
