"""Writes files of Keras with what Keras computes from them.

Run with keras 3.15.1, h5py 3.16.0, torch 2.13.0: KERAS_BACKEND=torch python write_keras.py FOLDER
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)


def shaken(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            shaken(layer)
            continue
        for weight in layer.weights:
            if len(weight.shape) == 1:
                low, high = (0.5, 2) if "variance" in weight.name or "gamma" in weight.name else (-1, 1)
                weight.assign(rng.uniform(low, high, weight.shape))
    return model


def save(file, model):
    """The model in the three formats, and what its norms take and give."""
    shaken(model)
    image = rng.normal(1, 2, (2, *model.inputs[0].shape[1:])).astype(np.float32)
    seen = {"x": image, "y": model(image, training=False)}
    for layer in model.layers:
        if "Normalization" in type(layer).__name__:
            between = keras.Model(model.inputs, [layer.input, layer.output])(image, training=False)
            seen |= {f"{layer.name}.x": between[0], f"{layer.name}.y": between[1]}
        if layer.name == "inner":
            value = keras.Model(model.inputs, model.get_layer("pool").output)(image, training=False)
            value = layer.get_layer("inner_dense")(value)
            seen |= {"inner_bn.x": value, "inner_bn.y": layer.get_layer("inner_bn")(value, training=False)}
    model.save(folder / f"{file}.keras")
    model.save_weights(folder / f"{file}.weights.h5")
    model.save(folder / f"{file}_legacy.h5")
    values = {name: value if name == "x" else value.detach().numpy() for name, value in seen.items()}
    np.savez_compressed(folder / f"{file}.outputs.npz", **values)


x0 = keras.Input((6, 6, 3))
x = layers.Conv2D(8, 3, use_bias=False, name="stem")(x0)
x = layers.BatchNormalization(epsilon=2e-3, momentum=0.9, name="stem_bn")(x)
x = layers.ReLU(name="relu")(x)
x = layers.GroupNormalization(4, name="group")(x)
x = layers.LayerNormalization(name="layer")(x)
x = layers.RMSNormalization(name="rms")(x)
x = layers.Conv2D(4, 1, name="conv2")(x)
x = layers.BatchNormalization(scale=False, name="bn2")(x)
x = layers.Conv2DTranspose(6, 2, strides=2, name="up")(x)
x = layers.BatchNormalization(center=False, name="bn3")(x)
save("keras", keras.Model(x0, x))

x0 = keras.Input((4, 4, 3))
x = layers.DepthwiseConv2D(3, name="depthwise", use_bias=False, depth_multiplier=2)(x0)
x = layers.BatchNormalization(name="bn4")(x)
inner = keras.Sequential(
    [keras.Input((6,)), layers.Dense(5, name="inner_dense"), layers.BatchNormalization(name="inner_bn")]
)
inner.name = "inner"
x = inner(layers.GlobalAveragePooling2D(name="pool")(x))
x = layers.Dense(4, name="dense")(x)
x = layers.BatchNormalization(renorm=True, name="renorm")(x)
x = layers.LayerNormalization(rms_scaling=True, name="scaled")(x)
save("keras_more", keras.Model(x0, x))

x0 = keras.Input((6, 6, 3))
x = layers.BatchNormalization(name="bn_valid")(x0)
x = layers.Conv2D(4, 3, activation="relu", name="valid")(x)
x = layers.BatchNormalization(name="bn_depthwise")(x)
x = layers.DepthwiseConv2D(2, depth_multiplier=2, use_bias=False, activation="relu", name="depthwise")(x)
x = layers.BatchNormalization(name="bn_same")(x)
x = layers.Conv2D(4, 3, padding="same", activation="relu", name="same")(x)
x = layers.BatchNormalization(name="bn_dense")(layers.GlobalAveragePooling2D(name="pool")(x))
save("keras_before", keras.Model(x0, layers.Dense(3, activation="tanh", name="dense")(x)))
