#!/usr/bin/env bash
# scikit-learn 1.9.1, numpy 2.4.6.  StandardScaler leaves a feature unscaled once there are so many rows that rounding might, at
# worst, have made its variance: times within half a second, in milliseconds since 1970, have a deviation of 144.34 in a
# thousand rows and in a million, and of the latter var_ says so, too; but scale_ is 1, and so the result deviates by 144.34.
# No warning.  1.0 was expected: float64 holds these numbers exactly, and the variance has 10 right digits and more.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install scikit-learn==1.9.1 numpy==2.4.6
expect '1000 rows: sqrt(var_) 144.34, deviates by 1.00; 1000000 rows: sqrt(var_) 144.34, deviates by 144.34' <<'PY'
import numpy as np
from sklearn.preprocessing import StandardScaler

told = []
for rows in (1000, 1_000_000):
    times = (1.76e12 + np.arange(rows) % 500)[:, None]
    scaler = StandardScaler().fit(times)
    told.append(f"{rows} rows: sqrt(var_) {scaler.var_[0] ** 0.5:.2f}, deviates by {scaler.transform(times).std():.2f}")
print("; ".join(told))
PY
