"""Variants: against the definitions and torch's gradients of the formulas; the layers' options; memory and refusals."""

import copy
import inspect
import pickle
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest
from cases import (
    assert_close,
    assert_same_bits,
    channels_last_view,
    forward_tolerance,
    gradient_tolerance,
    memory_order,
)

import fastbn
from fastbn import reference

# The formulas, in torch ---------------------------------------------------------------------------------------------


def along(v, x):
    return v.reshape([1, -1] + [1] * (x.ndim - 2))


def average(v, dims, where):
    """The mean of what `where` (zeros and ones, or None) leaves."""
    where = v.new_ones(v.shape) if where is None else where
    return (v * where).sum(dims, keepdim=True) / where.sum(dims, keepdim=True)


def normalized(x, dims, eps, where=None):
    d = x - average(x, dims, where)
    return d / (average(d * d, dims, where) + eps).sqrt()


def positions(x):
    return tuple(range(2, x.ndim))


def affine(h, weight, bias):
    return h * along(weight, h) + along(bias, h)


def ghost_batch_norm(x, weight, bias, virtual_batch_size, where=None, eps=1e-5):
    parts = x.split(virtual_batch_size)
    masks = [None] * len(parts) if where is None else where.split(virtual_batch_size)
    parts = [normalized(v, (0, *positions(x)), eps, mask) for v, mask in zip(parts, masks, strict=True)]
    import torch

    return affine(torch.cat(parts), weight, bias)


def batch_renorm(x, weight, bias, running_mean, running_var, r_max, d_max, where=None, eps=1e-5):
    dims = (0, *positions(x))
    mean = average(x.detach(), dims, where)
    var = average((x.detach() - mean) ** 2, dims, where)
    running_mean, running_var = (along(x.new_tensor(v), x) for v in (running_mean, running_var))
    sigma = (running_var + eps).sqrt()
    r = ((var + eps).sqrt() / sigma).clamp(1 / r_max, r_max)
    d = ((mean - running_mean) / sigma).clamp(-d_max, d_max)
    return affine(normalized(x, dims, eps, where) * r + d, weight, bias)


def weight_standardization(x, gain, gamma, eps=1e-6):
    dims = tuple(range(1, x.ndim))
    return normalized(x, dims, eps) * gain.reshape(-1, *[1] * len(dims)) * gamma / x[0].numel() ** 0.5


def channel_layer_norm(x, weight, bias, where=None, eps=1e-6):
    return affine(normalized(x, 1, eps, where), weight, bias)


def channel_rms_norm(x, weight, where=None, eps=1e-6):
    return x / (average(x * x, 1, where) + eps).sqrt() * along(weight, x)


def global_response_norm(x, weight, bias, eps=1e-6):
    norm = x.norm(dim=positions(x), keepdim=True)
    return affine(x * norm / (norm.mean(1, keepdim=True) + eps), weight, bias) + x


def filter_response_norm(x, weight, bias, tau, eps=1e-6):
    y = affine(x / ((x * x).mean(positions(x), keepdim=True) + eps).sqrt(), weight, bias)
    return y.maximum(along(tau, y))


def local_response_norm(x, size, alpha, beta, k):
    import torch

    return torch.nn.functional.local_response_norm(x, size, alpha, beta, k)


@dataclass(frozen=True)
class Variant:
    """A variant, and a way to call its functions that is the same for all; `named` are its further arguments."""

    formula: Callable
    parameters: tuple[str, ...] = ("weight", "bias")
    named: dict = field(default_factory=dict)

    def __str__(self):
        return self.name

    @property
    def name(self):
        return self.formula.__name__

    @property
    def has_axis(self):
        return self.formula is not weight_standardization

    def arguments(self, dtype=np.float64, channels=6):
        """Parameters of both signs, and copies of the rest, which may be updated."""
        rng = np.random.default_rng(1)
        values = {name: (rng.uniform(0.5, 1.5, channels) * rng.choice((-1, 1), channels)) for name in self.parameters}
        return {name: value.astype(dtype) for name, value in values.items()} | copy.deepcopy(self.named)

    def forward(self, library, x, arguments, **more):
        """(y, statistics)."""
        function = getattr(library, f"{self.name}_forward", None)
        if function is None:
            return call(getattr(library, self.name), x, **arguments, **more), ()
        y, *statistics = call(function, x, **arguments, **more)
        return y, tuple(statistics)

    def backward(self, library, dy, x, statistics, arguments, **more):
        """The gradients of x and the parameters."""
        gradients = call(getattr(library, f"{self.name}_backward"), dy, x, *statistics, **arguments, **more)
        return gradients if isinstance(gradients, tuple) else (gradients,)


