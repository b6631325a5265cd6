"""Masked arrays at every entry of layers: a mask is never dropped silently."""

import numpy as np
import pytest
from every_layer import LAYERS

import fastbn
from fastbn import layers


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
