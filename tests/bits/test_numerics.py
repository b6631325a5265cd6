"""The promises of docs/numerics.md: an error that no mean can raise, exact results, and the same bits everywhere."""

import ctypes.util
import hashlib
import importlib.metadata
import os
import subprocess
import sys
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import pytest
import remembered
from cases import (
    OPERATIONS,
    Case,
    assert_close,
    assert_same_bits,
    by_channel,
    channels_first_view,
    channels_last_view,
    gradient_scales,
    ids,
    misaligned,
    read_only,
    strided,
    trailing,
)
from internals import integers, pace

import fastbn
from fastbn import reference

MEANS = (0.0, 1.0, 1e2, 1e3, 1e4, 1e5, 1e6)
FORWARD, BACKWARD = 5e-7, 2e-6  # the worst error allowed, relative to the scale of the output
STATISTICS = 2e-7  # of rstd, relative: some float32 terms are added up before they are widened

BY_CHANNEL = [
    *by_channel((640, 12), (3,)),
    *by_channel((8, 12, 37), (3,)),
    *by_channel((24, 8, 7, 7), (4,)),
    *by_channel((3, 6, 14, 15), (2,)),
    *by_channel((2, 6, 5, 9, 7), (3,)),
    *by_channel((1, 2, 150, 151), (1,)),
]
CHANNELS_LAST = [
    *by_channel((8, 37, 12), (3,), axis=-1),
    *by_channel((3, 14, 15, 6), (2,), axis=-1),
    *by_channel((2, 5, 9, 7, 6), (3,), axis=-1),
    *by_channel((1, 150, 151, 2), (1,), axis=-1),
]
ROWS = [
    *trailing((640,), 640),
    *trailing((31, 129), 129),
    *trailing((3, 7, 200), 200),
    *trailing((2, 3, 20, 33), (20, 33)),
    *trailing((2, 3, 4, 5, 77), (4, 5, 77)),
    *trailing((2, 20_011), 20_011),
]
# Each with how its arrays lie in memory; the case's own axes stay as they are.
LAID_OUT = [
    *((case, np.ascontiguousarray) for case in BY_CHANNEL + CHANNELS_LAST + ROWS),
    *((case, channels_last_view) for case in BY_CHANNEL if len(case.shape) > 2),
    *((case, channels_first_view) for case in ROWS if len(case.shape) > 2 and isinstance(case.arg, int)),
]


def in_every_layout(cases=LAID_OUT):
    names = [f"{ids(case)}-{arrange.__name__.replace('ascontiguousarray', 'plain')}" for case, arrange in cases]
    return pytest.mark.parametrize(("case", "arrange"), cases, ids=names)


# The error, whatever the mean -----------------------------------------------------------------------------------------


@pytest.mark.full
@in_every_layout()
def test_forward_at_every_mean(case, arrange):
    parameters = case.parameters(np.float32)
    for mean in MEANS:
        x = arrange(case.data(np.float32, mean))
        expected, expected_statistics = case.forward(reference, x, **parameters)
        y, statistics = case.forward(fastbn, x, **parameters)
        assert_close(y, expected, FORWARD)
        assert_same_bits(case.normalize(fastbn, x, **parameters), y)
        np.testing.assert_allclose(
            statistics[-1], expected_statistics[-1], rtol=STATISTICS, err_msg=f"rstd at {mean:g}"
        )


@pytest.mark.full
@in_every_layout()
def test_gradients_at_every_mean(case, arrange):
    weight, dy = case.parameters(np.float32)["weight"], arrange(case.upstream(np.float32))
    for mean in MEANS:
        x = arrange(case.data(np.float32, mean))
        _, statistics = case.forward(reference, x)
        expected = case.backward(reference, dy, x, statistics, weight=weight)
        actual = case.backward(fastbn, dy, x, case.forward(fastbn, x)[1], weight=weight)
        for a, e, scale in zip(actual, expected, gradient_scales(case, statistics), strict=False):
            assert_close(a, e, BACKWARD, scale)


FIXED = [(case, arrange) for case, arrange in LAID_OUT if case.op == "batch_norm"]


