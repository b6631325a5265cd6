#!/usr/bin/env bash
# torch_geometric 2.8.1, torch 2.13.0.  VarAggregation and StdAggregation are a difference of mean squares, in the type of the features: of two
# neighbours with 10,000 and 10,001 in float32 both are 0, of a thousand with 10,000 and 10,001 in turns the variance is below -100 and the
# deviation 0.  0.25 and 0.5 were expected; GraphNorm of the same features is right.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torch_geometric==2.8.1 torch==2.13.0 numpy==2.4.6
expect 'two: variance 0.0, deviation 0.0, GraphNorm [-1.0, 1.0]
many: variance below -100 True, deviation 0.0, GraphNorm [-1.0, 1.0]' <<'PY'
import torch
from torch_geometric import nn


def results(*values):
    x = torch.tensor(values)[:, None]
    index = torch.zeros(len(values), dtype=torch.long)
    normed = nn.GraphNorm(1)(x, index).detach().ravel()[:2]
    return *(layer(x, index).item() for layer in (nn.VarAggregation(), nn.StdAggregation())), normed.round(decimals=2)


variance, deviation, normed = results(10_000.0, 10_001.0)
print(f"two: variance {variance}, deviation {deviation}, GraphNorm {normed.tolist()}")
variance, deviation, normed = results(*[10_000.0, 10_001.0] * 500)
print(f"many: variance below -100 {variance < -100}, deviation {deviation}, GraphNorm {normed.tolist()}")
PY
