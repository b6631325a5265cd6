"""Layers with activation, residual and mask: against compositions in torch, the functions, and other layers.

Nearly all calls have the same options, so that few kernels are compiled: silu, a mask, a residual where there can be.
"""

import pickle
import weakref

import numpy as np
import pytest
from cases import assert_close, assert_same_bits

import fastbn
from fastbn import layers

IMAGES, TOKENS = (4, 6, 3, 5), (3, 4, 7)
TRACKED = {"affine": True, "track_running_stats": True}
# layer, arguments, keyword arguments, input shape, torch's module and its arguments if they are others, function
LAYERS = [
    ("BatchNorm2d", (6,), {}, IMAGES, None, "batch_norm"),
    ("BatchNorm2d", (6,), {"axis": -1}, IMAGES, None, "batch_norm"),
    ("InstanceNorm2d", (6,), TRACKED, IMAGES, None, "instance_norm"),
    ("GroupNorm", (3, 6), {}, IMAGES, None, "group_norm"),
    ("LayerNorm", (7,), {}, TOKENS, None, "layer_norm"),
    ("RMSNorm", (7,), {}, TOKENS, None, "rms_norm"),
    ("LayerNorm2d", (6,), {}, IMAGES, ("LayerNorm", (6, 1e-6)), "channel_layer_norm"),
    ("RMSNorm2d", (6,), {}, IMAGES, ("RMSNorm", (6, 1e-6)), "channel_rms_norm"),
]
NAMES = sorted({case[0] for case in LAYERS} | {"BatchNorm3d", "InstanceNorm1d", "InstanceNorm3d"})
CLOSE = 1e-12  # float64 on both sides; sums in another order


def named(cases):
    return [pytest.param(*case, id=f"{case[0]}{case[2] or ''}-{case[3]}") for case in cases]


def build(name, args, kwargs, **more):
    """A layer whose arrays differ from their initial values."""
    layer = getattr(layers, name)(*args, **kwargs, dtype=np.float64, **more)
    rng = np.random.default_rng(1)
    running = [layer.running_mean, layer.running_var] if getattr(layer, "track_running_stats", False) else []
    for value in (*layer.parameters.values(), *running):
        value += rng.uniform(0, 0.5, value.shape)
    return layer


def batch_layer(**more):
    return build("BatchNorm2d", (6,), {}, **{"activation": "silu"} | more)


def data(seed=0, shape=IMAGES):
    return np.random.default_rng(seed).normal(0.5, 2, shape)


def given(op, x, residual, where):
    """What a call of such a layer is given."""
    also = {"residual": residual} if op in ("batch_norm", "group_norm") else {}
    return also | {"where": np.broadcast_to(where, x.shape)}


def pair(result):
    """What backward returned, as dx and what else."""
    return result if isinstance(result, tuple) else (result,)


def assert_all_close(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, CLOSE)


def assert_same_arrays(actual, expected, check=assert_same_bits):
    assert list(actual) == list(expected)
    for key, value in expected.items():
        check(actual[key], value)


@pytest.mark.system("torch")
@pytest.mark.parametrize(("name", "args", "kwargs", "shape", "module", "op"), named(LAYERS))
def test_is_the_composition_in_torch(name, args, kwargs, shape, module, op):
    import torch

    layer = build(name, args, kwargs, activation="silu")
    axis = kwargs.get("axis", 1)
    options = {key: value for key, value in kwargs.items() if key != "axis"}
    twin = getattr(torch.nn, module[0] if module else name)(*(module[1] if module else args), **options).double()
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in layer.state_dict().items()})
    last = module is not None  # torch's own normalizes trailing axes

    def composed(x, residual):
        y = twin(x.movedim(1, -1)).movedim(-1, 1) if last else twin(x.movedim(axis, 1)).movedim(1, axis)
        return torch.nn.functional.silu(y if residual is None else y + residual)

    for step, training in enumerate((True, True, False)):
        x, dy, r = (np.moveaxis(data(3 * step + i, shape), 1, axis) for i in range(3))
        also = given(op, x, r, True)
        tx, tr = (torch.tensor(v, requires_grad=True) for v in (x, r))
        twin.train(training)
        ty = composed(tx, tr if "residual" in also else None)
        ty.backward(torch.tensor(dy))
        if training:
            y, gradients = layer(x, **also), layer.backward(dy)
        else:
            y, context = layer.eval().forward(x, **also)
            gradients = layer.backward(dy, context)
            assert_same_bits(layer(x, **also), y)
        assert_close(y, ty.detach().numpy(), CLOSE)
        assert_all_close(pair(gradients), [v.grad.numpy() for v in ([tx, tr] if "residual" in also else [tx])])
    state = {key: value.numpy() for key, value in twin.state_dict().items()}
    assert_same_arrays(layer.state_dict(), state, lambda a, b: assert_close(a, b, CLOSE))
    added_up = {key: value.grad.numpy() for key, value in twin.named_parameters()}
    assert_same_arrays(layer.grads, added_up, lambda a, b: assert_close(a, b, CLOSE))


