"""fastbn.torch's classes, and models that are converted, reverted and reported."""

import copy
import pickle
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing._internal.common_modules import module_db

import fastbn.torch as fbt
from fastbn.cli.bench import _torch_networks as networks
from fastbn.torch._pending import Call, Pending

NAMES = [
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm", "GroupNorm",
    "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d", "RMSNorm",
]  # fmt: skip
INFOS = [info for info in module_db if info.name.removeprefix("nn.") in NAMES]


def close(ours, truth, tolerance=1e-5):
    ours, truth = ours.detach().double(), truth.detach().double()
    scale = truth.abs().max().clamp(min=1) if truth.numel() else 1
    return not truth.numel() or float((ours - truth).abs().max() / scale) < tolerance


def test_every_class_has_samples():
    assert {info.name.removeprefix("nn.") for info in INFOS} == set(NAMES)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_samples_of_torchs_module_tests(info, dtype, training):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
    assert len(samples) >= 2
    own = getattr(fbt, info.name.removeprefix("nn."))
    for sample in samples:
        arguments = sample.constructor_input
        theirs = info.module_cls(*arguments.args, **arguments.kwargs).to(dtype).train(training)
        ours = own(*arguments.args, **arguments.kwargs).to(dtype).train(training)
        ours.load_state_dict(theirs.state_dict())
        (x,), kwargs = sample.forward_input.args, sample.forward_input.kwargs
        results = []
        for module in (ours, theirs):
            given = x.detach().clone().requires_grad_()
            y = module(given, **kwargs)
            y.backward(torch.linspace(-1, 1, y.numel(), dtype=dtype).reshape(y.shape))
            results.append([y, given.grad, *module.buffers(), *(p.grad for p in module.parameters())])
        for got, truth in zip(*results, strict=True):
            assert close(got, truth, 1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_torchs(name):
    theirs, own = getattr(nn, name), getattr(fbt, name)
    arguments = (3, 6) if name == "GroupNorm" else (6,)
    ours, truth = own(*arguments), theirs(*arguments)
    assert isinstance(ours, theirs)
    assert repr(ours) == repr(truth)
    assert list(ours.state_dict()) == list(truth.state_dict())
    truth.load_state_dict(ours.state_dict())
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), ours.to(torch.bfloat16), ours.double()):
        assert type(twin) is own
        assert repr(twin) == repr(truth)


def test_a_module_that_has_no_running_statistics_and_one_that_averages_all_batches():
    x = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    for arguments in ({"track_running_stats": False}, {"momentum": None}, {"affine": False}):
        ours, theirs = fbt.BatchNorm2d(4, **arguments), nn.BatchNorm2d(4, **arguments)
        for scale in (1, 3):
            assert close(ours(scale * x), theirs(scale * x))
        for got, truth in zip(ours.buffers(), theirs.buffers(), strict=True):
            assert close(got, truth)
        assert close(ours.eval()(x), theirs.eval()(x))


# Models ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("name", networks.SMALL)
def test_a_converted_model_computes_the_same(name, last):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = networks.SMALL[name]()
    if last:
        layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        model, x = model.to(memory_format=layout), x.contiguous(memory_format=layout)
    converted = fbt.convert(model)
    assert type(converted) is type(model)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert [n for n, _ in converted.named_modules()] == [n for n, _ in model.named_modules()]
    assert str(converted) == str(model)
    truth = copy.deepcopy(model).double()
    for _ in range(2):
        results = []
        for net in (converted, model, truth):
            net.zero_grad()
            y = net(x.to(next(net.parameters()).dtype))
            y.square().mean().backward()
            results.append([y, *(p.grad for p in net.parameters()), *net.buffers()])
        for got, theirs, exact in zip(*results, strict=True):
            error, torchs = ((v.detach().double() - exact.detach()).norm() for v in (got, theirs))
            assert error <= 3 * torchs + 1e-6 * exact.double().norm() + 1e-9  # of one size with torch's own roundings
    for net in (converted, model):
        net.eval()
    with torch.no_grad():
        assert close(converted(x), model(x), 1e-4)
    reverted = fbt.revert(converted)
    assert not any(type(m).__module__.startswith("fastbn.torch") for m in reverted.modules())
    for got, truth in zip(reverted.state_dict().values(), converted.state_dict().values(), strict=True):
        assert torch.equal(got, truth)
    twin = pickle.loads(pickle.dumps(converted))
    assert fbt.report(twin) == fbt.report(converted)
    with torch.no_grad():
        assert torch.equal(twin(x), converted(x))


