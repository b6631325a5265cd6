"""normalize and denormalize against their definitions; exact sums of many integers."""

import draws
import numpy as np
import pytest

import fastbn

OTHERS = ["int8", "int16", "uint16", "uint32", "int64", "uint64", "float16"]


def core(*some, rest):
    """Cases that plain pytest runs, and those that `pytest --all` adds."""
    return [*some, *(pytest.param(case, marks=pytest.mark.full) for case in rest)]


def images(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return (rng.normal(0, 50, shape) + 100).astype(dtype)


def statistics(shape, axes, size=100.0):
    rng = np.random.default_rng(1)
    lengths = tuple(shape[a] for a in axes)
    return rng.normal(0, size, lengths), rng.uniform(0.1, 2, lengths) * size


def expected(x, mean, std, axes, scale):
    wide = [1] * x.ndim
    for a in axes:
        wide[a] = x.shape[a]
    with np.errstate(over="ignore"):
        return (x.astype(np.longdouble) * scale - mean.reshape(wide)) / std.reshape(wide)


def assert_near(y, want):
    """Some units in the last place of the largest result of the type computed in, and one of the result's own."""
    digits = {np.dtype(np.float16): 2.0**-11, np.dtype(np.float64): 2.0**-52}.get(y.dtype, 2.0**-23)
    assert (abs(y - want) <= 3 * digits * abs(want).max()).all()


@pytest.mark.parametrize("dtype", core("uint8", rest=["float32"]))
@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        (-1, (2, 37, 41, 3)),
        (-1, (3, 50, 4)),
        (-1, (70, 33)),
        (-1, (5, 1)),
        (1, (2, 3, 37, 41)),
        (1, (4, 7, 3)),
        ((1, 2, 3), (3, 4, 5, 3)),
        ((0, 2), (3, 5, 4)),
        (0, (6, 300)),
        (0, (600,)),
        ((), (6, 7)),
        (-1, (2, 200, 170, 3)),  # more units than one, and a last one that is not whole
        (1, (2, 3, 200, 170)),
    ],
)
@pytest.mark.parametrize("memory", ["C", "F", "strided", "read-only"])
def test_normalize_of_any_axes_in_any_memory(dtype, axis, shape, memory):
    x = images(dtype, (*shape[:-1], 2 * shape[-1]) if memory == "strided" else shape)
    x = {"F": np.asfortranarray, "strided": lambda v: v[..., ::2]}.get(memory, np.copy)(x)
    x.flags.writeable = memory != "read-only"
    axes = tuple(sorted(a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))))
    mean, std = statistics(shape, axes)
    y = fastbn.normalize(x, mean, std, axis=axis, scale=1 / 3)
    assert y.dtype == np.float32
    assert y.shape == x.shape
    assert_near(y, expected(x, mean, std, axes, 1 / 3))


@pytest.mark.parametrize("dtype", core("bool", "int32", rest=OTHERS))
@pytest.mark.parametrize("target", core("float32", rest=["float64", "float16"]))
def test_normalize_of_any_dtype(dtype, target):
    x = images(dtype, (3, 40, 3))
    size = 1.0 if dtype == "bool" else abs(x.astype(float)).max()
    mean, std = statistics(x.shape, (2,), size)
    assert_near(fastbn.normalize(x, mean, std, axis=-1, dtype=target), expected(x, mean, std, (2,), 1))