def call(function, *arguments, **named):
    """The function with those of the named arguments that it takes."""
    taken = inspect.signature(function).parameters
    return function(*arguments, **{name: value for name, value in named.items() if name in taken})


RUNNING = {"running_mean": np.linspace(-0.5, 0.5, 6), "running_var": np.linspace(0.2, 3, 6)}
VARIANTS = [
    Variant(ghost_batch_norm, named={"virtual_batch_size": 2}),
    Variant(batch_renorm, named=RUNNING | {"r_max": 1.3, "d_max": 0.4}),
    Variant(weight_standardization, ("gain",), {"gamma": 1.7}),
    Variant(channel_layer_norm),
    Variant(channel_rms_norm, ("weight",)),
    Variant(global_response_norm),
    Variant(filter_response_norm, ("weight", "bias", "tau")),
    Variant(local_response_norm, (), {"size": 4, "alpha": 0.5, "beta": 0.75, "k": 2.0}),
]
SHAPE = (5, 6, 7, 3)  # the last ghost batch is smaller
LAYOUTS = {"first": (1, np.ascontiguousarray), "last": (-1, np.ascontiguousarray), "view": (1, channels_last_view)}

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def data(seed=0, shape=SHAPE, dtype=np.float64):
    return (np.random.default_rng(seed).normal(0.3, 1, shape)).astype(dtype)


def laid_out(variant, layout, *arrays):
    """Arrays of shape (N, C, ...) in the layout, and the axis to name."""
    axis, lay = LAYOUTS[layout]
    return axis, *(lay(np.moveaxis(a, 1, axis) if variant.has_axis else a) for a in arrays)


def weighted(variant, dtype=np.float64):
    return variant.arguments(dtype, 6 if variant.has_axis else SHAPE[0])


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.system("torch")
@pytest.mark.parametrize("layout", LAYOUTS)
@each_variant
def test_is_the_formula_and_has_its_gradients(variant, layout):
    import torch

    arguments = weighted(variant)
    leaves = [torch.tensor(v, requires_grad=True) for v in (data(), *(arguments[p] for p in variant.parameters))]
    y = variant.formula(leaves[0], *leaves[1:], **variant.named)
    gradients = torch.autograd.grad(y, leaves, torch.tensor(data(1)))

    axis, x, dy = laid_out(variant, layout, data(), data(1))
    axis_to_channels = (axis, 1) if variant.has_axis else (1, 1)
    for library in (fastbn, reference):
        own = weighted(variant)
        result, statistics = variant.forward(library, x, own, axis=axis)
        assert_close(np.moveaxis(result, *axis_to_channels), y.detach().numpy(), 1e-13)
        dx, *rest = variant.backward(library, dy, x, statistics, own, axis=axis)
        assert_close(np.moveaxis(dx, *axis_to_channels), gradients[0].numpy(), 1e-13)
        for gradient, expected in zip(rest, gradients[1:], strict=False):  # a bias's may be left over
            assert_close(gradient, expected.numpy(), 1e-13)
        if library is fastbn:
            assert memory_order(result) == memory_order(dx) == memory_order(x)


ROUNDING = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # of the result, once


