#!/usr/bin/env bash
# fireducks 1.4.4, pandas 2.3.3.  `std(ddof=0)` of a Series or DataFrame is that of ddof=1, and `numpy.std` of a Series, too; `var(ddof=0)` and the
# deviations of groups are right.  So `(s - s.mean()) / s.std(ddof=0)` has another deviation than 1.  Pandas' results were expected, for which
# only the import is to change.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install fireducks==1.4.4 pandas==2.3.3 numpy==2.4.6
expect 'pandas: std 1.25, numpy.std 1.25, square root of var 1.25, of a group 1.25
fireducks.pandas: std 1.53, numpy.std 1.53, square root of var 1.25, of a group 1.25' <<'PY'
import fireducks.pandas
import numpy as np
import pandas

for library in (pandas, fireducks.pandas):
    s = library.Series([1.0, 2.0, 4.0])
    of_group = library.DataFrame({"x": s, "key": 0}).groupby("key")["x"].std(ddof=0).iloc[0]
    found = {"std": s.std(ddof=0), "numpy.std": np.std(s), "square root of var": s.var(ddof=0) ** 0.5, "of a group": of_group}
    print(f"{library.__name__}: " + ", ".join(f"{name} {float(value):.2f}" for name, value in found.items()))
PY
