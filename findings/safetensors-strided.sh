#!/usr/bin/env bash
# safetensors 0.8.0, numpy 2.4.6.  safetensors.numpy.save writes the memory of an array that is not in C order under its
# shape, so that other values come back: [[0, 3], [1, 4], [2, 5]] was expected.  0.7.0 was right.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install safetensors==0.8.0 numpy==2.4.6
expect '[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]' <<'PY'
import numpy as np
from safetensors.numpy import load, save

x = np.arange(6, dtype=np.float32).reshape(2, 3).T
print(load(save({"x": x}))["x"].tolist())
PY
