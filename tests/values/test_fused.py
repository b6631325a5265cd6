"""Activation and residual in the same pass, the norm of a sum, and backward from y: against the float64 reference."""

import numpy as np
import pytest
from against_reference import both_ways, check_fused
from cases import (
    Case,
    assert_close,
    assert_same_bits,
    at_length,
    channels_last_view,
    gradient_scales,
    gradient_tolerance,
    ids,
)
from internals import pace

import fastbn
from fastbn import reference

ACTIVATIONS = ("relu", "leaky_relu", ("leaky_relu", 0.25), "sigmoid", "silu", "gelu", "gelu_tanh")
BATCH = Case("batch_norm", (3, 5, 7, 9))
# one of every way through the kernels
CASES = [
    BATCH,
    Case("batch_norm", (9, 5, 7), axis=-1),
    Case("batch_norm", (40, 6, 2, 2)),
    Case("group_norm", (3, 6, 5, 7), 3),
    Case("group_norm", (3, 7, 6), 3, axis=-1),
    Case("group_norm", (9, 12), 2),
    Case("instance_norm", (3, 5, 3)),
    Case("layer_norm", (37, 19), 19),
    Case("rms_norm", (5, 3, 7), (3, 7)),
]
LAYER = Case("layer_norm", (37, 100), 100)


@pytest.mark.parametrize("dtype", at_length([np.float32, np.float64], [np.float32]))
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activation_forward(activation, dtype):
    """Also where exp would overflow or vanish, and on both sides of every bend."""
    x = np.concatenate([np.linspace(-1, 1, 4001), [-1e-30, -0.0, 0.0, 1e-30]])[:, None]
    for scale in (1.0, 12.0, 200.0):
        z = (x * scale).astype(dtype)
        y = fastbn.batch_norm(z, [0.0], [1.0], eps=0.0, activation=activation)
        expected = reference.batch_norm(z, [0.0], [1.0], eps=0.0, activation=activation)
        assert_close(y, expected, 3e-7 if dtype == np.float32 else 1e-15)


@pytest.mark.full
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activation_backward(activation, dtype):
    check_fused(BATCH, dtype, {"activation": activation})


@pytest.mark.full
@pytest.mark.parametrize("case", CASES[1:], ids=ids)
def test_activation_of_every_operation(case):
    check_fused(case, np.float32, {"activation": "silu"}, offset=1e3)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_derivatives(activation):
    """The reference's own, by central differences; the bend of relu is not among the places."""
    z = np.linspace(-6, 6, 1000).reshape(-1, 1)
    named = {"eps": 0.0, "activation": activation}

    def y(z):
        return reference.batch_norm(z, [0.0], [1.0], **named)

    slope = reference.batch_norm_backward(np.ones_like(z), z, [0.0], [1.0], training=False, activation=activation)[0]
    assert_close(slope, (y(z + 1e-5) - y(z - 1e-5)) / 2e-5, 1e-9)


@pytest.mark.full
@pytest.mark.parametrize("case", [c for c in CASES if c.op in ("batch_norm", "group_norm")], ids=ids)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_residual(case, activation):
    residual = case.data(np.float32, seed=5)
    check_fused(case, np.float32, {"activation": activation, "residual": residual})


@pytest.mark.full
def test_residual_in_another_memory_order():
    residual = channels_last_view(BATCH.data(np.float32, seed=5))
    check_fused(BATCH, np.float32, {"activation": "relu", "residual": residual}, place=channels_last_view)
    check_fused(BATCH, np.float32, {"activation": "relu", "residual": residual})


@pytest.mark.full
def test_evaluation():
    x, dy, named = BATCH.data(np.float32), BATCH.upstream(np.float32), BATCH.parameters(np.float32)
    running = np.linspace(-1, 1, 5), np.linspace(0.5, 2, 5)
    more = {"activation": "gelu", "residual": BATCH.data(np.float32, seed=5)}
    y = fastbn.batch_norm(x, *running, *named.values(), **more)
    assert_close(y, reference.batch_norm(x, *running, *named.values(), **more), 5e-7)
    statistics = running[0], 1 / np.sqrt(running[1] + 1e-5)
    gradients = fastbn.batch_norm_backward(dy, x, *statistics, **named, **more, training=False)
    expected = reference.batch_norm_backward(dy, x, *statistics, **named, **more, training=False)
    for a, b in zip(gradients, expected, strict=True):
        assert_close(a, b, 2e-6)


@pytest.mark.full
@pytest.mark.parametrize("case", [BATCH, LAYER], ids=ids)
def test_float16(case):
    """Computed in float32: y is off by one rounding."""
    x, dy, named = case.data(np.float16), case.upstream(np.float16), case.parameters(np.float32)
    expected, statistics = both_ways(case, reference, x, dy, named, {"activation": "silu"})
    actual, _ = both_ways(case, fastbn, x, dy, named, {"activation": "silu"})
    assert_close(actual[0], expected[0], 2**-11)
    for a, b, scale in zip(actual[1:], expected[1:], gradient_scales(case, statistics), strict=False):
        assert_close(a, b, 2**-10, scale)


@pytest.mark.full
@pytest.mark.parametrize("out", ["x", "dy"])
@pytest.mark.parametrize("case", [BATCH, CASES[1], LAYER], ids=ids)
def test_in_place(case, out):
    x, dy, named = case.data(np.float32), case.upstream(np.float32), case.parameters(np.float32)
    (_, *expected), statistics = both_ways(case, fastbn, x, dy, named, {"activation": "gelu"})
    place = {"x": x, "dy": dy}[out]
    gradients = case.backward(fastbn, dy, x, statistics, **named, activation="gelu", out=place)
    assert gradients[0] is place
    for a, b in zip(gradients, expected, strict=True):
        assert_same_bits(a, b)


