#!/usr/bin/env bash
# mlx 0.32.4 (mlx-cpu), numexpr 2.14.2, numpy 2.4.6.  On CPUs, MLX adds up float32 one after the other, and so does numexpr's sum: the mean of 2**25
# ones is 0.5.  The mean of 700 float16 values of 100 is infinite in MLX, and so is the variance of 300 and -300: batch norm of them is 0,
# while layer norm and instance norm are right.  1, 100 and the same numbers from all three norms were expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install 'mlx[cpu]==0.32.4' numexpr==2.14.2 numpy==2.4.6
expect 'ones: MLX 0.5, numexpr 0.5
float16: mean inf, variance inf
float16: batch norm [0.0, 0.0], instance norm [1.0, -1.0], layer norm [1.0, -1.0]
float32: batch norm [1.0, -1.0], instance norm [1.0, -1.0], layer norm [1.0, -1.0]' <<'PY'
import mlx.core as mx
import numexpr
import numpy as np
from mlx import nn

mx.set_default_device(mx.cpu)
ones = np.ones(2**25, np.float32)
print(f"ones: MLX {mx.mean(mx.array(ones)).item()}, numexpr {numexpr.evaluate('sum(ones)').item() / ones.size}")
mean = mx.mean(mx.full((700,), 100, dtype=mx.float16)).item()
print(f"float16: mean {mean}, variance {mx.var(mx.array([300, -300], dtype=mx.float16)).item()}")
for kind in ("float16", "float32"):
    x = mx.array([300, -300], dtype=getattr(mx, kind))
    results = {
        "batch": nn.BatchNorm(1)(x[:, None]),
        "instance": nn.InstanceNorm(1)(x[None, :, None]),
        "layer": mx.fast.layer_norm(x[None], None, None, 1e-5),
    }
    words = (f"{name} norm {np.array(y.astype(mx.float32)).round(2).ravel().tolist()}" for name, y in results.items())
    print(f"{kind}: {', '.join(words)}")
PY
