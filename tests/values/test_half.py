"""float16 and bfloat16: every code, one rounding, float32 arithmetic, and a library without ml_dtypes."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cases import (
    assert_close,
    assert_same_bits,
    by_channel,
    channels_first_view,
    channels_last_view,
    gradient_scales,
    ids,
    memory_order,
    trailing,
)
from internals import integers, pace

import fastbn
from fastbn import reference

HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
EPSILON = {HALVES[0]: 2.0**-11, HALVES[1]: 2.0**-8}  # half the step between neighbours: one rounding
SLACK = 5e-7  # and what float32 may be off before it

every_half = pytest.mark.parametrize("dtype", HALVES, ids=str)

CASES = [
    *by_channel((64, 12), (3,)),
    *by_channel((8, 12, 37), (3,)),
    *by_channel((24, 8, 7, 7), (4,)),
    *by_channel((2, 6, 5, 9, 7), (3,)),
    *by_channel((1, 2, 150, 151), (1,)),
    *by_channel((8, 37, 12), (3,), axis=-1),
    *by_channel((3, 14, 15, 6), (2,), axis=-1),
    *trailing((31, 129), 129),
    *trailing((2, 3, 20, 33), (20, 33)),
    *trailing((2, 20_011), 20_011),
]
LAID_OUT = [
    *((case, np.ascontiguousarray) for case in CASES),
    *((case, channels_last_view) for case in CASES if case.by_channel and case.axis == 1 and len(case.shape) > 2),
    *((case, channels_first_view) for case in trailing((2, 7, 5, 20), 20)),
]
in_every_layout = pytest.mark.parametrize(
    ("case", "arrange"), LAID_OUT, ids=[f"{ids(case)}-{arrange.__name__}" for case, arrange in LAID_OUT]
)


def all_codes(dtype):
    return np.arange(65536, dtype=np.uint16).view(dtype)


def nearest(values, dtype):
    """float64 rounded once; by way of float32, to odd, which no later rounding can tell from the exact value."""
    values = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        if dtype == np.float16:
            return values.astype(np.float16)
        single = values.astype(np.float32)
    inexact = single.astype(np.float64) != values
    beyond = np.abs(single.astype(np.float64)) > np.abs(values)
    bits = single.view(np.uint32)
    bits = np.where(inexact & np.isfinite(values), (bits - beyond) | 1, bits)
    return bits.astype(np.uint32).view(np.float32).astype(dtype)


def assert_one_rounding(actual, expected, dtype, scale=None):
    """As close to the exact value as one rounding and float32's own error leave room for, everywhere."""
    actual, expected = actual.astype(np.float64), np.asarray(expected)
    scale = np.max(np.abs(expected)) if scale is None else scale
    room = EPSILON[dtype] * np.abs(expected) + SLACK * scale
    if dtype == np.float16:
        room += 2.0**-25  # half the step between its subnormal numbers
    assert np.max(np.abs(actual - expected) - room) <= 0


# Every code -----------------------------------------------------------------------------------------------------------


def through_batch_norm(x, axis=1, **named):
    """x as a channel, or as every other channel, with given statistics that change nothing."""
    shape = (1, 1, -1) if axis == 1 else (-1, 1, 16)
    axis = 1 if axis == 1 else 2
    laid = x.reshape(shape)
    zeros, ones = np.zeros(laid.shape[axis], np.float32), np.ones(laid.shape[axis], np.float32)
    return fastbn.batch_norm(laid, zeros, ones, eps=0, axis=axis, **named).reshape(-1)


@pytest.mark.full
@every_half
@pytest.mark.parametrize("past_cache", [False, True])
@pytest.mark.parametrize("axis", [1, -1])
def test_every_code_passes_unchanged(dtype, axis, past_cache, monkeypatch):
    if past_cache:
        monkeypatch.setattr(integers, "PAST_CACHE_BYTES", 0)
        monkeypatch.setattr(integers, "_PAST_CACHE_ROW", 0)
        monkeypatch.setattr(integers, "_PAST_CACHE_ROW_BACK", 0)
        monkeypatch.setattr(integers, "_PAST_CACHE_PLANE", 0)
    x = all_codes(dtype)
    y = through_batch_norm(x, axis)
    number = ~np.isnan(x.astype(np.float32))
    # -0 + 0 is +0 in IEEE arithmetic, and a bias of zero is added
    np.testing.assert_array_equal(y[number].view(np.uint16), (x[number] + dtype.type(0)).view(np.uint16))
    assert np.isnan(y[~number].astype(np.float32)).all()