# The norm of a sum ----------------------------------------------------------------------------------------------------


def check_sum(op, shape, dtype):
    rng = np.random.default_rng(0)
    length = shape[-1]
    x, residual, dy, dsum = ((rng.standard_normal(shape) + 3).astype(dtype) for _ in range(4))
    affine = [rng.uniform(0.5, 1.5, length).astype(dtype) for _ in range(1 if "rms" in op else 2)]
    plain = op.replace("add_", "")
    y, total, *statistics = getattr(fastbn, f"{op}_forward")(x, residual, length, *affine)
    assert_same_bits(total, x + residual)
    expected, *same = getattr(fastbn, f"{plain}_forward")(total, length, *affine)
    for a, b in zip((y, *statistics), (expected, *same), strict=True):
        assert_same_bits(a, b)
    for a, b in zip(getattr(fastbn, op)(x, residual, length, *affine), (y, total), strict=True):
        assert_same_bits(a, b)
    into = x.copy()
    result, also = getattr(fastbn, op)(into, residual, length, *affine, out=into)
    assert result is into
    assert_same_bits(result, y)
    assert_same_bits(also, total)
    backward, by_definition = (getattr(library, f"{op}_backward") for library in (fastbn, reference))
    gradients = backward(dy, dsum, total, *statistics, affine[0])
    truths = by_definition(dy, dsum, total, *statistics, affine[0])
    tolerance = {np.float16: 2**-10, np.float32: 2e-6, np.float64: 1e-11}[dtype]
    terms = np.sqrt(max(1, x.size // length))
    for a, b, scale in zip(gradients, truths, (4.0, 4 * terms, 4 * terms), strict=False):
        assert a.dtype == dtype
        assert_close(a, b, tolerance, scale)
    without = getattr(fastbn, f"{plain}_backward")(dy, total, *statistics, affine[0])
    for a, b in zip(backward(dy, None, total, *statistics, affine[0]), without, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", at_length([np.float16, np.float32, np.float64], [np.float32]))
@pytest.mark.parametrize("shape", [(37, 19), (3, 4, 33), (2, 20_001), (0, 4)], ids=str)
def test_add_layer_norm(shape, dtype):
    check_sum("add_layer_norm", shape, dtype)


@pytest.mark.parametrize("dtype", at_length([np.float16, np.float32, np.float64], [np.float32]))
@pytest.mark.parametrize("shape", [(37, 19), (2, 20_001)], ids=str)
def test_add_rms_norm(shape, dtype):
    check_sum("add_rms_norm", shape, dtype)


@pytest.mark.full
def test_a_long_sum_shared_by_threads(monkeypatch):
    monkeypatch.setattr(pace, "SERIAL_BYTES", 0)
    check_sum("add_layer_norm", (1, 70_001), np.float32)


# Backward from y ------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("activation", [None, ("leaky_relu", 0.1)], ids=str)
def test_backward_from_y(case, activation):
    """As exact as from x, at any mean: y says nothing of it."""
    for dtype in (np.float32, np.float64) if case is BATCH else (np.float32,):
        x, dy, named = case.data(dtype, 1e3), case.upstream(dtype), case.parameters(dtype)
        y, statistics = case.forward(fastbn, x, **named, activation=activation)
        expected = case.backward(reference, dy, x, statistics, **named, activation=activation)
        gradients = case.backward(fastbn, dy, None, statistics, **named, activation=activation, y=y)
        scales = gradient_scales(case, statistics)
        for a, b, scale in zip(gradients, expected, scales, strict=False):
            assert_close(a, b, 4 * gradient_tolerance(dtype, 1e3), scale)  # y is rounded once more than x


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"activation": "swish"}, ValueError, "activation is 'swish'; expected one of 'relu'"),
        ({"activation": 3}, TypeError, "activation is 3; expected a name"),
        ({"activation": ()}, TypeError, "activation is"),
        ({"activation": ("relu", 0.1)}, ValueError, "after 'leaky_relu' only"),
        ({"activation": ("leaky_relu", "x")}, TypeError, "slope of 'leaky_relu'"),
        ({"activation": ("leaky_relu", np.nan)}, ValueError, "slope of 'leaky_relu'"),
        ({"residual": np.ones((2, 3))}, ValueError, "residual has shape"),
        ({"residual": np.ones((2, 3, 4), np.float32)}, TypeError, "residual has dtype"),
    ],
    ids=str,
)
def test_refused(more, error, message):
    x = np.ones((2, 3, 4))
    with pytest.raises(error, match=message):
        fastbn.batch_norm_forward(x, **more)
    with pytest.raises(error, match=message):
        fastbn.group_norm_backward(x, x, np.ones((2, 1)), np.ones((2, 1)), **more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"activation": "relu"}, "cannot be undone"),
        ({"activation": ("leaky_relu", 0.0)}, "cannot be undone"),
        ({"residual": np.ones((2, 3, 4))}, "a residual is given"),
        ({"weight": [1.0, 0.0, 1.0]}, "weight has zeros"),
        ({"x": np.ones((2, 3, 4))}, "both x and y"),
    ],
    ids=str,
)
def test_refused_from_y(more, message):
    y = np.ones((2, 3, 4))
    with pytest.raises(ValueError, match=message):
        fastbn.batch_norm_backward(y, more.pop("x", None), np.ones(3), np.ones(3), y=y, **more)


def test_out_overlaps_a_residual():
    x, residual = np.ones((2, 3, 4)), np.ones((2, 3, 4))
    with pytest.raises(ValueError, match="overlaps"):
        fastbn.batch_norm(x, training=True, residual=residual, out=residual)
    with pytest.raises(ValueError, match="overlaps"):
        fastbn.add_layer_norm(x, residual, 4, out=residual)
