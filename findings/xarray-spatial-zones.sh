#!/usr/bin/env bash
# xarray-spatial 0.5.3, xarray 2026.9.0, dask 2026.8.0, numpy 2.4.6.  zonal.stats of NumPy arrays takes deviations in two passes, that of Dask arrays
# from sums of squares in the type of the data: of four heights from 4,000 to 4,003 m in float32 the deviation is 0.866 and not
# 1.118, and of a plain of 2,000 and 2,001 m, in 100 x 100 cells, NaN and not 0.5.  What NumPy arrays give was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install xarray-spatial==0.5.3 xarray==2026.9.0 'dask[dataframe]==2026.8.0' pandas==3.1.1 numba==0.68.1 datashader==0.19.1 numpy==2.4.6
expect 'four heights: NumPy 1.118, Dask 0.866
plain: NumPy 0.500, Dask within 0.01 of it False' <<'PY'
import warnings

import dask.array as da
import numpy as np
import xarray as xr
from xrspatial.zonal import stats

warnings.simplefilter("ignore")


def deviations(heights, chunks):
    zones = np.ones(heights.shape, int)
    plain = stats(zones=xr.DataArray(zones), values=xr.DataArray(heights))
    chunked = [xr.DataArray(da.from_array(x, chunks=chunks)) for x in (zones, heights)]
    return plain["std"].item(), stats(zones=chunked[0], values=chunked[1]).compute()["std"].item()


one, other = deviations(np.arange(4000, 4004, dtype=np.float32).reshape(1, 4), (1, 2))
print(f"four heights: NumPy {one:.3f}, Dask {other:.3f}")
one, other = deviations((2000 + np.arange(10_000) % 2).astype(np.float32).reshape(100, 100), 50)
print(f"plain: NumPy {one:.3f}, Dask within 0.01 of it {abs(other - one) < 0.01}")
PY
