"""fastbn.torch's functions against torch.nn.functional's: values, gradients, strides, and what autograd promises."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

import fastbn
import fastbn.torch as fbt

ACTIVATIONS = {
    None: lambda z: z,
    "relu": F.relu,
    ("leaky_relu", 0.2): lambda z: F.leaky_relu(z, 0.2),
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
}
FORMATS = {
    "contiguous": lambda t: t.contiguous(),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def tensors(dtype=torch.float32, shape=(4, 6, 5, 8), weights=None, lay=FORMATS["contiguous"], seed=0):
    """x, weight, bias, residual."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(s, generator=generator, dtype=torch.float64) for s in (shape, shape)]
    weights = (shape[1],) if weights is None else weights
    affine = [torch.randn(weights, generator=generator, dtype=torch.float64) for _ in range(2)]
    x, residual = (lay(t.to(dtype)) for t in draw)
    return [x, *(t.to(dtype) for t in affine), residual]


def running(dtype=torch.float32, channels=6):
    return torch.linspace(-0.5, 0.5, channels).to(dtype), torch.linspace(0.5, 2, channels).to(dtype)


# How each norm is called: (module of functions, x, weight, bias, more) -> y.  The running statistics are made anew.
CALLS = {
    "batch training": lambda f, x, w, b, **k: f.batch_norm(x, None, None, w, b, True, **k),
    "batch evaluation": lambda f, x, w, b, **k: f.batch_norm(x, *running((x if w is None else w).dtype), w, b, **k),
    "group": lambda f, x, w, b, **k: f.group_norm(x, 3, w, b, **k),
    "instance": lambda f, x, w, b, **k: f.instance_norm(x, None, None, w, b, **k),
    "layer": lambda f, x, w, b, **k: f.layer_norm(x, x.shape[2:], w, b, **k),
    "rms": lambda f, x, w, b, **k: f.rms_norm(x, x.shape[2:], w, **k),
}


def inputs_of(call, dtype=torch.float32, lay=FORMATS["contiguous"]):
    found = tensors(dtype, lay=lay, weights=(5, 8) if call in ("layer", "rms") else None)
    if call == "rms":
        found[2] = None
    return found


def leaves(found):
    return [None if t is None else t.detach().requires_grad_() for t in found]


def differences(ours, truth):
    """The largest difference relative to the largest value."""
    ours, truth = ours.detach().double(), truth.detach().double()
    return float((ours - truth).abs().max() / truth.abs().max().clamp(min=1))


# What is compiled takes the time here, so that the usual run has three of the kinds of what stands behind.
BEHIND = [
    pytest.param(activation, added, marks=[] if few else [pytest.mark.full], id=f"{activation}-{added}")
    for activation, added in itertools.product(ACTIVATIONS, (False, True))
    for few in [(activation, added) in ((None, False), ("relu", True), ("gelu", False))]
]


@pytest.mark.parametrize("lay", FORMATS)
@pytest.mark.parametrize(("activation", "added"), BEHIND)
@pytest.mark.parametrize("call", CALLS)
def test_result_gradients_and_strides_are_torchs(call, activation, lay, added):
    x, w, b, residual = leaves(inputs_of(call, lay=FORMATS[lay]))
    more = {"residual": residual} if added else {}
    y = CALLS[call](fbt, x, w, b, activation=activation, **more)
    same = leaves((x, w, b, residual))
    plain = CALLS[call](F, *same[:3])
    expected = ACTIVATIONS[activation](plain + same[3] if added else plain)
    assert y.stride() == plain.stride()
    assert differences(y, expected) < 1e-5

    wide = [None if t is None else t.detach().double().requires_grad_() for t in same]  # the truth in float64
    truth = CALLS[call](F, *wide[:3])
    truth = ACTIVATIONS[activation](truth + wide[3] if added else truth)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(dy)
    truth.backward(dy.double())
    for ours, theirs in zip((x, w, b, residual)[: 4 if added else 3], wide, strict=False):
        if ours is not None:
            assert differences(ours.grad, theirs.grad) < 1e-5
            assert ours.grad.shape == ours.shape


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_every_dtype(call, dtype):
    x, w, b, residual = leaves(inputs_of(call, dtype))
    y = CALLS[call](fbt, x, w, b, activation="relu", residual=residual)
    wide = [None if t is None else t.detach().double().requires_grad_() for t in (x, w, b, residual)]
    truth = F.relu(CALLS[call](F, *wide[:3]) + wide[3])
    y.sum().backward()
    truth.sum().backward()
    assert y.dtype == dtype
    assert differences(y, truth) < TOLERANCE[dtype]
    for ours, theirs in zip((x, w, b, residual), wide, strict=True):
        if ours is not None:
            assert ours.grad.dtype == dtype
            assert differences(ours.grad, theirs.grad) < 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["batch_norm", "instance_norm"])