@pytest.mark.full
@pytest.mark.parametrize(("name", "args", "kwargs", "shape", "module", "op"), named(LAYERS))
def test_masks_reach_the_functions(name, args, kwargs, shape, module, op):
    layer, more = build(name, args, kwargs, activation="silu"), {}
    axis = kwargs.get("axis", 1)
    x, dy, r = (np.moveaxis(data(i, shape), 1, axis) for i in range(3))
    where = np.random.default_rng(3).random(x.shape) < 0.8
    also = given(op, x, r, where)
    if shape == IMAGES:
        more["axis"] = axis
    positional = {"group_norm": (3,), "layer_norm": (7,), "rms_norm": (7,)}.get(op, ())
    parameters = {key: value.copy() for key, value in layer.parameters.items()}
    expected = {"activation": "silu", **also, **parameters, **more}
    y, *statistics = getattr(fastbn, f"{op}_forward")(x, *positional, **expected, eps=layer.eps)
    dx, *rest = getattr(fastbn, f"{op}_backward")(dy, x, *statistics, **expected)

    assert_same_bits(layer(x, **also), y)
    assert not layer(x, **also)[~where].any()
    assert_all_close(pair(layer.backward(dy)), [dx, *rest[len(parameters) :]])
    assert_same_arrays(layer.grads, dict(zip(parameters, rest, strict=False)))

    y, context = layer.eval().forward(x, **also)
    assert_same_bits(layer(x, **also), y)
    for a in pair(layer.backward(dy, context)):
        assert not a[~where].any()


@pytest.mark.full
def test_masked_samples_are_as_if_they_were_not_there():
    layer, alone, x, r = batch_layer(), batch_layer(), data(), data(1)
    kept = np.array([True, False, True, True])
    y = layer(x, residual=r, where=kept[:, None, None, None])
    assert_close(y[kept], alone(x[kept], residual=r[kept], where=True), CLOSE)
    for a, b in zip(layer.backward(y), alone.backward(y[kept]), strict=True):
        assert_close(a[kept], b, CLOSE)
    for a, b in ((layer.state_dict(), alone.state_dict()), (layer.grads, alone.grads)):
        assert_same_arrays(a, b, lambda c, d: assert_close(c, d, CLOSE))


@pytest.mark.full
def test_a_single_sample_of_instance_norm():
    """Its mask broadcasts to the sample, and its gradient has the sample's shape."""
    layer, x, dy = build("InstanceNorm2d", (6,), TRACKED, activation="silu"), data(), data(1)
    where = np.random.default_rng(3).random(x.shape[2:]) < 0.8
    for training in (True, False):
        y, context = layer.train(training).forward(x[:1], where=where)
        y_single, single = layer.forward(x[0], where=where)
        if not training:
            assert_same_bits(y_single, y[0])
            assert_same_bits(layer.backward(dy[0], single), layer.backward(dy[:1], context)[0])
        assert y_single.shape == layer.backward(dy[0], single).shape == x[0].shape


@pytest.mark.full
@pytest.mark.parametrize("option", [{"virtual_batch_size": len(data())}, {"renorm": (1.0, 0.0)}], ids=str)
def test_ghost_batches_and_renormalization_that_change_nothing(option):
    plain, layer = batch_layer(), batch_layer(**option)
    x, dy, also = data(), data(1), {"residual": data(2), "where": data(3) < 1}
    assert_close(layer(x, **also), plain(x, **also), CLOSE)
    assert_all_close(layer.backward(dy), plain.backward(dy))
    for a, b in ((layer.state_dict(), plain.state_dict()), (layer.grads, plain.grads)):
        assert_same_arrays(a, b, lambda c, d: assert_close(c, d, CLOSE))


@pytest.mark.full
@pytest.mark.parametrize("affine", [True, False])
def test_frozen(affine):
    layer, x, dy, also = batch_layer(), data(), data(1), {"residual": data(2), "where": data(3) < 1}
    y, context = layer.eval().forward(x, **also)
    dx, dresidual = layer.backward(dy, context)
    state, gradients = layer.state_dict(), {key: value.copy() for key, value in layer.grads.items()}
    layer.zero_grad()
    layer.freeze(affine).train()
    assert_same_bits(layer(x, **also), y)
    assert_all_close(layer.backward(dy), [dx, dresidual])
    assert_same_arrays(layer.state_dict(), state)
    assert_same_arrays(layer.grads, {} if affine else gradients)