@pytest.mark.full
@in_every_layout(FIXED)
def test_given_statistics_at_every_mean(case, arrange):
    channels = case.parameter_shape
    rng = np.random.default_rng(3)
    dy, parameters = arrange(case.upstream(np.float32)), case.parameters(np.float32)
    for mean in MEANS:
        x = arrange(case.data(np.float32, mean))
        # float64: from a mean of 1e6 on, its last digits lie below what float32 can hold
        running = mean + rng.standard_normal(channels), rng.uniform(0.5, 2, channels)
        expected = reference.batch_norm(x, *running, **parameters, **case.keywords)
        assert_close(fastbn.batch_norm(x, *running, **parameters, **case.keywords), expected, FORWARD)
        saved = running[0], 1 / np.sqrt(running[1] + 1e-5)
        gradients = (
            case.backward(library, dy, x, saved, weight=parameters["weight"], training=False)
            for library in (fastbn, reference)
        )
        for a, e, scale in zip(*gradients, gradient_scales(case, saved), strict=True):
            assert_close(a, e, BACKWARD, scale)


def test_a_plain_formula_would_not_pass():
    x = np.random.default_rng(0).standard_normal((64, 100)).astype(np.float32) + np.float32(1e4)
    mean = x.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # of a variance below zero
        naive = (x - mean) / np.sqrt((x * x).mean(1, keepdims=True) - mean * mean + 1e-5)
    two_passes = (x - mean) / np.sqrt(((x - mean) ** 2).mean(1, keepdims=True) + 1e-5)
    for y in (naive, two_passes):
        with pytest.raises(AssertionError, match="of the scale"):
            assert_close(y, reference.layer_norm(x, 100), FORWARD)


# Running statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("mean", [0.0, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("op", ["batch_norm", "instance_norm"])
def test_running_statistics_after_a_thousand_updates(op, mean):
    rng = np.random.default_rng(0)
    running = np.zeros(5, np.float32), np.ones(5, np.float32)
    exact = np.zeros(5), np.ones(5)
    named = {"training": True} if op == "batch_norm" else {}
    for _ in range(1000):
        x = (rng.standard_normal((4, 5, 6)) + mean).astype(np.float32)
        getattr(fastbn, op)(x, *running, **named)
        getattr(reference, op)(x, *exact, **named)
    for a, e in zip(running, exact, strict=True):
        # the mean of nothing but noise is counted in standard deviations, which are 1
        np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-6)


@pytest.mark.full
def test_running_statistics_of_a_layer_after_a_thousand_updates():
    rng = np.random.default_rng(0)
    layer = fastbn.BatchNorm1d(5)
    exact = np.zeros(5), np.ones(5)
    for _ in range(1000):
        x = (rng.standard_normal((16, 5)) * 3 + 100).astype(np.float32)
        layer(x)
        reference.batch_norm(x, *exact, training=True)
    np.testing.assert_allclose(layer.running_mean, exact[0], rtol=1e-6)
    np.testing.assert_allclose(layer.running_var, exact[1], rtol=1e-6)


# Constants and extremes -----------------------------------------------------------------------------------------------

CONSTANTS = [sign * k * 10.0**e for e in range(-38, 31, 4) for k in (1, 1 / 3) for sign in (1, -1)] + [0.0, 1e30]
COUNT = len(CONSTANTS)  # even: groups of two