@pytest.mark.parametrize("dtype", core("uint8", "float32", rest=["uint16"]))
@pytest.mark.parametrize("channels", core(1, 3, 4, 19, rest=[2, 5]))
@pytest.mark.parametrize("plane", [(7, 5), (16, 16), (100, 90)])
def test_layouts(dtype, channels, plane):
    last = images(dtype, (2, *plane, channels))
    first = np.ascontiguousarray(np.moveaxis(last, -1, 1))
    mean, std = statistics(last.shape, (3,))
    y = fastbn.normalize(last, mean, std, axis=-1)
    turned = np.ascontiguousarray(np.moveaxis(y, -1, 1))
    for x, axis, layout, want in (
        (last, -1, "channels_last", y),
        (first, 1, "channels_first", turned),
        (last, 3, "channels_first", turned),
        (first, 1, "channels_last", y),
        (np.moveaxis(last, -1, 1), 1, "channels_first", turned),  # a view
        (np.moveaxis(last, -1, 1), 1, "channels_last", y),
    ):
        given = np.empty(want.shape, np.float32)
        for out in (None, given, np.empty((*want.shape, 2), np.float32)[..., 0]):
            result = fastbn.normalize(x, mean, std, axis=axis, layout=layout, out=out)
            assert out is None or result is out
            assert out is not None or result.flags.c_contiguous
            np.testing.assert_array_equal(result, want)  # the same bits


@pytest.mark.full
def test_large_results_are_written_past_the_cache_with_the_same_bits():
    last = images("uint8", (30, 224, 224, 3))
    mean, std = statistics(last.shape, (3,))
    y = fastbn.normalize(last, mean, std, axis=-1)
    np.testing.assert_array_equal(y[7], fastbn.normalize(last[7:8], mean, std, axis=-1)[0])
    assert_near(y[-1], expected(last[-1:], mean, std, (3,), 1)[0])
    with fastbn.num_threads(1):
        np.testing.assert_array_equal(fastbn.normalize(last, mean, std, axis=-1), y)
        first = fastbn.normalize(last, mean, std, axis=-1, layout="channels_first")
    np.testing.assert_array_equal(first, np.moveaxis(y, -1, 1))
    np.testing.assert_array_equal(fastbn.normalize(last, mean, std, axis=-1, layout="channels_first"), first)
    pixels = np.ascontiguousarray(np.moveaxis(last, -1, 1))
    np.testing.assert_array_equal(fastbn.normalize(pixels, mean, std, axis=1), first)
    np.testing.assert_array_equal(fastbn.normalize(pixels, mean, std, axis=1, layout="channels_last"), y)
    np.testing.assert_array_equal(fastbn.denormalize(y, mean, std, axis=-1, dtype=np.uint8), last)


def test_in_place_and_scalars():
    x = images("float32", (8, 5, 6))
    want = fastbn.normalize(x, 3.0, 2.0)
    assert_near(want, (x.astype(float) - 3) / 2)
    assert fastbn.normalize(x, 3.0, 2.0, out=x) is x
    np.testing.assert_array_equal(x, want)
    assert fastbn.normalize(5, 3, 2) == 1
    assert fastbn.normalize(np.empty((0, 3)), 1.0, 2.0).shape == (0, 3)
    np.testing.assert_array_equal(fastbn.normalize([[1, 2]], 1, [1, 2], axis=1), [[0, 0.5]])


@pytest.mark.full
@pytest.mark.parametrize("size", [1e-305, 1e-200, 1e-40, 1e40, 1e200, 1e307])
def test_statistics_far_from_one(size):
    x = draws.generator().uniform(-3, 4, (30, 2)) * size
    for dtype in (np.float64, np.float32):
        y = fastbn.normalize(x, (x / size).mean(0) * size, np.full(2, size), axis=1, dtype=dtype)
        assert_near(y, (x / size - (x / size).mean(0)).astype(np.longdouble))


def test_a_mean_that_is_large_costs_no_digits():
    x = (1e6 + draws.generator().integers(-8, 8, (50, 3))).astype(np.float32)
    mean = np.array([1e6 + 0.3, 1e6 - 0.1, 1e6])
    assert_near(fastbn.normalize(x, mean, [1, 2, 3], axis=1), expected(x, mean, np.array([1.0, 2, 3]), (1,), 1))


