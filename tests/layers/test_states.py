"""States as files and other systems hold them: what loads, what does not, and where it goes."""

import io
import re
import sys
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

import fastbn
from fastbn import layers


def state(**changed):
    """Of a batch norm of three channels; None leaves a key out."""
    whole = {
        "weight": np.array([1.0, 2, 3], np.float32),
        "bias": np.array([4.0, 5, 6], np.float32),
        "running_mean": np.array([7.0, 8, 9], np.float32),
        "running_var": np.array([1.5, 2.5, 3.5], np.float32),
        "num_batches_tracked": np.array(7),
    }
    return {key: value for key, value in (whole | changed).items() if value is not None}


def unchanged(layer, before):
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


# the counter -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "expected"),
    [(np.float32(7), 7), (np.array(7.9), 7), (np.array(-0.5), 0), (np.array([7]), 7), (np.array([7.0]), 7), (True, 1)],
)
def test_a_counter_loads_as_torch_takes_it(count, expected):
    layer = layers.BatchNorm1d(3)
    held = layer.num_batches_tracked
    layer.load_state_dict(state(num_batches_tracked=count))
    assert layer.num_batches_tracked is held
    assert (held, held.dtype, held.shape) == (expected, np.int64, ())


@pytest.mark.parametrize("count", [np.nan, np.inf, 1e30, -1e30, 1j, np.zeros((1, 1)), np.zeros(2)])
def test_what_counts_nothing_is_refused_and_nothing_is_changed(count):
    layer = layers.BatchNorm1d(3)
    before = layer.state_dict()
    with pytest.raises(ValueError, match="num_batches_tracked"):
        layer.load_state_dict(state(num_batches_tracked=count))
    unchanged(layer, before)


def versioned(version, prefix=""):
    """A state without the counter, with the metadata of torch's state_dict()."""
    given = OrderedDict((prefix + key, value) for key, value in state(num_batches_tracked=None).items())
    given._metadata = {prefix[:-1]: {} if version is None else {"version": version}}
    return given


@pytest.mark.parametrize("layer", [layers.BatchNorm1d(3), layers.InstanceNorm1d(3, 1e-5, 0.1, True, True)])
@pytest.mark.parametrize("prefix", ["", "bn."])
def test_the_counter_may_be_missing_up_to_version_1(layer, prefix):
    layer.num_batches_tracked[...] = 5
    plain = {prefix + key: value for key, value in state(num_batches_tracked=None).items()}
    for given in (plain, versioned(None, prefix), versioned(1, prefix)):
        layer.running_mean[...] = 0
        assert layer.load_state_dict(given, prefix=prefix) == ([], [])
        assert layer.num_batches_tracked == 5
        np.testing.assert_array_equal(layer.running_mean, [7, 8, 9])
    before = layer.state_dict()
    with pytest.raises(ValueError, match=f"missing keys: {prefix}num_batches_tracked"):
        layer.load_state_dict(versioned(2, prefix), prefix=prefix)
    unchanged(layer, before)
    keys = layer.load_state_dict(versioned(2, prefix), strict=False, prefix=prefix)
    assert keys.missing_keys == [f"{prefix}num_batches_tracked"]


def test_a_layer_that_stopped_tracking_needs_the_counter_as_in_torch():
    layer = layers.BatchNorm1d(3)
    layer.track_running_stats = False
    with pytest.raises(ValueError, match="missing keys: num_batches_tracked"):
        layer.load_state_dict(state(num_batches_tracked=None))


# prefixes --------------------------------------------------------------------------------------------------------


def test_a_prefix_picks_the_layers_keys_out_of_a_networks():
    network = {f"net.1.{key}": value for key, value in state().items()} | {
        "net.10.weight": np.ones(9),
        "fc": np.ones(2),
    }
    layer = layers.BatchNorm2d(3)
    assert layer.load_state_dict(network, prefix="net.1.") == ([], [])
    for key, value in state().items():
        np.testing.assert_array_equal(layer.state_dict()[key], value)


def test_strictness_holds_for_the_keys_under_the_prefix():
    network = {f"bn1.{key}": value for key, value in state(bias=None).items()} | {"bn1.gamma": 1, "bn1.a.b": 1, "x": 1}
    layer = layers.BatchNorm2d(3)
    before = layer.state_dict()
    with pytest.raises(ValueError, match="cannot load the state into BatchNorm2d") as error:
        layer.load_state_dict(network, prefix="bn1.")
    assert "missing keys: bn1.bias\n" in str(error.value)
    assert str(error.value).endswith("unexpected keys: bn1.gamma, bn1.a.b")
    unchanged(layer, before)
    keys = layer.load_state_dict(network, strict=False, prefix="bn1.")
    assert keys == (["bn1.bias"], ["bn1.gamma", "bn1.a.b"])
    with pytest.raises(ValueError, match=r"size mismatch for bn1.weight: \(4,\) in the state, \(3,\) in the layer"):
        layer.load_state_dict({"bn1.weight": np.ones(4)}, strict=False, prefix="bn1.")
    with pytest.raises(ValueError, match=r"missing keys: bn2.weight, bn2.bias"):
        layer.load_state_dict(network, prefix="bn2.")
    with pytest.raises(TypeError, match=r"prefix is None; expected a string"):
        layer.load_state_dict(network, prefix=None)


