#!/usr/bin/env bash
# keras 3.15.1 on its NumPy backend, numpy 2.4.6.  float32 data of spread 1 about a mean of 10,000: LayerNormalization gives
# NaN in some rows, since the variance is taken as the mean of squares less the square of the mean, and is negative then.
# Results within 1e-3 of NumPy's float64 were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install keras==3.15.1 numpy==2.4.6 scipy==1.17.1 jax==0.10.2
expect 'mean 0: NaN False; mean 10000: NaN True' <<'PY'
import os
import warnings

os.environ["KERAS_BACKEND"] = "numpy"
warnings.simplefilter("ignore")
import keras
import numpy as np

x = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)
layer = keras.layers.LayerNormalization()
told = (f"mean {mean}: NaN {bool(np.isnan(layer(x + np.float32(mean))).any())}" for mean in (0, 10000))
print("; ".join(told))
PY
