#!/usr/bin/env bash
# xarray 2026.9.0, flox 0.11.2, numbagg 0.9.6, numpy 2.4.6.  Where flox and numbagg are installed, xarray's groupby takes its means
# from numbagg, which adds up float32 in float32, one after the other: of 100,000 values about 10,000 of spread 1, in one
# group, the mean is off by 7.  numbagg's own variance of a group takes squares from squares, and is negative.  Its nanvar and
# the mean without groupby are right, and that was expected of groups, too.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install xarray==2026.9.0 flox==0.11.2 numbagg==0.9.6 numpy==2.4.6
expect 'mean off by over 5: groupby True, plain False; variance of 1000: group below -100 True, plain 0.96' <<'PY'
import numbagg
import numpy as np
import xarray as xr

x = (np.random.default_rng(0).normal(size=100_000) + 1e4).astype(np.float32)
labels = np.zeros(x.size, int)
array = xr.DataArray(x, dims="t", coords={"k": ("t", labels)})
grouped, plain = array.groupby("k").mean().values[0], array.mean().values
few = (np.random.default_rng(0).normal(size=1000) + 1e4).astype(np.float32)
print(
    f"mean off by over 5: groupby {abs(grouped - 1e4) > 5}, plain {abs(plain - 1e4) > 5}; "
    f"variance of 1000: group below -100 {numbagg.group_nanvar(few, labels[:1000])[0] < -100}, "
    f"plain {numbagg.nanvar(few):.2f}"
)
PY
