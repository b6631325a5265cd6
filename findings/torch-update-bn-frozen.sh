#!/usr/bin/env bash
# torch 2.13.0.  torch.optim.swa_utils.update_bn, called on a model in training one of whose batch norms is frozen with `eval()`, replaces the
# statistics of the frozen one, too, and leaves it training.  That it stays as it was, or at least in evaluation, was expected: the
# function puts the model back into the mode that it found.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torch==2.13.0 numpy==2.4.6
expect 'before: model training True, frozen norm training False, its mean 5.0
after: model training True, frozen norm training True, its mean 0.0' <<'PY'
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

torch.manual_seed(0)
model = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))
frozen = model[1].eval()
frozen.running_mean.fill_(5)


def told():
    mean = abs(round(frozen.running_mean.item(), 2))
    return f"model training {model.training}, frozen norm training {frozen.training}, its mean {mean}"


print("before:", told())
update_bn([torch.randn(8, 1) + 3], model)
print("after:", told())
PY