@pytest.mark.parametrize(
    ("variant", "dtype"),
    # bfloat16 goes the way of float16, so once is enough
    [
        pytest.param(v, d, marks=() if d == "float32" else pytest.mark.full)
        for d in ROUNDING
        for v in VARIANTS
        if d != "bfloat16" or v.formula is filter_response_norm
    ],
    ids=str,
)
def test_is_the_definition_in_every_dtype(variant, dtype):
    rounding = ROUNDING[dtype]
    if dtype == "bfloat16":
        dtype = ml_dtypes.bfloat16
    axis, x, dy = laid_out(variant, "last" if dtype == "float32" else "first", data(), data(1))
    x, dy, arguments = x.astype(dtype), dy.astype(dtype), weighted(variant, np.float32)
    y, statistics = variant.forward(fastbn, x, copy.deepcopy(arguments), axis=axis)
    expected, exact = variant.forward(reference, x, copy.deepcopy(arguments), axis=axis)
    gradients = variant.backward(fastbn, dy, x, statistics, arguments, axis=axis)
    expected_gradients = variant.backward(reference, dy, x, exact, arguments, axis=axis)

    assert y.dtype == gradients[0].dtype == x.dtype
    assert all(g.dtype == np.float32 for g in gradients[1:] if g is not None)
    assert_close(y, expected, forward_tolerance(np.float32) + rounding)
    assert_close(gradients[0], expected_gradients[0], gradient_tolerance(np.float32) + rounding)
    for gradient, wanted in zip(gradients[1:], expected_gradients[1:], strict=True):
        assert_close(gradient, wanted, gradient_tolerance(np.float32), scale=10.0)  # sums of a hundred terms
    for value, wanted in zip(statistics, exact, strict=True):
        assert value.dtype == np.float64
        assert_close(value, wanted, 2e-7)


RESPONSES = global_response_norm, filter_response_norm
NORMALIZATIONS = [v for v in VARIANTS if "where" in inspect.signature(v.formula).parameters]


@pytest.mark.system("torch")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", NORMALIZATIONS, ids=str)
def test_activation_residual_and_mask_are_those_of_the_operations(variant, layout):
    import torch

    arguments, where = weighted(variant), np.random.default_rng(2).random((SHAPE[0], 1, *SHAPE[2:])) < 0.7
    if variant.name.startswith("channel"):
        where = np.random.default_rng(2).random(SHAPE) < 0.7
        where[:, :2] = True
    has_residual = "residual" in inspect.signature(getattr(fastbn, f"{variant.name}_forward")).parameters
    values = [data(), *(arguments[p] for p in variant.parameters), *([data(2)] if has_residual else [])]
    leaves = [torch.tensor(v, requires_grad=True) for v in values]
    mask = torch.tensor(np.broadcast_to(where, SHAPE).astype(float))
    z = variant.formula(*leaves[: 1 + len(variant.parameters)], **variant.named, where=mask)
    y = torch.nn.functional.silu(z + leaves[-1] if has_residual else z) * mask
    gradients = torch.autograd.grad(y, leaves, torch.tensor(data(1)))

    left_out = np.where(where, 0, np.nan)  # what is left out may be anything
    axis, x, dy, residual, where = laid_out(variant, layout, data() + left_out, data(1) + left_out, data(2), where)
    more = {"axis": axis, "activation": "silu", "residual": residual, "where": where}
    result, statistics = variant.forward(fastbn, x, weighted(variant), **more)
    assert_close(np.moveaxis(result, axis, 1), y.detach().numpy(), 1e-13)
    actual = variant.backward(fastbn, dy, x, statistics, weighted(variant), **more)
    for gradient, expected in zip(actual, gradients, strict=True):
        if gradient.ndim > 1:
            assert memory_order(gradient) == memory_order(x)
            gradient = np.moveaxis(gradient, axis, 1)
        assert_close(gradient, expected.numpy(), 1e-13)