# bfloat16 --------------------------------------------------------------------------------------------------------


def test_a_bfloat16_layers_own_state_comes_back_from_npz():
    layer = layers.BatchNorm1d(3, dtype="bfloat16")
    layer.load_state_dict(state())
    file = io.BytesIO()
    np.savez(file, **layer.state_dict())
    file.seek(0)
    other = layers.BatchNorm1d(3, dtype=ml_dtypes.bfloat16)
    with np.load(file) as stored:
        assert stored["weight"].dtype == "V2"
        other.load_state_dict(stored)
    for key, value in layer.state_dict().items():
        assert other.state_dict()[key].dtype == value.dtype
        np.testing.assert_array_equal(other.state_dict()[key], value)
        np.testing.assert_array_equal(value, state()[key].astype(value.dtype))


def test_bits_of_an_unknown_type_are_refused_elsewhere_with_what_to_do():
    layer = layers.LayerNorm(3)
    with pytest.raises(ValueError, match=re.escape("value.view(ml_dtypes.bfloat16)")):
        layer.load_state_dict({"weight": np.ones(3, "V2")}, strict=False)
    with pytest.raises(ValueError, match="dtype of weight"):
        layers.LayerNorm(3, dtype="bfloat16").load_state_dict({"weight": np.ones(3, "V4")}, strict=False)


def test_states_of_any_float_type_load_into_any_other():
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        for given in ("float16", ml_dtypes.bfloat16, "float32", ">f4", "float64"):
            layer = layers.LayerNorm(3, dtype=dtype)
            layer.load_state_dict({"weight": np.array([1, 2, 3.5], given), "bias": np.zeros(3, given)})
            np.testing.assert_array_equal(layer.weight.astype(float), [1, 2, 3.5])


# memory order ----------------------------------------------------------------------------------------------------


def test_states_and_folded_weights_are_in_c_order():
    layer = layers.LayerNorm((4, 3))
    layer.parameters["weight"] = np.asfortranarray(np.arange(12.0, dtype=np.float32).reshape(4, 3))
    for value in layer.state_dict().values():
        assert value.flags.c_contiguous
    np.testing.assert_array_equal(layer.state_dict()["weight"], np.arange(12).reshape(4, 3))
    for transposed in (False, True):
        weight = np.random.default_rng(0).normal(size=(3, 3, 5, 2))
        expected, _ = fastbn.fold(weight, None, layers.BatchNorm2d(3), transposed=transposed)
        for laid_out in (np.asfortranarray(weight), np.ascontiguousarray(weight.T).T, weight[..., ::-1][..., ::-1]):
            folded, bias = fastbn.fold(laid_out, None, layers.BatchNorm2d(3), transposed=transposed)
            assert folded.flags.c_contiguous
            assert bias.flags.c_contiguous
            np.testing.assert_array_equal(folded, expected)


# beginnings ------------------------------------------------------------------------------------------------------

ALL = [
    layers.BatchNorm(3),
    layers.BatchNorm1d(3, renorm=(1.0, 0.0)),
    layers.InstanceNorm2d(3, affine=True, track_running_stats=True),
    layers.InstanceNorm1d(3),
    layers.GroupNorm(1, 3),
    layers.LayerNorm((3, 2)),
    layers.LayerNorm(3, bias=False),
    layers.RMSNorm(3),
    layers.RMSNorm(3, offset=1.0),
    layers.LayerNorm2d(3),
    layers.GlobalResponseNorm(3),
    layers.FilterResponseNorm2d(3),
    layers.LocalResponseNorm(3),
]


@pytest.mark.parametrize("layer", ALL, ids=repr)
def test_reset_parameters_begins_anew_in_the_arrays_that_are_there(layer):
    first, held = layer.state_dict(), layer._state()
    for value in held.values():
        value += 1
    for value in layer.grads.values():
        value += 1
    assert layer.reset_parameters() is None
    assert all(held[key] is value for key, value in layer._state().items())
    unchanged(layer, first)
    assert all((value == 1).all() for value in layer.grads.values())


def test_frozen_parameters_are_reset_too():
    layer = layers.BatchNorm1d(3).freeze()
    layer.weight = 5
    layer.reset_parameters()
    assert layer.frozen
    np.testing.assert_array_equal(layer.weight, 1)


def test_reset_running_stats_leaves_the_parameters():
    layer = layers.BatchNorm1d(3)
    layer.load_state_dict(state())
    layer.reset_running_stats()
    unchanged(layer, state(running_mean=np.zeros(3), running_var=np.ones(3), num_batches_tracked=0))
    layers.BatchNorm1d(3, track_running_stats=False).reset_running_stats()


