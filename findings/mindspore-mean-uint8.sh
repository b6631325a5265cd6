#!/usr/bin/env bash
# mindspore 2.10.0, CPU.  The mean of pixels is an 8-bit integer, of a sum that has left its range: of a thousand pixels of 255 it is 0.
# The variance of float16 is infinite where deviations square past 65504.  255 was expected, and 90000, as the numbers fit.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install mindspore==2.10.0 numpy==1.26.4
expect 'mean of uint8: 0 (UInt8), of float32: 255.0; variance of float16: inf' <<'PY'
import mindspore
import numpy as np

pixels = np.full(1000, 255)
means = [mindspore.Tensor(pixels.astype(dtype)).mean() for dtype in (np.uint8, np.float32)]
variance = mindspore.Tensor(np.array([0, 600] * 1000, np.float16)).var()
print(f"mean of uint8: {means[0]} ({means[0].dtype}), of float32: {float(means[1])}; variance of float16: {float(variance)}")
PY
