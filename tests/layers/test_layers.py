"""Layers: against torch's with a shared state, and what a layer keeps, lets go of and refuses."""

import copy
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastbn import layers

# layer, arguments, keyword arguments, input shape
PLAIN = [
    ("BatchNorm1d", (5,), {}, (7, 5)),
    ("BatchNorm1d", (5,), {}, (4, 5, 3)),
    ("BatchNorm2d", (3,), {}, (2, 3, 5, 4)),
    ("BatchNorm3d", (2,), {}, (3, 2, 2, 3, 4)),
    ("InstanceNorm1d", (5,), {}, (4, 5, 7)),
    ("InstanceNorm2d", (3,), {}, (2, 3, 5, 4)),
    ("InstanceNorm3d", (2,), {}, (3, 2, 2, 3, 4)),
    ("GroupNorm", (2, 6), {}, (3, 6, 5)),
    ("LayerNorm", (7,), {}, (3, 4, 7)),
    ("LayerNorm", ([4, 7],), {}, (3, 4, 7)),
    ("RMSNorm", (7,), {}, (3, 4, 7)),
    ("RMSNorm", ((4, 7),), {}, (3, 4, 7)),
]
OPTIONS = [
    ("BatchNorm2d", (3, 1e-3, 0.3), {}, (2, 3, 5, 4)),
    ("BatchNorm2d", (3,), {"affine": False}, (2, 3, 5, 4)),
    ("BatchNorm2d", (3,), {"bias": False}, (2, 3, 5, 4)),
    ("BatchNorm2d", (3,), {"momentum": None}, (2, 3, 5, 4)),
    ("BatchNorm2d", (3,), {"track_running_stats": False}, (2, 3, 5, 4)),
    ("BatchNorm2d", (3,), {"track_running_stats": False, "momentum": None}, (2, 3, 5, 4)),
    ("InstanceNorm1d", (5,), {"affine": True, "track_running_stats": True}, (5, 7)),
    ("InstanceNorm2d", (3, 1e-3, 0.3, True, True), {}, (2, 3, 5, 4)),
    ("InstanceNorm2d", (3,), {"affine": True, "bias": False}, (3, 5, 4)),
    ("InstanceNorm2d", (3,), {"momentum": None, "track_running_stats": True}, (2, 3, 5, 4)),
    ("InstanceNorm3d", (2,), {"affine": True}, (2, 2, 3, 4)),
    ("GroupNorm", (3, 6, 1e-3, False), {}, (3, 6, 5)),
    ("GroupNorm", (6, 6), {"bias": False}, (3, 6, 2)),
    ("LayerNorm", (7, 1e-3, False), {}, (3, 7)),
    ("LayerNorm", (7, 1e-3, True, False), {}, (3, 7)),
    ("RMSNorm", (7, 1e-3, False), {}, (3, 7)),
]
CHANNELS = [case for case in PLAIN + OPTIONS if case[0] not in ("LayerNorm", "RMSNorm")]
CLOSE = {"rtol": 1e-11, "atol": 1e-11}  # float64 on both sides; sums in another order


def named(cases):
    return [pytest.param(*case, id=f"{case[0]}{case[1]}{case[2] or ''}-{case[3]}") for case in cases]


def build(name, args, kwargs, dtype=np.float64, **more):
    """A layer whose arrays differ from their initial values."""
    layer = getattr(layers, name)(*args, **kwargs, dtype=dtype, **more)
    rng = np.random.default_rng(1)
    for value in layer.parameters.values():
        value += rng.uniform(0, 0.5, value.shape)
    if getattr(layer, "track_running_stats", False):
        layer.running_mean += rng.uniform(0, 0.5, layer.running_mean.shape)
        layer.running_var += rng.uniform(0, 0.5, layer.running_var.shape)
        layer.num_batches_tracked[...] = 2
    return layer


def simple(name="BatchNorm2d"):
    """A layer and an input for it."""
    args, kwargs, shape = next(case[1:] for case in PLAIN if case[0] == name)
    return build(name, args, kwargs), np.random.default_rng(2).normal(3, 2, shape)


