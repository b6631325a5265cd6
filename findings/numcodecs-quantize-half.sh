#!/usr/bin/env bash
# numcodecs 0.16.6, numpy 2.4.6.  Quantize keeps so many decimal digits, by a power of two that the values are multiplied with, rounded, and
# divided by, all in the type given: float16 beyond 64 comes back infinite from digits=3, and float32 of 1e38 from digits=1.
# The values to three digits were expected, as float32 gives them.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install numcodecs==0.16.6 numpy==2.4.6
expect 'float16: [1.5, 60.0, inf, inf]
float32: [1.5, 60.0, 100.0, 1000.0]
float32 of 1e+38: inf' <<'PY'
import warnings

import numpy as np
from numcodecs import Quantize

warnings.simplefilter("ignore")


def kept(values, digits, kind):
    codec = Quantize(digits=digits, dtype=kind)
    return codec.decode(codec.encode(np.array(values, kind))).tolist()


for kind in ("float16", "float32"):
    print(f"{kind}: {kept([1.5, 60, 100, 1000], 3, kind)}")
print("float32 of 1e+38:", *kept([1e38], 1, "float32"))
PY
