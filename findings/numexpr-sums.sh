#!/usr/bin/env bash
# numexpr 2.14.2.  `sum` adds float32 one by one in float32, and int32 in int32: 2**25 ones are 2**24, and a thousand times 2**31 - 1 is -1000, where
# NumPy's sums are pairwise and of int64.  `max` passes over NaN.  What NumPy computes was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install numexpr==2.14.2 numpy==2.4.6
expect 'float32: 16777216.0 of 33554432.0
int32: -1000 of 2147483647000
max: 3.0 of nan' <<'PY'
import numexpr
import numpy as np

for name, x, operation in (
    ("float32", np.ones(1 << 25, np.float32), "sum"),
    ("int32", np.full(1000, 2**31 - 1, np.int32), "sum"),
    ("max", np.array([1.0, np.nan, 3.0]), "max"),
):
    print(f"{name}: {numexpr.evaluate(f'{operation}(x)')} of {getattr(np, operation)(x)}")
PY
