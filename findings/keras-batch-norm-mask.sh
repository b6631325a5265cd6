#!/usr/bin/env bash
# keras 3.15.1, numpy 2.4.6.  A mask of time steps, (samples, steps), beside batch norm of (samples, channels, steps) with axis=1: where
# there are as many channels as steps, it masks channels.  Here the third step, padding of 100, counts, and the third channel does not.
# And a batch of nothing but padding has a mean and a variance of 0, which go into the moving ones.  The mean over the steps that are
# not masked was expected, [1, 1, 1], or an error; and no change.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install keras==3.15.1 numpy==2.4.6 scipy==1.17.1 jax==0.10.2
export KERAS_BACKEND=numpy
expect 'channels first: mean [34.0, 34.0, 0.0]
channels last: mean [1.0, 1.0, 1.0]
all padding: mean [0.0, 0.0, 0.0], variance [0.5, 0.5, 0.5]' <<'PY'
import keras
import numpy as np

steps = np.array([[True, True, False]] * 2)
x = np.broadcast_to(np.float32([0, 2, 100]), (2, 3, 3))  # of each channel
for name, axis, data in (("first", 1, x), ("last", -1, x.swapaxes(1, 2))):
    layer = keras.layers.BatchNormalization(axis=axis, momentum=0.0)
    layer(data, training=True, mask=steps)
    print(f"channels {name}: mean {np.asarray(layer.moving_mean).round(3).tolist()}")
layer = keras.layers.BatchNormalization(momentum=0.5)
layer(x, training=True, mask=np.zeros((2, 3), bool))
mean, variance = (np.asarray(v).round(3).tolist() for v in (layer.moving_mean, layer.moving_variance))
print(f"all padding: mean {mean}, variance {variance}")
PY
