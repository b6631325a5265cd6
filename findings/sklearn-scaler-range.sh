#!/usr/bin/env bash
# scikit-learn 1.9.1, numpy 2.4.6.  MinMaxScaler takes the range of a feature in the feature's own type: float16 from -40000 to
# 40000, of which every number fits, has an infinite range, the scale 0, and becomes 0 throughout, where 0 to 1 was expected,
# which the same numbers in float32 give.  NumPy's warning of an overflow is all that is heard.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install scikit-learn==1.9.1 numpy==2.4.6
expect 'float16: 0.0 to 0.0; float32: 0.0 to 1.0' <<'PY'
import warnings

import numpy as np
from sklearn.preprocessing import MinMaxScaler

warnings.simplefilter("ignore")
x = np.linspace(-40_000, 40_000, 101)[:, None]
told = []
for dtype in (np.float16, np.float32):
    y = MinMaxScaler().fit_transform(x.astype(dtype))
    told.append(f"{dtype.__name__}: {y.min()} to {y.max()}")
print("; ".join(told))
PY
