#!/usr/bin/env bash
# torch 2.13.0.  track_running_stats = False, set on a layer that had been made with True: BatchNorm leaves its running
# statistics alone from then on, InstanceNorm goes on updating them.  One would expect both to do the same.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torch==2.13.0 numpy==2.4.6
expect 'BatchNorm1d: 0.0, InstanceNorm1d: 0.5' <<'PY'
import torch

x = torch.tensor([[[4.0, 6.0]], [[4.0, 6.0]]])  # of mean 5
told = []
for layer in (torch.nn.BatchNorm1d(1), torch.nn.InstanceNorm1d(1, track_running_stats=True)):
    layer.track_running_stats = False
    layer(x)
    told.append(f"{type(layer).__name__}: {layer.running_mean.item()}")
print(", ".join(told))
PY
