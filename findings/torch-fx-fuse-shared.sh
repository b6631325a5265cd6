#!/usr/bin/env bash
# torch 2.13.0.  torch.fx.experimental.optimization.fuse folds a batch norm into the convolution in front of it, in the module of the
# convolution.  One that the model calls twice gets the norm at both places: its results without a norm change as well, and where each
# call has a norm of its own, both norms are folded into the same weights, on top of each other.  Without an error; a call that is
# not the only one was expected to stay as it is, as does a result that is used twice.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torch==2.13.0 numpy==2.4.6
expect 'called once: fused True, same True
used twice: fused False, same True
called twice, one norm: fused True, same False
called twice, two norms: fused True, same False' <<'PY'
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

torch.manual_seed(0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 1)
        self.one, self.other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        for norm in (self.one, self.other):
            norm.running_mean.fill_(3)
            norm.running_var.fill_(0.25)


class Once(Model):
    def forward(self, x):
        return self.one(self.convolution(x))


class Used(Model):
    def forward(self, x):
        y = self.convolution(x)
        return self.one(y) + y


class OneNorm(Model):
    def forward(self, x):
        return self.one(self.convolution(x)) + self.convolution(x + 1)


class TwoNorms(Model):
    def forward(self, x):
        return self.one(self.convolution(x)) + self.other(self.convolution(x + 1))


x = torch.randn(1, 2, 3, 3)
for name, kind in (
    ("called once", Once),
    ("used twice", Used),
    ("called twice, one norm", OneNorm),
    ("called twice, two norms", TwoNorms),
):
    model = kind().eval()
    fused = fuse(model)
    norms = sum(node.op == "call_module" and node.target in ("one", "other") for node in fused.graph.nodes)
    same = torch.allclose(model(x), fused(x), atol=1e-4)
    print(f"{name}: fused {norms == 0}, same {same}")
PY