@pytest.mark.full
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.formula in RESPONSES], ids=str)
def test_padding_of_response_norms_is_as_if_absent(variant, layout):
    lengths = np.array([7, 2, 5, 0, 1])
    where = np.arange(7)[:, None] < lengths[:, None, None, None]
    left_out = np.where(where, 0, np.nan)
    axis, x, dy, mask = laid_out(variant, layout, data() + left_out, data(1) + left_out, where)
    y, statistics = variant.forward(fastbn, x, weighted(variant), axis=axis, where=mask)
    dx, *sums = variant.backward(fastbn, dy, x, statistics, weighted(variant), axis=axis, where=mask)
    expected = [np.zeros(6) for _ in sums]
    for n, length in enumerate(lengths):
        own, padding = np.s_[n : n + 1, :, :length], np.s_[n, :, length:]
        alone, (saved,) = variant.forward(fastbn, data()[own], weighted(variant))
        gradients = variant.backward(fastbn, data(1)[own], data()[own], (saved,), weighted(variant))
        for result, wanted in ((y, alone), (dx, gradients[0])):
            assert_close(np.moveaxis(result, axis, 1)[own], wanted, 1e-13)
            assert not np.moveaxis(result, axis, 1)[padding].any()
        for total, gradient in zip(expected, gradients[1:], strict=True):
            total += gradient
    for gradient, wanted in zip(sums, expected, strict=True):
        assert_close(gradient, wanted, 1e-13)


@pytest.mark.full
@pytest.mark.parametrize("variant", NORMALIZATIONS, ids=str)
def test_backward_starts_from_y(variant):
    x, dy, more = data(), data(1), {"activation": ("leaky_relu", 0.1)}
    y, statistics = variant.forward(fastbn, x, weighted(variant), **more)
    expected = variant.backward(fastbn, dy, x, statistics, weighted(variant), **more)
    gradients = variant.backward(fastbn, dy, None, statistics, weighted(variant), y=y, **more)
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert_close(gradient, wanted, 1e-12)


@pytest.mark.full
def test_an_argument_left_out_is_one_or_zero():
    x = data()
    ones, zeros = np.ones(6), np.zeros(6)
    for name in ("channel_layer_norm", "global_response_norm", "filter_response_norm"):
        function = getattr(fastbn, name)
        assert_same_bits(function(x), function(x, ones, zeros))
    assert_same_bits(fastbn.weight_standardization(x), fastbn.weight_standardization(x, np.ones(5)))
    assert_close(fastbn.filter_response_norm(x), reference.filter_response_norm_forward(x)[0], 1e-13)
    y, rstd = fastbn.filter_response_norm_forward(x)
    assert fastbn.filter_response_norm_backward(y, x, rstd)[3] is None


@pytest.mark.full
def test_ghost_batches_update_the_running_statistics_in_turn():
    x, together, apart = data(), (np.zeros(6), np.ones(6)), (np.zeros(6), np.ones(6))
    y, mean, _ = fastbn.ghost_batch_norm_forward(x, 2, None, None, *together)
    parts = [fastbn.batch_norm(x[i : i + 2], *apart, training=True) for i in (0, 2, 4)]
    assert_same_bits(y, np.concatenate(parts))
    assert_same_bits(np.stack(together), np.stack(apart))
    assert mean.shape == (3, 6)
    assert_same_bits(fastbn.ghost_batch_norm_forward(x, 9)[0], fastbn.batch_norm_forward(x)[0])


@pytest.mark.full
def test_batch_renorm_without_limits_is_evaluation_and_with_none_left_is_training():
    x, mean, var = data(), np.linspace(-1, 1, 6), np.linspace(0.5, 2, 6)
    y = fastbn.batch_renorm_forward(x, mean.copy(), var.copy(), r_max=1e3, d_max=1e3)[0]
    assert_close(y, fastbn.batch_norm(x, mean, var), 1e-13)
    own, running = (mean.copy(), var.copy()), (mean.copy(), var.copy())
    y = fastbn.batch_renorm_forward(x, *own, r_max=1.0, d_max=0.0)[0]
    assert_close(y, fastbn.batch_norm(x, *running, training=True), 1e-13)
    assert_close(np.stack(own), np.stack(running), 1e-14)


