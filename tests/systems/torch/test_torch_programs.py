"""What programs do with converted models: other parameters for a call, graphs used twice, memory formats mixed."""

import pytest
import torch
from torch import nn

import fastbn.torch as fbt

SHAPES = {"small": (4, 6, 5, 5), "large": (4, 6, 64, 64)}  # by addresses, and as arrays


def drawn(shape, seed=0):
    """In float64: sums of many float32 that cancel would differ by more than what is looked for here."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.GroupNorm(2, 6), nn.BatchNorm2d(6)
    ).double()


def close(got, truth):
    return torch.allclose(got, truth, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parameters_that_are_given_for_one_call(shape):
    model = network()
    own = fbt.convert(model)
    given = {name: drawn(p.shape, 3).requires_grad_() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    found = []
    for net in (own, model):
        state = {**given, **{name: b.clone() for name, b in buffers.items()}}
        y = torch.func.functional_call(net, state, (drawn(shape),))
        found.append([y, *torch.autograd.grad(y.mul(drawn(y.shape, 2)).sum(), list(given.values())), *state.values()])
    for got, truth in zip(*found, strict=True):
        assert close(got.double(), truth.double())
    for (name, buffer), truth in zip(own.named_buffers(), buffers.values(), strict=True):
        assert torch.equal(buffer, truth), name


class Doubled(nn.Module):
    def forward(self, w):
        return 2 * w


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_parametrized_weight(when, shape):
    model = network()
    own = fbt.convert(model) if when == "after" else model
    for net in {model, own}:
        nn.utils.parametrize.register_parametrization(net[3], "weight", Doubled())
        nn.utils.parametrize.register_parametrization(net[4], "weight", Doubled())
    if when == "before":
        own = fbt.convert(model)
    for net in (own, model):
        net(drawn(shape)).mul(drawn(shape, 2)).sum().backward()
    for got, truth in zip(own.parameters(), model.parameters(), strict=True):
        assert close(got.grad, truth.grad)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_graph_that_is_used_twice_gives_the_same_bits(shape, training):
    own = fbt.convert(network()).train(training)
    x = drawn(shape).requires_grad_()
    y = own(x)
    leaves = [x, *own.parameters()]
    first, second = (torch.autograd.grad(y.square().sum(), leaves, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("last", [(False, True), (True, False), (True, True)], ids=str)
def test_residuals_of_any_memory_format(last, shape):
    x, residual, dy = (drawn(shape, seed) for seed in range(3))
    for k, is_last in enumerate(last):
        if is_last:
            x, residual = (t.contiguous(memory_format=torch.channels_last) if k == n else t
                           for n, t in enumerate((x, residual)))  # fmt: skip
    found = []
    for functions in (fbt, nn.functional):
        inputs = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, residual)]
        for _ in range(2):  # the second is a known one
            if functions is fbt:
                y = fbt.batch_norm(inputs[0], None, None, training=True, activation="silu", residual=inputs[1])
            else:
                y = nn.functional.silu(functions.batch_norm(inputs[0], None, None, training=True) + inputs[1])
        found.append([y, *torch.autograd.grad(y, inputs, dy)])
    assert found[0][0].stride() == x.stride()
    for got, truth in zip(*found, strict=True):
        assert close(got, truth)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_saved_tensors_that_are_kept_elsewhere(shape):
    model = network()
    own = fbt.convert(model)
    for net in (own, model):
        with torch.autograd.graph.save_on_cpu():
            y = net(drawn(shape))
        y.square().sum().backward()
    for got, truth in zip(own.parameters(), model.parameters(), strict=True):
        assert close(got.grad, truth.grad)


def test_what_follows_other_calls_of_the_same_form_is_refused_as_ever():
    x, residual = drawn((4, 6, 64, 64)), drawn((4, 6, 64, 64), 1)
    for _ in range(2):
        fbt.batch_norm(x, None, None, training=True, residual=residual)
        with pytest.raises(ValueError, match="residual has shape"):
            fbt.batch_norm(x, None, None, training=True, residual=residual[:1])
        with pytest.raises(TypeError, match="residual has dtype"):
            fbt.batch_norm(x, None, None, training=True, residual=residual.float())
