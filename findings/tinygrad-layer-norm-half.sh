#!/usr/bin/env bash
# tinygrad 0.14.0.  LayerNorm squares half precision in half precision: where deviations are past 255, the variance is infinite and the
# result 0 everywhere.  RMSNorm of the same package computes in float32, and so was expected of this one: -1.34 to 1.34.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install tinygrad==0.14.0 numpy==2.4.6
export DEV=PYTHON
expect 'float32: layer norm up to 1.34, RMS norm up to 1.60
half: layer norm up to 0.00, RMS norm up to 1.60' <<'PY'
from tinygrad import Tensor, dtypes, nn

for name, dtype in (("float32", dtypes.float), ("half", dtypes.half)):
    x = Tensor([[0.0, 2000.0, 4000.0, 6000.0]]).cast(dtype)
    layer, rms = (abs(y.numpy()).max() for y in (nn.LayerNorm(4, elementwise_affine=False)(x), nn.RMSNorm(4)(x)))
    print(f"{name}: layer norm up to {layer:.2f}, RMS norm up to {rms:.2f}")
PY
