#!/usr/bin/env bash
# fvcore 0.1.5.post20221221, torch 2.13.0.  update_bn_stats, "to make them more precise", takes the square of the mean off the mean of squares of all batches, in
# the float32 of the buffers.  About 100,000 a running variance of 1 becomes less than -100, and what the network puts out is NaN; the moving
# averages that it replaces are near, and so are those of torch's own update_bn.  Each batch's own variance, which is merged here, is right: only
# merging spoils it.  A result at least as near as what it replaces was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install fvcore==0.1.5.post20221221 torch==2.13.0 numpy==2.4.6
expect 'moving averages, about 0: near True, NaN in the output False
update_bn, about 0: near True, NaN in the output False
precise, about 0: near True, NaN in the output False
moving averages, about 100000: near True, NaN in the output False
update_bn, about 100000: near True, NaN in the output False
precise, about 100000: near False, NaN in the output True' <<'PY'
import warnings

warnings.simplefilter("ignore")
import torch
from fvcore.nn.precise_bn import update_bn_stats
from torch.optim.swa_utils import update_bn

torch.manual_seed(0)
for about in (0, 100_000):
    batches = [torch.randn(8, 64, 8, 8) + about for _ in range(100)]
    for name in ("moving averages", "update_bn", "precise"):
        norm = torch.nn.BatchNorm2d(64)
        if name == "update_bn":
            update_bn(batches, norm)
        else:
            for batch in batches:
                norm(batch)
        if name == "precise":
            update_bn_stats(norm, batches, len(batches))
        near = bool(((norm.running_var - 1).abs() < 0.1).all())
        print(f"{name}, about {about}: near {near}, NaN in the output {bool(norm.eval()(batches[0]).isnan().any())}")
PY