@pytest.mark.full
def test_a_channel_of_zeros_has_finite_gradients():
    x = data()
    x[:, 2] = 0
    y, norm = fastbn.global_response_norm_forward(x)
    dx, dweight, _ = fastbn.global_response_norm_backward(y, x, norm)
    assert np.isfinite(dx).all()
    assert dweight[2] == 0


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.has_axis], ids=str)
def test_nothing_in_nothing_out(variant):
    x, arguments = np.empty((0, *SHAPE[1:])), weighted(variant)
    y, statistics = variant.forward(fastbn, x, arguments)
    dx, *rest = variant.backward(fastbn, y, x, statistics, arguments)
    assert y.shape == dx.shape == x.shape
    assert not any(np.any(gradient) for gradient in rest)
    for name, value in variant.named.items():
        np.testing.assert_array_equal(arguments[name], value)


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("layout", LAYOUTS)
@each_variant
def test_the_result_may_replace_an_input(variant, layout):
    axis, x, dy = laid_out(variant, layout, data(), data(1))
    y, statistics = variant.forward(fastbn, x, weighted(variant), axis=axis)
    place = x.copy(order="K")
    assert variant.forward(fastbn, place, weighted(variant), axis=axis, out=place)[0] is place
    assert_same_bits(place, y)
    dx, *rest = variant.backward(fastbn, dy, x, statistics, weighted(variant), axis=axis)
    for i in range(2):
        places = [dy.copy(order="K"), x.copy(order="K")]
        again, *others = variant.backward(fastbn, *places, statistics, weighted(variant), axis=axis, out=places[i])
        assert again is places[i]
        for gradient, expected in zip((again, *others), (dx, *rest), strict=True):
            assert_same_bits(gradient, expected)


@pytest.mark.full
@pytest.mark.parametrize("layout", LAYOUTS)
@each_variant
def test_no_array_of_the_inputs_size_is_made_beside_the_result(variant, layout):
    x = data(shape=(256, 48, 14, 14))
    axis, x = laid_out(variant, layout, x)
    rng = np.random.default_rng(0)
    arguments = {name: rng.normal(size=48 if variant.has_axis else 256) for name in variant.parameters} | variant.named
    if variant.name == "batch_renorm":
        arguments |= {"running_mean": np.zeros(48), "running_var": np.ones(48)}
    out = np.empty_like(x)
    _, statistics = variant.forward(fastbn, x, arguments, axis=axis, out=out)
    variant.backward(fastbn, x, x, statistics, arguments, axis=axis, out=out)  # compiled, before memory is counted
    tracemalloc.start()
    with fastbn.num_threads(1):  # each has blocks of its own
        variant.forward(fastbn, x, arguments, axis=axis, out=out)
        variant.backward(fastbn, x, x, statistics, arguments, axis=axis, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # a few copies of some of 256 samples, or statistics of each position: two numbers for 48
    assert peak < 0.15 * x.nbytes


# Refusals -------------------------------------------------------------------------------------------------------------

X = np.ones((4, 6, 5))
LAST = np.eye(6, dtype=bool)[5:, :, None]  # leaves the last channel alone


def read_only(x):
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fastbn.ghost_batch_norm_forward(X, 0), ValueError, "virtual_batch_size is 0; expected at least 1"),
        (lambda: fastbn.ghost_batch_norm_forward(X, 2.0), TypeError, "virtual_batch_size is 2.0; expected an integer"),
        (lambda: fastbn.ghost_batch_norm_forward(X[..., 0], 3), ValueError, "virtual_batch_size is 3 .*more than one"),
        (lambda: fastbn.ghost_batch_norm_forward(X, 2, axis=0), ValueError, "axis is 0, the axis of the samples"),
        (lambda: fastbn.ghost_batch_norm_backward(X, X, *np.ones((2, 4, 6)), 2), ValueError, r"expected \(2, 6\)"),
        (lambda: fastbn.ghost_batch_norm_forward(X, 2, residual=X[1:]), ValueError, "residual has shape"),
        (lambda: fastbn.ghost_batch_norm_backward(X, X, *np.ones((2, 1, 6)), 4, y=X), ValueError, "both x and y"),
        (
            lambda: fastbn.batch_renorm_forward(X, *np.ones((2, 6)), where=LAST),
            ValueError,
            "where leaves 0 in channel 0",
        ),
        (lambda: fastbn.batch_renorm_forward(X, *np.ones((2, 6)), activation="elu"), ValueError, "activation is 'elu'"),
        (lambda: fastbn.batch_renorm_forward(X, None, np.ones(6)), ValueError, "running_mean is None"),
        (lambda: fastbn.batch_renorm_forward(X, *np.ones((2, 6)), r_max=0.5), ValueError, "r_max is 0.5; .* least 1"),
        (lambda: fastbn.batch_renorm_forward(X, *np.ones((2, 6)), d_max=-1), ValueError, "d_max is -1; .* least 0"),
        (lambda: fastbn.batch_renorm_forward(X[:1, :, 0], *np.ones((2, 6))), ValueError, "more than 1 value per"),
        (lambda: fastbn.weight_standardization(np.ones((6, 1, 1))), ValueError, "more than one element for each"),
        (lambda: fastbn.weight_standardization(X, np.ones(6)), ValueError, r"gain has shape \(6,\); expected \(4,\)"),
        (lambda: fastbn.weight_standardization(X, gamma="relu"), TypeError, "gamma is 'relu'; expected a number"),
        (lambda: fastbn.channel_layer_norm(X, np.ones(5)), ValueError, r"weight has shape \(5,\); expected \(6,\)"),
        (lambda: fastbn.channel_layer_norm(X, where=X), TypeError, "where has dtype float64; expected bool"),
        (
            lambda: fastbn.channel_rms_norm(X, where=LAST[0, :, 0]),
            ValueError,
            r"where has shape \(6,\); .* to \(4, 6, 5\)",
        ),
        (lambda: fastbn.channel_rms_norm(X, axis=0), ValueError, "axis is 0"),
        (lambda: fastbn.channel_rms_norm_backward(X, X, np.ones((4, 6))), ValueError, r"rstd .* expected \(4, 5\)"),
        (lambda: fastbn.channel_layer_norm(X, out=np.ones((4, 5, 6))), ValueError, r"out .* expected \(4, 6, 5\)"),
        (lambda: fastbn.global_response_norm(X, eps=-1), ValueError, "eps is -1"),
        (lambda: fastbn.global_response_norm_backward(X, X, np.ones(6)), ValueError, r"norm .* expected \(4, 6\)"),
        (lambda: fastbn.filter_response_norm(X, tau=np.zeros(6, int)), TypeError, "tau has dtype int"),
        (lambda: fastbn.filter_response_norm(X, out=read_only(X.copy())), ValueError, "out is read-only"),
        (lambda: fastbn.local_response_norm(X, 0), ValueError, "size is 0; expected at least 1"),
        (lambda: fastbn.local_response_norm(X, 3, beta=np.nan), ValueError, "beta is nan; expected a finite number"),
        (lambda: fastbn.local_response_norm_backward(X[1:], X, 3), ValueError, "dy has shape"),
    ],
)
def test_refuses_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


