#!/usr/bin/env bash
# Bottleneck 1.6.0, numbagg 0.9.6, pandas 2.3.3.  The deviation of a moving window of five zeros and ones, 85 steps after a single 1e9 has
# left it: Bottleneck's is 0, numbagg's NaN, pandas' 0.2.  0.490 was expected, and of numbagg, which divides by one less, 0.548, as of the
# same windows without the 1e9; the means of all three are right.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install Bottleneck==1.6.0 numbagg==0.9.6 pandas==2.3.3 numpy==2.4.6
expect 'pandas 0.490, Bottleneck 0.490, numbagg 0.548
after 1e9: pandas 0.200, Bottleneck 0.000, numbagg nan
means after 1e9: pandas 0.600, Bottleneck 0.600, numbagg 0.600' <<'PY'
import warnings

import bottleneck
import numbagg
import numpy as np
import pandas as pd

warnings.simplefilter("ignore")
x = np.append(np.arange(100) % 2.0, 1.0)[1:]
spiked = x.copy()
spiked[10] = 1e9


def last(of, kind):
    windows = pd.Series(of).rolling(5)
    results = {
        "pandas": windows.std(ddof=0).iloc[-2] if kind == "std" else windows.mean().iloc[-2],
        "Bottleneck": getattr(bottleneck, f"move_{kind}")(of, 5)[-2],
        "numbagg": getattr(numbagg, f"move_{kind}")(of, window=5)[-2],
    }
    return ", ".join(f"{name} {value:.3f}" for name, value in results.items())


print(last(x, "std"))
print("after 1e9:", last(spiked, "std"))
print("means after 1e9:", last(spiked, "mean"))
PY
