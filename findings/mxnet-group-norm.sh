#!/usr/bin/env bash
# mxnet 1.9.1, numpy 1.23.5, Python 3.11.  GroupNorm of Gluon has one gamma and one beta for each group, where PyTorch, Keras, Flax
# and ONNX since operator set 21 have them for each channel; its description says nothing of it, and arrays of as many elements
# as channels are refused.  (4,) was expected for two groups of four channels.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install mxnet==1.9.1 numpy==1.23.5
expect 'gamma (2,), beta (2,); with gamma 1 and 10: [-1.0, 1.0, -10.0, 10.0]' <<'PY'
import mxnet
import numpy as np

norm = mxnet.gluon.nn.GroupNorm(num_groups=2)
norm.initialize()
x = mxnet.nd.array(np.array([1, 3, 1, 3], np.float32).reshape(1, 4, 1))
norm(x)
norm.gamma.set_data(mxnet.nd.array([1, 10]))
result = [round(float(value), 2) for value in norm(x).asnumpy().ravel()]
print(f"gamma {norm.gamma.shape}, beta {norm.beta.shape}; with gamma 1 and 10: {result}")
PY
