"""Double backward: against central differences of backward, and against torch's own double backward in float64."""

import ml_dtypes
import numpy as np
import pytest
from cases import (
    LAYOUTS,
    MEDIUM,
    OPERATIONS,
    Case,
    assert_close,
    assert_same_bits,
    by_channel,
    channels_first_view,
    channels_last_view,
    gradient_tolerance,
    ids,
    memory_order,
    trailing,
)
from internals import double_backward, pace

import fastbn
from fastbn import reference

SMALL = [
    *by_channel((3, 4, 5), (2,)),
    *by_channel((4, 3), (1,)),
    *by_channel((5, 2, 3), (1,), axis=-1),
    *trailing((4, 6), 6),
    *trailing((2, 3, 2, 2), (2, 2)),
]
SHAPES = [
    *MEDIUM,
    *by_channel((37, 3, 5), (3,)),  # narrow rows, folded, and a shorter one at the end
    *by_channel((64, 24), (3,)),  # every element of a group has its own weight
    *by_channel((2, 2, 129, 131), (1,)),  # several pieces a part
    *by_channel((70, 32, 15, 17), (8,)),  # several slabs
    *trailing((5, 20000), 20000),
    *trailing((700, 801), 801),
]
CHANNELS_LAST_VIEWS = [*by_channel((4, 6, 9, 11), (3,)), *by_channel((20, 70, 25, 25), (7,))]
CHANNELS_FIRST_VIEWS = [*trailing((3, 6, 7, 64), 64), *trailing((33, 9, 11, 170), 170)]
PER_SAMPLE = [
    *(case for case in MEDIUM if case.op != "batch_norm"),
    *(case for case in by_channel((9, 8, 200, 200), (1, 8)) if case.op != "batch_norm"),
    *trailing((200, 4000), 4000),
]


def upstream(case, dtype, seed=3, mean=0.0):
    """Gradients of dx, dweight and dbias, the latter two by name."""
    rng = np.random.default_rng(seed)
    ddweight, ddbias = rng.standard_normal((2, *case.parameter_shape)).astype(dtype)
    named = {"ddweight": ddweight} if case.op == "rms_norm" else {"ddweight": ddweight, "ddbias": ddbias}
    return case.data(dtype, mean, seed=4), named


def call(case, ddx, dy, x, statistics, weight=None, **named):
    function = getattr(fastbn, f"{case.op}_double_backward")
    return function(ddx, dy, x, *statistics, weight, **case.keywords, **named)


def arguments(case, dtype=np.float32, offset=0.0, mean=0.0, layout=np.asarray):
    """ddx, dy, x and the reference's statistics of x, weight; ddweight and ddbias."""
    x, dy = layout(case.data(dtype, offset)), layout(case.upstream(dtype) + dtype(mean))
    _, statistics = case.forward(reference, x)
    ddx, named = upstream(case, dtype, mean=mean)
    return (layout(ddx), dy, x, statistics, case.parameters(dtype)["weight"]), named


def by_torch(case, ddx, dy, x, statistics, weight, ddweight, ddbias=None, training=True):
    """The same gradients by torch, all in float64."""
    import torch

    v, dy, x, w, a = (
        torch.tensor(np.ascontiguousarray(t), dtype=torch.float64) for t in (ddx, dy, x, weight, ddweight)
    )
    b = torch.zeros_like(a) if ddbias is None else torch.tensor(ddbias, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (dy, x, w)]
    bias = torch.zeros_like(w, requires_grad=True)
    f = torch.nn.functional
    c = x.movedim(case.axis, 1).contiguous() if case.by_channel else x  # torch's channels-last variance cancels
    if case.op == "batch_norm" and training:
        y = f.batch_norm(c, None, None, w, bias, True)
    elif case.op == "batch_norm":
        y = f.batch_norm(c, torch.tensor(statistics[0]), torch.tensor(statistics[1] ** -2.0), w, bias, eps=0.0)
    elif case.op == "instance_norm":
        y = f.instance_norm(c, weight=w, bias=bias)
    elif case.op == "group_norm":
        y = f.group_norm(c, case.arg, w, bias)
    elif case.op == "layer_norm":
        y = f.layer_norm(c, case.parameter_shape, w, bias)
    else:
        y = f.rms_norm(c, case.parameter_shape, w, np.finfo(ddx.dtype).eps) + 0 * bias
    y = y.movedim(1, case.axis) if case.by_channel else y
    first = torch.autograd.grad(y, (x, w, bias), dy, create_graph=True)
    loss = sum((upstream * gradient).sum() for upstream, gradient in zip((v, a, b), first, strict=True))
    return [gradient.numpy() for gradient in torch.autograd.grad(loss, inputs)]