def twin_of(torch, layer, name, args, kwargs):
    twin = getattr(torch.nn, name)(*args, **kwargs).double()
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in layer.state_dict().items()})
    return twin


def assert_same_state(layer, twin):
    state, expected = layer.state_dict(), twin.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(state[key], value.numpy(), err_msg=key, **CLOSE)


def assert_same_gradients(layer, twin):
    expected = dict(twin.named_parameters())
    assert list(layer.parameters) == list(layer.grads) == list(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(layer.grads[key], value.grad.numpy(), err_msg=key, **CLOSE)


# against torch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), named(PLAIN + OPTIONS))
def test_trains_and_evaluates_as_torch(torch, name, args, kwargs, shape):
    layer = build(name, args, kwargs)
    twin = twin_of(torch, layer, name, args, kwargs)
    rng = np.random.default_rng(0)

    def forward_and_backward(apply):
        x, dy = rng.normal(3, 2, shape), rng.normal(0, 1, shape)
        tx = torch.tensor(x, requires_grad=True)
        ty = twin(tx)
        ty.backward(torch.tensor(dy))
        y, dx = apply(x, dy)
        np.testing.assert_allclose(y, ty.detach().numpy(), **CLOSE)
        np.testing.assert_allclose(dx, tx.grad.numpy(), **CLOSE)
        assert_same_gradients(layer, twin)
        assert_same_state(layer, twin)

    for step in range(4):
        forward_and_backward(lambda x, dy: (layer(x), layer.backward(dy)))
        if step % 2:  # every other step the gradients are left to add up
            for key, parameter in twin.named_parameters():
                layer.parameters[key] -= 0.1 * layer.grads[key]
                parameter.data -= 0.1 * parameter.grad
            layer.zero_grad()
            twin.zero_grad(set_to_none=False)
            assert_same_gradients(layer, twin)

    assert layer.eval() is layer
    assert not layer.training
    twin.eval()

    def evaluate(x, dy):
        y, context = layer.forward(x)
        np.testing.assert_array_equal(y, layer(x))
        return y, layer.backward(dy, context)

    forward_and_backward(evaluate)
    assert layer.train() is layer
    assert layer.training
    twin.train()
    forward_and_backward(lambda x, dy: (layer(x), layer.backward(dy)))


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), named(PLAIN + OPTIONS))
def test_states_travel_to_torch_and_back(torch, name, args, kwargs, shape):
    layer = build(name, args, kwargs)
    twin = twin_of(torch, layer, name, args, kwargs)  # torch's strict loading takes the keys and shapes
    assert_same_state(layer, twin)
    other = getattr(layers, name)(*args, **kwargs, dtype=np.float64)
    assert other.load_state_dict({key: value.numpy() for key, value in twin.state_dict().items()}) == ([], [])
    assert_same_state(other, twin)
    if "num_batches_tracked" in other.state_dict():
        assert other.state_dict()["num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), named(PLAIN + OPTIONS))
def test_repr_is_torchs(torch, name, args, kwargs, shape):
    assert repr(getattr(layers, name)(*args, **kwargs)) == repr(getattr(torch.nn, name)(*args, **kwargs))


def test_repr_adds_axis_and_dtype_where_they_are_not_the_usual():
    assert repr(layers.GroupNorm(2, 4, axis=-1)) == "GroupNorm(2, 4, eps=1e-05, affine=True, bias=True, axis=-1)"
    assert (
        repr(layers.RMSNorm(4, dtype=np.float64)) == "RMSNorm((4,), eps=None, elementwise_affine=True, dtype=float64)"
    )


# axis and dtype --------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), named(CHANNELS))
def test_channels_last_is_channels_first_with_moved_axes(name, args, kwargs, shape):
    first, last = build(name, args, kwargs), build(name, args, kwargs, axis=-1)
    single_sample = name.startswith("InstanceNorm") and len(shape) == int(name[-2]) + 1
    channel = 0 if single_sample else 1
    rng = np.random.default_rng(0)

    def move(v):
        return np.ascontiguousarray(np.moveaxis(v, channel, -1))

    for training in (True, False):
        x, dy = rng.normal(3, 2, shape), rng.normal(0, 1, shape)
        y, context = first.train(training).forward(x)
        y_last, context_last = last.train(training).forward(move(x))
        np.testing.assert_allclose(y_last, move(y), **CLOSE)
        np.testing.assert_allclose(last.backward(move(dy), context_last), move(first.backward(dy, context)), **CLOSE)
        for key, value in first.state_dict().items():
            np.testing.assert_allclose(last.state_dict()[key], value, err_msg=key, **CLOSE)
        for key, value in first.grads.items():
            np.testing.assert_allclose(last.grads[key], value, err_msg=key, **CLOSE)


@pytest.mark.full
@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), named(PLAIN))
def test_arrays_have_the_layers_dtype_and_results_the_inputs(name, args, kwargs, shape):
    layer = getattr(layers, name)(*args, **kwargs)
    arrays = {**layer.state_dict(), **layer.grads}
    assert all(value.dtype == np.float32 for key, value in arrays.items() if key != "num_batches_tracked")
    for dtype in (np.float32, np.float64):
        x = np.random.default_rng(0).normal(3, 2, shape).astype(dtype)
        y = layer(x)
        assert y.dtype == layer.backward(y).dtype == dtype
        assert layer.eval()(x).dtype == dtype
        layer.train()
    assert all(value.dtype == np.float32 for value in layer.grads.values())