def test_report_says_what_became_of_every_norm():
    class Strange(nn.LayerNorm):
        def forward(self, x):
            return x - x.mean(-1, keepdim=True)

    model, _ = networks.SMALL["resnet"]()
    model.more = nn.ModuleList([Strange(4), nn.SyncBatchNorm(4), nn.BatchNorm2d(3)])
    text = fbt.report(fbt.convert(model, skip=["bn1"]))
    for line in (
        r"bn1 .*BatchNorm2d .*torch's own: not converted, or skipped",
        r"layers\.0\.bn1 .*on fastbn, fused with relu",
        r"layers\.0\.bn3 .*on fastbn, fused with residual sum \+ relu",
        r"layers\.0\.downsample\.1 .*on fastbn; no activation and no sum stands behind|nothing stands behind",
        r"more\.0 .*left as it is: Strange is a subclass of LayerNorm that computes by itself",
        r"more\.1 .*convert_sync_batchnorm",
        r"more\.2 .*no forward that was traced calls it",
        "gradients of gradients",
        "torch's own kernels",
    ):
        assert re.search(line, text), (line, text)
    assert fbt.report(nn.Linear(2, 2)) == "Linear has no norms"
    assert "fuse is False" in fbt.report(fbt.convert(model, fuse=False))


class LlamaRMSNorm(nn.Module):
    """As models have that were written before torch had a class for it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class PreNorm(nn.Module):
    """No norm: it holds one."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm


def test_report_names_norms_that_are_no_classes_of_torch():
    class FrozenBatchNorm2d(LlamaRMSNorm):
        pass

    model = nn.Sequential(PreNorm(LlamaRMSNorm()), FrozenBatchNorm2d(), nn.LocalResponseNorm(2), nn.Linear(4, 4))
    with pytest.warns(UserWarning, match=r"no norm that could be converted; .* fastbn.torch.report\(model\) says why"):
        text = fbt.report(fbt.convert(model))
    rows, foot = text.split("\n\n")
    assert [row.split(None, 2) for row in rows.splitlines()[1:]] == [
        ["0.norm", "LlamaRMSNorm", "left as it is: LlamaRMSNorm is no class of torch.nn"],
        ["1", "FrozenBatchNorm2d", "left as it is: FrozenBatchNorm2d is no class of torch.nn"],
    ]
    assert "put that class in its place" in foot
    namesake = type("RMSNorm", (LlamaRMSNorm,), {"__module__": "models.norms"})()
    with pytest.warns(UserWarning, match="no norm that could be converted"):
        text = fbt.report(fbt.convert(namesake))
    assert "left as it is: RMSNorm of models.norms is no class of torch.nn" in text
    assert "left as they are" not in fbt.report(fbt.convert(nn.Sequential(nn.LayerNorm(4))))


def test_arguments_of_convert():
    model, _ = networks.SMALL["resnet"]()
    assert fbt.convert(model) is not model
    assert type(model.bn1) is nn.BatchNorm2d
    assert fbt.convert(model, inplace=True, skip=lambda name, module: name == "bn1") is model
    assert type(model.bn1) is nn.BatchNorm2d
    assert type(model.layers[0].bn1) is fbt.BatchNorm2d
    assert fbt.revert(model, inplace=True) is model
    assert type(model.layers[0].bn1) is nn.BatchNorm2d
    with pytest.warns(UserWarning, match="Linear has no norm that could be converted"):
        fbt.convert(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="skip has 'nope'"):
        fbt.convert(model, skip=["nope"])
    for wrong in ("bn1", 3, [3]):
        with pytest.raises(TypeError, match="skip is"):
            fbt.convert(model, skip=wrong)
    with pytest.raises(TypeError, match="model is of type int"):
        fbt.convert(3)
    assert type(fbt.convert(nn.LayerNorm(3))) is fbt.LayerNorm


def count_fusions(monkeypatch):
    """A list that grows by the activation of every norm that is computed together with something."""
    from fastbn.torch import _pending

    seen, computed = [], _pending._computed

    def counting(pending, activation):
        if activation is not None or pending.__dict__["residual"] is not None:
            seen.append(activation)
        return computed(pending, activation)

    monkeypatch.setattr(_pending, "_computed", counting)
    return seen


