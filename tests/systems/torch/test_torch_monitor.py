"""fastbn.monitor on modules of torch and of fastbn.torch."""

import copy
import io

import pytest
import torch

import fastbn
from fastbn.monitor import Monitor


def model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.GroupNorm(2, 8)
    )


def hooks(module):
    from torch.nn.modules import module as of_all

    return [*of_all._global_forward_hooks, *(h for m in module.modules() for h in m._forward_hooks)]


@pytest.mark.parametrize("convert", [lambda m: m, fastbn.torch.convert], ids=["torch", "fastbn"])
def test_the_numbers_are_those_of_the_tensors(convert):
    network, x = convert(model()), torch.randn(4, 3, 9, 9)
    seen = {}

    def keep(module, args, y):
        args[0].retain_grad()
        seen[module] = args[0], y

    handles = [network[k].register_forward_hook(keep) for k in (1, 3)]
    with Monitor(network) as monitor:
        network(x).square().sum().backward()
        monitor.step()
    for name, k in (("1", 1), ("3", 3)):
        module, numbers = network[k], monitor.latest[name]
        before, after = seen[module]
        assert numbers["input_mean"] == pytest.approx(before.mean().item(), rel=1e-4, abs=1e-6)
        assert numbers["input_var"] == pytest.approx(before.var(correction=0).item(), rel=1e-4)
        assert numbers["output_var"] == pytest.approx(after.var(correction=0).item(), rel=1e-4)
        assert numbers["input_gradient"] == pytest.approx(before.grad.norm().item(), rel=1e-4, abs=1e-6)
        assert numbers["weight_gradient"] == pytest.approx(module.weight.grad.norm().item(), rel=1e-5)
    x = seen[network[1]][0].detach()
    away = (network[1].running_mean - x.mean((0, 2, 3))) / x.std((0, 2, 3), correction=0)
    assert monitor.latest["1"]["mean_drift"] == pytest.approx(away.square().mean().sqrt().item(), rel=1e-3)
    for handle in handles:
        handle.remove()
    assert not hooks(network)


def test_copies_and_files_of_a_watched_model():
    network, x = model(), torch.randn(4, 3, 9, 9)
    with Monitor(network) as monitor:
        twin = copy.deepcopy(network)
        file = io.BytesIO()
        torch.save(network, file)
        network(x)
        twin(5 * x)
        monitor.step()
    expected = network[0](x).mean().item()
    assert monitor.latest["1"]["input_mean"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    file.seek(0)
    assert not hooks(twin)
    assert not hooks(torch.load(file, weights_only=False))


def test_two_monitors_and_the_last_call():
    norm, x = torch.nn.LayerNorm(6), torch.randn(4, 6, requires_grad=True)
    with Monitor([norm]) as first, Monitor(norm) as second:
        norm(input=2 * x)
        y = 3 * x
        y.retain_grad()
        norm(input=y).square().sum().backward()
        first.step(), second.step()
    assert first.latest["0.LayerNorm"] == second.latest["LayerNorm"]
    assert first.latest["0.LayerNorm"]["input_mean"] == pytest.approx(3 * x.mean().item(), rel=1e-4, abs=1e-6)
    assert first.latest["0.LayerNorm"]["input_gradient"] == pytest.approx(y.grad.norm().item(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(dtype):
    norm, x = torch.nn.BatchNorm1d(3).to(dtype), torch.randn(50, 3, dtype=dtype)
    with Monitor({"norm": norm}) as monitor:
        norm(x)
        monitor.step()
    assert monitor.latest["norm"]["input_var"] == pytest.approx(x.double().var(correction=0).item(), rel=1e-6)


def test_evaluation_empty_batches_and_no_tensor_at_all():
    network = model()
    with Monitor({"a": network[3], "b": torch.nn.LayerNorm(3)}, every=1) as monitor:
        network.eval()(torch.randn(4, 3, 9, 9))
        monitor.step()
        assert monitor.latest == {"a": {}, "b": {}}
        network.train().to("meta")(torch.empty(4, 3, 9, 9, device="meta"))
        monitor._watches["b"].layer(torch.zeros(0, 3))
        monitor.step()
        assert monitor.latest == {"a": {}, "b": {}}
    assert not hooks(network)


def test_one_sample_without_an_axis_for_samples():
    norm, x = torch.nn.InstanceNorm1d(3, track_running_stats=True), torch.randn(3, 50)
    with Monitor({"norm": norm}) as monitor:
        norm(x)
        monitor.step()
    away = (norm.running_mean - x.mean(1)) / x.std(1, correction=0)
    assert monitor.latest["norm"]["mean_drift"] == pytest.approx(away.square().mean().sqrt().item(), rel=1e-4)


def test_a_model_that_is_compiled():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    x = torch.randn(50, 3)
    network.compile(backend="eager")
    with Monitor(network, every=2) as monitor:
        for k in range(4):
            network((k + 1) * x).sum().backward()
            monitor.step()
    assert monitor.latest["1"]["input_var"] == pytest.approx(network[0](3 * x).var(correction=0).item(), rel=1e-4)
    assert not hooks(network)


def test_nothing_is_left_in_torch():
    network = model()
    for _ in range(2):
        with Monitor(network):
            network(torch.randn(4, 3, 9, 9))
        assert not torch.nn.modules.module._has_any_global_hook()


def test_what_has_no_norm():
    with pytest.raises(ValueError, match="Linear, without a normalization module"):
        Monitor(torch.nn.Linear(3, 3))
    with pytest.raises(TypeError, match=r"layer '0\.Sequential' is of type Sequential"):
        Monitor([model()])