@pytest.mark.parametrize("target", core("uint8", "uint64", rest=[*OTHERS[:-2], "int32"]))
def test_denormalize_to_integers(target):
    info = np.iinfo(target)
    y = np.array([-0.5, 0.5, 1.5, 2.5, -1.5, 0.49999, np.inf, -np.inf, 1e30, -1e30, 7.0])
    got = fastbn.denormalize(y, 0.0, 1.0, dtype=target)
    whole = [0, 0, 2, 2, -2, 0, info.max, info.min, info.max, info.min, 7]
    np.testing.assert_array_equal(got, np.array([min(max(v, info.min), info.max) for v in whole], target))
    assert got.dtype == target
    out = np.full(2, 3, target)
    with pytest.raises(ValueError, match=f"y holds NaN; expected numbers, as the result is of {target}"):
        fastbn.denormalize([1.0, np.nan], 0.0, 1.0, dtype=target, out=out)
    np.testing.assert_array_equal(out, [3, 3])


@pytest.mark.parametrize("dtype", core("uint8", rest=["int8", "uint16", "int16"]))
@pytest.mark.parametrize("layout", [None, "channels_first"])
def test_there_and_back(dtype, layout):
    x = images(dtype, (2, 40, 30, 3))
    mean, std = statistics(x.shape, (3,), 0.3)
    y = fastbn.normalize(x, mean, std, axis=-1, scale=1 / 255, layout=layout, dtype=np.float64)
    back = fastbn.denormalize(
        y, mean, std, axis=-1 if layout is None else 1, scale=1 / 255, dtype=dtype, layout="channels_last"
    )
    np.testing.assert_array_equal(back, x)


def test_denormalize_keeps_the_type_of_floats():
    for dtype in (np.float16, np.float32, np.float64):
        y = draws.generator().normal(0, 1, (7, 3)).astype(dtype)
        x = fastbn.denormalize(y, [1, 2, 3], [4, 5, 6], axis=1, scale=0.5)
        assert x.dtype == dtype
        assert_near(x, (y.astype(np.longdouble) * [4, 5, 6] + [1, 2, 3]) / 0.5)


