#!/usr/bin/env bash
# keras 3.15.1 on its NumPy backend, numpy 2.4.6.  A LayerNormalization of dtype float64 takes float64, returns float64, and
# computes in float32 in between: errors of 1e-7 and more, where 1e-15 was expected.  GroupNormalization, too.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install keras==3.15.1 numpy==2.4.6 scipy==1.17.1 jax==0.10.2
expect 'LayerNormalization float64, error over 1e-8: True; GroupNormalization float64, error over 1e-8: True' <<'PY'
import os

os.environ["KERAS_BACKEND"] = "numpy"
import keras
import numpy as np

x = np.random.default_rng(0).normal(1.0, 2.0, (4, 8))
told = []
for layer in (
    keras.layers.LayerNormalization(dtype="float64"),
    keras.layers.GroupNormalization(1, dtype="float64"),
):
    y = np.asarray(layer(x))
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)
    told.append(f"{type(layer).__name__} {y.dtype}, error over 1e-8: {np.abs(y - expected).max() > 1e-8}")
print("; ".join(told))
PY
