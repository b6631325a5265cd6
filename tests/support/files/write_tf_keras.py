"""Writes legacy files of tf-keras with what TensorFlow computes from them.

Run with tf-keras 2.21, tensorflow-cpu: python write_tf_keras.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import tf_keras as keras

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
inputs = keras.Input((4, 4, 3))
first = keras.layers.Conv2D(4, 3, use_bias=False, name="stem")(inputs)
second = keras.layers.BatchNormalization(name="stem_bn")(first)
third = keras.layers.LayerNormalization(name="layer")(second)
model = keras.Model(inputs, third)
between = keras.Model(inputs, [first, second, third])
for weight in model.weights:
    if len(weight.shape) == 1:
        low, high = (0.5, 2) if "variance" in weight.name or "gamma" in weight.name else (-1, 1)
        weight.assign(rng.uniform(low, high, weight.shape))
x = rng.normal(1, 2, (2, 4, 4, 3)).astype(np.float32)
values = [value.numpy() for value in between(x, training=False)]
model.save(folder / "tf_keras.h5")
model.save_weights(folder / "tf_keras_weights.h5")
seen = {"x": x, "stem_bn.x": values[0], "stem_bn.y": values[1], "layer.x": values[1], "layer.y": values[2]}
np.savez_compressed(folder / "tf_keras.outputs.npz", **seen)
