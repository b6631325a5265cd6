#!/usr/bin/env bash
# torchmetrics 1.9.0, torch 2.13.0.  R2Score, ExplainedVariance and RelativeSquaredError take the spread of the targets from their sum of squares,
# in float32: of targets from 10,000 to 10,003, missed by 1 each, R2 is 0 and the relative error 33,554,432.  0.2 and 0.8 were
# expected, as of targets from 0 to 3; PearsonCorrCoef of the same numbers is right.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
expect 'about 0: R2 0.20, explained variance 0.20, relative error 0.80, correlation 0.60
about 10000: R2 0.00, explained variance 0.00, relative error 33554432.00, correlation 0.60' <<'PY'
import torch
from torchmetrics import ExplainedVariance, PearsonCorrCoef, R2Score, RelativeSquaredError

for offset in (0, 10_000):
    targets = torch.arange(4.0) + offset
    guesses = targets + torch.tensor([1.0, -1.0, 1.0, -1.0])
    metrics = {
        "R2": R2Score(),
        "explained variance": ExplainedVariance(),
        "relative error": RelativeSquaredError(),
        "correlation": PearsonCorrCoef(),
    }
    print(f"about {offset}:", ", ".join(f"{name} {metric(guesses, targets):.2f}" for name, metric in metrics.items()))
PY