@pytest.mark.full
@every_half
@pytest.mark.parametrize("length", [1, 3, 15, 17, 33])
def test_every_code_passes_unchanged_at_the_end_of_a_run(dtype, length):
    x = all_codes(dtype)
    x = x[np.isfinite(x.astype(np.float32))]
    x = x[: x.size // length * length].reshape(1, -1, length)
    zeros, ones = np.zeros(x.shape[1], np.float32), np.ones(x.shape[1], np.float32)
    np.testing.assert_array_equal(fastbn.batch_norm(x, zeros, ones, eps=0), x)


@pytest.mark.full
@every_half
@pytest.mark.parametrize("weight", [3.0, 1 / 3, 1e-3, 1e3, -0.7])
def test_every_code_times_a_weight_is_rounded_to_nearest_even(dtype, weight):
    x = all_codes(dtype)
    x = x[np.isfinite(x.astype(np.float32))]
    y = through_batch_norm(x, weight=np.array([weight], np.float32))
    # in float32, whose rounding is that of the arithmetic, and then once to nearest even
    with np.errstate(over="ignore"):
        product = x.astype(np.float32) * np.float32(weight)
        expected = nearest(product, dtype)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.full
@every_half
def test_ties_go_to_even(dtype):
    x = all_codes(dtype)
    size = np.abs(x.astype(np.float32))
    x = x[(size >= 2.0**-10) & (size < 2.0**10)]
    up = (x.view(np.uint16) + np.uint16(1)).view(dtype)
    middle = (x.astype(np.float64) + up.astype(np.float64)) / 2
    even = np.where(x.view(np.uint16) % 2 == 0, x, up)
    # x + bias is exactly between two neighbours; a channel each
    bias = (middle - x.astype(np.float64)).astype(np.float32)
    zeros, ones = np.zeros(x.size, np.float32), np.ones(x.size, np.float32)
    y = fastbn.batch_norm(x[None], zeros, ones, None, bias, eps=0)[0]
    np.testing.assert_array_equal(y, even)
    np.testing.assert_array_equal(nearest(middle, dtype), even)


@pytest.mark.full
@every_half
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm"])
def test_every_code_normalized(dtype, op):
    """Groups of codes of like size, so that none drowns in its group."""
    x = all_codes(dtype)
    x = np.sort(x[np.isfinite(x.astype(np.float32))].astype(np.float32)).astype(dtype)
    x = x[: x.size // 64 * 64].reshape(-1, 64)
    args = {"layer_norm": (64,), "rms_norm": (64,), "group_norm": (1,)}.get(op, ())
    if op == "batch_norm":
        x = np.ascontiguousarray(x.T)
    elif op in ("group_norm", "instance_norm"):
        x = x[:, None]
    # their spread goes down to 0 and up to a tenth of the largest bfloat16
    y = getattr(fastbn, f"{op}_forward")(x, *args, eps=1e-12)[0]
    expected = getattr(reference, f"{op}_forward")(x, *args, eps=1e-12)[0]
    assert y.dtype == dtype
    assert_one_rounding(y, expected, dtype)


@pytest.mark.full
@every_half
def test_every_code_as_a_gradient(dtype):
    dy = all_codes(dtype)
    dy = dy[np.isfinite(dy.astype(np.float32))][None, None]
    x, mean, rstd = np.zeros_like(dy), np.zeros(1), np.ones(1)
    dx, _, _ = fastbn.batch_norm_backward(dy, x, mean, rstd, training=False)
    np.testing.assert_array_equal(dx, dy)


# Accuracy -------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@every_half
@pytest.mark.parametrize("offset", [0.0, 100.0])
@in_every_layout
def test_forward(case, arrange, offset, dtype):
    x, parameters = arrange(case.data(dtype, offset)), case.parameters(np.float32)
    expected, expected_statistics = case.forward(reference, x, **parameters)
    y, statistics = case.forward(fastbn, x, **parameters)
    assert y.dtype == dtype
    assert memory_order(y) == memory_order(x)
    assert_one_rounding(y, expected, dtype)
    for value, exact in zip(statistics, expected_statistics, strict=True):
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, exact, rtol=1e-7, atol=1e-7)  # some terms are added up in float32
    assert_same_bits(case.normalize(fastbn, x, **parameters), y)


@pytest.mark.full
@every_half
@pytest.mark.parametrize("offset", [0.0, 100.0])
@in_every_layout
def test_gradients(case, arrange, offset, dtype):
    x, dy = arrange(case.data(dtype, offset)), arrange(case.upstream(dtype))
    weight = case.parameters(np.float32)["weight"]
    saved = case.forward(reference, x)[1]
    dx, *gradients = case.backward(fastbn, dy, x, saved, weight=weight)
    expected, *expected_gradients = case.backward(reference, dy, x, saved, weight=weight)
    scale, *scales = gradient_scales(case, saved)
    assert dx.dtype == dtype
    assert_one_rounding(dx, expected, dtype, 4 * scale)  # 2e-6 of the scale before the rounding
    for a, e, s in zip(gradients, expected_gradients, scales, strict=False):
        assert a.dtype == np.float32
        assert_close(a, e, 2e-6, s)


@pytest.mark.full
@every_half
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_half_is_float32_rounded_once(case, dtype):
    x = case.data(dtype, 3.0)
    parameters = case.parameters(np.float32)
    y, statistics = case.forward(fastbn, x, **parameters)
    wide, wide_statistics = case.forward(fastbn, x.astype(np.float32), **parameters)
    np.testing.assert_array_equal(y, nearest(wide, dtype))
    for a, b in zip(statistics, wide_statistics, strict=True):
        assert_same_bits(a, b)
    dy = case.upstream(dtype)
    narrow = case.backward(fastbn, dy, x, statistics, weight=parameters["weight"])
    wide = case.backward(fastbn, dy.astype(np.float32), x.astype(np.float32), statistics, weight=parameters["weight"])
    np.testing.assert_array_equal(narrow[0], nearest(wide[0], dtype))
    for a, b in zip(narrow[1:], wide[1:], strict=True):
        assert_same_bits(a, b)


@pytest.mark.full
@every_half
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_threads_change_no_bit(case, dtype, monkeypatch):
    x, dy, parameters = case.data(dtype, 3.0), case.upstream(dtype), case.parameters(np.float32)

    def everything():
        y, statistics = case.forward(fastbn, x, **parameters)
        return y, *statistics, *case.backward(fastbn, dy, x, statistics, weight=parameters["weight"])

    expected = everything()  # small, hence serial
    monkeypatch.setattr(pace, "SERIAL_BYTES", 0)
    monkeypatch.setattr(pace, "TEAM_BYTES", 0)
    monkeypatch.setattr(integers, "PAST_CACHE_BYTES", 0)
    for a, b in zip(everything(), expected, strict=True):
        assert_same_bits(a, b)


# Weights, statistics, eps ---------------------------------------------------------------------------------------------


@pytest.mark.full
@every_half
@pytest.mark.parametrize("case", CASES[:6] + CASES[-4:], ids=ids)
def test_weight_and_bias_in_the_type_of_x(case, dtype):
    x, dy, parameters = case.data(dtype), case.upstream(dtype), case.parameters(dtype)
    y, statistics = case.forward(fastbn, x, **parameters)
    assert_one_rounding(y, case.forward(reference, x, **parameters)[0], dtype)
    in_float32 = {name: value.astype(np.float32) for name, value in parameters.items()}
    assert_same_bits(case.forward(fastbn, x, **in_float32)[0], y)
    dx, *gradients = case.backward(fastbn, dy, x, statistics, weight=parameters["weight"])
    wide_dx, *wide = case.backward(fastbn, dy, x, statistics, weight=in_float32["weight"])
    assert_same_bits(dx, wide_dx)
    for a, b in zip(gradients, wide, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(a, b.astype(dtype))


@pytest.mark.full
@every_half
@pytest.mark.parametrize("op", ["batch_norm", "instance_norm"])
@pytest.mark.parametrize("narrow", [False, True])
def test_running_statistics(op, narrow, dtype):
    x = (np.random.default_rng(0).standard_normal((6, 5, 7)) + 10).astype(dtype)
    kind = dtype if narrow else np.dtype(np.float32)
    running = np.full(5, 9, kind), np.full(5, 2, kind)
    exact = np.full(5, 9.0), np.full(5, 2.0)
    named = {"training": True} if op == "batch_norm" else {}
    getattr(fastbn, op)(x, *running, **named)
    getattr(reference, op)(x, *exact, **named)
    for a, e in zip(running, exact, strict=True):
        assert a.dtype == kind
        np.testing.assert_array_equal(a, nearest(e, kind) if narrow else e.astype(kind))


@pytest.mark.full
@every_half
def test_eps_never_vanishes(dtype):
    # 1e-5 and all below are 0 or subnormal in float16, and lost beside 1 in both
    x = np.full((4, 40), 0.1, dtype)
    np.testing.assert_array_equal(fastbn.layer_norm(x, 40), 0)
    np.testing.assert_array_equal(fastbn.batch_norm(x, training=True, eps=1e-12), 0)
    tiny = np.tile(np.array([1, -1], dtype) * dtype.type(2.0**-14), (4, 20))
    for eps in (1e-12, 1e-8, 1e-5, 1.0):
        expected = 2.0**-14 / np.sqrt(2.0**-28 + eps)
        for y in (fastbn.layer_norm(tiny, 40, eps=eps), fastbn.rms_norm(tiny, 40, eps=eps)):
            np.testing.assert_array_equal(np.abs(y), nearest(np.float32(expected), dtype))


@pytest.mark.full
@every_half
def test_sums_do_not_overflow(dtype):
    x = np.tile(np.array([60000, -60000], dtype), (3, 5000))
    np.testing.assert_allclose(np.abs(fastbn.layer_norm(x, 10_000).astype(np.float32)), 1, rtol=EPSILON[dtype])
    x[:] = dtype.type(60000)
    np.testing.assert_array_equal(fastbn.layer_norm(x, 10_000), 0)


# Around the functions -------------------------------------------------------------------------------------------------


@pytest.mark.full
@every_half
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (fastbn.BatchNorm2d(6), (4, 6, 5, 7)),
        (fastbn.BatchNorm2d(6, axis=-1), (4, 5, 7, 6)),
        (fastbn.LayerNorm(30), (4, 30)),
        (fastbn.GroupNorm(2, 6), (4, 6, 9)),
        (fastbn.InstanceNorm1d(6, affine=True), (4, 6, 9)),
        (fastbn.RMSNorm(30), (4, 30)),
    ],
    ids=lambda value: repr(value).replace(" ", ""),
)
def test_layers_with_half_inputs(layer, shape, dtype):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    layer.zero_grad()
    y, dx = layer(x), layer.backward(dy)
    grads = {name: value.copy() for name, value in layer.grads.items()}
    layer.zero_grad()
    wide_y, wide_dx = layer(x.astype(np.float32)), layer.backward(dy.astype(np.float32))
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(y, nearest(wide_y, dtype))
    np.testing.assert_array_equal(dx, nearest(wide_dx, dtype))
    for name, value in layer.grads.items():
        assert value.dtype == np.float32
        assert_same_bits(grads[name], value)


