"""What programs do to converted models that no trace has foreseen: copies, other forwards, threads."""

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from processes import python
from torch import nn

import fastbn.torch as fbt

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def close(got, truth):
    return got.shape == truth.shape and bool(torch.allclose(got.double(), truth.double(), rtol=1e-4, atol=1e-5))


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    return model


class Block(nn.Module):
    """What those below have."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.relu, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.ReLU()
        self.flag, self.seen, self.alive = False, [], None
        self.register_buffer("average", torch.ones(3))


# What is converted is left as it was ----------------------------------------------------------------------------------


class Recording(Block):
    def forward(self, x):
        y = self.norm(self.conv(x))
        self.seen.append(y.mean())
        self.average.mul_(0.9).add_(x.mean((0, 2, 3)), alpha=0.1)
        return self.relu(y)


def test_what_a_forward_writes_down_is_not_written_while_it_is_looked_at():
    model = Recording()
    own = fbt.convert(model)
    assert own.seen == []
    assert torch.equal(own.average, model.average)
    copy.deepcopy(own)
    own(X), model(X)
    assert torch.equal(own.average, model.average)
    assert close(own.seen[0], model.seen[0])


def test_a_norm_of_two_names_is_skipped_by_either():
    norm = nn.LayerNorm(4)
    model = nn.Sequential(nn.Sequential(norm, norm), nn.LayerNorm(4))
    for name in ("0.0", "0.1"):
        own = fbt.convert(model, skip=[name])
        assert type(own[0][0]) is nn.LayerNorm
        assert type(own[1]) is fbt.LayerNorm


def test_other_threads_use_their_models_while_one_is_converted():
    faults, end = [], threading.Event()
    model = fbt.convert(network()).eval()

    def use():
        try:
            with torch.no_grad():
                while not end.is_set():
                    assert type(model(X)) is torch.Tensor
                    fbt.convert(network())
        except BaseException as fault:
            faults.append(fault)

    call = nn.Module.__call__
    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        fbt.convert(network())
    end.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert nn.Module.__call__ is call


def test_models_are_freed_with_their_last_reference():
    gc.collect()
    gc.disable()
    try:
        own = fbt.convert(network()).eval()
        with torch.no_grad():
            own(X)
        twin = pickle.loads(pickle.dumps(own))
        alive = [weakref.ref(module) for model in (own, twin) for module in model]
        del own, twin
        assert [module() for module in alive] == [None] * len(alive)
    finally:
        gc.enable()


class Large(Block):
    def forward(self, x):
        x = self.conv(x)
        large = weakref.ref(x)
        x = self.norm(x)
        x = self.relu(x)
        x = x * 2
        self.alive = large() is not None
        return x


def test_nothing_is_kept_until_the_forward_returns():
    own = fbt.convert(Large())
    with torch.no_grad():
        own(X)
    assert own.alive is False


# Copies, and what stands in another's place ---------------------------------------------------------------------------


SCRIPT = """
    import torch
    import fastbn.torch

    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.ReLU()).eval()
    x = torch.randn(1, 2, 4, 4)
    conv = fastbn.torch.convert(model)[0]
    y = conv._conv_forward(x, conv.weight, conv.bias)
    assert torch.equal(y, model[0](x))
    print(sorted(name for name in globals() if name in ("torch", "model", "x", "conv", "y")))
