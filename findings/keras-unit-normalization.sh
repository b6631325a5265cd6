#!/usr/bin/env bash
# keras 3.15.1, numpy 2.4.6.  UnitNormalization in mixed precision squares in float16 and takes 1e-12, which float16 does not hold, for
# the least length: a vector longer than 255 becomes 0, one shorter than 0.0002 infinite, and zeros NaN; whole numbers become 0.  Keras'
# batch, layer and group norm compute in float32 then, for that very reason, and so was expected of this one: [0.6, 0.8] each time.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install keras==3.15.1 numpy==2.4.6 scipy==1.17.1 jax==0.10.2
export KERAS_BACKEND=numpy
expect 'float32 [[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]
mixed_float16 [[0.0, 0.0], [inf, inf], [nan, nan]]
integers [[0.0, 0.0]]' <<'PY'
import warnings

import keras
import numpy as np

warnings.simplefilter("ignore")
x = np.array([[300, 400], [9e-5, 12e-5], [0, 0]], np.float32)
for policy in ("float32", "mixed_float16"):
    y = keras.layers.UnitNormalization(dtype=policy)(x)
    print(policy, np.asarray(y, np.float64).round(2).tolist())
print("integers", np.asarray(keras.ops.normalize(np.array([[3, 4]])), np.float64).tolist())
PY
