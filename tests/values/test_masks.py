"""where=: elements that are left out count nowhere."""

import numpy as np
import pytest
from cases import (
    Case,
    assert_close,
    assert_same_bits,
    channels_last_view,
    forward_tolerance,
    gradient_scales,
    gradient_tolerance,
    ids,
)

import fastbn
from fastbn import reference

CASES = [
    Case("batch_norm", (5, 4, 33)),
    Case("batch_norm", (9, 33, 5), axis=-1),
    Case("batch_norm", (40, 6, 2, 2)),
    Case("group_norm", (5, 6, 33), 3),
    Case("group_norm", (3, 7, 6), 3, axis=-1),
    Case("group_norm", (9, 12), 2),
    Case("instance_norm", (3, 5, 33)),
    Case("layer_norm", (7, 190), 190),
    Case("layer_norm", (3, 4, 19), (4, 19)),
    Case("rms_norm", (5, 3, 17), (3, 17)),
]


def masks(case):
    """One an element; one a sample; one a sample and position, as of sequences of different lengths."""
    rng = np.random.default_rng(4)
    yield rng.random(case.shape) < 0.6
    few = rng.random(case.shape[:1] + (1,) * (len(case.shape) - 1)) < 0.7
    few[:2] = True
    if case.op == "batch_norm":
        yield few
    if case.by_channel and len(case.shape) > 2:
        along = 1 if case.axis == -1 else len(case.shape) - 1
        lengths = rng.integers(2, case.shape[along] + 1, few.shape)
        positions = np.arange(case.shape[along]).reshape([-1 if a == along else 1 for a in range(len(case.shape))])
        yield positions < lengths


def padded(x, where):
    """What is left out may be anything."""
    return np.where(where, x, np.resize([np.nan, np.inf, 3e38], x.shape).astype(x.dtype))


@pytest.mark.full
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_forward(case, dtype):
    for where in masks(case):
        for offset in (0.0, 1e6):
            x, named = padded(case.data(dtype, offset), where), case.parameters(dtype)
            y, statistics = case.forward(fastbn, x, **named, where=where)
            expected, truths = case.forward(reference, x, **named, where=where)
            assert_close(y, expected, forward_tolerance(dtype, offset), 1.0)
            assert np.all(y[~np.broadcast_to(where, y.shape)] == 0)
            for a, b in zip(statistics, truths, strict=True):
                assert_close(a, b, 1e-12, 1.0)


@pytest.mark.full
@pytest.mark.parametrize(
    ("case", "dtype"), [(case, np.float32) for case in CASES] + [(case, np.float64) for case in CASES[:2]], ids=str
)
def test_backward(case, dtype):
    for where in masks(case):
        for activation in (None, "silu"):
            x, dy = (padded(a, where) for a in (case.data(dtype, 1e3), case.upstream(dtype)))
            named = case.parameters(dtype)
            more = {"where": where, "activation": activation}
            _, statistics = case.forward(reference, x, **named, **more)
            gradients = case.backward(fastbn, dy, x, statistics, **named, **more)
            clean = np.where(where, dy, 0)
            expected = case.backward(reference, clean, np.where(where, x, 0), statistics, **named, **more)
            for a, b, scale in zip(gradients, expected, gradient_scales(case, statistics), strict=False):
                assert_close(a, b, gradient_tolerance(dtype, 1e3), scale)
            assert np.all(gradients[0][~np.broadcast_to(where, x.shape)] == 0)


@pytest.mark.full
def test_central_differences():
    """The reference's own gradients, which the kernels are compared with."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 3, 4, 3))[:2]
    where = rng.random(x.shape) < 0.6
    where[:, :, 0] = True
    weight, bias = rng.uniform(0.5, 1.5, (2, 4))

    def loss(x):
        return np.sum(dy * reference.batch_norm_forward(x, weight, bias, eps=0.1, where=where, activation="gelu")[0])

    _, mean, rstd = reference.batch_norm_forward(x, eps=0.1, where=where)
    more = {"bias": bias, "where": where, "activation": "gelu"}
    dx = fastbn.batch_norm_backward(dy, x, mean, rstd, weight, **more)[0]
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-5
        assert abs((loss(x + step) - loss(x - step)) / 2e-5 - dx[index]) < 1e-8


@pytest.mark.full
def test_sequences_of_different_lengths_are_as_if_alone():
    """What a padded batch gives is what each sequence gives without its padding."""
    x, lengths = np.random.default_rng(0).standard_normal((4, 6, 50)), np.array([50, 3, 17, 32])
    where = (np.arange(50) < lengths[:, None])[:, None]
    y = fastbn.group_norm(x, 2, where=where)
    for n, length in enumerate(lengths):
        assert_close(y[n : n + 1, :, :length], fastbn.group_norm(x[n : n + 1, :, :length], 2), 1e-14)


@pytest.mark.full
def test_evaluation_and_running_statistics():
    case, where = CASES[0], next(masks(CASES[0]))
    x = case.data(np.float32, 3.0)
    running, truth = ([np.zeros(4), np.ones(4)] for _ in range(2))
    fastbn.batch_norm(padded(x, where), *running, training=True, where=where)
    reference.batch_norm(x, *truth, training=True, where=where)
    for a, b in zip(running, truth, strict=True):
        assert_close(a, b, 1e-12)
    y = fastbn.batch_norm(padded(x, where), *running, where=where)
    assert_close(y, reference.batch_norm(x, *truth, where=where), 1e-6)
    running, truth = ([np.zeros(4), np.ones(4)] for _ in range(2))
    fastbn.instance_norm(padded(x, where), *running, where=where)
    reference.instance_norm(x, *truth, where=where)
    for a, b in zip(running, truth, strict=True):
        assert_close(a, b, 1e-12)


def test_nothing_is_left():
    """A group without an element: y is zero, the statistics are NaN, and the other groups do not notice."""
    x = CASES[7].data(np.float32)
    where = np.ones(x.shape, bool)
    where[3] = False
    y, mean, rstd = fastbn.layer_norm_forward(x, 190, where=where)
    assert np.all(y[3] == 0)
    assert np.isnan(mean[3])
    assert_close(np.delete(y, 3, 0), np.delete(fastbn.layer_norm(x, 190), 3, 0), 3e-7)
    dx, dweight, dbias = fastbn.layer_norm_backward(x, x, mean, rstd, where=where)
    for a in (np.delete(dx, 3, 0), dweight, dbias):
        assert np.all(np.isfinite(a))
    assert np.all(dx[3] == 0)


@pytest.mark.full
def test_memory_orders():
    case, where = CASES[0], next(masks(CASES[0]))
    x = case.data(np.float32)
    y, _ = case.forward(fastbn, x, where=where)
    last, _ = case.forward(fastbn, channels_last_view(x), where=np.asfortranarray(where))
    assert_close(last, y, 5e-7)
    again, _ = case.forward(fastbn, x, where=np.asfortranarray(where))
    assert_same_bits(again, y)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (np.ones((2, 3, 4)), TypeError, "where has dtype float64; expected bool"),
        (np.ones((2, 3, 5), bool), ValueError, "expected one that broadcasts to"),
        (np.ones((1, 2, 3, 4), bool), ValueError, "expected one that broadcasts to"),
        (np.arange(4) < 0, ValueError, "where leaves 0 of the values of channel 0"),
    ],
    ids=("dtype", "shape", "axes", "nothing"),
)
def test_refused(where, error, message):
    with pytest.raises(error, match=message):
        fastbn.batch_norm_forward(np.ones((2, 3, 4)), where=where)
