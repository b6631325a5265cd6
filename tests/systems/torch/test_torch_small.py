"""Calls like an earlier one go a shorter way, small ones by addresses: with the bits, checks and errors it had."""

import pytest
import torch
import torch.nn.functional as F

import fastbn.torch as fbt

SHAPE = (1, 8, 4, 6)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
COMPUTED = {torch.float64: torch.float64}  # float32 for all others


def drawn(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def running(dtype):
    return drawn((8,), dtype, 5), drawn((8,), dtype, 6).abs()


CALLS = {
    "batch training": lambda f, x, w, b, s: f.batch_norm(x, *s, w, b, True, 0.3),
    "batch of its own": lambda f, x, w, b, s: f.batch_norm(x, None, None, w, b, True),
    "batch evaluation": lambda f, x, w, b, s: f.batch_norm(x, *s, w, b),
    "group": lambda f, x, w, b, s: f.group_norm(x, 2, w, b),
    "instance": lambda f, x, w, b, s: f.instance_norm(x, None, None, w, b),
    "layer": lambda f, x, w, b, s: f.layer_norm(x, (4, 6), w, b),
    "rms": lambda f, x, w, b, s: f.rms_norm(x, [4, 6], w),
}


def given(call, dtype, affine=(True, True)):
    compute = COMPUTED.get(dtype, torch.float32)
    shape = (4, 6) if call in ("layer", "rms") else (8,)
    w, b = (drawn(shape, compute, k) if wanted else None for k, wanted in enumerate(affine, 1))
    return drawn(SHAPE, dtype) + 3, w, b, running(compute)


AFFINE = {"weight and bias": (True, True), "weight": (True, False), "none": (False, False)}


@pytest.mark.parametrize("affine", AFFINE.values(), ids=AFFINE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_later_calls_give_the_bits_of_the_first(call, dtype, affine):
    found = []
    for lay in (lambda t: torch.stack([t, t], -1)[..., 0], *(3 * [lambda t: t])):  # what is not contiguous is not known
        x, w, b, s = given(call, dtype, affine)
        with torch.no_grad():
            found.append([CALLS[call](fbt, lay(x), w, b, s), *s])
        leaves = [None if t is None else t.requires_grad_() for t in (x, w, None if call == "rms" else b)]
        y = CALLS[call](fbt, lay(x), w, b, s)
        y.backward(lay(drawn(SHAPE, dtype, 9)))
        found[-1] += [y.detach(), *(t.grad for t in leaves if t is not None), *s]
    for later in found[1:]:
        for got, first in zip(later, found[0], strict=True):
            assert torch.equal(got, first)
    x, w, b, s = given(call, dtype, affine)
    wide = [None if t is None else t.double().requires_grad_() for t in (x, w, None if call == "rms" else b)]
    truth = CALLS[call](F, *wide, [t.double() for t in s])
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert (found[-1][0].double() - truth).abs().max() < tolerance * truth.abs().max()
    truth.backward(drawn(SHAPE, dtype, 9).double())
    for got, leaf in zip(found[-1][4:], (t for t in wide if t is not None), strict=False):
        assert (got.double() - leaf.grad).abs().max() < 10 * tolerance * leaf.grad.abs().max().clamp(min=1)


@pytest.mark.parametrize("call", CALLS)
def test_a_large_mean_costs_no_digits(call):
    x, w, b, s = given(call, torch.float32)
    x = x + 1e4
    s = s[0] + 1e4, s[1] + 1
    for _ in range(3):
        with torch.no_grad():
            y = CALLS[call](fbt, x, w, b, tuple(t.clone() for t in s))
        truth = CALLS[call](F, x.double(), w.double(), b.double(), [t.double() for t in s])
        assert (y - truth).abs().max() < 1e-5 * truth.abs().max()


def test_running_statistics_move_in_place_and_without_a_version():
    x, w, b, s = given("batch training", torch.float32)
    before = [(t.data_ptr(), t._version) for t in s]
    wide = [t.double() for t in s]
    for _ in range(4):
        fbt.batch_norm(x, *s, w, b, True, 0.3)
        F.batch_norm(x.double(), *wide, w.double(), b.double(), True, 0.3)
    assert [(t.data_ptr(), t._version) for t in s] == before
    for got, truth in zip(s, wide, strict=True):
        assert (got - truth).abs().max() < 1e-6


def test_what_does_not_fit_is_found_in_every_call():
    x, w, b, s = given("layer", torch.float32)
    expected = fbt.layer_norm(x, (4, 6), w, b)
    for _ in range(2):
        assert torch.equal(fbt.layer_norm(x, (4, 6), w, b), expected)
        moved = torch.stack([w, w], -1)[..., 0]  # with holes between its elements
        assert torch.equal(fbt.layer_norm(x, (4, 6), moved, b), expected)
        assert torch.equal(fbt.layer_norm(x, (4, 6), w.double(), b.double()), expected)
        for refused in (
            lambda f: f.layer_norm(x, (4, 6), w[0], b),
            lambda f: f.layer_norm(x, (6, 4), w, b),
            lambda f: f.layer_norm(x, (4, 6), w, b[:2]),
            lambda f: f.batch_norm(x, *s, torch.ones(4), None, True),
            lambda f: f.batch_norm(x, s[0][:4], s[1][:4], torch.ones(8), None, True),
            lambda f: f.batch_norm(x, None, s[1], None, None),
            lambda f: f.group_norm(x, 3),
        ):
            messages = []
            for functions in (fbt, F):
                with pytest.raises((RuntimeError, ValueError)) as info:
                    refused(functions)
                messages.append(str(info.value))
            assert messages[0] == messages[1]
        assert fbt.layer_norm(x.to("meta"), (4, 6)).device.type == "meta"
        assert fbt.layer_norm(x.to_sparse().to_dense(), (4, 6), w, b).equal(expected)


def test_weights_are_read_where_they_are_now():
    x, w, b, _ = given("layer", torch.float32)
    weight = torch.nn.Parameter(w.clone())
    with torch.no_grad():
        for _ in range(3):
            weight.data = weight.data * 2
            weight.add_(1)
            assert torch.equal(fbt.layer_norm(x, (4, 6), weight, b), fbt.layer_norm(x, (4, 6), weight * 1, b * 1))


def test_modes_and_transforms_see_later_calls_too():
    x, w, b, _ = given("layer", torch.float32)
    for _ in range(3):
        fbt.layer_norm(x, (4, 6), w, b)
    batched = torch.func.vmap(lambda v: fbt.layer_norm(v, (4, 6), w, b))(x)
    assert torch.allclose(batched, F.layer_norm(x, (4, 6), w, b), atol=1e-5)
    with torch.inference_mode():
        assert fbt.layer_norm(x, (4, 6), w, b).is_inference()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(fbt.layer_norm(x, (4, 6), w, b), torch._subclasses.FakeTensor)
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda v: fbt.layer_norm(v, (4, 6), w, b))(x)
    assert "fastbn.norm" in graph.code
    traced = torch.jit.trace(lambda v: fbt.layer_norm(v, (4, 6), w, b), x)
    assert torch.allclose(traced(x), batched, atol=1e-5)


@pytest.mark.parametrize("rows", [3, 3000])
def test_values_that_are_kept_with_the_other_sign(rows):
    """As the imaginary part of a conjugate is, until somebody reads it."""
    x, dy = (torch.randn(rows, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    w, b = torch.rand(24) + 0.5, torch.randn(24)

    def results(x, dy, w, b):
        x, w, b = (t.detach().requires_grad_() for t in (x, w, b))
        y = fbt.layer_norm(x, (24,), w, b)
        y.backward(dy)
        return [y.detach(), x.grad, w.grad, b.grad, fbt.layer_norm(x.detach(), (24,), w.detach(), b.detach())]

    expected = results(x, dy, w, b)
    for place in range(4):
        args = [x, dy, w, b]
        args[place] = torch._neg_view(-args[place])
        assert args[place].is_neg()
        for _ in range(2):
            assert all(torch.equal(p, q) for p, q in zip(results(*args), expected, strict=True))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (lambda x: fbt.group_norm(x, 3), lambda x: fbt.group_norm(x, 3.0)),
        (lambda x: fbt.group_norm(x, 1), lambda x: fbt.group_norm(x, True)),
        (lambda x: fbt.layer_norm(x, (5,)), lambda x: fbt.layer_norm(x, ([5],))),
        (lambda x: fbt.rms_norm(x, (5,)), lambda x: fbt.rms_norm(x, ([5],))),
    ],
)
def test_what_is_wrong_is_refused_in_torchs_words_after_right_calls_too(right, wrong):
    x = torch.randn(4, 6, 5)
    for _ in range(3):
        right(x)
        with pytest.raises(TypeError, match=r"norm\(\): argument 'n\w+' \(position 2\) must be"):
            wrong(x)