def test_running_statistics_move_as_torchs_and_in_place(name, dtype):
    x, w, b, _ = tensors(dtype)
    ours, theirs = running(dtype), running(dtype)
    places = [t.data_ptr() for t in ours]
    versions = [t._version for t in ours]
    getattr(fbt, name)(x, *ours, w, b, True, 0.3)
    getattr(F, name)(x.double(), *(wide := [t.double() for t in theirs]), w.double(), b.double(), True, 0.3)
    for got, truth in zip(ours, wide, strict=True):
        assert differences(got, truth) < TOLERANCE[dtype]
    assert [t.data_ptr() for t in ours] == places
    assert [t._version for t in ours] == versions  # torch's own do not move it either


def test_a_large_mean_costs_no_digits():
    x = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0)) + 1e4
    truth = F.group_norm(x.double(), 4)
    y = fbt.group_norm(x.contiguous(memory_format=torch.channels_last), 4)
    assert differences(y, truth) < 1e-3 * differences(
        F.group_norm(x.contiguous(memory_format=torch.channels_last), 4), truth
    )
    assert differences(y, truth) < 1e-6


@pytest.mark.parametrize("activation", [None, pytest.param("gelu", marks=pytest.mark.full)], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_gradcheck_and_gradgradcheck(call, activation):
    x, w, b, residual = leaves(inputs_of(call, torch.float64))
    x, residual = (t.detach()[:2, :, :2, :3].requires_grad_() for t in (x, residual))
    if call in ("layer", "rms"):
        w, b = (None if t is None else t.detach()[:2, :3].requires_grad_() for t in (w, b))
    given = [t for t in (x, w, b, residual) if t is not None]

    def function(*tensors):
        x, w, *rest = tensors
        b = None if call == "rms" else rest[0]
        return CALLS[call](fbt, x, w, b, activation=activation, residual=rest[-1])

    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


def test_a_gradient_penalty_of_float32_is_torchs():
    for call in CALLS:
        penalties = []
        for functions in (fbt, F):
            x, w, b, _ = leaves(inputs_of(call))
            y = torch.relu(CALLS[call](functions, x, w, b)) if functions is F else CALLS[call](
                functions, x, w, b, activation="relu"
            )  # fmt: skip
            (dx,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
            dx.pow(2).sum().backward()
            penalties.append(x.grad)
        assert differences(*penalties) < 1e-3  # torch computes it in float32


@pytest.mark.parametrize("call", CALLS)
def test_gradients_of_any_subset(call):
    names = [k for k, t in enumerate(inputs_of(call)) if t is not None]
    everything = leaves(inputs_of(call))
    CALLS[call](fbt, *everything[:3], activation="relu", residual=everything[3]).sum().backward()
    for size in range(1, len(names)):
        for chosen in itertools.combinations(names, size):
            some = [
                None if t is None else t.detach().requires_grad_(k in chosen) for k, t in enumerate(inputs_of(call))
            ]
            CALLS[call](fbt, *some[:3], activation="relu", residual=some[3]).sum().backward()
            for k in names:
                assert (some[k].grad is not None) == (k in chosen)
                if k in chosen:
                    assert torch.equal(some[k].grad, everything[k].grad)


@pytest.mark.parametrize("changed", range(4), ids=["x", "weight", "bias", "residual"])
def test_what_is_changed_in_place_before_backward_is_found(changed):
    given = leaves(tensors())
    y = fbt.batch_norm(given[0] * 1, None, None, *given[1:3], True, activation="relu", residual=given[3] * 1)
    kept = [t for t in y.grad_fn.saved_tensors if t is not None]
    kept[changed].data_ptr()
    with torch.no_grad():
        kept[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_running_statistics_changed_before_backward_of_evaluation_are_found():
    mean, var = running()
    x, w, b, _ = leaves(tensors())
    y = fbt.batch_norm(x, mean, var, w, b)
    mean.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_expanded_and_strided_gradients():
    for call in CALLS:
        results = []
        for dy in (
            torch.ones(()).expand(4, 6, 5, 8),
            torch.ones(8, 5, 6, 4).permute(3, 2, 1, 0),
            torch.ones(4, 6, 5, 8),
        ):
            x, w, b, _ = leaves(inputs_of(call))
            CALLS[call](fbt, x, w, b).backward(dy)
            results.append(x.grad)
        assert torch.equal(results[0], results[2])
        assert torch.equal(results[1], results[2])


@pytest.mark.parametrize("samples", [1, 2])
def test_instance_norms_gradient_where_dy_alone_is_channels_last(samples):
    """Of one sample, torch 2.13's is wrong: compared with torch in contiguous memory."""
    x, dy = (torch.randn(samples, 8, 4, 4) for _ in range(2))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    F.instance_norm(a).backward(dy)
    fbt.instance_norm(b).backward(dy.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(a.grad, b.grad, atol=1e-5)


def test_forward_mode_is_refused_in_words():
    x = torch.randn(3, 4)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        fbt.layer_norm(forward_ad.make_dual(x, torch.ones_like(x)), (4,))


def test_function_transforms_use_torchs_operations():
    x, w = torch.randn(5, 3, 4), torch.ones(4)
    batched = torch.func.vmap(lambda v: fbt.layer_norm(v, (4,), w, activation="relu"))(x)
    assert differences(batched, F.relu(F.layer_norm(x, (4,), w))) < 1e-5
    gradient = torch.func.grad(lambda v: fbt.layer_norm(v, (4,), w).pow(3).sum())(x)
    assert differences(gradient, torch.func.grad(lambda v: F.layer_norm(v, (4,), w).pow(3).sum())(x)) < 1e-4
    tangent = torch.func.jvp(lambda v: fbt.layer_norm(v, (4,), w), (x,), (torch.ones_like(x),))[1]
    assert tangent.abs().max() < 1e-4  # a shift changes nothing


@pytest.mark.parametrize("call", CALLS)
def test_empty_batches(call):
    x, w, b, residual = inputs_of(call)
    x = x[:0].requires_grad_()
    y = CALLS[call](fbt, x, w, b, activation="relu", residual=residual[:0])
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape


def test_an_empty_batch_leaves_running_statistics():
    mean, var = running()
    fbt.batch_norm(torch.empty(0, 6, 5, 8), mean, var, training=True)
    assert torch.equal(mean, running()[0])
    assert torch.equal(var, running()[1])


def test_checkpoint_no_grad_and_inference_mode():
    x, w, b, _ = leaves(tensors())

    def block(x):
        return fbt.batch_norm(x, None, None, w, b, True, activation="relu")

    block(x).sum().backward()
    direct, x.grad = x.grad, None
    torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False).sum().backward()
    assert torch.equal(direct, x.grad)
    with torch.no_grad():
        assert not block(x).requires_grad
    with torch.inference_mode():
        y = block(x)
        assert y.is_inference()
        block(y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("call", CALLS)
def test_autocast_is_torchs(call, dtype):
    x, *_ = inputs_of(call, dtype)
    _, w, b, _ = inputs_of(call)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = CALLS[call](fbt, x, w, b), CALLS[call](F, x, w, b)
    assert ours.dtype == theirs.dtype
    assert differences(ours, theirs) < TOLERANCE[theirs.dtype]


def test_bits_do_not_depend_on_threads_and_torchs_setting_is_honoured(monkeypatch):
    from fastbn.torch import _plans

    x = torch.randn(8, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    found = {}
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            assert _plans.thread_limit()[0] == min(n, fastbn.get_num_threads())
            found[n] = fbt.batch_norm(x, None, None, training=True, activation="relu")
        with fastbn.num_threads(1):
            assert _plans.thread_limit()[0] == 1
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[1], found[2])


def test_other_devices_go_to_torch():
    x = torch.empty(4, 6, 5, 8, device="meta")
    y = fbt.batch_norm(x, None, None, training=True, activation="relu", residual=x)
    assert y.device.type == "meta"


def test_errors_are_torchs_own_or_say_what_was_expected():
    x = torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match=r"residual has shape \(2, 3\); expected \(2, 3, 4\)"):
        fbt.layer_norm(x, (4,), residual=x[..., 0])
    with pytest.raises(TypeError, match=r"residual has dtype torch.float64; expected torch.float32"):
        fbt.layer_norm(x, (4,), residual=x.double())
    with pytest.raises(ValueError, match="expected one of 'relu'"):
        fbt.layer_norm(x, (4,), activation="relu6")
    for refused in (
        lambda f: f.layer_norm(x, (5,)),
        lambda f: f.batch_norm(x, None, None, torch.ones(4), training=True),
        lambda f: f.group_norm(x, 2),
        lambda f: f.batch_norm(x, None, None),
        lambda f: f.batch_norm(x[:1, :, :1], None, None, training=True),
        lambda f: f.layer_norm(x.long(), (4,)),
    ):
        messages = []
        for functions in (fbt, F):
            with pytest.raises((RuntimeError, ValueError, NotImplementedError)) as info:
                refused(functions)
            messages.append(str(info.value))
        assert messages[0] == messages[1]
