#!/usr/bin/env bash
# scanpy 1.11.5, anndata 0.12.19, numpy 2.4.6.  pp.scale, to unit variance and zero mean, takes the variance as a difference of mean squares,
# the squares in the type of the data: a feature of float32 about 10,000 comes out wrong by an eighth, one of float64 about 1e9 not
# scaled at all, since its variance is 0, and one of float16, whose squares are infinite from 256 on, as zeros.  The same four numbers
# were expected of each.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install scanpy==1.11.5 anndata==0.12.19 numpy==2.4.6 pandas==2.3.3 zarr==3.1.6
expect 'float32: [-1.162, -0.387, 0.387, 1.162]
float32 about 10000: [-1.299, -0.433, 0.433, 1.299]
float64 about 1e9: [-3.0, -1.0, 1.0, 3.0]
float16: [-0.0, -0.0, 0.0, 0.0]' <<'PY'
import warnings

import numpy as np
import scanpy as sc

warnings.simplefilter("ignore")
steps = np.array([[1], [3], [5], [7]])
for what, x in (
    ("float32", steps.astype(np.float32)),
    ("float32 about 10000", (steps + 1e4).astype(np.float32)),
    ("float64 about 1e9", steps + 1e9),
    ("float16", (100 * steps).astype(np.float16)),
):
    scaled = sc.pp.scale(x, copy=True)
    print(f"{what}: {scaled.astype(np.float64).round(3).ravel().tolist()}")
PY
