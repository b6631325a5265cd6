"""Batch norms that are folded into the convolution before them, in evaluation."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastbn.torch as fbt
from fastbn.cli.bench import _torch_networks as networks
from fastbn.torch import _folded, _folding

PAIRS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
ACTIVATIONS = [None, nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Sigmoid()]


@pytest.fixture(autouse=True, params=["as chosen", "oneDNN"])
def _way(request, monkeypatch):
    """Small convolutions are torch's as they are; they are tried by oneDNN with what stands behind it, too."""
    before = torch.get_num_threads()
    if request.param == "oneDNN":
        monkeypatch.setattr(_folding, "_LEAST", 0)
        monkeypatch.setattr(_folding, "_LEAST_ORDERED", 0)
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(model):
    """The model in evaluation, with norms that are not what they begin as."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.weight, module.bias):
                nn.init.normal_(tensor, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def pair(*behind, bias=False):
    """Convolution, norm, and what else there is, in evaluation."""
    return drawn(nn.Sequential(nn.Conv2d(3, 5, 3, bias=bias), nn.BatchNorm2d(5), *behind))


X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def folded_calls(monkeypatch):
    """A list that grows with every convolution that computes a norm, too."""
    seen, computed = [], _folded.Joined.computed

    def counting(self, x, activation=None, residual=None):
        seen.append((activation, residual is not None))
        return computed(self, x, activation, residual)

    monkeypatch.setattr(_folded.Joined, "computed", counting)
    return seen


def close(got, truth):
    return float((got - truth).abs().max() / truth.abs().max().clamp(min=1)) < 1e-5


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("axes", PAIRS)
def test_the_result_and_its_strides_are_torchs(axes, last, activation, monkeypatch):
    if last and axes == 1:
        return
    seen = folded_calls(monkeypatch)
    conv, norm = PAIRS[axes]
    for kernel, groups, stride in ((3, 1, 1), (3, 8, 2), (1, 1, 1)):
        layers = [conv(8, 16, kernel, stride, kernel // 2, groups=groups), norm(16), activation]
        model = drawn(nn.Sequential(*(layer for layer in layers if layer is not None)))
        x = torch.randn(2, 8, *([9] * axes), generator=torch.Generator().manual_seed(0))
        x = x.contiguous(memory_format=LAST[axes]) if last else x
        converted = fbt.convert(model)
        seen.clear()
        with torch.no_grad():
            y, truth = converted(x), model(x)
            assert torch.equal(converted(x), y)
        assert len(seen) == (0 if axes == 3 and kernel == 1 and last else 2)
        assert type(y) is torch.Tensor
        assert y.stride() == truth.stride()
        assert close(y, truth)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize(("kernel", "plane"), [(3, 4), (1, 4), (3, 3), (1, 1)])
def test_a_weight_that_is_larger_than_its_input(kernel, plane, last):
    torch.manual_seed(0)
    model = drawn(nn.Sequential(nn.Conv2d(64, 128, kernel, 1, kernel // 2), nn.BatchNorm2d(128), nn.ReLU()))
    model = model.to(memory_format=torch.channels_last) if last else model
    converted = fbt.convert(model)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(1, 64, plane, plane).contiguous(memory_format=layout)
        with torch.no_grad():
            y, truth = converted(x), model(x)
        assert close(y, truth)
        assert y.stride() == truth.stride() or plane == 1  # whose strides mean nothing


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("name", ["resnet", "unet"])
def test_networks_are_folded_throughout(name, last, monkeypatch):
    seen = folded_calls(monkeypatch)
    model, x = networks.SMALL[name]()
    model = drawn(model)
    if last:
        model, x = model.to(memory_format=LAST[x.ndim - 2]), x.contiguous(memory_format=LAST[x.ndim - 2])
    converted = fbt.convert(model)
    with torch.inference_mode():
        assert close(converted(x), model(x))
    assert len(seen) == sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if name == "resnet":
        assert ("relu", True) in seen
    assert "in evaluation folded into" in fbt.report(converted)


def test_what_was_folded_is_dropped_when_a_source_changes():
    model = pair(nn.ReLU(), bias=True)
    converted = fbt.convert(model)
    conv, norm = converted[0], converted[1]

    def assign(tensor):
        tensor.data = tensor.data * 3

    changes = [
        *((t, lambda t: t.mul_(2)) for t in (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_var)),
        *((t, lambda t: t.data.mul_(0.5)) for t in (conv.weight, norm.bias, norm.running_mean)),  # no version counts it
        *((t, assign) for t in (conv.weight, norm.weight)),
    ]
    with torch.no_grad():
        before = converted(X)
        for tensor, change in changes:
            change(tensor)
            y = converted(X)
            assert not close(y, before)
            model.load_state_dict(converted.state_dict())
            assert close(y, model(X))
            before = y
        converted[0].weight = nn.Parameter(torch.ones_like(conv.weight))
        model.load_state_dict(converted.state_dict())
        assert close(converted(X), model(X))
        converted.load_state_dict(pair(bias=True).state_dict())
        model.load_state_dict(converted.state_dict())
        assert close(converted(X), model(X))
        assert norm in _folded._kept
        converted.train()
        assert norm not in _folded._kept
        assert close(converted(X), model.train()(X))
        assert close(converted.eval()(X), model.eval()(X))


def test_what_a_weight_is_taken_for_may_change():
    model = pair(bias=True)
    converted = fbt.convert(model)
    conv, norm = converted[0], converted[1]
    with torch.no_grad():
        converted(X)
        norm.bias.data = norm.bias.data[:4]  # the same address and version
        with pytest.raises(RuntimeError, match="4"):
            converted(X)
        norm.bias.data = torch.zeros(5)
        norm.eps = 0.5
        model.load_state_dict(converted.state_dict())
        model[1].eps = 0.5
        assert close(converted(X), model(X))
        for settings in ({"stride": (2, 2)}, {"padding": (1, 1)}, {"padding_mode": "circular"}):
            for module in (conv, model[0]):
                vars(module).update(settings, _reversed_padding_repeated_twice=[1, 1, 1, 1])
            assert close(converted(X), model(X))


def test_an_input_of_another_shape_or_order_each_time():
    model = drawn(nn.Sequential(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU()))
    converted = fbt.convert(model)
    with torch.no_grad():
        for n, height, width in ((1, 3, 3), (2, 9, 5), (1, 40, 40), (8, 4, 4), (1, 3, 3)):
            x = torch.randn(n, 16, height, width)
            for given in (x, x.contiguous(memory_format=torch.channels_last), x.mT, x.expand(3, *x.shape)[0]):
                y, truth = converted(given), model(given)
                assert close(y, truth)
                assert y.stride() == truth.stride() or 1 in truth.shape[2:]


def test_nobody_sees_what_lies_between(monkeypatch):
    seen = folded_calls(monkeypatch)
    model = pair(nn.ReLU())
    converted = fbt.convert(model)
    with torch.no_grad():
        between, expected = model[0](X), model(X)
        assert type(converted[0](X)) is torch.Tensor
        assert torch.equal(converted[0](X), between)
        assert torch.equal(converted[:1](X), between)
        got = []
        for module, register in (
            (converted[0], "register_forward_hook"),
            (converted[1], "register_forward_pre_hook"),
        ):
            handle = getattr(module, register)(lambda m, *values: got.append(values[-1]))
            assert close(converted(X), expected)
            handle.remove()
            value = got.pop()
            value = value[0] if isinstance(value, tuple) else value
            assert type(value) is torch.Tensor
            assert torch.equal(value, between)
        assert not seen
        assert close(converted(X), expected)
        assert seen == [("relu", False)]


@pytest.mark.parametrize(
    "case", ["gradients", "training", "conv in training", "float64", "autocast", "circular", "text", "no statistics"]
)
def test_where_nothing_is_folded(case, monkeypatch):
    seen = folded_calls(monkeypatch)
    options = {"circular": {"padding": 1, "padding_mode": "circular"}, "text": {"padding": "same"}}.get(case, {})
    norm = nn.BatchNorm2d(5, track_running_stats=case != "no statistics")
    model = nn.Sequential(nn.Conv2d(3, 5, 3, **options), norm, nn.ReLU()).eval()
    x = X
    if case == "training":
        model.train()
    if case == "conv in training":
        model[0].train()
    if case == "float64":
        model, x = model.double(), x.double()
    converted = fbt.convert(model)
    with torch.set_grad_enabled(case == "gradients"), torch.autocast("cpu", torch.bfloat16, case == "autocast"):
        y, truth = converted(x).detach(), model(x).detach()
    assert not seen
    assert y.dtype == truth.dtype
    assert float((y.double() - truth.double()).abs().max()) < (0.05 if case == "autocast" else 1e-5)


class Between(nn.Module):
    """Convolution and norm, with something between or beside them."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), how
        self.other = False

    def forward(self, x):
        y = self.conv(x)
        return self.how(self.norm, y, x) if not self.other else y * 2