def test_hooks_see_what_they_would_see(monkeypatch):
    seen = count_fusions(monkeypatch)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.LayerNorm(4), nn.GELU())
    x = torch.randn(8, 4)
    converted = fbt.convert(model)
    expected = converted(x)
    assert seen == ["relu", "gelu"]
    between = model[1](model[0](x))
    got = []

    def keep(module, *values):
        got.append(values[-1][0] if isinstance(values[-1], tuple) else values[-1])

    for module, register, count in (
        (converted[1], "register_forward_hook", 1),
        (converted[2], "register_forward_pre_hook", 1),
        (converted[1], "register_full_backward_hook", 1),
        (converted[2], "register_forward_hook", 1),
    ):
        seen.clear()
        got.clear()
        handle = getattr(module, register)(keep)
        assert close(converted(x), expected)
        assert len(seen) == count  # the other pair alone
        if register in ("register_forward_pre_hook",) or (module is converted[1] and "full" not in register):
            assert type(got[0]) is torch.Tensor
            assert close(got[0], between, 1e-4)
        handle.remove()
    seen.clear()
    with nn.modules.module.register_module_forward_hook(lambda *_: None):
        converted(x)
    assert not seen
    converted(x)
    assert len(seen) == 2


class WithIdentities(nn.Module):
    """Places where other models have something, as timm's have in their blocks."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.drop1, self.act1 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Identity(), nn.ReLU()
        self.conv2, self.bn2, self.drop2, self.act2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Identity(), nn.SiLU()
        self.blur, self.pool = nn.Identity(), nn.Identity()

    def forward(self, x):
        y = self.act1(self.drop1(self.bn1(self.conv1(x))))
        y = self.blur(self.drop2(self.bn2(self.conv2(y))))
        y += x
        return self.act2(self.pool(y))


def test_what_hands_on_its_input_is_looked_through(monkeypatch):
    seen = count_fusions(monkeypatch)
    torch.manual_seed(0)
    model = WithIdentities()
    own = fbt.convert(model)
    x = torch.randn(2, 4, 6, 6)
    for training in (True, False):
        for net in (own, model):
            net.train(training)
        with torch.set_grad_enabled(training):
            assert close(own(x), model(x))
        assert seen == ["relu", "silu"]
        seen.clear()
    report = fbt.report(own)
    assert re.search(r"bn1 .*fused with relu; in evaluation folded into conv1", report)
    assert re.search(r"bn2 .*fused with residual sum \+ silu; in evaluation folded into conv2", report)
    got = []
    with own.drop1.register_forward_hook(lambda module, inputs, output: got.append(output)), torch.no_grad():
        own(x)
        assert close(got[0], model.bn1(model.conv1(x)))
    assert type(got[0]) is torch.Tensor
    assert seen == ["silu"]
    own.drop1 = nn.Tanh()
    model.drop1 = own.drop1
    with torch.no_grad():
        assert close(own(x), model(x))


def test_norms_that_are_called_from_elsewhere_do_not_wait():
    model = fbt.convert(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()))
    x = torch.randn(8, 4)
    assert type(model[1](x)) is torch.Tensor
    assert type(model[:2](x)) is torch.Tensor
    model[2] = nn.Tanh()
    assert type(model(x)) is torch.Tensor
    assert model(x).min() < 0  # what stands there now is what is computed


class Free(nn.Module):
    """A forward that is told what to do with the norm's result."""

    def __init__(self, after):
        super().__init__()
        self.norm, self.after = nn.BatchNorm1d(4), after
        self.other = False

    def forward(self, x):
        y = self.norm(x)
        return self.after(y, x) if not self.other else y * 2