@each_variant
def test_a_refused_call_writes_nothing(variant):
    memory = data(shape=(6, *SHAPE[1:]))
    x, out = memory[:5], memory[1:]  # overlapping
    before, arguments = memory.copy(), weighted(variant)
    with pytest.raises(ValueError, match="out overlaps another argument"):
        variant.forward(fastbn, x, arguments, out=out)
    assert_same_bits(memory, before)
    for name, value in variant.named.items():
        np.testing.assert_array_equal(arguments[name], value)


@pytest.mark.full
def test_a_ghost_batch_that_is_refused_leaves_those_before_it():
    where, out, running = np.arange(4).reshape(4, 1, 1) < 2, np.zeros_like(X), np.zeros((2, 6))
    with pytest.raises(ValueError, match=r"virtual_batch_size is 2 .* more than one value .* that where leaves"):
        fastbn.ghost_batch_norm_forward(X, 2, None, None, *running, where=where, out=out)
    assert not out.any()
    assert not running.any()


# Layers ---------------------------------------------------------------------------------------------------------------


def batch_layer(**options):
    """A batch norm whose arrays differ from their initial values."""
    layer = fastbn.BatchNorm2d(6, dtype=np.float64, **options)
    rng = np.random.default_rng(3)
    for value in (*layer.parameters.values(), layer.running_mean, layer.running_var):
        value += rng.uniform(0.1, 0.5, 6)
    return layer


def assert_same_state(state, expected):
    assert list(state) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