# tracking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_that_stops_tracking(momentum):
    layer, without = (layers.BatchNorm1d(3, momentum=momentum, track_running_stats=t) for t in (True, False))
    layer.load_state_dict(state())
    without.load_state_dict(state(running_mean=None, running_var=None, num_batches_tracked=None))
    x = np.random.default_rng(0).normal(3, 2, (8, 3))
    layer.track_running_stats = False
    assert "track_running_stats=False" in repr(layer)
    np.testing.assert_array_equal(layer(x), without(x))
    unchanged(layer, state())
    layer.reset_running_stats()  # resets what is tracked
    unchanged(layer, state())
    expected = layers.BatchNorm1d(3).eval()
    expected.load_state_dict(state())
    np.testing.assert_array_equal(layer.eval()(x), expected(x))
    np.testing.assert_array_equal(layer.forward(x)[0], expected(x))
    layer.train().track_running_stats = True
    layer(x)
    assert layer.num_batches_tracked == 8
    assert (layer.running_mean != [7, 8, 9]).all()


def test_instance_norm_that_stops_tracking_normalizes_each_sample_in_both_modes():
    layer = layers.InstanceNorm1d(3, track_running_stats=True)
    layer.running_mean[...] = 100
    before = layer.state_dict()
    layer.track_running_stats = False
    x = np.random.default_rng(0).normal(3, 2, (8, 3, 5))
    expected = layers.InstanceNorm1d(3)(x)
    np.testing.assert_array_equal(layer(x), expected)
    np.testing.assert_array_equal(layer.eval()(x), expected)
    np.testing.assert_array_equal(layer.forward(x)[0], expected)
    unchanged(layer, before)


def test_tracking_needs_statistics_and_options_need_tracking():
    with pytest.raises(ValueError, match="has no running statistics to track"):
        layers.BatchNorm1d(3, track_running_stats=False).track_running_stats = True
    for options in ({"renorm": (1.0, 0.0)}, {"virtual_batch_size": 2}, {"on_single": "eval"}):
        layer = layers.BatchNorm1d(3, **options)
        with pytest.raises(ValueError, match="cannot do without running statistics"):
            layer.track_running_stats = False
        assert layer.track_running_stats


# construction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [
        ml_dtypes.int4,
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
        [("a", "f4")],
        "V2",
        "int8",
        bool,
        "U3",
        "nothing",
    ],
    ids=str,
)
def test_a_dtype_that_nothing_is_computed_in_is_refused_at_construction(dtype):
    for make in (layers.LayerNorm, layers.BatchNorm2d, layers.GlobalResponseNorm):
        with pytest.raises(TypeError, match=r"dtype is .*; expected float16, bfloat16 \(of ml_dtypes\), float32 or"):
            make(3, dtype=dtype)


def test_bfloat16_without_ml_dtypes_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # as where it is not installed
    with pytest.raises(ImportError, match=r'pip install "fastbn\[half\]"'):
        layers.LayerNorm(3, dtype="bfloat16")


@pytest.mark.parametrize("rank", [2, 3, 4, 5, 6])
def test_batch_norm_of_any_rank(rank):
    x = np.random.default_rng(0).normal(3, 2, (4, 3, 2, 3, 2, 2)[:rank])
    layer = fastbn.BatchNorm(3)
    layer.load_state_dict(state())
    y = layer(x)
    plain = x.reshape(4, 3, -1)
    other = fastbn.BatchNorm1d(3)
    other.load_state_dict(state())
    np.testing.assert_array_equal(y, other(plain).reshape(x.shape))
    np.testing.assert_array_equal(layer.backward(x), other.backward(plain).reshape(x.shape))
    np.testing.assert_array_equal(layer.eval()(x), other.eval()(plain).reshape(x.shape))


def test_batch_norm_refuses_what_has_no_channels():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        fastbn.BatchNorm(3)(np.ones(3))
    assert isinstance(fastbn.BatchNorm2d(3), fastbn.BatchNorm)


def test_layer_is_the_abstract_base_of_all():
    assert all(isinstance(layer, layers.Layer) for layer in ALL)
    with pytest.raises(TypeError, match="abstract"):
        layers.Layer((3,), True, True, np.float32)


# contexts --------------------------------------------------------------------------------------------------------


def test_a_backward_without_context_says_what_is_kept_and_what_to_do():
    layer, x = layers.LayerNorm(3), np.random.default_rng(0).normal(size=(2, 3))
    for _ in range(3):
        layer(x)
    layer.backward(x)
    with pytest.raises(ValueError, match=r"only that of the last layer\(x\).*y, context = layer.forward\(x\)"):
        layer.backward(x)
    layer.eval()(x)
    with pytest.raises(ValueError, match=r"evaluation mode, where layer\(x\) keeps none; call layer.train\(\)"):
        layer.backward(x)