"""


def test_a_script_that_calls_a_part_itself_keeps_its_names():
    assert python(SCRIPT)[0] == "['conv', 'model', 'torch', 'x', 'y']\n"


def test_a_shallow_copy_of_a_convolution_has_its_own_numbers():
    own = fbt.convert(network()).eval()
    with torch.no_grad():
        twin = copy.copy(own[0])
        twin.stride = (2, 2)
        assert twin(X).shape == (2, 4, 4, 4)
        expected = own(X)
        assert own[0](X).shape == (2, 4, 8, 8)
        own[0] = copy.copy(own[0])
        assert close(own(X), expected)
        pickle.loads(pickle.dumps(own))


def test_a_convolution_that_changes_its_class():
    class Doubled(nn.Conv2d):
        def _conv_forward(self, input, weight, bias):
            return 2 * super()._conv_forward(input, weight, bias)

    model = network().eval()
    own = fbt.convert(model)
    with torch.no_grad():
        assert close(own(X), model(X))
        model[0].__class__ = own[0].__class__ = Doubled
        assert close(own(X), model(X))


def test_graphs_and_local_classes_are_pickled_and_copied():
    class Local(Block):
        def forward(self, x):
            return self.relu(self.norm(self.conv(x)))

    own = fbt.convert(Local())
    assert "fused with relu" in fbt.report(copy.deepcopy(own))
    pickle.loads(pickle.dumps(own.norm)), pickle.loads(pickle.dumps(own.conv))
    graph = torch.fx.symbolic_trace(network())
    own = fbt.convert(graph)
    for twin in (own, pickle.loads(pickle.dumps(own)), copy.deepcopy(own)):
        assert close(twin(X), graph(X))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("place", range(3))
def test_a_forward_that_was_put_in_the_place_of_a_modules_own(place, training):
    own = fbt.convert(network()).train(training)
    forward, seen = own[place].forward, []

    def recording(x):
        y = forward(x)
        seen.extend([x, y])
        return y

    own[place].forward = recording
    with torch.set_grad_enabled(training):
        own(X)
    assert [type(tensor) for tensor in seen] == [torch.Tensor] * 2


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("place", range(3))
def test_a_part_that_torch_compiles(place, training):
    model = network().train(training)
    own = fbt.convert(model)
    own[place].compile(backend="eager")
    with torch.set_grad_enabled(training):
        y = own(X)
        assert type(y) is torch.Tensor
        assert close(y, model(X))


# Other ways through the code ------------------------------------------------------------------------------------------


class NotRecorded(Block):
    def forward(self, x):
        y = self.norm(self.conv(x))
        with torch.no_grad():
            return self.relu(y)


class NotRecordedSum(Block):
    def forward(self, x):
        y = self.norm(self.conv(x))
        with torch.no_grad():
            return y + x


@pytest.mark.parametrize("kind", [NotRecorded, NotRecordedSum])
def test_what_is_not_recorded_in_between_has_no_gradient(kind):
    model = kind()
    own = fbt.convert(model)
    assert not own(X).requires_grad
    assert close(own(X), model(X).detach())


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return dy * (s + x * s * (1 - s))


class Branching(Block):
    def forward(self, x):
        y = self.norm(self.conv(x))
        return Swish.apply(y) if self.flag else self.relu(y)


def test_an_autograd_function_on_another_way_is_told():
    model = Branching()
    own, alone = fbt.convert(model), fbt.convert(model, fuse=False)
    own.flag = alone.flag = model.flag = True
    with pytest.raises(RuntimeError, match=r"autograd function got .* fuse=False"):
        own(X)
    for net in (alone, model):
        net(X).square().sum().backward()
    assert close(alone.norm.weight.grad, model.norm.weight.grad)
    own.requires_grad_(False)
    assert close(own(X), model(X).detach())  # without a gradient to be lost
    own.load_state_dict(model.state_dict())
    own.eval(), model.eval()
    with torch.no_grad():
        assert close(own(X), model(X))


class SumAndActivation(Block):
    def forward(self, x):
        return self.norm(x) + x, self.relu(self.norm(x))


class TwoActivations(Block):
    def forward(self, x):
        return self.relu(self.norm(x)) + self.other(self.norm(2 * x))


def test_a_norm_that_is_called_twice_waits_for_what_stands_behind_both_calls():
    model = SumAndActivation()
    own = fbt.convert(model)
    assert "not the same in all calls" in fbt.report(own)
    for got, truth in zip(own(X), model(X), strict=True):
        assert type(got) is torch.Tensor
        assert close(got, truth)
    own, seen = fbt.convert(TwoActivations()), []
    assert "fused with relu" in fbt.report(own)
    own.relu.register_forward_pre_hook(lambda module, args: seen.append(type(args[0])))
    own(X)
    assert seen == [torch.Tensor]


class Nameless(nn.Module):
    def __init__(me):
        super().__init__()
        me.norm, me.relu = nn.BatchNorm2d(3), nn.ReLU()

    def forward(me, x):
        return me.relu(me.norm(x))


def test_the_instance_may_have_any_name(monkeypatch):
    own, activations = fbt.convert(Nameless()), []
    function = fbt.functional.batch_norm

    def spy(*args, activation=None, **options):
        activations.append(activation)
        return function(*args, activation=activation, **options)

    monkeypatch.setattr(fbt.functional, "batch_norm", spy)
    own(X)
    assert activations == ["relu"]


class Residual(Block):
    def forward(self, x):
        return self.relu(self.norm(self.conv(x)) + x)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_of_gradients_where_a_residual_is_what_the_input_was_computed_of(dtype, training):
    model = Residual().to(dtype).train(training)
    own = fbt.convert(model)
    assert "fused with residual sum + relu" in fbt.report(own)
    found = []
    for net in (own, model):
        x = X.to(dtype).requires_grad_()
        y = net(x)
        (g,) = torch.autograd.grad((y * X.to(dtype)).sum(), x, create_graph=True)
        found.append([g, *torch.autograd.grad(g.square().sum(), [net.conv.weight, net.norm.weight])])
    for got, truth in zip(*found, strict=True):
        assert close(got, truth)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_gradients_of_gradients_where_the_weight_is_computed_of_the_input(training):
    """As in norms that depend on a condition."""
    found = []
    for door in (fbt, F):
        x = X.double().requires_grad_()
        weight, bias = x.mean((0, 2, 3)).exp(), x.square().mean((0, 2, 3))
        mean, var = torch.zeros(2, 3, dtype=torch.float64) + 0.5
        y = door.batch_norm(x, mean, var, weight, bias, training)
        (g,) = torch.autograd.grad((y * X).sum(), x, create_graph=True)
        found.append([g, *torch.autograd.grad(g.square().sum(), x)])
    for got, truth in zip(*found, strict=True):
        assert close(got, truth)
