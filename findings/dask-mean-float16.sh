#!/usr/bin/env bash
# dask 2026.8.0, numpy 2.4.6.  The mean of float16 values is infinite where the sum of a chunk leaves their range, because sums
# are kept in float16; 300.0 was expected, which NumPy says.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install 'dask[array]==2026.8.0' numpy==2.4.6
expect 'dask inf, numpy 300.0' <<'PY'
import warnings

import dask.array as da
import numpy as np

warnings.simplefilter("ignore")
x = np.full(2000, 300, np.float16)
print(f"dask {da.from_array(x, chunks=1000).mean().compute()}, numpy {x.mean()}")
PY
