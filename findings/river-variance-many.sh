#!/usr/bin/env bash
# river 0.26.1, numpy 2.4.6.  stats.Var is Welford's running variance by `update`, and by `update_many` the difference of two mean squares,
# in the array's own type: of float32 about 100,000 with a spread of 1 it is off by hundreds, and of float16 values of 0 and 600 infinite.
# What `update` gives of the same numbers was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install river==0.26.1 numpy==2.4.6
expect 'float32: update 0.95, update_many off by over 10 True
float16: update 90000, update_many inf' <<'PY'
import warnings

import numpy as np
from river import stats

warnings.simplefilter("ignore")


def variances(values):
    single, many = stats.Var(ddof=0), stats.Var(ddof=0)
    for value in values.tolist():
        single.update(value)
    many.update_many(values)
    return single.get(), float(many.get())


single, many = variances((np.random.default_rng(0).normal(size=1000) + 1e5).astype(np.float32))
print(f"float32: update {single:.2f}, update_many off by over 10 {abs(many - single) > 10}")
single, many = variances(np.array([0, 600] * 500, np.float16))
print(f"float16: update {single:.0f}, update_many {many:.0f}")
PY