@pytest.mark.parametrize("name", ["BatchNorm2d", "GroupNorm", "LayerNorm", "RMSNorm"])
def test_takes_lists(name):
    layer, x = simple(name)
    np.testing.assert_array_equal(layer(x.tolist()), layer(x))
    layer(x.tolist())
    assert layer.backward(np.ones_like(x).tolist()).shape == x.shape


# state -----------------------------------------------------------------------------------------------------------


def test_loading_writes_into_the_arrays_that_are_there():
    layer, _ = simple()
    held = [*layer.parameters.values(), layer.running_mean, layer.running_var, layer.num_batches_tracked]
    other = layers.BatchNorm2d(3, dtype=np.float64)
    other.running_mean[...] = 7
    layer.load_state_dict(other.state_dict())
    for array, value in zip(held, other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(array, value)


def test_a_state_is_a_copy():
    layer, x = simple()
    state = layer.state_dict()
    before = copy.deepcopy(state)
    layer(x)
    layer.weight += 1
    for key, value in before.items():
        np.testing.assert_array_equal(state[key], value)


def test_weight_and_bias_are_the_parameters():
    layer, x = simple()
    assert layer.weight is layer.parameters["weight"]
    assert layer.bias is layer.parameters["bias"]
    held = layer.weight
    layer.weight = [1, 2, 3]
    assert layer.weight is held
    layer.parameters["weight"] = np.array([2.0, 0, 0])  # not asked for, but not ignored either
    layer.bias = 5
    y = layer(x)
    assert y[:, 0].std() == pytest.approx(2, rel=1e-4)
    np.testing.assert_array_equal(y[:, 1:], 5)
    assert layers.BatchNorm2d(3, affine=False).weight is None
    assert layers.RMSNorm(3).bias is None


BAD_STATES = {
    "missing": ({"weight": np.zeros(3)}, ["missing keys: bias, running_mean, running_var"]),
    "unexpected": ({"extra": 1, "gamma": 2}, ["unexpected keys: extra, gamma"]),
    "shapes": (
        {"weight": np.zeros(4), "num_batches_tracked": np.zeros(2, np.int64)},
        ["weight: (4,) in the state, (3,) in the layer", "num_batches_tracked: (2,) in the state, () in the layer"],
    ),
    "broadcastable": ({"bias": 1.0}, ["bias: () in the state, (3,) in the layer"]),
    "complex": ({"weight": np.zeros(3, complex)}, ["weight: complex128 in the state, float64 in the layer"]),
    "no count": ({"num_batches_tracked": np.nan}, ["num_batches_tracked is nan in the state"]),
    "several": ({"weight": np.zeros(4), "extra": 1}, ["missing keys: bias", "unexpected keys: extra", "weight: (4,)"]),
}


@pytest.mark.parametrize("case", BAD_STATES)
def test_refuses_a_wrong_state_naming_all_and_changing_nothing(case):
    changes, messages = BAD_STATES[case]
    layer, _ = simple()
    before = layer.state_dict()
    state = changes if case in ("missing", "several") else {key: value + 1 for key, value in before.items()} | changes
    with pytest.raises(ValueError, match="BatchNorm2d") as error:
        layer.load_state_dict(state)
    for message in messages:
        assert message in str(error.value)
    for key, value in before.items():
        np.testing.assert_array_equal(layer.state_dict()[key], value)


def test_loading_without_strictness_takes_what_fits_and_tells_the_rest():
    layer, _ = simple()
    bias = layer.bias.copy()
    keys = layer.load_state_dict({"weight": np.full(3, 7), "extra": 1}, strict=False)
    assert keys.missing_keys == ["bias", "running_mean", "running_var"]
    assert keys.unexpected_keys == ["extra"]
    np.testing.assert_array_equal(layer.weight, 7)
    np.testing.assert_array_equal(layer.bias, bias)
    with pytest.raises(ValueError, match=r"size mismatch for weight: \(4,\)"):
        layer.load_state_dict({"weight": np.zeros(4)}, strict=False)


def test_a_state_must_be_a_mapping():
    with pytest.raises(TypeError, match=r"state is of type list; expected a mapping"):
        layers.LayerNorm(3).load_state_dict([("weight", np.ones(3))])


def test_a_state_can_come_from_an_npz_file(tmp_path):
    layer, _ = simple()
    np.savez(tmp_path / "state.npz", **layer.state_dict())
    other = layers.BatchNorm2d(3, dtype=np.float64)
    with np.load(tmp_path / "state.npz") as state:
        other.load_state_dict(state)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[key], value)


