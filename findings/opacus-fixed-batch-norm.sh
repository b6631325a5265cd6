#!/usr/bin/env bash
# opacus 1.5.4, torch 2.13.0.  ModuleValidator.fix makes a network fit for training with privacy: group norms of 32 groups take the place of
# batch norms.  Behind a linear layer of 32 features each group has one number, and what comes out is 0 whatever goes in, with a gradient of
# 0: the network is a constant, and cannot learn.  Of 64 features, groups of two, only signs are left, 1 and -1.  The scale, shift and
# epsilon of a trained norm are lost, and in an instance norm there are none at all.  No error and no warning, and validate finds
# nothing.  A network that tells its inputs apart was expected, and the parameters that both kinds of norm have.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install opacus==1.5.4 torch==2.13.0 numpy==2.4.6
expect '20 features: 4 groups, valid True, outputs differ True, the first layer learns True
32 features: 32 groups, valid True, outputs differ False, the first layer learns False
64 features: 32 groups, valid True, outputs differ True, the first layer learns True
64 features are 1 or -1: True
of a scale of 2 and an epsilon of 0.1: GroupNorm(8, 8, eps=1e-05, affine=True, bias=True), scale [1.0]
or InstanceNorm2d(8, eps=1e-05, momentum=0.1, affine=False, bias=False, track_running_stats=False), scale None' <<'PY'
import logging
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import torch
from opacus.validators import ModuleValidator
from torch import nn

torch.manual_seed(0)
x = torch.randn(200, 5)
for features in (20, 32, 64):
    model = nn.Sequential(
        nn.Linear(5, features), nn.BatchNorm1d(features), nn.ReLU(), nn.Linear(features, 1)
    )
    fixed = ModuleValidator.fix(model)
    y = fixed(x)
    (y * x[:, :1]).sum().backward()
    print(
        f"{features} features: {fixed[1].num_groups} groups, valid {not ModuleValidator.validate(fixed)}, "
        f"outputs differ {y.std().item() > 1e-3}, the first layer learns {fixed[0].weight.grad.abs().max().item() > 1e-2}"
    )
print("64 features are 1 or -1:", (fixed[1](100 * fixed[0](x)).abs() - 1).abs().median().item() < 1e-3)
trained = nn.BatchNorm2d(8, eps=0.1)
nn.init.constant_(trained.weight, 2)
for start, other in (("of a scale of 2 and an epsilon of 0.1:", False), ("or", True)):
    fixed = ModuleValidator.fix(nn.Sequential(trained), replace_bn_with_in=other)[0]
    scale = None if fixed.weight is None else fixed.weight.unique().tolist()
    print(f"{start} {fixed}, scale {scale}")
PY
