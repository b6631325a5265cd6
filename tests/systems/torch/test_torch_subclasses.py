"""Tensors and modules of classes of their own, as libraries hand them to models."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

import fastbn.torch as fbt


class Meta(torch.Tensor):
    """A tensor with data beside it, which has methods of its own, as MONAI's are."""

    def new_empty(self, size, **options):
        assert isinstance(size, tuple), "as MONAI's"
        return super().new_empty(size, **options)

    def clone(self, **options):
        raise AssertionError("the operator's copy is an ordinary tensor's")


class Silent(torch.Tensor):
    """A tensor of which torch's operations return ordinary ones."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class Told(torch.Tensor):
    """A tensor that is told every operator, and knows torch's alone."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype)

    def __init__(self, values):
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        assert func.namespace == "aten", f"{func} is no operator of torch's"
        bare = [a.values if isinstance(a, Told) else a for a in args]
        return torch.utils._pytree.tree_map_only(torch.Tensor, Told, func(*bare, **(kwargs or {})))


NORMS = {
    "batch": lambda: nn.BatchNorm2d(4),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
    "group": lambda: nn.GroupNorm(2, 4),
    "layer": lambda: nn.LayerNorm((5, 5)),
    "rms": lambda: nn.RMSNorm((5, 5)),
}


def drawn(seed=0):
    return torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("cls", [Meta, Silent, nn.Parameter], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("name", NORMS)
def test_subclasses_with_values_of_their_own(name, cls, training):
    model = NORMS[name]().train(training)
    own = fbt.convert(model)
    found = []
    for net in (own, model):
        for _ in range(2):
            net.zero_grad()
            x = cls(drawn()) if cls is nn.Parameter else drawn().as_subclass(cls).requires_grad_()
            y = net(x)
            y.backward(drawn(1).as_subclass(type(y)))
        with torch.no_grad():
            again = net(x)
        found.append([type(y), type(again), *(t.as_subclass(torch.Tensor) for t in (y, again, x.grad))])
    assert found[0][:2] == found[1][:2]
    got, truth = ([*tensors[2:], *(p.grad for p in net.parameters()), *net.buffers()]
                  for tensors, net in zip(found, (own, model), strict=True))  # fmt: skip
    for a, b in zip(got, truth, strict=True):
        torch.testing.assert_close(a, b)


def test_subclasses_that_are_told_every_operator_get_torchs():
    model = nn.Sequential(nn.GroupNorm(2, 4, affine=False), nn.LayerNorm(5, elementwise_affine=False))
    got, truth = (net(Told(drawn())) for net in (fbt.convert(model), model))
    assert type(got) is type(truth) is Told
    assert torch.equal(got.values, truth.values)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_nested_tensors(layout):
    model = nn.LayerNorm(4)
    rows = [drawn(k).reshape(-1, 4)[: 3 + k] for k in range(2)]
    found = [net(torch.nested.nested_tensor(rows, layout=layout)).unbind() for net in (fbt.convert(model), model)]
    for got, truth in zip(*found, strict=True):
        torch.testing.assert_close(got, truth)


class Doubled(nn.Module):
    def forward(self, w):
        return 2 * w


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(2), nn.LayerNorm(9))


@pytest.mark.parametrize("when", ["before", "after"])
def test_parametrized_norms_are_converted_and_go_back(when):
    model = network()
    own = fbt.convert(model) if when == "after" else model
    for net in {model, own}:
        for k in (1, 4):
            parametrize.register_parametrization(net[k], "weight", Doubled())
    if when == "before":
        own = fbt.convert(model)
    rows = fbt.report(own).splitlines()[1:3]
    assert [row.split(None, 2)[1:] for row in rows] == [
        ["ParametrizedBatchNorm2d", "on fastbn, fused with relu"],  # and not folded: its weight is computed
        ["ParametrizedLayerNorm", "on fastbn; no activation and no sum stands behind"],
    ]
    assert isinstance(own[1], fbt.BatchNorm2d)
    assert isinstance(copy.deepcopy(own)[4], fbt.LayerNorm)
    for mode in (True, False):
        torch.testing.assert_close(own.train(mode)(drawn()), model.train(mode)(drawn()))
    back = fbt.revert(own)
    assert [type(m).__mro__[1:] for m in back.modules()] == [type(m).__mro__[1:] for m in model.modules()]
    assert "on fastbn" not in fbt.report(back)
    assert list(back.state_dict()) == list(model.state_dict())
    parametrize.remove_parametrizations(own[1], "weight")
    parametrize.remove_parametrizations(back[1], "weight")
    assert (type(own[1]), type(back[1])) == (fbt.BatchNorm2d, nn.BatchNorm2d)


@pytest.mark.parametrize("computed", [parametrizations.weight_norm, parametrizations.spectral_norm, weight_norm])
def test_report_does_not_say_folded_where_the_weight_is_computed(computed):
    own = fbt.convert(network().eval())
    assert "folded into 0" in fbt.report(own)
    computed(own[0])
    assert "folded" not in fbt.report(own)