@pytest.mark.full
def test_one_value_a_channel():
    x, dy, r = (data(i, (1, 6, 1, 1)) for i in range(3))
    also = {"residual": r, "where": True}
    layer, evaluating = batch_layer(on_single="eval"), batch_layer().eval()
    y, context = evaluating.forward(x, **also)
    assert_same_bits(layer(x, **also), y)
    assert_all_close(layer.backward(dy), evaluating.backward(dy, context))

    layer = batch_layer(on_single="zero")
    z = layer.bias[:, None, None] + r
    logistic = 1 / (1 + np.exp(-z))
    assert_close(layer(x, **also), z * logistic, CLOSE)
    dx, dresidual = layer.backward(dy)
    assert not dx.any()
    assert_close(dresidual, dy * logistic * (1 + z * (1 - logistic)), CLOSE)
    assert_same_arrays(layer.grads, {"weight": np.zeros(6), "bias": dresidual.ravel()}, np.testing.assert_array_equal)


@pytest.mark.full
def test_a_context_has_what_its_forward_was_given():
    """Whatever the layer is given later, in any order of the backwards; and the arrays themselves until then."""
    layer, x, dy, residuals = batch_layer(), data(), data(1), [data(2), data(3)]
    expected = []
    for r in residuals:
        layer(x, residual=r, where=True)
        expected.append(layer.backward(dy))
    steps = [layer.forward(x, residual=r, where=True)[1] for r in residuals]
    layer.activation = None
    for context, gradients in zip(reversed(steps), reversed(expected), strict=True):
        for a, b in zip(layer.backward(dy, context), gradients, strict=True):
            assert_same_bits(a, b)
    references = [weakref.ref(r) for r in residuals]
    del r, residuals, context
    assert all(reference() is not None for reference in references)
    del steps
    assert all(reference() is None for reference in references)


@pytest.mark.full
def test_backward_returns_a_pair_only_for_a_residual():
    layer, x, dy = batch_layer(), data(), data(1)
    layer(x, residual=np.zeros_like(x), where=True)
    dx, _ = layer.backward(dy)
    layer(x, residual=None, where=True)
    assert_close(layer.backward(dy), dx, CLOSE)


@pytest.mark.full
@pytest.mark.parametrize("activation", ["relu", ("leaky_relu", 0.2)])
@pytest.mark.parametrize(("name", "args", "kwargs", "shape", "module", "op"), named(LAYERS))
def test_state_copies_and_repr(name, args, kwargs, shape, module, op, activation):
    layer, without = build(name, args, kwargs, activation=activation), build(name, args, kwargs)
    assert repr(layer) == repr(without)[:-1] + f", activation={activation!r})"
    assert "activation" not in repr(without)
    assert_same_arrays(layer.state_dict(), without.state_dict())
    assert pickle.loads(pickle.dumps(layer)).activation == activation
    without.load_state_dict(layer.state_dict())


@pytest.mark.full
def test_population_statistics():
    layer, x = batch_layer(), data()
    fastbn.population_statistics([layer], [x[:2], x[2:]], lambda v: layer(v, residual=v, where=True), progress=False)
    assert_close(layer.running_mean, x.mean((0, 2, 3)), CLOSE)
    assert_close(layer.running_var, x.var((0, 2, 3)), CLOSE)


# refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_construction_refuses_by_name(name):
    args = (3, 6) if name == "GroupNorm" else (6,)
    for activation, error in (("tanh", ValueError), (("relu", 1), ValueError), (3, TypeError)):
        with pytest.raises(error, match="activation is"):
            getattr(layers, name)(*args, activation=activation)


@pytest.mark.parametrize("name", ["InstanceNorm2d", "LayerNorm2d", "RMSNorm2d", "LocalResponseNorm"])
@pytest.mark.parametrize("training", [True, False])
def test_layers_without_a_residual_refuse_one_by_name(name, training):
    layer = getattr(layers, name)(6).train(training)
    for call in (layer, layer.forward):
        with pytest.raises(TypeError, match=f"{name.removesuffix('2d')}.*'residual'"):
            call(data(), residual=data())


@pytest.mark.full
@pytest.mark.parametrize(
    ("also", "error", "message"),
    [
        ({"residual": data()[1:]}, ValueError, "residual has shape"),
        ({"residual": data().astype(np.float32)}, TypeError, "residual has dtype"),
        ({"where": data()}, TypeError, "where has dtype"),
        ({"where": np.ones((2, 1, 1, 1), bool)}, ValueError, "where has shape"),
        ({"where": np.eye(6, dtype=bool)[0].reshape(6, 1, 1)}, ValueError, "where leaves"),
    ],
    ids=("shape", "dtype", "mask's dtype", "mask's shape", "nothing"),
)
@pytest.mark.parametrize("option", [{}, {"virtual_batch_size": 2}, {"renorm": (3.0, 5.0)}], ids=str)
def test_refused_calls_change_nothing(also, error, message, option):
    layer, x = batch_layer(**option), data()
    good = {"residual": x, "where": True}
    layer(x, **good)
    before = layer.state_dict()
    with pytest.raises(error, match=message):
        layer(x, **good | also)
    assert_same_arrays(layer.state_dict(), before)
    assert len(layer.backward(x)) == 2  # of the call before
