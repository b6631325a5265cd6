#!/usr/bin/env bash
# ml_dtypes 0.6.0, numpy 2.4.6.  NumPy takes the mean of integers in float64 and that of float16 in float32.  It does so by the type of the
# array, and knows none of ml_dtypes': the mean of 15 and 15 in uint4 is 7, of 7 and 7 in int4 it is -1, whole numbers both, since sums
# wrap around, and a thousand ones in bfloat16 have a mean of 0.256, where their sum stays at 256.  15, 7 and 1 were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install ml_dtypes==0.6.0 numpy==2.4.6
expect '2 times 15 in uint4: mean 7 as uint4
2 times 7 in int4: mean -1 as int4
2 times 15 in uint8: mean 15.0 as float64
1000 times 1 in bfloat16: mean 0.255859375 as bfloat16
1000 times 1 in float8_e4m3fn: mean 0.015625 as float8_e4m3fn
1000 times 1 in float16: mean 1.0 as float16' <<'PY'
import ml_dtypes
import numpy as np

for count, value, name in (
    (2, 15, "uint4"),
    (2, 7, "int4"),
    (2, 15, "uint8"),
    (1000, 1, "bfloat16"),
    (1000, 1, "float8_e4m3fn"),
    (1000, 1, "float16"),
):
    mean = np.full(count, value, getattr(ml_dtypes, name, name)).mean()
    print(f"{count} times {value} in {name}: mean {mean} as {mean.dtype}")
PY
