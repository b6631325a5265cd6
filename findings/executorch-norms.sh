#!/usr/bin/env bash
# executorch 1.5.1, torch 2.13.0.  Where no delegate takes a model's norms, the runtime's own kernels of layer, group and instance norm compute
# the variance as a difference of mean squares in float32: about a mean of 10,000 it is below -eps here, and results NaN or off by more
# than 0.01, which torch's own stay below.  Errors as small as the module's were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install executorch==1.5.1 torch==2.13.0 numpy==2.4.6
expect 'about 0: layer True, group True, instance True, batch (evaluation) True
about 10,000: layer False, group False, instance False, batch (evaluation) True' <<'PY'
import os

real, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
for stream in (1, 2):  # what is logged goes there from C++, too
    os.dup2(null, stream)

import torch
from executorch.exir import to_edge
from executorch.runtime import Runtime
from torch import nn


def close(module, x):
    program = to_edge(torch.export.export(module.eval(), (x,))).to_executorch()
    found = Runtime.get().load_program(program.buffer).load_method("forward").execute([x])[0]
    exact = module.double()(x.double())
    assert (module.float()(x) - exact).abs().max() < 0.01  # torch's own
    return bool((found - exact).abs().max() < 0.01)


torch.manual_seed(0)
x = torch.randn(2, 8, 64)
lines = []
for name, mean in (("0", 0.0), ("10,000", 1e4)):
    norms = {"layer": nn.LayerNorm(64), "group": nn.GroupNorm(2, 8), "instance": nn.InstanceNorm1d(8)}
    norms["batch (evaluation)"] = nn.BatchNorm1d(8)
    norms["batch (evaluation)"].running_mean.fill_(mean)
    lines.append(f"about {name}: " + ", ".join(f"{norm} {close(module, x + mean)}" for norm, module in norms.items()))
os.write(real, "\n".join(lines).encode())
PY
