#!/usr/bin/env bash
# mmengine 0.10.7, torch 2.13.0.  convert_sync_batchnorm copies weights, running statistics, eps and momentum of each batch norm, but not whether it
# is in training: one that was frozen by eval() comes back in training, with its weights still frozen, and would normalize by its batch and overwrite
# its running statistics.  torch's own function of that name keeps the mode, and so does mmengine's way back.  The mode was expected to stay.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install mmengine==0.10.7 torch==2.13.0 numpy==2.4.6
expect 'before: training False, momentum 0.01
torch: training False, momentum 0.01
mmengine: training True, momentum 0.01
mmengine and back, evaluated in between: training False, momentum 0.01' <<'PY'
import warnings

warnings.simplefilter("ignore")
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from torch import nn


def frozen():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.01)).eval()


for name, net in (
    ("before", frozen()),
    ("torch", nn.SyncBatchNorm.convert_sync_batchnorm(frozen())),
    ("mmengine", convert_sync_batchnorm(frozen(), "torch")),
    ("mmengine and back, evaluated in between", revert_sync_batchnorm(convert_sync_batchnorm(frozen(), "torch").eval())),
):
    print(f"{name}: training {net[1].training}, momentum {net[1].momentum}")
PY