CASES = {
    "function": (lambda y, x: F.relu(y), 1),
    "in place": (lambda y, x: F.relu(y, inplace=True), 1),
    "method": (lambda y, x: y.relu(), 1),
    "slope": (lambda y, x: F.leaky_relu(y, 0.3), 1),
    "approximate": (lambda y, x: F.gelu(y, approximate="tanh"), 1),
    "input as residual": (lambda y, x: F.relu(y + x), 1),
    "residual first": (lambda y, x: F.relu(x + y), 1),
    "sum in between": (lambda y, x: F.relu(y + x.tanh()), 0),  # x is used again before the sum
    "constant": (lambda y, x: F.relu(y + 1), 0),
    "scaled sum": (lambda y, x: torch.add(y, x, alpha=2), 0),
    "twice": (lambda y, x: F.relu(y) + y, 0),
    "with itself": (lambda y, x: y + y, 0),
    "other activation": (lambda y, x: torch.tanh(y), 0),
    "view": (lambda y, x: F.relu(y.view(-1)), 0),
    "returned": (lambda y, x: y, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_taken_in_and_what_is_not(name, monkeypatch):
    seen = count_fusions(monkeypatch)
    after, count = CASES[name]
    model = Free(after)
    converted = fbt.convert(model)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    y = converted(x)
    assert type(y) is torch.Tensor
    assert len(seen) == count
    assert close(y, model(x))
    for got, truth in zip(converted.buffers(), model.buffers(), strict=True):  # updated once
        assert close(got, truth)
    converted.other = True  # a branch that was not traced
    y = converted(x)
    assert type(y) is torch.Tensor
    assert close(y, 2 * model.norm(x))


def test_a_waiting_result_is_a_tensor_to_everyone():
    x = torch.randn(8, 4)
    truth = nn.BatchNorm1d(4)

    def waiting():
        return Pending.of(Call(fbt.batch_norm, x, (None, None, None, None, True, 0.1, 1e-5)))

    expected = truth(x)
    assert waiting().shape == (8, 4)
    assert close(waiting() * 2, expected * 2)
    assert close(torch.cat([waiting(), waiting()]), torch.cat([expected, expected]))
    assert close(torch.from_numpy(waiting().numpy()), expected)
    assert close(waiting()[2:, 1], expected[2:, 1])
    assert "tensor" in repr(waiting())
    assert len(list(waiting())) == 8


def test_an_input_that_is_changed_before_the_sum_is_found():
    x = torch.randn(8, 4)
    pending = Pending.of(Call(fbt.batch_norm, x, (None, None, None, None, True, 0.1, 1e-5)))
    x.add_(1)
    with pytest.raises(RuntimeError, match="changed in place before the residual sum"):
        torch.relu(pending)


def test_a_forward_that_cannot_be_traced_keeps_its_norms_alone_and_its_sequentials():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.act = nn.BatchNorm1d(4), nn.ReLU()
            self.block = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU())

        def forward(self, x):
            if x.sum() > 1e9:
                return x
            return self.block(self.act(self.norm(x)))

    report = fbt.report(fbt.convert(Model()))
    assert "the forward of Model cannot be traced" in report
    assert "block.0" in report
    assert report.count("fused with relu") == 1


class Named(nn.Module):
    """With arguments that callers may name."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.ReLU()

    def forward(self, x, *, scale=None):
        y = self.act(self.norm(self.conv(x)))
        return y if scale is None else y * scale


class Unnamed(Named):
    """With more arguments than are written down, as blocks of diffusers have them."""

    def forward(self, x, *args, **kwargs):
        if len(args) > 0 or kwargs.get("scale") is not None:
            warnings.warn("scale is an old name", stacklevel=2)
        y = self.conv(x, *args)
        y = self.norm(y)
        return self.act(y) * kwargs.get("scale", 1)


class Optional(Named):
    def forward(self, x, scale=None):
        y = self.norm(self.conv(x))
        if scale is not None:
            warnings.warn("scale is an old name", stacklevel=2)
        return self.act(y)


@pytest.mark.parametrize("cls", [Named, Unnamed, Optional])
@pytest.mark.filterwarnings("ignore:scale is an old name")
def test_forwards_with_arguments_that_few_calls_give(cls):
    """Of these it was said that code which is no method called the norm, or that they could not be traced."""
    model = nn.Sequential(cls())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = fbt.convert(model)
    assert re.search(r"0\.norm .*on fastbn, fused with relu; in evaluation folded into 0\.conv", fbt.report(own))
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"scale": 2.0}):
        grads = []
        for net in (own, model):
            net.train()
            net.zero_grad()
            y = net[0](x, **options)
            y.square().sum().backward()
            with torch.no_grad():
                again = net.eval()[0](x, **options)
            grads.append([y, again, *(p.grad for p in net.parameters()), *net.buffers()])
        for got, truth in zip(*grads, strict=True):
            torch.testing.assert_close(got, truth, rtol=1e-4, atol=1e-5)


def test_models_are_traced_by_fx_after_conversion():
    model = fbt.convert(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())).eval()
    graph = torch.fx.symbolic_trace(model)
    x = torch.randn(8, 4)
    assert close(graph(x), model(x))