LAYERS = {
    "ghost_batch_norm": lambda: batch_layer(virtual_batch_size=2),
    "batch_renorm": lambda: batch_layer(renorm=(1.3, 0.4)),
    "channel_layer_norm": lambda: fastbn.LayerNorm2d(6, dtype=np.float64),
    "channel_rms_norm": lambda: fastbn.RMSNorm2d(6, dtype=np.float64),
    "global_response_norm": lambda: fastbn.GlobalResponseNorm(6, dtype=np.float64),
    "filter_response_norm": lambda: fastbn.FilterResponseNorm2d(6, dtype=np.float64),
    "local_response_norm": lambda: fastbn.LocalResponseNorm(4, alpha=0.5, k=2.0),
}


@pytest.mark.full
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.name in LAYERS], ids=str)
def test_a_layer_is_its_functions(variant):
    layer, x, dy, arguments = LAYERS[variant.name](), data(), data(1), weighted(variant)
    for name in variant.parameters:
        layer.parameters[name][...] = arguments[name]
    if variant.name == "batch_renorm":
        layer.running_mean[...], layer.running_var[...] = RUNNING.values()
    expected, statistics = variant.forward(fastbn, x, arguments)
    gradients = variant.backward(fastbn, dy, x, statistics, arguments)
    twin = pickle.loads(pickle.dumps(layer))
    assert repr(twin) == repr(layer)
    assert_same_bits(twin(x), expected)
    assert_same_bits(twin.backward(dy), gradients[0])
    assert list(twin.grads) == list(variant.parameters)
    for gradient, wanted in zip(twin.grads.values(), gradients[1:], strict=False):
        assert_same_bits(gradient, wanted)
    state = twin.state_dict()
    twin.eval()
    running = {"mean": state.get("running_mean"), "var": state.get("running_var")}
    evaluated = (
        expected
        if running["mean"] is None
        else fastbn.batch_norm(x, running["mean"], running["var"], layer.weight, layer.bias)
    )
    assert_same_bits(twin(x), evaluated)
    assert_same_state(twin.state_dict(), state)


@pytest.mark.full
def test_ghost_batches_count_as_batches():
    layer = batch_layer(virtual_batch_size=2)
    layer(data())
    assert layer.num_batches_tracked == 3


@pytest.mark.full
def test_the_limits_of_batch_renorm_can_be_relaxed():
    layer, x = batch_layer(renorm=(1.0, 0.0)), data()
    assert_close(layer(x), batch_layer()(x), 1e-13)
    layer.renorm = (1e3, 1e3)
    expected = copy.deepcopy(layer).eval()(x)
    assert_close(layer(x), expected, 1e-13)


@pytest.mark.full
@pytest.mark.parametrize("affine", [True, False])
def test_a_frozen_layer_stays_as_it_is_in_training(affine):
    layer, x, dy = batch_layer(), data(), data(1)
    state, held = layer.state_dict(), layer.weight
    y, context = layer.eval().forward(x)
    dx = layer.backward(dy, context)
    gradients = copy.deepcopy(layer.grads)
    layer.zero_grad()

    assert layer.freeze(affine).train() is layer
    copied = pickle.loads(pickle.dumps(layer))
    for frozen in (layer, copied):
        assert_same_bits(frozen(x), y)
        assert_close(frozen.backward(dy), dx, 1e-15)
        assert_same_state(frozen.state_dict(), state)
        assert_same_state(frozen.grads, {} if affine else gradients)
        assert list(frozen.parameters) == ([] if affine else ["weight", "bias"])
    assert "frozen=True" in repr(layer)
    assert layer.weight is held
    layer.load_state_dict(state)
    with pytest.raises(ValueError, match="dy has shape"):
        layer.backward(dy[1:], layer.forward(x)[1])

    layer.unfreeze()
    assert layer.parameters["weight"] is held
    assert list(layer.grads) == ["weight", "bias"]
    assert_same_bits(layer(x), batch_layer()(x))
    assert layer.num_batches_tracked == 1


SINGLE = (1, 6, 1, 1)


