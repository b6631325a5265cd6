#!/usr/bin/env bash
# numba 0.68.1, numpy 2.4.6.  np.mean of float32 in compiled code adds up in float32, one element after the other: from
# 2**24 on a sum of ones grows no more.  NumPy itself, which adds pairwise, says 1.0.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install numba==0.68.1 numpy==2.4.6
expect 'compiled 0.5, numpy 1.0' <<'PY'
import numba
import numpy as np

x = np.ones(2**25, np.float32)
print(f"compiled {numba.njit(lambda x: np.mean(x))(x)}, numpy {np.mean(x)}")
PY
