"""Norms that wait for what stands behind them: whatever the code does with them, it computes what torch's would."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastbn.torch as fbt

SHAPE = (4, 6, 5, 5)


def drawn(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """What all of these have."""

    def __init__(self):
        super().__init__()
        self.norm, self.relu, self.conv = nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 1)
        self.debug, self.seen = False, []


class SeenAfterwards(Block):
    def forward(self, x):
        y = self.norm(x)
        z = self.relu(y)
        if self.debug:
            z = z + y.mean() * y
        return z


class SeenBefore(Block):
    def forward(self, x):
        y = self.norm(x)
        if self.debug:
            self.seen.append(y * 2)
        return self.relu(y)


class NormSeenAfterTheSum(Block):
    def forward(self, x):
        y = self.norm(x)
        z = y + x
        if self.debug:
            z = z * y
        return F.relu(z)


class InputChangedBeforeTheActivation(Block):
    def forward(self, x):
        x = x * 1
        y = self.norm(x)
        x.mul_(3)
        return self.relu(y) * x


class ResidualChangedBeforeTheActivation(Block):
    def forward(self, x):
        residual = x * 2
        z = self.norm(x) + residual
        residual.zero_()
        return self.relu(z)


class InputChangedBehindTheSum(Block):
    def forward(self, x):
        x = x * 1
        z = self.norm(x) + 2 * x
        x.zero_()
        return F.gelu(z)


class InputReadBeforeTheActivation(Block):
    def forward(self, x):
        y = self.norm(x)
        other = self.conv(x)
        return self.relu(y) + other


class StatisticsReadBeforeTheActivation(Block):
    def forward(self, x):
        mean = self.norm.running_mean.view(1, -1, 1, 1)
        y = self.norm(self.conv(x))
        return self.relu(y) - mean * 1 if self.debug else self.relu(y + 2 * mean)


class StatisticsChangedBeforeTheActivation(Block):
    def forward(self, x):
        with torch.no_grad():
            y = self.norm(self.conv(x))
            self.norm.running_mean.add_(1)
            self.norm.bias.mul_(2)
            y = self.relu(y)
        return x + y


class CalledAgainBeforeTheActivation(Block):
    def forward(self, x):
        twice = x * 2
        first, second = self.norm(x), self.norm(twice)
        return self.relu(second) + self.relu(first)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.sigmoid(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        return 2 * dy * y * (1 - y)


class OwnFunction(Block):
    def forward(self, x):
        return _Doubled.apply(self.norm(x))


class SumAlone(Block):
    def forward(self, x):
        return self.norm(self.conv(x)) + x


class InAHelper(Block):
    def forward(self, x):
        return self.helper(x)

    def helper(self, x):
        return self.relu(self.norm(x))


class InAClosure(Block):
    def forward(self, x):
        def closure(x):
            return self.relu(self.norm(x))

        return closure(x)


BLOCKS = Block.__subclasses__()


def results(model, x, training=True):
    """y, gradients, and buffers of two steps."""
    model.train(training)
    found = []
    differentiable = not isinstance(model, (InputChangedBeforeTheActivation, InputChangedBehindTheSum))  # in torch
    for given in (x, x * 2):
        x = given.clone().requires_grad_()
        y = model(x)
        found.append(y.detach())
        if differentiable:
            y.mul(drawn(7)).sum().backward()
            found += [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]
    return found + [b.double() for b in model.buffers()]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("debug", [False, True], ids=["as traced", "on another way"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_what_is_computed_is_what_the_code_says(kind, debug, training):
    torch.manual_seed(0)
    model = kind()
    own = fbt.convert(model)
    model.debug = own.debug = debug
    for got, truth in zip(results(own, drawn(), training), results(model, drawn(), training), strict=True):
        assert torch.allclose(got, truth, rtol=1e-4, atol=1e-5)
    for got, truth in zip(own.seen, model.seen, strict=True):
        assert torch.allclose(got, truth, rtol=1e-4, atol=1e-5)
    model.eval(), own.eval()
    with torch.no_grad():
        assert torch.allclose(own(drawn()), model(drawn()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keep", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=str)
@pytest.mark.parametrize(
    ("kind", "fused"),
    [(SeenBefore, "relu"), (NormSeenAfterTheSum, "residual sum + relu"), (InputReadBeforeTheActivation, "relu"),
     (StatisticsReadBeforeTheActivation, None), (StatisticsChangedBeforeTheActivation, None),
     (SumAlone, "residual sum"), (InAHelper, "relu"), (InAClosure, None), (OwnFunction, None),
     (InputChangedBeforeTheActivation, None), (ResidualChangedBeforeTheActivation, "residual sum")],
)  # fmt: skip
def test_what_is_fused_is_reported(kind, fused, keep, monkeypatch):
    calls = []
    monkeypatch.setattr(fbt.functional, "batch_norm", spying(fbt.functional.batch_norm, calls))
    model = keep(fbt.convert(kind()))
    assert (f"fused with {fused}" if fused else "on fastbn; ") in fbt.report(model)
    model(drawn())
    assert [" + ".join(call) or None for call in calls] == [fused]


def spying(function, calls):
    def spy(*args, activation=None, residual=None):
        calls.append([*(["residual sum"] if residual is not None else []), *([activation] if activation else [])])
        return function(*args, activation=activation, residual=residual)

    return spy


def test_nothing_that_waits_leaves_the_forward():
    """A hook, or an autograd function, in which torch would not notice it, gets a tensor like any other."""
    model = fbt.convert(nn.Sequential(SumAlone(), SumAlone()))
    seen = []
    model[0].register_forward_hook(lambda module, args, y: seen.append(type(y)))
    x = drawn().requires_grad_()
    _Doubled.apply(model(x)).sum().backward()
    assert seen == [torch.Tensor]
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("changed", ["input", "residual"])
def test_what_was_changed_unseen_is_told(changed):
    class Hidden(Block):
        def forward(self, x):
            residual = x * 2
            z = self.norm(x) + residual
            if self.debug:
                (x if changed == "input" else residual).zero_()
            return self.relu(z)

    model = fbt.convert(Hidden())
    model(drawn())
    model.debug = True
    with pytest.raises(RuntimeError, match=f"the {changed} of a norm was changed in place before"):
        model(drawn())


class OnAnotherWay(nn.Module):
    """With a way that takes the norm's, or the convolution's, result to what does not ask tensors how they compute."""

    def __init__(self, folded):
        super().__init__()
        self.conv, self.norm, self.folded, self.other = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), folded, None

    def forward(self, x):
        y = self.conv(x)
        if self.other and self.folded:
            return self.other(y)
        y = self.norm(y)
        return self.other(y) if self.other else torch.relu(y)


@torch.jit.script
def scripted(x):
    return x * 2.0


OTHERS = {"jit": scripted, "vmap": lambda y: torch.vmap(lambda row: row * 2)(y)}


@pytest.mark.parametrize("folded", [False, True], ids=["norm", "convolution"])
@pytest.mark.parametrize("other", OTHERS)
def test_what_does_not_ask_gets_what_was_computed(other, folded):
    """A function of torch.jit took a tensor without elements for the result."""
    model = OnAnotherWay(folded).eval()
    converted = fbt.convert(model)
    with torch.no_grad():
        converted(drawn())
        converted.other = model.other = OTHERS[other]
        torch.testing.assert_close(converted(drawn()), model(drawn()))


@pytest.mark.parametrize("other", ["jit", "vmap"])
def test_where_it_would_lose_a_gradient_it_is_told(other):
    model = fbt.convert(OnAnotherWay(False))
    model(drawn())
    model.other = OTHERS[other]
    with pytest.warns(match="fuse=False"), pytest.raises(RuntimeError):
        model(drawn())
    model.other = None  # a function of torch.jit cannot be copied
    plain = fbt.convert(model, fuse=False)
    plain.other = OTHERS[other]
    plain(drawn()).sum().backward()
    assert plain.conv.weight.grad is not None


def test_an_eps_that_was_set_later_holds_where_a_norm_is_folded():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU()).eval()
    own = fbt.convert(model)
    with torch.no_grad():
        own(drawn())
        model[1].eps = own[1].eps = 0.5
        assert torch.allclose(own(drawn()), model(drawn()), atol=1e-5)