def check(case, args, named, tolerance, size=1.0, training=True):
    """size: of the elements of dy and ddx."""
    frozen = {} if training else {"training": False}
    gradients = call(case, *args, **named, **frozen)
    rstd, dtype = np.max(args[3][-1]), args[2].dtype
    terms = size * np.sqrt(args[2].size / args[4].size)
    scales = size * max(rstd, 1.0), size * size * max(rstd, rstd * rstd), size * rstd * terms
    for gradient, truth, scale in zip(
        gradients, by_torch(case, *args, **named, training=training), scales, strict=True
    ):
        assert gradient.dtype == dtype
        assert_close(gradient, truth, tolerance, scale)
    return gradients


# Central differences --------------------------------------------------------------------------------------------------


def differences(loss, values, step=1e-5):
    for value in values:
        gradient = np.empty_like(value)
        for index in np.ndindex(value.shape):
            kept, losses = value[index], []
            for sign in (1, -1):
                value[index] = kept + sign * step
                losses.append(loss())
            value[index] = kept
            gradient[index] = (losses[0] - losses[1]) / (2 * step)
        yield gradient


@pytest.mark.parametrize("case", SMALL, ids=ids)
def test_central_differences(case):
    x, dy, weight = case.data(np.float64), case.upstream(np.float64), case.parameters(np.float64)["weight"]
    ddx, named = upstream(case, np.float64)
    eps = {"eps": 0.1}  # keeps the function smooth where the values of a group happen to lie close together

    def loss():
        _, statistics = case.forward(reference, x, **eps)
        gradients = case.backward(reference, dy, x, statistics, weight=weight)
        return sum(np.sum(a * b) for a, b in zip((ddx, *named.values()), gradients, strict=True))

    _, statistics = case.forward(reference, x, **eps)
    gradients = call(case, ddx, dy, x, statistics, weight, **named)
    for gradient, expected in zip(gradients, differences(loss, (dy, x, weight)), strict=True):
        assert_close(gradient, expected, 1e-8, scale=1.0)


@pytest.mark.full
def test_central_differences_with_fixed_statistics():
    case = Case("batch_norm", (3, 4, 5))
    (ddx, dy, x, _, weight), named = arguments(case, np.float64)
    statistics = np.linspace(-1, 1, 4), np.linspace(0.5, 2, 4)

    def loss():
        gradients = case.backward(reference, dy, x, statistics, weight=weight, training=False)
        return sum(np.sum(a * b) for a, b in zip((ddx, *named.values()), gradients, strict=True))

    gradients = call(case, ddx, dy, x, statistics, weight, **named, training=False)
    for gradient, expected in zip(gradients, differences(loss, (dy, x, weight)), strict=True):
        assert_close(gradient, expected, 1e-8, scale=1.0)


# torch ----------------------------------------------------------------------------------------------------------------


@pytest.mark.system("torch")
@pytest.mark.parametrize(("dtype", "offset"), [(np.float32, 0.0), (np.float32, 1e6), (np.float64, 0.0)])
@pytest.mark.parametrize("case", SHAPES, ids=ids)
def test_as_torch(case, dtype, offset):
    check(case, *arguments(case, dtype, offset), 2e-6 if dtype == np.float32 else 1e-11)


