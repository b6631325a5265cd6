"""Subclasses of torch's norms, as libraries of models have them, in models that are converted."""

import copy
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

import fastbn.torch as fbt
from fastbn.torch import _pending, _subclasses


class BatchNormAct(nn.BatchNorm2d):
    """torch's forward written out, and an activation within."""

    def __init__(self, channels, act=nn.ReLU, **options):
        super().__init__(channels, **options)
        self.drop, self.act = nn.Identity(), act()

    def forward(self, x):
        if x.ndim != 4:
            raise ValueError(f"{x.ndim} dimensions")
        share = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else share
        by_batch = self.training or self.running_mean is None
        statistics = self.running_mean, self.running_var
        x = F.batch_norm(x, *statistics, self.weight, bias=self.bias, training=by_batch, momentum=share, eps=self.eps)
        return self.act(self.drop(x))


class LayerNorm2d(nn.LayerNorm):
    """Over channels."""

    def forward(self, x):
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps).permute(
            0, 3, 1, 2
        )


class LayerNormAbove(nn.LayerNorm):
    """The same, by the forward of the class above."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerNormIn64(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x.double(), self.normalized_shape, self.weight.double(), None, self.eps).to(x.dtype)


class GroupNorm1(nn.GroupNorm):
    """torch's forward, and arguments of its own."""

    def __init__(self, channels):
        super().__init__(1, channels)


class SplitBatchNorm(nn.BatchNorm2d):
    """The halves of a batch by norms of their own."""

    def __init__(self, channels):
        super().__init__(channels)
        self.other = nn.BatchNorm2d(channels)

    def forward(self, x):
        first, second = x.split(x.shape[0] // 2)
        return torch.cat([super().forward(first), self.other(second)])


class InstanceNormAct(nn.InstanceNorm2d):
    def forward(self, x):
        return F.silu(F.instance_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps))


class RMSNormTwice(nn.RMSNorm):
    def forward(self, x):
        y = F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
        return F.relu(y) - y.square_()


class Conditional(nn.LayerNorm):
    """Scaled by another input."""

    def forward(self, x, by, *, shift=0.0):
        return F.layer_norm(x, self.normalized_shape) * by + shift


class ByItself(nn.BatchNorm2d):
    def forward(self, x):
        return x - x.mean((0, 2, 3), keepdim=True)


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.sign() + x

    @staticmethod
    def backward(context, dy):
        return dy


class BatchNormSign(nn.BatchNorm2d):
    def forward(self, x):
        return Sign.apply(super().forward(x))


class BatchNormSignOfF(nn.BatchNorm2d):
    def forward(self, x):
        return Sign.apply(F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps))


def arguments(norm, training=None):
    statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
    return *statistics, norm.training if training is None else training, norm.momentum, norm.eps


class StatisticsRead(nn.BatchNorm2d):
    def forward(self, x):
        y = F.batch_norm(x, *arguments(self))
        mean = self.running_mean.view(1, -1, 1, 1) * 1
        return F.relu(y) * mean


class StatisticsChanged(nn.BatchNorm2d):
    def forward(self, x):
        with torch.no_grad():
            y = F.batch_norm(x, *arguments(self, False))
            self.running_mean.lerp_(x.mean((0, 2, 3)), self.momentum)
            y = F.relu(y)
        return y * x


class StatisticsAlone(nn.BatchNorm2d):
    """Of a first call, whose result is not taken."""

    def forward(self, x):
        F.batch_norm(x, *arguments(self))
        return F.relu(F.batch_norm(x, *arguments(self, False)))


class InputChanged(nn.BatchNorm2d):
    def forward(self, x):
        with torch.no_grad():
            y, copied = x * 2, x * 1
            z = F.batch_norm(y, *arguments(self))
            y.zero_()
            z = F.silu(z)
        return copied + z + y + x


class LastFirst(nn.BatchNorm2d):
    """Two calls, whose activations come in another order."""

    def forward(self, x):
        first, second = F.batch_norm(x, *arguments(self)), F.batch_norm(2 * x, *arguments(self))
        return F.relu(second) - F.relu(first)


class Broken(nn.BatchNorm2d):
    """What breaks a forward does not undo the statistics."""

    def forward(self, x):
        y = F.relu(F.batch_norm(x, *arguments(self)))
        try:
            return F.batch_norm(x, *arguments(self)).broken
        except AttributeError:
            return y