X = np.ones((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("error", "message", "arguments", "named"),
    [
        (TypeError, r"axis is missing; expected the axis of x, of shape \(2, 4, 4, 3\)", (X, [1, 2, 3], 1.0), {}),
        (TypeError, "along which std, of shape", (X, 1.0, [1, 2, 3]), {}),
        (ValueError, r"mean has shape \(4,\); expected \(3,\)", (X, np.ones(4), 1.0), {"axis": -1}),
        (ValueError, "std is 0.0 at least once", (X, 0.0, [1, 0, 1]), {"axis": -1}),
        (ValueError, "std is -1.0 at least once", (X, 0.0, -1), {}),
        (ValueError, "std holds NaN", (X, 0.0, np.nan), {}),
        (ValueError, "mean holds NaN", (X, np.nan, 1.0), {}),
        (TypeError, "mean has dtype <U1", (X, "a", 1.0), {}),
        (ValueError, "scale is 0", (X, 0.0, 1.0), {"scale": 0}),
        (TypeError, "scale is 'a'", (X, 0.0, 1.0), {"scale": "a"}),
        (TypeError, "scale is .*complex64.*; expected a real number", (X, 0.0, 1.0), {"scale": np.complex64(2 + 5j)}),
        (TypeError, "dtype is uint8; expected float16", (X, 0.0, 1.0), {"dtype": np.uint8}),
        (TypeError, "dtype is complex128", (X, 0.0, 1.0), {"dtype": complex}),
        (ValueError, "layout is 'NCHW'; expected 'channels_first'", (X, 0.0, 1.0), {"layout": "NCHW"}),
        (ValueError, "expected axis to be one axis of x", (X, 0.0, 1.0), {"layout": "channels_first"}),
        (ValueError, "not 0, that of the batch", (X, 0.0, 1.0), {"layout": "channels_first", "axis": 0}),
        (ValueError, "axis is 4; expected -4 to 3, an axis of x", (X, 0.0, 1.0), {"axis": 4}),
        (ValueError, r"names an axis of x, of shape \(2, 4, 4, 3\), twice", (X, 0.0, 1.0), {"axis": (3, -1)}),
        (TypeError, "x has dtype complex128", (X * 1j, 0.0, 1.0), {}),
        (TypeError, "x is a masked array", (np.ma.array(X, mask=X > 0), 0.0, 1.0), {}),
        (ValueError, "out has shape", (X, 0.0, 1.0), {"out": np.empty(3, np.float32)}),
        (TypeError, "out has dtype float64; expected float32", (X, 0.0, 1.0), {"out": np.empty(X.shape)}),
    ],
)
def test_refuses_by_name(error, message, arguments, named):
    with pytest.raises(error, match=message):
        fastbn.normalize(*arguments, **named)


def test_denormalize_refuses_by_name():
    with pytest.raises(TypeError, match="y has dtype uint8; expected float16"):
        fastbn.denormalize(X, 0.0, 1.0)
    x = np.zeros((4, 6), np.float32)
    with pytest.raises(ValueError, match="out overlaps another argument"):
        fastbn.normalize(x[:2], 0.0, 1.0, out=x[1:3])
    with pytest.raises(ValueError, match="out overlaps another argument"):
        fastbn.normalize(x[:, :, None], 0.0, 1.0, axis=1, layout="channels_last", out=x.reshape(4, 1, 6))


@pytest.mark.parametrize("dtype", core("uint8", "int16", rest=["int8", "uint16", "bool"]))
@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        (-1, (40, 37, 41, 3)),
        (-1, (300, 70)),
        (-1, (40, 1000)),
        (1, (20, 3, 50, 50)),
        (1, (50, 3, 20)),
        (0, (3, 40000)),
        ((), (300, 301)),
        ((1, 2, 3), (40, 9, 8, 3)),
        ((0, 2), (3, 900, 4)),
        ((1, 3), (3, 5, 900, 7)),
        (-1, (30, 5000)),
        (1, (2, 30, 100)),
    ],
)
@pytest.mark.parametrize("memory", ["C", "F"])
def test_exact_sums_of_many(dtype, axis, shape, memory):
    x = images(dtype, shape)
    x.flat[: x.size // 2] = True if dtype == "bool" else np.iinfo(dtype).min  # the most that sums can grow
    x = np.asfortranarray(x) if memory == "F" else x
    moments = fastbn.Moments(axis).update(x)
    axes = tuple(a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,)))
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    wide = x.astype(np.int64)
    want = {"count": np.ones_like(wide), "sum": wide, "sum_of_squares": wide * wide}
    got = moments.to_dict()["exact"]
    for name, v in want.items():
        np.testing.assert_array_equal(got[name], v.sum(rest).ravel())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axis", [1, -1])
def test_moments_of_floats_at_a_large_mean(dtype, axis):
    """About 1e8, which both types hold in steps of 8: exact sums tell the error."""
    steps = np.random.default_rng(2).integers(-40, 40, (30, 4, 50, 4)) * 8
    x = (steps + 10**8).astype(dtype)
    moments, exact = fastbn.Moments(axis).update(x), fastbn.Moments(axis).update(steps + 10**8)
    np.testing.assert_allclose(moments.mean, exact.mean, rtol=1e-15)
    np.testing.assert_allclose(moments.var(), exact.var(), rtol=1e-12)


def test_numpys_error_settings_reach_nothing():
    x = np.array([[1.0, np.inf, 0.0, 1e308, 5e-324], [2.0, 1.0, 0.0, -1e308, 0.0]])
    with np.errstate(all="raise"):
        for named in ({}, {"where": x > -1}, {"weights": 1e-300}):
            moments = fastbn.Moments().update(x, **named)
            moments = moments.merge(moments) + moments
            assert np.isfinite(moments.std()[[0, 2]]).all()
            assert not np.isfinite(moments.var()[1])
        fastbn.dataset_statistics(x, skipna=True)
        finite = fastbn.Moments().update(x[:, [0, 2, 3, 4]])
        finite.denormalize(finite.normalize(x[:, [0, 2, 3, 4]]))
        fastbn.normalize(x, 1e-300, 1e-300, dtype=np.float16)
        fastbn.denormalize(x, 1e300, 1e300, dtype=np.uint8)
        fastbn.local_response_norm(x, 3, beta=0.6)
