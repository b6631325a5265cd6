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
    values = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
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


# functions -------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(3)
N, C, P = 4, 2, 6
X = RNG.normal(3, 2, (N, C, P))
DY = RNG.normal(size=X.shape)
WEIGHT, BIAS = np.array([1.0, 2.0]), np.array([0.5, -0.5])
BY_CHANNEL = {"mean": X.mean((0, 2)), "rstd": 1 / X.std((0, 2))}
BY_SAMPLE = {"mean": X.mean(2), "rstd": 1 / X.std(2)}
BY_ROW = {"mean": X.mean(-1), "rstd": 1 / X.std(-1)}
OF_ROWS = {"weight": np.linspace(1, 2, P), "bias": np.linspace(0, 1, P)}
AFFINE = {"weight": WEIGHT, "bias": BIAS}
BESIDE = {"residual": DY, "where": np.ones((N, 1, P), bool)}
MASK = {"where": np.ones((N, 1, P), bool)}
PARTS = {"mean": np.zeros((2, C)), "rstd": np.ones((2, C))}
POSITIONS = {"mean": X.mean(1), "rstd": 1 / X.std(1)}
POSITION = {"rstd": 1 / X.std(1)}
IMAGES = X.reshape(N, C, 2, 3)


def running():
    return {"running_mean": np.zeros(C), "running_var": np.ones(C)}


FUNCTIONS = {  # right calls, all arrays of which are masked in turn
    "batch_norm": lambda: {"x": X, **running(), **AFFINE, **BESIDE, "training": True},
    "batch_norm_forward": lambda: {"x": X, **running(), **AFFINE, **BESIDE},
    "batch_norm_backward": lambda: {"dy": DY, "x": X, **BY_CHANNEL, **AFFINE, **BESIDE, "activation": "relu"},
    "batch_norm_double_backward": lambda: {"ddx": DY, "dy": DY, "x": X, **BY_CHANNEL, "weight": WEIGHT},
    "layer_norm": lambda: {"x": X, "normalized_shape": P, **OF_ROWS, **MASK},
    "layer_norm_backward": lambda: {"dy": DY, "x": X, **BY_ROW, **OF_ROWS, **MASK},
    "layer_norm_double_backward": lambda: {"ddx": DY, "dy": DY, "x": X, **BY_ROW, "weight": OF_ROWS["weight"]},
    "rms_norm": lambda: {"x": X, "normalized_shape": P, "weight": OF_ROWS["weight"], **MASK},
    "rms_norm_backward": lambda: {"dy": DY, "x": X, "rstd": BY_ROW["rstd"], "weight": OF_ROWS["weight"], **MASK},
    "rms_norm_double_backward": lambda: {"ddx": DY, "dy": DY, "x": X, "rstd": BY_ROW["rstd"]},
    "add_layer_norm": lambda: {"x": X, "residual": DY, "normalized_shape": P, **OF_ROWS},
    "add_layer_norm_backward": lambda: {"dy": DY, "dsum": DY, "sum": X, **BY_ROW, "weight": OF_ROWS["weight"]},
    "add_rms_norm": lambda: {"x": X, "residual": DY, "normalized_shape": P, "weight": OF_ROWS["weight"]},
    "add_rms_norm_backward": lambda: {"dy": DY, "dsum": DY, "sum": X, "rstd": BY_ROW["rstd"]},
    "group_norm": lambda: {"x": X, "num_groups": 1, **AFFINE, **BESIDE},
    "group_norm_backward": lambda: {"dy": DY, "x": X, **BY_SAMPLE, **AFFINE, **BESIDE, "activation": "relu"},
    "group_norm_double_backward": lambda: {"ddx": DY, "dy": DY, "x": X, **BY_SAMPLE, "weight": WEIGHT},
    "instance_norm": lambda: {"x": X, **running(), **AFFINE, **MASK},
    "instance_norm_backward": lambda: {"dy": DY, "x": X, **BY_SAMPLE, **AFFINE, **MASK, "activation": "relu"},
    "instance_norm_double_backward": lambda: {"ddx": DY, "dy": DY, "x": X, **BY_SAMPLE, "weight": WEIGHT},
    "ghost_batch_norm_forward": lambda: {"x": X, "virtual_batch_size": 2, **AFFINE, **running(), **BESIDE},
    "ghost_batch_norm_backward": lambda: {
        "dy": DY,
        "x": X,
        **PARTS,
        "virtual_batch_size": 2,
        **AFFINE,
        **BESIDE,
        "activation": "relu",
    },
    "batch_renorm_forward": lambda: {"x": X, **running(), **AFFINE, **BESIDE},
    "batch_renorm_backward": lambda: {
        "dy": DY,
        "x": X,
        **BY_CHANNEL,
        "r": np.ones(C),
        "d": np.zeros(C),
        **AFFINE,
        **BESIDE,
        "activation": "relu",
    },
    "weight_standardization": lambda: {"weight": X, "gain": np.ones(N)},
    "weight_standardization_backward": lambda: {
        "dy": DY,
        "weight": X,
        "mean": np.zeros(N),
        "rstd": np.ones(N),
        "gain": np.ones(N),
    },
    "channel_layer_norm": lambda: {"x": X, **AFFINE, **MASK},
    "channel_layer_norm_backward": lambda: {"dy": DY, "x": X, **POSITIONS, **AFFINE, **MASK, "activation": "relu"},
    "channel_rms_norm": lambda: {"x": X, "weight": WEIGHT, **MASK},
    "channel_rms_norm_backward": lambda: {"dy": DY, "x": X, **POSITION, "weight": WEIGHT, **MASK},
    "global_response_norm": lambda: {"x": X, **AFFINE},
    "global_response_norm_backward": lambda: {"dy": DY, "x": X, "norm": np.ones((N, C)), "weight": WEIGHT},
    "filter_response_norm": lambda: {"x": IMAGES, **AFFINE, "tau": BIAS},
    "filter_response_norm_backward": lambda: {
        "dy": IMAGES,
        "x": IMAGES,
        "rstd": np.ones((N, C)),
        **AFFINE,
        "tau": BIAS,
    },
    "local_response_norm": lambda: {"x": X, "size": 3},
    "local_response_norm_backward": lambda: {"dy": DY, "x": X, "size": 3},
    "fold": lambda: {"conv_weight": np.ones((C, 3)), "conv_bias": np.ones(C), "bn": layers.BatchNorm1d(C)},
    "normalize": lambda: {"x": X, "mean": WEIGHT, "std": WEIGHT, "axis": 1},
    "denormalize": lambda: {"y": X, "mean": WEIGHT, "std": WEIGHT, "axis": 1},
}
ARGUMENTS = [(f, a) for f, call in FUNCTIONS.items() for a, v in call().items() if isinstance(v, np.ndarray)]


