#!/usr/bin/env bash
# numba 0.68.1, torch 2.13.0, Linux.  The first parallel function of Numba on OpenMP sets the number of threads of torch,
# whose OpenMP it shares where torch was imported before it: what torch.set_num_threads said is gone, without a word.
# One would expect each library's setting to be its own.  (On a machine of one CPU nothing can be seen of it.)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install numba==0.68.1 numpy==2.4.6 torch==2.13.0
expect 'torch: 1, then 2' <<'PY'
import os

os.environ |= {"NUMBA_THREADING_LAYER": "omp", "NUMBA_NUM_THREADS": "2"}
import numba
import numpy as np
import torch

torch.set_num_threads(1)
before = torch.get_num_threads()


@numba.njit(parallel=True)
def total(x):
    s = 0.0
    for i in numba.prange(len(x)):
        s += x[i]
    return s


total(np.ones(10))
print(f"torch: {before}, then {torch.get_num_threads()}")
PY