@pytest.mark.full
@every_half
def test_in_place_strided_and_read_only(dtype):
    x = np.random.default_rng(0).standard_normal((4, 6, 35)).astype(dtype)
    expected = fastbn.group_norm(x, 2)
    room = np.empty((4, 6, 70), dtype)
    room[..., ::2] = x
    assert_same_bits(fastbn.group_norm(room[..., ::2], 2), expected)
    fastbn.group_norm(x, 2, out=room[..., 1::2])
    assert_same_bits(room[..., 1::2], expected)
    frozen = x.copy()
    frozen.flags.writeable = False
    assert_same_bits(fastbn.group_norm(frozen, 2), expected)
    assert fastbn.group_norm(x, 2, out=x) is x
    assert_same_bits(x, expected)


@pytest.mark.system("torch")
@pytest.mark.full
def test_torch_bfloat16_by_its_bits():
    import torch

    rng = np.random.default_rng(0)
    x, dy = (torch.from_numpy(rng.standard_normal((4, 6, 35), np.float32)).bfloat16() for _ in range(2))
    by_bits = [t.view(torch.int16).numpy().view(ml_dtypes.bfloat16) for t in (x, dy)]
    weight = torch.linspace(0.5, 1.5, 6).bfloat16()
    wide_weight = weight.float().numpy()
    y, mean, rstd = fastbn.group_norm_forward(x, 2, weight)
    expected = fastbn.group_norm_forward(by_bits[0], 2, wide_weight)
    for a, b in zip((y, mean, rstd), expected, strict=True):
        assert_same_bits(a, b)
    gradients = fastbn.group_norm_backward(dy, x, mean, rstd, wide_weight)
    for a, b in zip(gradients, fastbn.group_norm_backward(*by_bits[::-1], mean, rstd, wide_weight), strict=True):
        assert_same_bits(a, b)
    codes = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    finite = codes[torch.isfinite(codes)]
    assert through_batch_norm_of_torch(finite).tolist() == finite.tolist()