class Kept(nn.BatchNorm2d):
    def forward(self, x):
        self.last = F.batch_norm(x, *arguments(self))
        return F.relu(self.last)


def signed(x):
    return Sign.apply(x)


class SignByFunction(nn.BatchNorm2d):
    def forward(self, x):
        return signed(F.batch_norm(x, *arguments(self)))


class SignByMethod(nn.BatchNorm2d):
    def forward(self, x):
        return self.signed(F.batch_norm(x, *arguments(self)))

    @staticmethod
    def signed(x):
        return signed(x)


class SignByAttribute(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.act = signed

    def forward(self, x):
        return self.act(F.batch_norm(x, *arguments(self)))


@torch.compile(backend="eager")
def compiled(x):
    return torch.relu(x)


class ByACompiledFunction(nn.BatchNorm2d):
    def forward(self, x):
        return compiled(F.batch_norm(x, *arguments(self)))


def scripted():
    def twice(x):
        return x + x

    return torch.jit.trace(twice, torch.zeros(4, 4, 6, 6).double())


class ByAScript(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.act = scripted()

    def forward(self, x):
        return self.act(F.batch_norm(x, *arguments(self)))

    def __deepcopy__(self, memo):  # which a script cannot be
        twin = type(self)(self.num_features).double()
        twin.load_state_dict(self.state_dict())
        return twin


SCRIPT = scripted()


class ByAScriptOfTheModule(nn.BatchNorm2d):
    def forward(self, x):
        return SCRIPT(F.batch_norm(x, *arguments(self)))


class Mapped(nn.BatchNorm2d):
    def forward(self, x):
        return torch.vmap(torch.relu)(F.batch_norm(x, *arguments(self)))


class OfTheClass(nn.BatchNorm2d):
    """torch's forward by the name of the class."""

    def forward(self, x):
        return nn.BatchNorm2d.forward(self, x) * 2


ODD = (StatisticsRead, StatisticsChanged, StatisticsAlone, InputChanged, LastFirst, Broken, Kept,
       SignByFunction, SignByMethod, SignByAttribute, ByACompiledFunction, ByAScript, ByAScriptOfTheModule,
       Mapped, OfTheClass)  # fmt: skip

NORMS = {
    "activation": lambda: BatchNormAct(4),
    "another activation": lambda: BatchNormAct(4, nn.Hardswish),
    "no activation": lambda: BatchNormAct(4, nn.Identity),
    "average of batches": lambda: BatchNormAct(4, nn.SiLU, momentum=None),
    "no statistics": lambda: BatchNormAct(4, nn.GELU, track_running_stats=False),
    "channels": lambda: LayerNorm2d(4),
    "channels above": lambda: LayerNormAbove(4),
    "double": lambda: LayerNormIn64((6, 6)),
    "arguments": lambda: GroupNorm1(4),
    "split": lambda: SplitBatchNorm(4),
    "instance": lambda: InstanceNormAct(4, affine=True),
    "twice": lambda: RMSNormTwice((6, 6)),
    "autograd function": lambda: BatchNormSign(4),
    "autograd function of a function": lambda: BatchNormSignOfF(4),
}


@pytest.fixture(autouse=True)
def at_any_size(monkeypatch):
    monkeypatch.setattr(_subclasses, "_LEAST", 0)


def drawn(seed=0):
    return torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(seed)) + 3


def network(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), NORMS[norm](), nn.ReLU())
    nn.init.normal_(model[1].weight)
    return model


def fusions(monkeypatch):
    """The activations that norms take in, as they come."""
    seen, computed = [], _pending._computed

    def counting(pending, activation):
        seen.append(activation)
        return computed(pending, activation)

    monkeypatch.setattr(_pending, "_computed", counting)
    return seen


