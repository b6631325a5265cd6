"""Masked arrays and tensors at every entry for arrays: nothing of them is lost silently."""

import numpy as np
import pytest

import fastbn
from fastbn import layers

LAYERS = {
    "BatchNorm": (layers.BatchNorm(2), (4, 2, 3)),
    "BatchNorm1d": (layers.BatchNorm1d(2), (4, 2)),
    "BatchNorm2d": (layers.BatchNorm2d(2), (4, 2, 3, 3)),
    "BatchNorm3d": (layers.BatchNorm3d(2), (4, 2, 3, 2, 2)),
    "ghost": (layers.BatchNorm1d(2, virtual_batch_size=2), (4, 2)),
    "renorm": (layers.BatchNorm1d(2, renorm=(2.0, 1.0)), (4, 2)),
    "InstanceNorm1d": (layers.InstanceNorm1d(2), (4, 2, 3)),
    "InstanceNorm2d of one": (layers.InstanceNorm2d(2, affine=True), (2, 3, 3)),
    "InstanceNorm3d": (layers.InstanceNorm3d(2), (4, 2, 3, 2, 2)),
    "GroupNorm": (layers.GroupNorm(1, 2), (4, 2, 3)),
    "LayerNorm": (layers.LayerNorm(3), (4, 3)),
    "RMSNorm": (layers.RMSNorm(3), (4, 3)),
    "LayerNorm2d": (layers.LayerNorm2d(2), (4, 2, 3, 3)),
    "RMSNorm2d": (layers.RMSNorm2d(2), (4, 2, 3, 3)),
    "GlobalResponseNorm": (layers.GlobalResponseNorm(2), (4, 2, 3)),
    "FilterResponseNorm2d": (layers.FilterResponseNorm2d(2), (4, 2, 3, 3)),
    "LocalResponseNorm": (layers.LocalResponseNorm(3), (4, 2, 3)),
}


class Lazy:
    """As variables of netCDF files: what they read is masked."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


class WithMask(np.ndarray):
    """As Astropy's masked arrays, which are not NumPy's."""

    mask = None


def masked(values):
    values = np.ma.array(values, mask=False)
    values[(0,) * values.ndim] = np.ma.masked
    return values


MASKED = {
    "masked": masked,
    "masked nowhere": lambda values: np.ma.array(values),
    "read lazily": lambda values: Lazy(masked(values)),
    "in a list": lambda values: [masked(part) for part in values],
    "in lists": lambda values: [[masked(part)] for part in values],
    "of another package": lambda values: np.asarray(values).view(WithMask),
}


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_refuse_masked_arrays_by_name(name, kind):
    layer, shape = LAYERS[name]
    values = np.random.default_rng(0).normal(3, 2, shape)
    wrong = MASKED[kind](values)
    before = layer.state_dict()
    for call in (layer.train(), layer.train().forward):
        with pytest.raises(TypeError, match=r"^x is a masked array.*expected x.filled\(...\)"):
            call(wrong)
    layer.eval()
    with pytest.raises(TypeError, match=r"^x is a masked array"):
        layer(wrong)
    y, context = layer.train().forward(values)
    after = layer.state_dict()
    grads = {key: value.copy() for key, value in layer.grads.items()}
    with pytest.raises(TypeError, match=r"^dy is a masked array"):
        layer.backward(MASKED[kind](y), context)
    for key, value in layer.grads.items():
        np.testing.assert_array_equal(value, grads[key])
    layer.load_state_dict(before)
    assert set(after) == set(before)


def test_masks_residuals_and_parameters_pass_by_the_same_door():
    x = np.ones((4, 2))
    layer = layers.BatchNorm1d(2)
    with pytest.raises(TypeError, match=r"^where is a masked array"):
        layer(x, where=np.ma.array(x > 0, mask=x > 2))
    with pytest.raises(TypeError, match=r"^residual is a masked array"):
        layer(x, residual=masked(x))
    with pytest.raises(TypeError, match=r"^weight is a masked array"):
        layer.weight = masked([1.0, 2.0])
    with pytest.raises(TypeError, match=r"^bias is a masked array"):
        layer.bias = np.ma.masked
    before = layer.state_dict()
    with pytest.raises(TypeError, match=r"^bn.weight is a masked array"):
        layer.load_state_dict({"bn.bias": [1.0, 1.0], "bn.weight": masked([1.0, 9e9])}, strict=False, prefix="bn.")
    for key, value in before.items():
        np.testing.assert_array_equal(layer.state_dict()[key], value)
    with pytest.raises(TypeError, match=r"^conv_weight is a masked array"):
        fastbn.fold(masked(np.ones((2, 2))), None, layer)
    with pytest.raises(TypeError, match=r"^running_var is a masked array"):
        fastbn.fold(np.ones((2, 2)), None, (np.zeros(2), masked([1.0, 1.0])))


def test_lists_are_read_as_ever():
    expected = fastbn.layer_norm(np.array([[1.0, 2.0], [3.0, 5.0]]), 2)
    rows = [np.array([1.0, 2.0]), np.array([3.0, 5.0])]
    for x in ([[1.0, 2.0], [3.0, 5.0]], rows, tuple(rows), [[np.float64(1), 2], [3, 5]], [rows[0], [3.0, 5.0]]):
        np.testing.assert_array_equal(fastbn.layer_norm(x, 2), expected)
    for wrong in ([[1.0], [2.0, 3.0]], [None, 1.0], ["a"], [rows[0], object()]):
        with pytest.raises(TypeError, match=r"^x (cannot be read as an array of floats|has dtype)"):
            fastbn.layer_norm(wrong, 2)


# tensors ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name", LAYERS)
def test_torch_tensors(torch, name):
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


def test_states_of_tensors(torch):
    layer = layers.LayerNorm(3)
    module = torch.nn.LayerNorm(3).to(torch.bfloat16)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0, 2.0, 3.5]))
    assert layer.load_state_dict(module.state_dict()) == ([], [])
    np.testing.assert_array_equal(layer.weight, [1, 2, 3.5])
    with pytest.raises(TypeError, match=r"^weight is a tensor that requires a gradient.*weight.detach"):
        layer.load_state_dict(dict(module.named_parameters()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_functions_refuse_a_lost_gradient_whatever_the_type(torch, dtype):
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
