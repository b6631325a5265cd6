#!/usr/bin/env bash
# daft 0.7.26.  stddev, var and skew are taken from sums of powers, in float64: of a thousand values about 1e8, every other one larger by 1, the
# deviation is 0, in a group NaN; of a thousand about 1e9, and in a group, 96.  And two values of 1,000,000 and 1,000,001, which lie
# evenly about their mean, have a skew of 2048.  0.50 and 0 were expected, as of the same values about 10,000.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install daft==0.7.26 numpy==2.4.6
export DAFT_ANALYTICS_ENABLED=0 DAFT_PROGRESS_BAR=0
expect 'about 1e4: within 0.01 of 0.50 True, in a group True
about 1e8: within 0.01 of 0.50 False, in a group False
about 1e9: within 0.01 of 0.50 False, in a group False
two about 1e8: deviation 0.0, in a group 0.0
two about 1e6: deviation 0.71, skew 2048.0' <<'PY'
import daft
import numpy as np


def deviations(x):
    frame = daft.from_pydict({"x": x, "group": np.zeros(len(x), int)})
    grouped = frame.groupby("group").agg(daft.col("x").stddev()).to_pydict()["x"][0]
    return frame.agg(daft.col("x").stddev()).to_pydict()["x"][0], grouped


for offset in (1e4, 1e8, 1e9):
    whole, grouped = (abs(value - 0.5) < 0.01 for value in deviations(np.arange(1000) % 2 + offset))
    print(f"about {offset:.0e}: within 0.01 of 0.50 {whole}, in a group {grouped}".replace("e+0", "e"))
whole, grouped = deviations(np.array([1e8, 1e8 + 1]))
print(f"two about 1e8: deviation {whole}, in a group {grouped}")
two = daft.from_pydict({"x": [1e6, 1e6 + 1]})
skew = two.agg(daft.col("x").skew()).to_pydict()["x"][0]
print(f"two about 1e6: deviation {deviations(np.array([1e6, 1e6 + 1]))[0]:.2f}, skew {skew}")
PY
