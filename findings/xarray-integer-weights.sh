#!/usr/bin/env bash
# xarray 2026.9.0, numpy 2.4.6.  A weighted mean sums data and weights in their own types: 300 ones under weights of 1 in uint8
# have the mean 6.82, since 300 is 44 there, 256 of them have none, and 400 pixels of 200 under a boolean mask have 0.32.
# 1.0, 1.0 and 200.0 were expected, which numpy.average says, and which int64 and float weights give.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install xarray==2026.9.0 numpy==2.4.6
expect '300 ones: 6.82, numpy 1.0; 256 ones: nan; pixels: 0.32, numpy 200.0' <<'PY'
import numpy as np
import xarray as xr


def mean(x, weights):
    return round(float(xr.DataArray(x).weighted(xr.DataArray(weights)).mean()), 2)


ones, weights = np.ones(300, np.float32), np.ones(300, np.uint8)
pixels, mask = np.full((20, 20), 200, np.uint8), np.ones((20, 20), bool)
print(
    f"300 ones: {mean(ones, weights)}, numpy {np.average(ones, weights=weights)}; "
    f"256 ones: {mean(ones[:256], weights[:256])}; "
    f"pixels: {mean(pixels, mask)}, numpy {np.average(pixels, weights=mask)}"
)
PY