@pytest.mark.full
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), named(PLAIN + OPTIONS))
def test_copies_go_on_alone_and_without_the_context(name, args, kwargs, shape, duplicate):
    layer = build(name, args, kwargs)
    x = np.random.default_rng(0).normal(3, 2, shape)
    layer.backward(layer(x))
    layer(x)
    twin = duplicate(layer)
    assert repr(twin) == repr(layer)
    with pytest.raises(ValueError, match="no context is left"):
        twin.backward(x)
    for mine, its in ((layer.state_dict(), twin.state_dict()), (layer.grads, twin.grads)):
        assert list(mine) == list(its)
        for key, value in mine.items():
            np.testing.assert_array_equal(its[key], value)
    before = pickle.dumps(layer)
    y = twin(x)
    twin.backward(x)
    for value in twin.parameters.values():
        value += 1
    assert pickle.dumps(layer) == before
    layer.backward(x)  # its own context is still there
    np.testing.assert_array_equal(layer(x), y)


# contexts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), named(PLAIN + OPTIONS))
def test_several_forwards_before_the_backwards(name, args, kwargs, shape):
    rng = np.random.default_rng(0)
    inputs, gradients = (rng.normal(mean, 2, (3, *shape)).astype(np.float32) for mean in (3, 0))
    one_by_one, at_once = build(name, args, kwargs), build(name, args, kwargs)
    expected = [(one_by_one(x), one_by_one.backward(dy)) for x, dy in zip(inputs, gradients, strict=True)]
    steps = [at_once.forward(x) for x in inputs]
    for (y, context), dy, (y_expected, dx_expected) in zip(steps, gradients, expected, strict=True):
        np.testing.assert_array_equal(y, y_expected)
        np.testing.assert_array_equal(at_once.backward(dy, context), dx_expected)
    for key, value in one_by_one.grads.items():
        np.testing.assert_array_equal(at_once.grads[key], value)
    with pytest.raises(ValueError, match="no context is left"):
        at_once.backward(gradients[0])


def test_gradients_add_up_and_are_cleared_in_place():
    layer, x = simple()
    held = dict(layer.grads)
    layer.backward(layer(x))
    once = copy.deepcopy(layer.grads)
    _, context = layer.forward(x)
    y = layer(x)
    layer.backward(y)
    layer.backward(y, context)
    for key, value in once.items():
        assert np.any(value)
        np.testing.assert_allclose(layer.grads[key], 3 * value, **CLOSE)
    layer.zero_grad()
    for key, value in held.items():
        assert layer.grads[key] is value
        assert not np.any(value)