CASES = {
    "norm alone": (lambda norm, y, x: norm(y), 1),
    "sum of the input": (lambda norm, y, x: F.relu(norm(y) + x), 1),
    "result used twice": (lambda norm, y, x: norm(y) + y, 0),
    "norm called twice": (lambda norm, y, x: norm(norm(y)), 0),
    "input used between": (lambda norm, y, x: F.relu(norm(y) + x.tanh()), 0),
    "input changed between": (lambda norm, y, x: (x.relu_(), norm(y))[1], 0),
}


@pytest.mark.parametrize("name", CASES)
def test_what_else_takes_the_result_or_the_input(name, monkeypatch):
    seen = folded_calls(monkeypatch)
    how, count = CASES[name]
    model = drawn(Between(how))
    converted = fbt.convert(model)
    with torch.no_grad():
        assert close(converted(X.clone()), model(X.clone()))
        assert len(seen) == count
        converted.other = True  # a branch that was not traced
        y = converted(X)
        assert type(y) is torch.Tensor
        assert torch.equal(y, 2 * model.conv(X))


def test_without_onednn(monkeypatch):
    seen = folded_calls(monkeypatch)
    model = pair(nn.ReLU())
    converted = fbt.convert(model)
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        assert close(converted(X), model(X))
    assert len(seen) == 1