@pytest.mark.system("torch")
@pytest.mark.full
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("case", "layout"),
    [
        *((case, channels_last_view) for case in CHANNELS_LAST_VIEWS),
        *((case, channels_first_view) for case in CHANNELS_FIRST_VIEWS),
    ],
    ids=str,
)
def test_views_of_another_memory_order(case, layout, dtype):
    args, named = arguments(case, dtype, 1e3, layout=layout)
    ddy, gx, _ = check(case, args, named, gradient_tolerance(dtype, 1e3))
    assert memory_order(ddy) == memory_order(gx) == memory_order(args[2])


@pytest.mark.system("torch")
@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize(
    "case", [Case("batch_norm", s, axis=a) for s, a in (((4, 6, 9, 11), 1), ((37, 3, 5), 1), ((9, 7, 6), -1))], ids=ids
)
def test_fixed_statistics_as_torch(case, offset):
    args, named = arguments(case, np.float32, offset)
    check(case, args, named, 2e-6, training=False)


@pytest.mark.system("torch")
@pytest.mark.full
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_gradients_with_a_mean(case):
    """Averages are then most of dy and ddx: what is left after they are taken away must still be right."""
    check(case, *arguments(case, mean=1e3), 2e-6, size=1e3)


@pytest.mark.full
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_what_is_left_out_is_zero_and_weight_one(case):
    (*args, weight), named = arguments(case)
    zeros, ones = (np.full_like(weight, value) for value in (0, 1))
    expected = call(case, *args, ones, **dict.fromkeys(named, zeros))
    for gradient, truth in zip(call(case, *args), expected, strict=True):
        assert_same_bits(gradient, truth)


# Arrays ---------------------------------------------------------------------------------------------------------------


@pytest.mark.system("torch")
@pytest.mark.full
@pytest.mark.parametrize("layouts", [("steps", "channels-last-view", "plain"), ("plain", "Fortran", "backwards")])
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_layouts_are_independent(case, layouts):
    (ddx, dy, x, statistics, weight), named = arguments(case)
    arrays = [LAYOUTS[layout](a) for layout, a in zip(layouts, (ddx, dy, x), strict=True)]
    for array in arrays:
        array.setflags(write=False)
    check(case, (*arrays, statistics, weight), named, 2e-6)


@pytest.mark.full
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "case", [Case("batch_norm", (37, 3, 5)), *by_channel((4, 6, 9, 11), (3,)), *trailing((9, 35), 35)]
)
def test_half_precision_is_rounded_once(case, dtype):
    (ddx, dy, x, statistics, weight), named = arguments(case)
    halves = [a.astype(dtype) for a in (ddx, dy, x)]
    narrow = call(case, *halves, statistics, weight, **named)
    wide = call(case, *(a.astype(np.float32) for a in halves), statistics, weight, **named)
    for gradient, expected in zip(narrow, (wide[0].astype(dtype), wide[1].astype(dtype), wide[2]), strict=True):
        assert_same_bits(gradient, expected)


@pytest.mark.full
@pytest.mark.parametrize("weight_dtype", [np.float16, np.float64])
def test_weight_of_another_float_type(weight_dtype):
    case = Case("layer_norm", (6, 35), 35)
    (*args, weight), named = arguments(case)
    same = call(case, *args, weight.astype(weight_dtype).astype(np.float32), **named)
    ddy, gx, gweight = call(case, *args, weight.astype(weight_dtype), **named)
    assert_same_bits(ddy, same[0])
    assert_same_bits(gx, same[1])
    assert gweight.dtype == weight_dtype


