#!/usr/bin/env bash
# dask 2026.8.0, pandas 3.1.1.  The variance of a group of a dask data frame is taken from the sum of squares, which are taken in the
# column's own type: of pixels of 200 and 250 in uint8 it is 0, and -57,800 by agg("var"); of float32 about 10,000 with a spread of 1,
# 0 again.  The mean of the same group and the variance without groups are right, and 714.29 and 0.96, as pandas gives, were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install 'dask[dataframe]==2026.8.0' pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6
expect 'pixels: group 0.0, agg -57800.0, without groups 714.29, pandas 714.29
float32: group 0.0, without groups 0.96, pandas 0.96' <<'PY'
import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd

dask.config.set(scheduler="synchronous")


def variances(values):
    frame = pd.DataFrame({"x": values, "group": 0})
    parts = dd.from_pandas(frame, npartitions=2)
    grouped = parts.groupby("group").x
    given = grouped.var().compute()[0], grouped.agg("var").compute()[0], parts.x.var().compute(), frame.x.var()
    return [round(float(value), 2) for value in given]


group, agg, plain, pandas = variances(np.array([200, 250] * 4, np.uint8))
print(f"pixels: group {group}, agg {agg}, without groups {plain}, pandas {pandas}")
group, _, plain, pandas = variances((np.random.default_rng(0).normal(size=1000) + 1e4).astype(np.float32))
print(f"float32: group {group}, without groups {plain}, pandas {pandas}")
PY
