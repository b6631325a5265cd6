#!/usr/bin/env bash
# numba 0.68.1, numpy 2.4.6.  An array whose elements lie at odd addresses gets a type that says they are aligned, though
# Numba's array types have a place for the difference.  One would expect aligned=False, as NumPy's flags have it.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install numba==0.68.1 numpy==2.4.6
expect 'aligned: False for NumPy, True for Numba' <<'PY'
import numba
import numpy as np

x = np.zeros(129, np.uint8)[1:].view(np.float32)
print(f"aligned: {x.flags.aligned} for NumPy, {numba.typeof(x).aligned} for Numba")
PY
