"""Captured graphs: what captures them sees one operator."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import fastbn.torch as fbt

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def numbers(kind, activation="", frozen=False, number=0):
    return kind, number, 1e-5, activation, 0.01, frozen, 0.1


CASES = {
    "batch": (numbers("batch", "relu"), (6,), True),
    "batch evaluation": (numbers("batch", "", True), (6,), True),
    "group": (numbers("group", "relu", number=3), (6,), False),
    "instance": (numbers("instance", number=6), (6,), False),
    "layer": (numbers("layer", "relu", number=1), (5,), False),
    "rms": (numbers("rms", number=2), (4, 5), False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_opcheck(case, layout):
    fbt.batch_norm  # noqa: B018  registers the operators
    given, shape, tracked = CASES[case]
    x, residual = (torch.randn(3, 6, 4, 5).contiguous(memory_format=LAYOUTS[layout]).requires_grad_() for _ in range(2))
    w, b = (torch.randn(shape).requires_grad_() for _ in range(2))
    running = (torch.zeros(6), torch.ones(6)) if tracked else (None, None)
    arguments = (x, w, None if given[0] == "rms" else b, residual, *running, *given)
    torch.library.opcheck(torch.ops.fastbn.norm.default, arguments)


def model():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.GroupNorm(2, 8), nn.ReLU(), nn.InstanceNorm2d(8)
    return nn.Sequential(*layers, nn.Flatten(2), nn.LayerNorm(36), nn.ReLU(), nn.RMSNorm(36))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_compiled_without_a_break(training):
    eager, compiled = fbt.convert(model()).train(training), fbt.convert(model()).train(training)
    x = torch.randn(4, 3, 8, 8)
    step = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        results = []
        for net, call in ((eager, eager), (compiled, step)):
            net.zero_grad()
            given = x.clone().requires_grad_()
            y = call(given)
            y.square().mean().backward()
            results.append([y, given.grad, *(p.grad for p in net.parameters()), *net.buffers()])
        for got, truth in zip(*results, strict=True):
            assert torch.allclose(got.double(), truth.double(), atol=1e-5)


def test_compiled_functions_with_residual_and_a_batch_of_any_size():
    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def function(x, residual):
        return fbt.batch_norm(x, None, None, training=True, activation="relu", residual=residual)

    for n in (2, 3, 7):
        x, residual = torch.randn(2, n, 4, 5, 5)
        expected = F.relu(F.batch_norm(x, None, None, training=True) + residual)
        assert torch.allclose(function(x, residual), expected, atol=1e-5)


def test_exported():
    net = fbt.convert(model()).eval()
    x = torch.randn(4, 3, 8, 8)
    program = torch.export.export(net, (x,))
    assert torch.allclose(program.module()(x), net(x), atol=1e-5)
    assert "fastbn.norm" in str(program.graph)


def test_make_fx_and_jit_trace():
    x = torch.randn(4, 6)

    def function(x):
        return fbt.layer_norm(x, (6,), activation="relu")

    assert "fastbn.norm" in make_fx(function)(x).code
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(function, x)
    y = torch.randn(4, 6)
    assert torch.allclose(traced(y), function(y))