CONSTANT_CASES = [
    *by_channel((40, COUNT)),
    *by_channel((3, COUNT, 37), (COUNT // 2,)),
    *by_channel((5, COUNT, 3, 3), (COUNT // 2,)),
    *by_channel((1, COUNT, 16_411), (COUNT // 2,)),
    *by_channel((3, 37, COUNT), (COUNT // 2,), axis=-1),
    *by_channel((2, 90, 100, COUNT), (COUNT // 2,), axis=-1),
    Case("layer_norm", (COUNT, 1), 1),
    Case("layer_norm", (COUNT, 77), 77),
    Case("layer_norm", (COUNT, 16_411), 16_411),
]


@pytest.mark.full
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@in_every_layout([(case, np.ascontiguousarray) for case in CONSTANT_CASES])
def test_a_constant_becomes_its_bias(case, arrange, dtype):
    values = np.array(CONSTANTS, dtype)
    if case.op == "group_norm":
        values = np.repeat(values[::2], 2)
    along = [1] * len(case.shape)
    along[case.axis if case.by_channel else 0] = COUNT
    x = np.broadcast_to(values.reshape(along), case.shape).astype(dtype)
    parameters = case.parameters(dtype)
    bias = parameters["bias"]
    if case.by_channel:
        bias = bias.reshape(along)
    y, statistics = case.forward(fastbn, x, **parameters)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, case.shape))
    np.testing.assert_array_equal(case.normalize(fastbn, x, **parameters), y)
    np.testing.assert_array_equal(np.unique(statistics[0]), np.unique(values))
    np.testing.assert_array_equal(statistics[1], 1 / np.sqrt(np.float64(1e-5)))


@pytest.mark.full
@pytest.mark.parametrize("size", [1e30, 1e-30])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@in_every_layout()
def test_huge_and_tiny_values_have_unit_spread(case, arrange, offset, size):
    x = arrange((case.data(np.float64, offset) * size).astype(np.float32))
    dy, parameters = arrange(case.upstream(np.float32)), case.parameters(np.float32)
    expected, saved = case.forward(reference, x, **parameters, eps=1e-70)
    y, statistics = case.forward(fastbn, x, **parameters, eps=1e-70)
    assert_close(y, expected, FORWARD)
    if case.op != "rms_norm":
        spread, _ = case.forward(fastbn, x, eps=1e-70)
        np.testing.assert_allclose(spread.std(dtype=np.float64), 1, rtol=1e-6)
    expected = case.backward(reference, dy, x, saved, weight=parameters["weight"])
    gradients = case.backward(fastbn, dy, x, statistics, weight=parameters["weight"])
    for a, e, scale in zip(gradients, expected, gradient_scales(case, saved), strict=False):
        assert_close(a, e, BACKWARD, scale)


# Data whose moments are exact in any order ----------------------------------------------------------------------------

EXACT = [
    *by_channel((16, 6), (3,)),
    *by_channel((4, 6, 34), (2,)),
    *by_channel((16, 4, 7, 6), (2,)),
    *by_channel((2, 4, 100, 90), (1, 2)),
    *by_channel((2, 34, 6), (2,), axis=-1),
    *by_channel((2, 100, 90, 6), (3,), axis=-1),
    *trailing((9, 130), 130),
    *trailing((3, 20_010), 20_010),
    *trailing((2, 5, 6, 7), (5, 6, 7)),
]


def pairs(count, mean, rng):
    """Values that come in pairs, x + x' = 2 mean, in any order; and their variance, exact.

    All sums fit a float64, those of eight squares a float32.
    """
    deviations = rng.integers(1, 100, count // 2)
    values = np.concatenate((deviations, -deviations)) / 16 + mean
    exact = Fraction(2 * int((deviations**2).sum()), 256 * count)
    return rng.permutation(values), exact


def place_groups(case, groups):
    """An array of the case's shape with the given elements (groups, count) in its groups."""
    if not case.by_channel:
        return groups.reshape(case.shape)
    axis = case.axis % len(case.shape)
    moved = [case.shape[axis], *(n for a, n in enumerate(case.shape) if a != axis)]
    if case.op == "batch_norm":  # (C, N, ...)
        return np.moveaxis(groups.reshape(moved), 0, axis)
    moved[:2] = moved[1], moved[0]  # (N, C, ...)
    return np.moveaxis(groups.reshape(moved), 1, axis)


@pytest.mark.full
@pytest.mark.parametrize("mean", [0.0, 12.5, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@in_every_layout([(case, np.ascontiguousarray) for case in EXACT] + [(c, channels_last_view) for c in EXACT[2:12]])
def test_exact_data_has_exact_moments(case, arrange, dtype, mean):
    rng = np.random.default_rng(0)
    if case.op == "rms_norm":
        mean = min(mean, 12.5 if dtype == np.float32 else 1e3)  # of more, the sums of squares do not fit
    number = int(np.prod(case.statistics_shape))
    elements, variances = zip(*(pairs(np.prod(case.shape) // number, mean, rng) for _ in range(number)), strict=True)
    x = arrange(place_groups(case, np.array(elements)).astype(dtype))
    square = Fraction(mean) ** 2 if case.op == "rms_norm" else 0
    variance = np.array([float(v + square) for v in variances])
    expected = 1 / np.sqrt(variance.reshape(case.statistics_shape) + 1e-5)
    _, statistics = case.forward(fastbn, x, eps=1e-5)
    if case.op != "rms_norm":
        np.testing.assert_array_equal(statistics[0], mean)
    np.testing.assert_array_equal(statistics[-1], expected)


def test_exact_data_updates_running_statistics_exactly():
    values, variance = pairs(24 * 5, 1e6, np.random.default_rng(1))
    running = np.full(1, 3.0), np.full(1, 7.0)
    fastbn.batch_norm(values.reshape(24, 1, 5).astype(np.float32), *running, training=True, momentum=0.5)
    assert running == (0.5 * 3 + 0.5 * 1e6, 0.5 * 7 + 0.5 * (float(variance) * (120 / 119)))


# The same bits: threads, threading layers, machines -------------------------------------------------------------------

# Shapes that are cut up in every way: few groups of many pieces, many groups, folded and full rows, panels.
BITS = [
    *by_channel((2, 3, 150, 151), (1,)),
    *by_channel((12, 20, 7, 7), (4,)),
    *by_channel((2, 61, 130, 12), (4,), axis=-1),
    *by_channel((2, 8200, 24), (4,), axis=-1),
    *trailing((70, 300), 300),
    *trailing((3, 40_009), 40_009),
]
OVER_CHANNELS = trailing((2, 60, 70, 80), 80)
SMALL_BITS = [  # few kinds of kernels: without optimisation none can be kept, and they compile anew each time
    Case("instance_norm", (3, 4, 19)),
    Case("batch_norm", (5, 4, 3, 3)),
    Case("group_norm", (3, 19, 4), 2, axis=-1),
    *trailing((5, 21), 21),
]
FUSED = {  # with what else; each cut up in another way
    Case("batch_norm", (2, 3, 150, 151)): {"activation": "gelu"},
    Case("batch_norm", (12, 20, 7, 7)): {"activation": "gelu", "where": True},
    Case("batch_norm", (2, 61, 130, 12), axis=-1): {"activation": "relu", "residual": True},
    Case("layer_norm", (70, 300), 300): {"activation": "relu"},
    Case("layer_norm", (3, 40_009), 40_009): {"activation": "relu", "where": True},
}
SMALL_FUSED = {
    Case("instance_norm", (3, 4, 19)): {"activation": "gelu"},
    Case("batch_norm", (5, 4, 3, 3)): {"activation": "silu", "where": True},
}
THREADS = (1, 2, 5, 16)
LAYERS = ("omp", "tbb", "workqueue")


def results(case, arrange, dtype, more=None):
    """All that an operation computes."""
    x, dy = arrange(case.data(dtype, 100.0)), arrange(case.upstream(dtype))
    parameters = case.parameters(dtype)
    if more is not None:
        drawn = {"where": dy > -1, "residual": dy[..., ::-1]}
        more = {name: drawn[name] if value is True else value for name, value in more.items()}
        y, statistics = case.forward(fastbn, x, **parameters, **more)
        return [y, *statistics, *case.backward(fastbn, dy, x, statistics, **parameters, **more)]
    y, statistics = case.forward(fastbn, x, **parameters)
    gradients = case.backward(fastbn, dy, x, statistics, weight=parameters["weight"])
    found = [y, *statistics, *gradients]
    if case.op == "batch_norm":
        running = np.zeros(case.parameter_shape, dtype), np.ones(case.parameter_shape, dtype)
        found += [fastbn.batch_norm(x, *running, **parameters, training=True, **case.keywords), *running]
        found += [fastbn.batch_norm(x, *running, **parameters, **case.keywords)]
        found += case.backward(fastbn, dy, x, statistics, weight=parameters["weight"], training=False)
    return found


def digest(cases, fused, over_channels=()):
    total = hashlib.sha256()
    calls = [(case, np.ascontiguousarray, None) for case in cases]
    calls += [(case, channels_first_view, None) for case in over_channels]
    calls += [(case, np.ascontiguousarray, more) for case, more in fused.items()]
    for case, arrange, more in calls:
        for result in results(case, arrange, np.float32, more):
            total.update(np.ascontiguousarray(result).tobytes())
    return total.hexdigest()


def say_digests():
    """Run in a process of its own: the layer, and a digest for each number of threads and both kinds of stores."""
    pace.SERIAL_BYTES = pace.TEAM_BYTES = 0  # as if every array were large
    for threads in THREADS:
        for past_cache in (0, integers.PAST_CACHE_BYTES):
            integers.PAST_CACHE_BYTES, before = past_cache, integers.PAST_CACHE_BYTES
            remembered.forget()
            with fastbn.num_threads(threads):
                found = digest(BITS, FUSED, OVER_CHANNELS)
                print(numba.threading_layer(), found)
            integers.PAST_CACHE_BYTES = before


def say_small_digest():
    print(digest(SMALL_BITS, SMALL_FUSED))


def in_a_process(code, **environment):
    """What the code prints, which can import this module, as words."""
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here.parent / "support", Path(fastbn.__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, "-c", f"import test_numerics as t; t.{code}()"],
        env=os.environ | environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def tbb_folder():
    """Where the tbb wheel keeps its library, or None."""
    try:
        files = importlib.metadata.files("tbb") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(file.locate()).resolve() for file in files if file.name.startswith("libtbb.so")]
    return str(found[0].parent) if found else None


@pytest.fixture(scope="module")
def serial_digest():
    with fastbn.num_threads(1):
        return digest(BITS, FUSED, OVER_CHANNELS)


@pytest.mark.full
@pytest.mark.parametrize("layer", LAYERS)
def test_same_bits_with_any_threads_of_any_layer(layer, serial_digest):
    environment = {"NUMBA_NUM_THREADS": str(max(THREADS)), "NUMBA_THREADING_LAYER": layer}
    if layer == "omp":
        environment["OMP_WAIT_POLICY"] = "passive"  # more threads than cores must not spin for each other
        if sys.platform == "linux" and not ctypes.util.find_library("gomp"):
            pytest.skip("GNU OpenMP is not installed on this machine")
    if layer == "tbb":
        folder = tbb_folder()
        if folder is None:
            pytest.skip("the tbb wheel is not installed")
        environment["LD_LIBRARY_PATH"] = os.pathsep.join((folder, os.environ.get("LD_LIBRARY_PATH", "")))
    said = in_a_process("say_digests", **environment)
    assert said == [[layer, serial_digest]] * (2 * len(THREADS))


@pytest.mark.full
def test_same_bits_again(serial_digest):
    with fastbn.num_threads(1):
        assert digest(BITS, FUSED, OVER_CHANNELS) == serial_digest


@pytest.mark.full
@pytest.mark.parametrize(
    "environment",
    [{"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_CPU_NAME": "generic"}, {"NUMBA_OPT": "0"}],
    ids=lambda environment: "=".join(*environment.items()),
)
def test_same_bits_however_compiled(environment):
    assert in_a_process("say_small_digest", **environment) == [[digest(SMALL_BITS, SMALL_FUSED)]]


# The same bits: batch and address -------------------------------------------------------------------------------------

MANY = 300

IN_BATCHES = [
    *by_channel((MANY, 6, 5), (2,)),
    *by_channel((MANY, 6), (2,)),
    *by_channel((MANY, 4, 9, 9), (1, 2)),
    *by_channel((MANY, 9, 9, 6), (2, 3), axis=-1),
    *by_channel((MANY, 2, 130), (130,), axis=-1),
    *trailing((MANY, 77), 77),
    *trailing((MANY, 3, 5), (3, 5)),
    *trailing((MANY, 16_411), 16_411),
]
OVER_CHANNELS_IN_BATCHES = trailing((MANY, 7, 5, 12), 12) + trailing((MANY, 3, 700), 700)
BATCHES = [
    *((case, np.ascontiguousarray) for case in IN_BATCHES),
    *((case, channels_last_view) for case in IN_BATCHES if case.by_channel and len(case.shape) == 4),
    *((case, channels_first_view) for case in OVER_CHANNELS_IN_BATCHES),
    *((case, np.asfortranarray) for case in trailing((MANY, 20), 20) + trailing((MANY, 3000), 3000)),
]


def of_samples(case, x, dy):
    """What belongs to one sample alone: y, dx and statistics."""
    named = case.parameters(np.float32)
    if case.op == "batch_norm":
        running = named["bias"] + 3, abs(named["weight"])
        saved = running[0], 1 / np.sqrt(running[1])
        dx = case.backward(fastbn, dy, x, saved, weight=named["weight"], training=False)[0]
        return fastbn.batch_norm(x, *running, **named, **case.keywords), dx
    y, statistics = case.forward(fastbn, x, **named)
    return y, case.backward(fastbn, dy, x, statistics, weight=named["weight"])[0], *statistics


@pytest.mark.full
@pytest.mark.parametrize("threads", ["serial", "parallel"])
@in_every_layout(BATCHES)
def test_a_sample_does_not_see_its_batch(case, arrange, threads, monkeypatch):
    if threads == "parallel":
        monkeypatch.setattr(pace, "SERIAL_BYTES", 0)
        monkeypatch.setattr(pace, "TEAM_BYTES", 0)
    x, dy = case.data(np.float32, 10.0), case.upstream(np.float32)
    with fastbn.num_threads(1) if threads == "serial" else nullcontext():
        expected = of_samples(case, arrange(x), arrange(dy))
        for first, count in ((0, 1), (7, 1), (MANY - 1, 1), (101, 3)):
            some = slice(first, first + count)
            found = of_samples(case, arrange(x[some]), arrange(dy[some]))
            for f, e in zip(found, expected, strict=True):
                assert_same_bits(f, e[some])


ANYWHERE = [case for case in IN_BATCHES if np.prod(case.shape[1:]) < 1000]


@pytest.mark.full
@pytest.mark.parametrize("past_cache", [False, True])
@pytest.mark.parametrize("case", ANYWHERE, ids=ids)
def test_a_sample_does_not_see_its_address(case, past_cache, monkeypatch):
    if past_cache:
        monkeypatch.setattr(integers, "PAST_CACHE_BYTES", 0)
        monkeypatch.setattr(integers, "_PAST_CACHE_ROW", 0)
        monkeypatch.setattr(integers, "_PAST_CACHE_ROW_BACK", 0)
        monkeypatch.setattr(integers, "_PAST_CACHE_PLANE", 0)
    x, dy = (array[:3].copy() for array in (case.data(np.float32, 10.0), case.upstream(np.float32)))
    expected = of_samples(case, x, dy)
    room = np.empty(2 * x.size + 64, np.float32)
    for offset in (*range(17), 31):
        moved_x = room[offset:][: x.size].reshape(x.shape)
        moved_dy = room[x.size + 32 + offset // 2 :][: x.size].reshape(x.shape)
        moved_x[...], moved_dy[...] = x, dy
        for f, e in zip(of_samples(case, moved_x, moved_dy), expected, strict=True):
            assert_same_bits(f, e)


# The same bits: memory ------------------------------------------------------------------------------------------------

IN_MEMORY = [
    *by_channel((4, 6, 9, 11), (1, 3)),
    *by_channel((33, 6, 5), (3,)),
    *by_channel((4, 9, 11, 6), (2,), axis=-1),
    *trailing((4, 6, 35), 35),
    *trailing((5, 3, 7), (3, 7)),
]


GIVEN_AS = {
    "strided": strided,
    "window": lambda a: np.pad(a, 1)[(slice(1, -1),) * a.ndim],
    "backwards": lambda a: np.flip(np.flip(a).copy()),
    "read-only": read_only,
    "misaligned": misaligned,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


def all_results(case, x, dy, x_out=None, dy_out=None):
    named = case.parameters(np.float32)
    saved = case.forward(fastbn, x, **named)[1]
    dx, *gradients = case.backward(fastbn, dy, x, saved, weight=named["weight"], out=dy_out)
    y, statistics = case.forward(fastbn, x, **named, out=x_out)
    return y, dx, *statistics, *gradients


@pytest.mark.full
@pytest.mark.parametrize("given_as", GIVEN_AS)
@pytest.mark.parametrize("case", IN_MEMORY, ids=ids)
def test_same_bits_however_given(case, given_as):
    x, dy = case.data(np.float32, 10.0), case.upstream(np.float32)
    found = all_results(case, *(GIVEN_AS[given_as](a) for a in (x, dy)))
    for f, e in zip(found, all_results(case, x, dy), strict=True):
        assert_same_bits(f, e)


@pytest.mark.full
@pytest.mark.parametrize("target", ["in place", "new", "strided"])
@pytest.mark.parametrize("case", IN_MEMORY, ids=ids)
def test_same_bits_wherever_written(case, target):
    x, dy = case.data(np.float32, 10.0), case.upstream(np.float32)
    expected = all_results(case, x, dy)
    make = {"in place": lambda a: a, "new": np.empty_like, "strided": strided}[target]
    out = make(x), make(dy)
    found = all_results(case, x, dy, *out)
    assert found[0] is out[0]
    assert found[1] is out[1]
    for f, e in zip(found, expected, strict=True):
        assert_same_bits(f, e)


@pytest.mark.full
@pytest.mark.parametrize("case", [case for case in BY_CHANNEL if len(case.shape) > 2], ids=ids)
def test_a_channels_last_view_is_what_it_is_in_memory(case):
    x, dy = case.data(np.float32, 10.0), case.upstream(np.float32)
    lying = Case(case.op, (case.shape[0], *case.shape[2:], case.shape[1]), case.arg, -1)
    expected = all_results(lying, *(np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, dy)))
    y, dx, *rest = all_results(case, channels_last_view(x), channels_last_view(dy))
    for f, e in zip((np.moveaxis(y, 1, -1), np.moveaxis(dx, 1, -1), *rest), expected, strict=True):
        assert_same_bits(f, e)


# NaN and Inf ----------------------------------------------------------------------------------------------------------

POISONED = [
    *by_channel((4, 6, 37), (3,)),
    *by_channel((33, 6, 5), (3,)),
    *by_channel((4, 37, 6), (3,), axis=-1),
    *by_channel((2, 2, 20_011), (1,)),
    *trailing((7, 35), 35),
    *trailing((3, 20_011), 20_011),
]


@pytest.mark.full
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", POISONED, ids=ids)
def test_nan_and_inf_stay_in_their_group(case, poison):
    x, named = case.data(np.float32, 10.0), case.parameters(np.float32)
    clean, clean_statistics = case.forward(fastbn, x, **named)
    for place in (0, x.size // 2, x.size - 1):
        poisoned = x.copy()
        poisoned.flat[place] = poison
        with np.errstate(invalid="ignore"):
            expected, expected_statistics = case.forward(reference, poisoned, **named)
            y, statistics = case.forward(fastbn, poisoned, **named)
        hit = np.isnan(expected_statistics[-1]) | (expected_statistics[-1] == 0)
        assert hit.sum() == 1
        for f, e in zip(statistics, clean_statistics, strict=True):
            assert_same_bits(f[~hit], e[~hit])
        np.testing.assert_array_equal(statistics[-1][hit], expected_statistics[-1][hit])
        touched = np.isnan(case.forward(reference, np.where(poisoned == x, x, np.float32(np.nan)))[0])
        assert_same_bits(y[~touched], clean[~touched])
        assert_close(np.isnan(y[touched]), np.isnan(expected[touched]), 0, 1)
        finite = touched & np.isfinite(expected)
        assert_close(y[finite], expected[finite], FORWARD)


@pytest.mark.full
@pytest.mark.parametrize("case", POISONED, ids=ids)
def test_nan_in_the_gradient_stays_in_its_group(case):
    x, dy = case.data(np.float32, 10.0), case.upstream(np.float32)
    weight, saved = case.parameters(np.float32)["weight"], case.forward(fastbn, x)[1]
    clean = case.backward(fastbn, dy, x, saved, weight=weight)
    for place in (0, dy.size // 2, dy.size - 1):
        dy_poisoned = dy.copy()
        dy_poisoned.flat[place] = np.nan
        found = case.backward(fastbn, dy_poisoned, x, saved, weight=weight)
        expected = case.backward(reference, dy_poisoned, x, saved, weight=weight)
        for f, e, c in zip(found, expected, clean, strict=True):
            hit = np.isnan(e)
            assert hit.any()
            assert not hit.all()
            np.testing.assert_array_equal(np.isnan(f), hit)
            assert_same_bits(f[~hit], c[~hit])


@pytest.mark.full
def test_given_statistics_pass_nan_and_inf_through():
    x = np.array([[np.nan, 1.0], [np.inf, -np.inf], [2.0, 3.0]], np.float32)
    y = fastbn.batch_norm(x, np.ones(2, np.float32), np.ones(2, np.float32), eps=0)
    np.testing.assert_array_equal(y, [[np.nan, 0], [np.inf, -np.inf], [1, 2]])


def test_every_operation_is_covered():
    for cases in (BY_CHANNEL + CHANNELS_LAST + ROWS, EXACT, BITS, SMALL_BITS, IN_BATCHES, IN_MEMORY, POISONED):
        assert {case.op for case in cases} == set(OPERATIONS)