@pytest.mark.parametrize("name", sorted({case[0] for case in PLAIN}))
class TestMemory:
    def test_only_the_last_input_is_kept_and_its_backward_lets_go(self, name):
        layer, x = simple(name)
        inputs = [x + step for step in range(4)]
        references = [weakref.ref(value) for value in inputs]
        while inputs:
            layer(inputs.pop(0))
        assert [reference() is not None for reference in references] == [False, False, False, True]
        layer.backward(x)
        assert references[-1]() is None

    def test_evaluation_keeps_nothing(self, name):
        layer, x = simple(name)
        last = x + 1
        reference = weakref.ref(last)
        layer(last)
        del last
        layer.eval()
        assert reference() is None
        last = x + 1
        reference = weakref.ref(last)
        layer(last)
        del last
        assert reference() is None
        with pytest.raises(ValueError, match="no context: the layer is in evaluation mode"):
            layer.backward(x)

    def test_a_context_keeps_the_input_itself_and_the_layer_nothing(self, name):
        layer, x = simple(name)
        _, context = layer.forward(x)
        assert context.x is x
        reference = weakref.ref(x)
        del x
        assert reference() is not None
        del context
        assert reference() is None


@pytest.mark.full
@pytest.mark.parametrize("name", sorted({case[0] for case in PLAIN}))
def test_threads_share_an_evaluating_layer(name):
    layer, x = simple(name)
    layer.eval()
    before = pickle.dumps(layer)
    inputs = [x * (thread + 1) + thread for thread in range(8)]
    expected = [layer(value) for value in inputs]
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda value: [layer(value) for _ in range(20)], inputs))
    for results, y in zip(runs, expected, strict=True):
        np.testing.assert_array_equal(results, [y] * 20)
    assert pickle.dumps(layer) == before


def test_frozen_statistics_are_those_of_the_forward():
    layer, x = simple()
    _, context = layer.eval().forward(x)
    expected, once = layer.backward(x, context), layer.grads["weight"].copy()
    layer.running_mean += 5
    layer.running_var *= 4
    np.testing.assert_array_equal(layer.backward(x, context), expected)
    np.testing.assert_array_equal(layer.grads["weight"], 2 * once)


# refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({case[0] for case in PLAIN}))
def test_backward_needs_a_forward(name):
    layer, x = simple(name)
    with pytest.raises(ValueError, match="no context is left"):
        layer.backward(x)
    layer(x)
    layer.backward(x)
    with pytest.raises(ValueError, match="no context is left"):
        layer.backward(x)
    with pytest.raises(TypeError, match=r"context is of type ndarray; expected"):
        layer.backward(x, x)


@pytest.mark.parametrize("name", sorted({case[0] for case in PLAIN}))
def test_a_refused_backward_can_be_tried_again(name):
    layer, x = simple(name)
    layer(x)
    with pytest.raises(ValueError, match="dy"):
        layer.backward(x[:1])
    assert not any(np.any(value) for value in layer.grads.values())
    assert layer.backward(x).shape == x.shape


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("BatchNorm1d", (3,), r"expected 2D or 3D input \(got 1D input\)"),
        ("BatchNorm1d", (2, 3, 4, 5), r"expected 2D or 3D input \(got 4D input\)"),
        ("BatchNorm2d", (2, 3, 4), r"expected 4D input \(got 3D input\)"),
        ("BatchNorm3d", (2, 3, 4, 5), r"expected 5D input \(got 4D input\)"),
        ("InstanceNorm1d", (2, 3, 4, 5), r"expected 2D or 3D input \(got 4D input\)"),
        ("InstanceNorm2d", (2, 3), r"expected 3D or 4D input \(got 2D input\)"),
        ("InstanceNorm3d", (2, 3, 4), r"expected 4D or 5D input \(got 3D input\)"),
    ],
)
def test_refuses_other_ranks_in_torchs_words(torch, name, shape, message):
    layer = getattr(layers, name)(3)
    for layer_or_twin, x in ((layer, np.ones(shape)), (getattr(torch.nn, name)(3), torch.ones(shape))):
        with pytest.raises(ValueError, match=message):
            layer_or_twin(x)
    with pytest.raises(ValueError, match=message):
        layer.eval()(np.ones(shape))
    with pytest.raises(ValueError, match=message):
        layer.forward(np.ones(shape))