def through_batch_norm_of_torch(x):
    return fastbn.batch_norm(x[None, None], np.zeros(1), np.ones(1), eps=0)[0, 0].astype(np.float32)


WITHOUT_ML_DTYPES = """
import sys
sys.modules["ml_dtypes"] = None
import numpy as np, fastbn
x = np.arange(24, dtype=np.float16).reshape(2, 12)
y, mean, rstd = fastbn.layer_norm_forward(x, 12, np.ones(12, np.float16))
dx, dweight, dbias = fastbn.layer_norm_backward(y, x, mean, rstd, np.ones(12, np.float16))
layer = fastbn.BatchNorm1d(12)
layer(x)
layer.backward(y)
print(y.dtype, dx.dtype, dweight.dtype, y.tobytes().hex())
class Tensor:
    dtype = "torch.bfloat16"
try:
    fastbn.layer_norm(Tensor(), 12)
except TypeError as error:
    print(error)
"""


@pytest.mark.full
def test_float16_without_ml_dtypes():
    y = fastbn.layer_norm(np.arange(24, dtype=np.float16).reshape(2, 12), 12)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ML_DTYPES],
        env=None,
        cwd=Path(fastbn.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"float16 float16 float16 {y.tobytes().hex()}\n"
        'x is a torch.bfloat16 tensor, which is read as an array of ml_dtypes: pip install "fastbn[half]"\n'
    )