def count_calls(monkeypatch):
    """fastbn's functions that forwards call in the place of torch's."""
    called = []
    for function, (own, names) in list(_subclasses._FUNCTIONS.items()):
        counting = lambda *args, own=own, **options: called.append(own) or own(*args, **options)  # noqa: E731
        monkeypatch.setitem(_subclasses._FUNCTIONS, function, (counting, names))
    return called


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("name", NORMS)
def test_a_subclass_computes_what_it_computed_on_fastbn(name, last, monkeypatch):
    called = count_calls(monkeypatch)
    model = network(name)
    own = fbt.convert(model)
    assert isinstance(own[1], type(model[1]))
    assert str(own) == str(model)
    x = drawn().to(memory_format=torch.channels_last if last else torch.contiguous_format)
    for training in (True, True, False):
        results = []
        for net in (own, model):
            net.train(training).zero_grad()
            y = net(x)
            y.square().sum().backward()
            results.append([y, *(p.grad for p in net.parameters() if p.grad is not None), *net.buffers()])
        for got, truth in zip(*results, strict=True):
            torch.testing.assert_close(got, truth, rtol=2e-4, atol=2e-4)
            assert type(got) is torch.Tensor
            assert got.stride() == truth.stride()
    with torch.no_grad():
        torch.testing.assert_close(own(x), model(x))
    by_above = name in ("arguments", "channels above", "split", "autograd function")
    assert bool(called) is not by_above


@pytest.mark.parametrize("cls", ODD, ids=lambda cls: cls.__name__)
def test_odd_forwards_compute_what_they_say(cls, monkeypatch):
    called = count_calls(monkeypatch)
    torch.manual_seed(0)
    model = cls(4).double()
    nn.init.normal_(model.weight)
    own = fbt.convert(nn.Sequential(model))[0]
    for training in (True, True, False):
        results = []
        for net in (own, model):
            net.train(training).zero_grad()
            x = drawn().double().requires_grad_()
            y = net(x)
            (y * drawn(1)).sum().backward()
            results.append([y, x.grad, net.weight.grad, *net.buffers(), getattr(net, "last", None)])
        for got, truth in zip(*results, strict=True):
            assert type(got) is type(truth)
            if truth is not None:
                torch.testing.assert_close(got, truth, rtol=1e-10, atol=1e-10)
    assert called


def test_an_input_by_the_name_x_behind_another():
    class Shifted(nn.LayerNorm):
        def forward(self, given, x):
            return F.layer_norm(given, self.normalized_shape) + x

    model, x = Shifted((6, 6)), drawn()
    torch.testing.assert_close(fbt.convert(nn.Sequential(model))[0](x, x=x), model(x, x))


def test_a_library_that_keeps_lists_of_its_subclasses_is_not_told_of_those_made_here():
    names = []

    class Listed(nn.BatchNorm2d):
        def __init_subclass__(cls, *, name):
            names.append(name)

        def forward(self, x):
            return super().forward(x) * 2

    class Named(Listed, name="named"):
        pass

    own = fbt.convert(nn.Sequential(Named(4)))
    assert names == ["named"]
    torch.testing.assert_close(own(drawn()), Named(4)(drawn()))
    assert type(fbt.revert(own)[0]) is Named


def test_small_tensors_are_left_to_torch(monkeypatch):
    called = count_calls(monkeypatch)
    own, x = fbt.convert(network("activation")), drawn()
    for least, count in ((x.numel() + 1, 0), (x.numel(), 1)):
        monkeypatch.setattr(_subclasses, "_LEAST", least)
        torch.testing.assert_close(own(x), network("activation")(x))
        assert len(called) == count
    assert f"on fastbn from {x.numel()} elements on, called by the forward of BatchNormAct" in fbt.report(own)
    assert "torch's own kernels: below the sizes that rows name, and else at no size" in fbt.report(own)
    assert "torch's own kernels: at no size" in fbt.report(fbt.convert(nn.Sequential(LayerNormAbove(4))))


def test_forwards_of_several_inputs(monkeypatch):
    called = count_calls(monkeypatch)
    model, x = Conditional((6, 6)), drawn()
    own = fbt.convert(nn.Sequential(model))[0]
    for least, count in ((x.numel() + 1, 0), (0, 2)):
        monkeypatch.setattr(_subclasses, "_LEAST", least)
        torch.testing.assert_close(own(x, drawn(1), shift=1.0), model(x, drawn(1), shift=1.0))
        torch.testing.assert_close(own(x=x, by=x), model(x, x))
        assert len(called) == count


@pytest.mark.parametrize("name", NORMS)
def test_subclasses_are_copied_pickled_and_go_back(name):
    model = network(name)
    own = fbt.convert(model)
    for twin in (copy.deepcopy(own), *(pickle.loads(pickle.dumps(own, protocol)) for protocol in (0, 1, 2, None))):
        assert type(twin[1]) is type(own[1])
        assert fbt.report(twin) == fbt.report(own)
        assert torch.equal(twin(drawn()), copy.deepcopy(own)(drawn()))
    assert type(fbt.convert(own)[1]) is type(own[1])  # once more changes nothing
    back = fbt.revert(own)
    assert [type(m) for m in back.modules()] == [type(m) for m in model.modules()]
    assert back[1].__dict__.keys() == model[1].__dict__.keys()
    assert list(own.state_dict()) == list(model.state_dict())


