#!/usr/bin/env bash
# blosc2 4.14.1, numpy 2.4.6.  The mean of a compressed array divides a sum by the count in the type of the array, and float16 ends at
# 65,504: of 90,000 values the count is infinite, and their mean 0, whatever they are.  The deviation of equal values is then their
# distance from 0, and where the sum is infinite as well, both are NaN.  What NumPy's mean gives was expected, and a deviation of 0.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install blosc2==4.14.1 numpy==2.4.6
expect '40000 times 0.1: mean 0.10, deviation 0.00; in NumPy a mean of 0.10
90000 times 0.1: mean 0.00, deviation 0.10; in NumPy a mean of 0.10
90000 times 2: mean nan, deviation nan; in NumPy a mean of 2.00' <<'PY'
import warnings

warnings.simplefilter("ignore")
import blosc2
import numpy as np

for side, value in ((200, 0.1), (300, 0.1), (300, 2)):
    array = np.full((side, side), value, np.float16)
    packed = blosc2.asarray(array, chunks=(100, 100), blocks=(50, 50))
    print(
        f"{array.size} times {value}: mean {packed.mean():.2f}, deviation {packed.std():.2f}; "
        f"in NumPy a mean of {array.mean():.2f}"
    )
PY