def test_what_torch_refuses_is_refused_in_its_words():
    model = pair(nn.ReLU())
    converted = fbt.convert(model)
    wide = pair(nn.ReLU())
    wide[1] = nn.BatchNorm2d(7).eval()
    wrong = [(model, X[:, :2]), (model, X[..., :2]), (wide, X)]
    for net, x in wrong:
        with torch.no_grad():
            with pytest.raises(RuntimeError) as theirs:
                net(x)
            with pytest.raises(RuntimeError) as ours:
                (converted if net is model else fbt.convert(net))(x)
        assert str(ours.value) == str(theirs.value)
    with torch.no_grad():
        assert converted(X[:0]).shape == model(X[:0]).shape


def test_a_weight_with_holes_is_not_folded(monkeypatch):
    seen = folded_calls(monkeypatch)
    model = pair()
    converted = fbt.convert(model)
    converted[0].weight = nn.Parameter(torch.randn(5, 6, 3, 3)[:, ::2])
    model.load_state_dict(converted.state_dict())
    with torch.no_grad():
        assert close(converted(X), model(X))
    assert not seen


def test_copies_files_and_the_way_back():
    model = pair(nn.ReLU())
    converted = fbt.convert(model)
    with torch.no_grad():
        y = converted(X)
        for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted)), fbt.convert(converted)):
            assert torch.equal(twin(X), y)
            assert list(twin.state_dict()) == list(model.state_dict())
            twin[0].weight.mul_(2)  # its own
            assert not close(twin(X), y)
            assert torch.equal(converted(X), y)
        assert type(converted[0]) is nn.Conv2d
        assert str(converted) == str(model)
        reverted = fbt.revert(converted)
        assert "_conv_forward" not in reverted[0].__dict__
        assert torch.equal(reverted(X), model(X))
        alone = fbt.convert(model, fuse=False)
        assert "_conv_forward" not in alone[0].__dict__
        assert "folded" not in fbt.report(alone)


def test_graphs_are_captured_without_it():
    model = pair(nn.ReLU())
    converted = fbt.convert(model)
    with torch.no_grad():
        assert close(torch.compile(converted, fullgraph=True, backend="eager")(X), model(X))
        assert close(torch.export.export(converted, (X,)).module()(X), model(X))
        assert close(torch.jit.trace(converted, X)(X), model(X))
        assert close(torch.fx.symbolic_trace(converted)(X), model(X))
        assert close(torch.func.vmap(converted)(X[None])[0], model(X))
