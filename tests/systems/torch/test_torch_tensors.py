"""Tensors and states of torch: read where nothing is lost, refused in words where a gradient would be."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from every_layer import LAYERS

import fastbn
from fastbn import layers


@pytest.mark.parametrize("name", LAYERS)
def test_torch_tensors(name):
    layer, shape = LAYERS[name]
    values = torch.from_numpy(np.random.default_rng(0).normal(3, 2, shape).astype(np.float32))
    half = values.to(torch.bfloat16)
    layer.train()
    before = layer.state_dict()
    y = layer(half)
    assert (y.dtype.name, y.shape) == ("bfloat16", shape)
    assert layer.backward(half).shape == shape
    layer.load_state_dict(before)
    np.testing.assert_array_equal(y, layer([*half]))
    layer.load_state_dict(before)
    for tensor in (values, half):
        tracked = tensor.clone().requires_grad_()
        for given in (tracked, [*tracked]):
            with pytest.raises(TypeError, match=r"^x is a tensor that requires a gradient.*expected x.detach\(\)"):
                layer(given)
    _, context = layer.forward(half)
    with pytest.raises(TypeError, match=r"^dy is a tensor that requires a gradient"):
        layer.backward(half.clone().requires_grad_(), context)
    layer.load_state_dict(before)


def test_states_of_tensors():
    layer = layers.LayerNorm(3)
    module = torch.nn.LayerNorm(3).to(torch.bfloat16)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0, 2.0, 3.5]))
    assert layer.load_state_dict(module.state_dict()) == ([], [])
    np.testing.assert_array_equal(layer.weight, [1, 2, 3.5])
    with pytest.raises(TypeError, match=r"^weight is a tensor that requires a gradient.*weight.detach"):
        layer.load_state_dict(dict(module.named_parameters()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_functions_refuse_a_lost_gradient_whatever_the_type(dtype):
    tracked = torch.ones((4, 2), dtype=getattr(torch, dtype), requires_grad=True)
    for call in (
        lambda: fastbn.batch_norm(tracked, training=True),
        lambda: fastbn.rms_norm(tracked, 2),
        lambda: fastbn.channel_rms_norm(tracked),
        lambda: fastbn.local_response_norm(tracked, 3),
        lambda: fastbn.fold(tracked, None, layers.BatchNorm1d(4)),
    ):
        with pytest.raises(TypeError, match=r"requires a gradient, which would be lost; expected \w+.detach\(\)"):
            call()


STATE = {
    "weight": torch.tensor([1.0, 2, 3]),
    "bias": torch.tensor([4.0, 5, 6]),
    "running_mean": torch.tensor([7.0, 8, 9]),
    "running_var": torch.tensor([1.5, 2.5, 3.5]),
}
COUNTS = {
    "integer": torch.tensor(7),
    "float": torch.tensor(7.9),
    "negative": torch.tensor(-1.5),
    "(1,)": torch.tensor([7]),
    "(1,) of floats": torch.tensor([7.5]),
    "(1, 1)": torch.tensor([[7]]),
    "(2,)": torch.tensor([7, 8]),
    "half": torch.tensor(7, dtype=torch.half),
    "bool": torch.tensor(True),
    "missing": None,
}


@pytest.mark.parametrize("version", ["no metadata", None, 1, 2, 3])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("name", "tracks"), [("BatchNorm1d", True), ("BatchNorm1d", False), ("InstanceNorm1d", True)])
def test_counters_load_where_torch_loads_them(name, tracks, strict, count, version):
    state = OrderedDict(STATE)
    if COUNTS[count] is not None:
        state["num_batches_tracked"] = COUNTS[count]
    if version != "no metadata":
        state._metadata = {"": {} if version is None else {"version": version}}
    module, layer = (getattr(kind, name)(3, affine=True, track_running_stats=True) for kind in (torch.nn, layers))
    module.num_batches_tracked.fill_(5)
    layer.num_batches_tracked[...] = 5
    module.track_running_stats = layer.track_running_stats = tracks
    try:
        expected = module.load_state_dict(state, strict=strict)
    except RuntimeError:
        with pytest.raises(ValueError, match="num_batches_tracked"):
            layer.load_state_dict(state, strict=strict)
        return
    assert tuple(layer.load_state_dict(state, strict=strict)) == tuple(expected)
    for key, value in module.state_dict().items():
        np.testing.assert_array_equal(layer.state_dict()[key], value.numpy(), err_msg=key)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", ["BatchNorm1d", "InstanceNorm1d"])
def test_tracking_that_is_stopped_and_resets_are_torchs(name, momentum):
    module, layer = (getattr(k, name)(3, 1e-5, momentum, True, True) for k in (torch.nn, layers))
    x = np.random.default_rng(0).normal(3, 2, (4, 3, 5))

    def alike(statistics=True):
        module.double()
        for twin in (module, layer):
            twin.train()
        for mode in (True, False):
            for twin in (module, layer):
                twin.train(mode)
            np.testing.assert_allclose(layer(x), module(torch.from_numpy(x)).detach().numpy(), rtol=1e-6, atol=1e-6)
        for key, value in module.state_dict().items():
            if statistics:
                np.testing.assert_allclose(layer.state_dict()[key], value.numpy(), rtol=1e-6, err_msg=key)
        assert repr(module) == repr(layer)

    alike()
    module.track_running_stats = layer.track_running_stats = False
    alike(statistics=name == "BatchNorm1d")  # torch 2.13's instance norm goes on updating what it no longer tracks
    for twin in (module, layer):
        twin.reset_running_stats()
        twin.reset_parameters()
    alike(statistics=name == "BatchNorm1d")
    module.track_running_stats = layer.track_running_stats = True
    for twin in (module, layer):
        twin.reset_running_stats()
    alike()