@pytest.mark.full
def test_one_value_a_channel_is_refused_or_evaluated():
    x, dy = data(shape=SINGLE), data(1, SINGLE)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        batch_layer()(x)
    layer, evaluating = batch_layer(on_single="eval"), batch_layer().eval()
    state = layer.state_dict()
    expected, context = evaluating.forward(x)
    assert_same_bits(layer(x), expected)
    assert_same_bits(layer.backward(dy), evaluating.backward(dy, context))
    assert_same_state(layer.grads, evaluating.grads)
    assert_same_state(layer.state_dict(), state)
    more = data()
    assert_same_bits(layer(more), batch_layer()(more))  # more values: training as ever


@pytest.mark.full
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [1, -1])
def test_one_value_a_channel_can_be_its_own_mean(dtype, axis):
    x, dy = (np.moveaxis(v, 1, axis).astype(dtype) for v in (data(shape=SINGLE) + 1e4, data(1, SINGLE)))
    layer = batch_layer(on_single="zero", axis=axis)
    state = layer.state_dict()
    assert_same_bits(layer(x).ravel(), layer.bias.astype(dtype))
    assert not layer.backward(dy).any()
    assert not layer.grads["weight"].any()
    np.testing.assert_array_equal(layer.grads["bias"], dy.ravel())
    assert_same_state(layer.state_dict(), state)


@pytest.mark.full
@pytest.mark.parametrize(("dtype", "rounding"), [("float64", 1e-13), ("float32", 2e-7), ("bfloat16", 2.0**-8)])
def test_rms_norm_with_an_offset_is_gemmas(dtype, rounding):
    if dtype == "bfloat16":
        dtype = ml_dtypes.bfloat16
    layer, x, dy = fastbn.RMSNorm(3, offset=1.0, dtype=dtype), data(), data(1)
    assert not layer.weight.any()
    assert_same_bits(layer(x), fastbn.rms_norm(x, 3))
    layer.weight = np.array([0.003, -0.002, 0.25])
    scale = 1 + layer.weight.astype(np.float64)  # in bfloat16, 1.003 would be 1
    y, rstd = reference.rms_norm_forward(x, 3, scale)
    assert_close(layer(x), y, 1e-7)
    dx, dweight = reference.rms_norm_backward(dy, x, rstd, scale)
    assert_close(layer.backward(dy), dx, 2e-7)
    assert layer.grads["weight"].dtype == dtype
    assert_close(layer.grads["weight"], dweight, rounding)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fastbn.BatchNorm1d(6, on_single="skip"), "on_single is 'skip'; expected 'raise', 'eval' or 'zero'"),
        (lambda: fastbn.BatchNorm1d(6, on_single="eval", track_running_stats=False), "on_single='eval' cannot do"),
        (lambda: fastbn.BatchNorm1d(6, renorm=(3, 5), track_running_stats=False), "renorm cannot do without running"),
        (lambda: fastbn.BatchNorm1d(6, renorm=3.0), "expected a pair of limits"),
        (lambda: fastbn.BatchNorm1d(6, virtual_batch_size=0), "virtual_batch_size is 0; expected at least 1"),
        (lambda: fastbn.BatchNorm1d(6, virtual_batch_size=2, track_running_stats=False), "virtual_batch_size cannot"),
        (lambda: fastbn.BatchNorm1d(6, virtual_batch_size=2, renorm=(3, 5)), "combined with renorm"),
        (
            lambda: fastbn.BatchNorm1d(6, momentum=None, virtual_batch_size=2, on_single="zero"),
            "combined with on_single and momentum=None",
        ),
        (lambda: fastbn.BatchNorm1d(6, track_running_stats=False).freeze(), "cannot freeze .* no running statistics"),
        (lambda: fastbn.RMSNorm(6, elementwise_affine=False, offset=1.0), "offset is .*; expected 0"),
        (lambda: fastbn.LayerNorm2d(6)(np.ones((2, 5, 3, 3))), "num_channels"),
        (lambda: fastbn.RMSNorm2d(6)(np.ones((2, 6, 3))), "expected 4D input"),
        (lambda: fastbn.LocalResponseNorm(0), "size is 0; expected at least 1"),
    ],
)
def test_layers_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()
