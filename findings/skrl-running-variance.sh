#!/usr/bin/env bash
# skrl 2.1.1, torch 2.13.0.  RunningStandardScaler merges each batch's unbiased variance as if it were the biased one: fed two rows at a time it
# finds 1.5 times the variance, and fed one row at a time, which is one environment, NaN for good.  The same variance however the rows arrive was
# expected; of all rows at once it is right.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install skrl==2.1.1 torch==2.13.0 numpy==2.4.6
expect '1000 rows at a time: 1.0
2 rows at a time: 1.5
1 rows at a time: nan' <<'PY'
import warnings

import torch
from skrl.resources.preprocessors.torch import RunningStandardScaler

warnings.simplefilter("ignore")
torch.manual_seed(0)
x = torch.randn(1000, 3)
for rows in (1000, 2, 1):
    scaler = RunningStandardScaler(size=3, device="cpu")
    for batch in x.split(rows):
        scaler(batch, train=True)
    print(f"{rows} rows at a time: {(scaler.running_variance / x.var(0)).mean():.1f}")
PY