@pytest.mark.parametrize(("function", "argument"), ARGUMENTS)
def test_functions_refuse_masked_arrays_by_name(function, argument):
    right = FUNCTIONS[function]()
    with pytest.raises(TypeError, match=rf"^{argument} is a masked array"):
        getattr(fastbn, function)(**right | {argument: masked(right[argument])})


@pytest.mark.full
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_calls_that_masks_spoil_are_right(function):
    getattr(fastbn, function)(**FUNCTIONS[function]())


@pytest.mark.parametrize("kind", ["masked nowhere", "read lazily", "in lists"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_refuse_masked_arrays_of_every_kind(function, kind):
    right = FUNCTIONS[function]()
    argument = next(name for name in ("x", "y", "sum", "weight", "conv_weight") if name in right)
    with pytest.raises(TypeError, match=rf"^{argument} is a masked array"):
        getattr(fastbn, function)(**right | {argument: MASKED[kind](right[argument])})


def test_what_may_be_masked_counts_what_is_not():
    values = masked(X)
    expected = fastbn.Moments(1).update(X, where=~values.mask)
    for moments in (
        fastbn.Moments(1).update(values),
        fastbn.Moments(1).update(Lazy(values)),
        fastbn.dataset_statistics(values),
        fastbn.dataset_statistics([values]),
    ):
        np.testing.assert_array_equal(moments.count, expected.count)
        np.testing.assert_allclose(moments.mean, expected.mean, rtol=1e-14)
    for argument, value in (("where", X > 0), ("weights", np.ones(X.shape))):
        with pytest.raises(TypeError, match=rf"^{argument} is a masked array"):
            fastbn.Moments(1).update(X, **{argument: masked(value)})


@pytest.mark.parametrize("name", ["batch_norm_forward", "layer_norm_forward", "group_norm", "local_response_norm"])
def test_the_reference_refuses_masked_arrays(name):
    more = {"layer_norm_forward": (P,), "group_norm": (1,), "local_response_norm": (3,)}.get(name, ())
    with pytest.raises(TypeError, match="is a masked array"):
        getattr(fastbn.reference, name)(masked(X), *more)


def test_files_refuse_masked_arrays(tmp_path):
    for name in ("state.safetensors", "state.npz"):
        with pytest.raises(TypeError, match=r"^weight is a masked array"):
            fastbn.files.write(tmp_path / name, {"weight": masked(X)})
    assert not list(tmp_path.iterdir())


def test_a_threshold_is_assigned_as_weights_are():
    layer = layers.FilterResponseNorm2d(2)
    held = layer.parameters["tau"]
    layer.tau = [1.0, 2.0]
    assert layer.tau is held
    assert held.tolist() == [1.0, 2.0]
    with pytest.raises(TypeError, match=r"^tau is a masked array"):
        layer.tau = masked([1.0, 2.0])
    with pytest.raises(AttributeError, match="has no weight to assign to"):
        layers.BatchNorm1d(2, affine=False).weight = [1.0, 2.0]