@pytest.mark.full
@pytest.mark.parametrize(
    "case", [*by_channel((0, 6, 4, 4), (2,)), *by_channel((0, 4, 6), (3,), -1), *trailing((0, 7), 7)], ids=ids
)
def test_empty_batch(case):
    x, weight = np.empty(case.shape, np.float32), np.ones(case.parameter_shape, np.float32)
    statistics = [np.zeros(case.statistics_shape)] * (1 if case.op == "rms_norm" else 2)
    ddy, gx, gweight = call(case, x, x, x, statistics, weight)
    assert ddy.shape == gx.shape == case.shape
    np.testing.assert_array_equal(gweight, np.zeros(case.parameter_shape))


# Bits -----------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("case", [case for case in SHAPES if np.prod(case.shape) > 10000], ids=ids)
def test_same_bits_for_any_number_of_threads(case, monkeypatch):
    monkeypatch.setattr(pace, "SERIAL_BYTES", 0)
    monkeypatch.setattr(pace, "TEAM_BYTES", 0)
    args, named = arguments(case)
    parallel = call(case, *args, **named)
    with fastbn.num_threads(1):
        serial = call(case, *args, **named)
    for one, other in zip(serial, parallel, strict=True):
        assert_same_bits(one, other)


@pytest.mark.full
@pytest.mark.parametrize("layout", [np.asarray, channels_last_view])
@pytest.mark.parametrize("case", PER_SAMPLE, ids=ids)
def test_a_sample_alone_has_the_same_bits(case, layout):
    (ddx, dy, x, statistics, weight), named = arguments(case, layout=layout)
    together = call(case, ddx, dy, x, statistics, weight, **named)[:2]
    own = slice(1, 2)
    alone = call(case, ddx[own], dy[own], x[own], [s[own] for s in statistics], weight, **named)[:2]
    for batch, one in zip(together, alone, strict=True):
        assert_same_bits(one, batch[own])


@pytest.mark.full
@pytest.mark.parametrize("case", MEDIUM, ids=ids)
def test_slabs_of_any_size_give_the_same_bits(case, monkeypatch):
    args, named = arguments(case)
    expected = call(case, *args, **named)
    monkeypatch.setattr(double_backward, "_SLAB", 1)
    gradients = call(case, *args, **named)
    assert_same_bits(gradients[0], expected[0])
    assert_same_bits(gradients[1], expected[1])
    assert_close(gradients[2], expected[2], 2e-6)  # how it is summed up depends on the slabs, which the shape decides


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        (
            "ddx",
            np.zeros((2, 4, 4), np.float32),
            ValueError,
            "ddx has shape (2, 4, 4); expected (2, 4, 6), the shape of x",
        ),
        ("ddx", np.zeros((2, 4, 6)), TypeError, "ddx has dtype float64; expected float32, the dtype of x"),
        ("ddx", None, TypeError, "ddx is None; expected an array of floats"),
        ("dy", np.zeros((2, 4, 6)), TypeError, "dy has dtype float64; expected float32, the dtype of x"),
        ("weight", np.zeros(5), ValueError, "weight has shape (5,); expected "),
        ("ddweight", np.zeros(5), ValueError, "ddweight has shape (5,); expected "),
        ("ddweight", np.zeros(4, int), TypeError, "ddweight has dtype int64; expected a float dtype"),
        ("rstd", np.zeros((1, 1, 1, 1)), ValueError, "rstd has shape (1, 1, 1, 1); expected "),
    ],
)
def test_errors(op, name, value, error, message):
    case = Case(op, (2, 4, 6), {"group_norm": 2, "layer_norm": 6, "rms_norm": 6}.get(op))
    (ddx, dy, x, statistics, weight), named = arguments(case)
    names = ("rstd",) if op == "rms_norm" else ("mean", "rstd")
    given = {"ddx": ddx, "dy": dy, "x": x, **dict(zip(names, statistics, strict=True)), "weight": weight, **named}
    with pytest.raises(error) as raised:
        getattr(fastbn, f"{op}_double_backward")(**(given | {name: value}))
    assert str(raised.value).startswith(message)