@pytest.mark.parametrize(("name", "args", "kwargs", "shape"), named(PLAIN + OPTIONS))
def test_refuses_other_sizes(name, args, kwargs, shape):
    layer = build(name, args, kwargs)
    before = layer.state_dict()
    for mode in (True, False):
        layer.train(mode)
        for call in (layer, layer.forward):
            with pytest.raises(ValueError, match=r"num_features|num_channels|normalized_shape"):
                call(np.ones([size + 1 for size in shape]))
    for key, value in before.items():
        np.testing.assert_array_equal(layer.state_dict()[key], value)


def test_names_the_channels():
    with pytest.raises(ValueError, match=r"size at axis=-1 to match num_features \(3\), but got: 4 .*\(2, 3, 3, 4\)"):
        layers.BatchNorm2d(3, axis=-1)(np.ones((2, 3, 3, 4)))
    with pytest.raises(ValueError, match=r"size at axis=1 to match num_channels \(4\), but got: 6"):
        layers.GroupNorm(2, 4, affine=False)(np.ones((2, 6)))
    with pytest.raises(ValueError, match=r"axis is 2; expected -2 to 1, an axis of x, which has shape \(2, 3\)"):
        layers.BatchNorm1d(3, axis=2)(np.ones((2, 3)))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("name", "words"), [("BatchNorm2d", "value per channel"), ("InstanceNorm2d", "spatial element")]
)
def test_one_value_is_refused_in_training_and_not_counted(name, words, momentum):
    layer = getattr(layers, name)(3, momentum=momentum, track_running_stats=True)
    before = layer.state_dict()
    with pytest.raises(ValueError, match=f"Expected more than 1 {words} when training"):
        layer(np.ones((1, 3, 1, 1)))
    for key, value in before.items():
        np.testing.assert_array_equal(layer.state_dict()[key], value)
    assert layer.eval()(np.ones((1, 3, 1, 1))).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_batch_changes_no_statistics(momentum):
    layer = layers.BatchNorm2d(3, momentum=momentum)
    before = layer.state_dict()
    empty = np.ones((0, 3, 2, 2))
    assert layer(empty).shape == layer.backward(empty).shape == empty.shape
    for key, value in before.items():
        np.testing.assert_array_equal(layer.state_dict()[key], value)
    assert not np.any(layer.grads["weight"])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: layers.BatchNorm2d(0), ValueError, "num_features is 0; expected at least 1"),
        (lambda: layers.BatchNorm2d(3.0), TypeError, r"num_features is 3\.0; expected an integer"),
        (lambda: layers.BatchNorm2d(3, axis="last"), TypeError, "axis is 'last'; expected an integer"),
        (lambda: layers.InstanceNorm1d(-1), ValueError, "num_features is -1; expected at least 1"),
        (lambda: layers.GroupNorm(0, 4), ValueError, "num_groups is 0; expected at least 1"),
        (lambda: layers.GroupNorm(3, 4), ValueError, "num_groups is 3; expected a divisor of the 4 channels"),
        (lambda: layers.LayerNorm((4, 2.5)), TypeError, r"normalized_shape is \(4, 2\.5\); expected an integer"),
        (lambda: layers.RMSNorm((4, -2)), ValueError, "normalized_shape is -2; expected at least 1"),
        (lambda: layers.LayerNorm(4, dtype=int), TypeError, "dtype is int.*; expected float16, bfloat16"),
        (lambda: layers.LayerNorm(4, dtype=None), TypeError, "dtype is None.*; expected float16, bfloat16"),
        (lambda: layers.LayerNorm(4, dtype=complex), TypeError, "dtype is complex.*; expected float16, bfloat16"),
    ],
)
def test_constructors_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()
