#!/usr/bin/env bash
# torch_geometric 2.8.1, torch 2.13.0.  LayerNorm in its mode "graph", the default, of one graph: without `batch` it divides by the standard
# deviation plus epsilon, with a `batch` of zeros, which says the same, by the root of the variance plus epsilon.  Of features that are
# small against the root of epsilon, one result is 16 times the other.  The same from both was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torch_geometric==2.8.1 torch==2.13.0 numpy==2.4.6
expect 'spread 1: without batch [-0.999, 0.999], with batch [-0.9995, 0.9995]
spread 0.001: without batch [-0.5, 0.5], with batch [-0.0316, 0.0316]' <<'PY'
import torch
from torch_geometric.nn import LayerNorm

norm = LayerNorm(2, eps=1e-3, affine=False)
for spread in (1, 0.001):
    x = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]) * spread
    results = norm(x), norm(x, torch.zeros(2, dtype=torch.long))
    without, given = ([round(value, 4) for value in result[0].tolist()] for result in results)
    print(f"spread {spread}: without batch {without}, with batch {given}")
PY