def traced(model):
    try:
        return torch.fx.symbolic_trace(model)
    except torch.fx.proxy.TraceError:  # a forward that asks how many dimensions there are, say
        return None


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
def test_recorded_calls_ask_nothing_of_sizes():
    own = fbt.convert(network("channels"))
    torch.testing.assert_close(torch.jit.trace(own, drawn())(drawn()), own(drawn()))


@pytest.mark.parametrize("name", NORMS)
def test_graphs_of_models_with_subclasses(name):
    model = network(name)
    own = fbt.convert(model).eval()
    expected = own(drawn())
    torch.testing.assert_close(torch.compile(own, backend="eager")(drawn()), expected)
    graph = traced(own)
    assert (graph is None) is (traced(model.eval()) is None)
    if graph is not None:
        torch.testing.assert_close(graph(drawn()), expected)


def test_report_says_who_calls_the_norm():
    model = nn.Sequential(BatchNormAct(4), GroupNorm1(4), nn.ReLU(), ByItself(4), fbt.LayerNorm(4))
    text = fbt.report(fbt.convert(model))
    for line in (
        "0 +BatchNormAct +on fastbn, called by the forward of BatchNormAct",
        "1 +GroupNorm1 +on fastbn, fused with relu",
        "3 +ByItself +left as it is: ByItself is a subclass of BatchNorm2d that computes by itself",
        "4 +LayerNorm +on fastbn; ",
    ):
        assert re.search(line, text), (line, text)
    assert fbt.report(model).count("torch's own: not converted, or skipped") == 2
    with pytest.warns(UserWarning, match="no norm that could be converted"):
        fbt.convert(nn.Sequential(ByItself(4)))


def test_the_activation_in_a_subclass_is_taken_in_where_nobody_sees_what_lies_between(monkeypatch):
    seen = fusions(monkeypatch)
    own = fbt.convert(network("activation"))
    own(drawn())
    assert seen == ["relu"]
    got = []
    for place, register in (
        (own[1].act, "register_forward_pre_hook"),
        (own[1].act, "register_forward_hook"),
        (own[1].drop, "register_forward_hook"),
        (nn.modules.module, "register_module_forward_hook"),
    ):
        seen.clear()
        with getattr(place, register)(lambda module, *values: got.append(values)):
            own(drawn())
        assert not seen
        assert {type(value[0]) for value in got[-1] if isinstance(value, tuple)} <= {torch.Tensor}
    fbt.convert(network("activation"), fuse=False)(drawn())
    assert not seen
    own(drawn())
    assert seen == ["relu"]


def test_parametrized_subclasses():
    class Doubled(nn.Module):
        def forward(self, w):
            return 2 * w

    model = network("activation")
    parametrize.register_parametrization(model[1], "weight", Doubled())
    own = fbt.convert(model)
    torch.testing.assert_close(own(drawn()), model(drawn()))
    assert isinstance(own[1], BatchNormAct)
    assert "called by the forward" in fbt.report(own)
    back = fbt.revert(own)
    assert type(back[1]).__mro__[1:] == type(model[1]).__mro__[1:]


def test_a_subclass_with_a_method_that_is_needed_here_stays():
    class Taken(nn.LayerNorm):
        def _call(self, x):
            return x

    with pytest.warns(UserWarning, match="no norm that could be converted"):
        assert type(fbt.convert(nn.Sequential(Taken(4)))[0]) is Taken


@pytest.mark.parametrize("converted", [False, True])
def test_synchronized_batch_norm_leaves_an_activation_where_it_is(converted):
    class Flexible(nn.BatchNorm2d):
        def _check_input_dim(self, x):
            pass

    model = nn.Sequential(nn.BatchNorm2d(4), Flexible(4), BatchNormAct(4), nn.SyncBatchNorm(4))
    if converted:
        model = fbt.convert(model)
    with pytest.warns(UserWarning, match=r"^BatchNormAct: .* the statistics stay those of one process"):
        fbt.convert_sync_batchnorm(model)
    assert [isinstance(norm, fbt.SyncBatchNorm) for norm in model] == [True, True, False, True]
    assert model[2](drawn()).min() == 0
