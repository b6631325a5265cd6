#!/usr/bin/env bash
# scipy 1.17.1, numpy 2.4.6.  Of a hundred pixels of 200 and 250 in uint8, scipy.stats.tmean gives 2.28, since the sum has left its 8 bits,
# kstat a variance of -51,086, and gmean two digits, as its logarithms are of float16; the mean of a boolean mask is 1.  tvar of the
# same module is right, and so was expected of all: what float64 of the same numbers gives.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install scipy==1.17.1 numpy==2.4.6
expect 'tmean: uint8 2.28, float64 225.0
tvar: uint8 631.31, float64 631.31
kstat: uint8 -51085.86, float64 631.31
gmean: uint8 222.75, float64 223.61
tmean of a mask, half of it True: 1.0' <<'PY'
import numpy as np
from scipy import stats

pixels = np.array([200, 250] * 50, np.uint8)
for function in (stats.tmean, stats.tvar, stats.kstat, stats.gmean):
    results = [round(float(function(x)), 2) for x in (pixels, pixels.astype(np.float64))]
    print(f"{function.__name__}: uint8 {results[0]}, float64 {results[1]}")
print(f"tmean of a mask, half of it True: {stats.tmean(pixels > 225)}")
PY
