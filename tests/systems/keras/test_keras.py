"""fastbn.keras: models of Keras 3 on the NumPy backend."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

os.environ["KERAS_BACKEND"] = "numpy"

import keras
import numpy as np
import pytest

import fastbn
from fastbn import reference


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((6, 6, 4)), keras.layers.LayerNormalization(axis=(1, 3))], name="inner")
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(name="first"),
            inner,
            keras.layers.GroupNormalization(2, axis=-1),
            keras.layers.RMSNormalization(axis=(2, 3)),
        ]
    )


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((4, 8, 8, 3), dtype=np.float32)


@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_moving_statistics(model, x, training):
    fast = fastbn.keras.convert(model)
    np.testing.assert_allclose(fast(x, training=training), model(x, training=training), rtol=0, atol=1e-5)
    for ours, theirs in zip(fast.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_every_norm_is_converted_and_the_model_is_left_alone(model):
    fast = fastbn.keras.convert(model)
    norms = [layer for layer in fast._flatten_layers() if "Normalization" in type(layer).__name__]
    assert len(norms) == 4
    assert {type(layer).__module__ for layer in norms} == {"fastbn.keras"}
    assert [layer.name for layer in fast.layers] == [layer.name for layer in model.layers]
    assert type(model.get_layer("first")) is keras.layers.BatchNormalization


def test_a_saved_model_comes_back(model, x, tmp_path):
    fast = fastbn.keras.convert(model)
    fast.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x), fast(x))
    fast.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")  # and fastbn's weights are Keras' weights


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(x, dtype):
    layers = [keras.layers.BatchNormalization(dtype=dtype), keras.layers.LayerNormalization(dtype=dtype)]
    model = keras.Sequential([keras.Input((8, 8, 3), dtype=dtype), *layers])
    fast = fastbn.keras.convert(model)
    y, expected = fast(x, training=True), model(x, training=True)
    assert y.dtype == expected.dtype
    tolerance = {"float16": 5e-3, "bfloat16": 5e-2}[dtype]
    np.testing.assert_allclose(y.astype(np.float64), expected.astype(np.float64), rtol=0, atol=tolerance)


@pytest.mark.parametrize("axis", [(-1, 1), (3, 1), (-1, -2), (2, -3)])
def test_axes_in_any_order_have_the_weights_of_keras(x, axis):
    """Keras sorts them by their numbers, the negative ones first, and reads its weights' elements one after another."""
    x = x[:, :5]
    model = keras.Sequential([keras.Input((5, 8, 3)), keras.layers.LayerNormalization(axis=axis)])
    rng = np.random.default_rng(1)
    model.set_weights([rng.standard_normal(w.shape, np.float32) for w in model.get_weights()])
    fast = fastbn.keras.convert(model)
    np.testing.assert_allclose(fast(x), model(x), rtol=0, atol=1e-5)


def test_rms_norm_of_a_negative_axis_before_a_positive_one():
    """Keras' NumPy backend cannot compute it, so the definition decides."""
    x = np.random.default_rng(0).standard_normal((4, 5, 8, 3), dtype=np.float32)
    fast = fastbn.keras.convert(keras.Sequential([keras.Input((5, 8, 3)), keras.layers.RMSNormalization(axis=(-1, 1))]))
    expected = x / np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=(1, 3), keepdims=True) + 1e-6)
    np.testing.assert_allclose(fast(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool"])
@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.BatchNormalization,
        keras.layers.LayerNormalization,
        lambda: keras.layers.GroupNormalization(1),
        keras.layers.RMSNormalization,
    ],
    ids=["batch", "layer", "group", "rms"],
)
def test_whole_numbers_are_computed_by_keras(layer, dtype, training):
    x = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 120, (4, 8, 8, 3)).astype(dtype)
    model = keras.Sequential([keras.Input((8, 8, 3), dtype=dtype), layer()])
    fast = fastbn.keras.convert(model)
    with np.errstate(all="ignore"):  # Keras squares them as they are
        y, expected = fast(x, training=training), model(x, training=training)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)


def test_what_was_converted_is_copied(x):
    fast = fastbn.keras.convert(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.BatchNormalization()]))
    again = fastbn.keras.convert(fast)
    assert again is not fast
    np.testing.assert_array_equal(again(x), fast(x))


def test_float64_is_float64(x):
    layer = keras.layers.LayerNormalization(dtype="float64")
    fast = fastbn.keras.convert(keras.Sequential([keras.Input((8, 8, 3), dtype="float64"), layer]))
    x = x.astype(np.float64) / 3
    # Keras 3.15 computes in float32 here, so the definition decides
    np.testing.assert_allclose(fast(x), reference.layer_norm(x, 3, eps=1e-3), rtol=0, atol=1e-14)


@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_a_large_mean_costs_no_digits(mean):
    x = (np.random.default_rng(0).standard_normal((512, 4)) + mean).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    fast = fastbn.keras.convert(model)
    expected = reference.batch_norm(x, training=True, eps=1e-3)
    np.testing.assert_allclose(fast(x, training=True), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(fast.layers[0].moving_mean, x.mean(0, dtype=np.float64) * 0.01, rtol=1e-6)
    assert np.min(fast.layers[0].moving_variance) > 0.9


def test_a_mask_counts_as_in_keras():
    x = np.random.default_rng(0).standard_normal((4, 5, 3), dtype=np.float32)
    mask = np.arange(5) < np.array([[5], [3], [1], [4]])
    theirs = keras.layers.BatchNormalization()
    ours = fastbn.keras.convert(keras.Sequential([keras.Input((5, 3)), theirs])).layers[0]
    np.testing.assert_allclose(
        ours(x, training=True, mask=mask), theirs(x, training=True, mask=mask), rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=1e-6)


def test_one_value_a_channel_and_frozen_layers():
    x = np.array([[1.0, 2.0]], np.float32)
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    fast = fastbn.keras.convert(model)
    np.testing.assert_allclose(fast(x, training=True), model(x, training=True))
    fast.layers[0].trainable = False
    before = fast.get_weights()
    fast(np.ones((3, 2), np.float32), training=True)
    for value, old in zip(fast.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_what_cannot_be_converted_is_told(model):
    with pytest.raises(TypeError, match=r"model is of type str; expected a keras\.Model"):
        fastbn.keras.convert("model")
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no normalization layer"):
        fastbn.keras.convert(plain)


def test_the_extra_has_what_the_numpy_backend_imports():
    code = "import sys, keras; print(*{name.partition('.')[0] for name in sys.modules})"
    environment = os.environ | {"KERAS_BACKEND": "numpy"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    named = {re.match(r"\w+", line)[0] for line in project["optional-dependencies"]["keras"]}
    assert {"jax", "scipy"} & set(done.stdout.split()) <= named


def test_another_backend_is_refused():
    code = "import keras, fastbn; fastbn.keras.convert(keras.Sequential([keras.Input((3,))]))"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert "RuntimeError: Keras runs on its jax backend" in done.stderr
    assert "KERAS_BACKEND=numpy" in done.stderr
