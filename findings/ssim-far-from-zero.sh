#!/usr/bin/env bash
# scikit-image 0.26.0, torchmetrics 1.9.0, kornia 0.9.0, torch 2.13.0.  SSIM lies between -1 and 1.  All three take the variances in a window as a
# difference of mean squares, in float32 of float32 images: of noise with a deviation of 1 about 10,000, as in counts of a detector, none
# of the three lies there; in float64 all are 0.01.  A value of the range was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install scikit-image==0.26.0 torchmetrics==1.9.0 kornia==0.9.0 torch==2.13.0 numpy==2.4.6
expect 'float64: scikit-image 0.01, torchmetrics 0.01, kornia 0.01
float32: scikit-image outside, torchmetrics outside, kornia outside' <<'PY'
import kornia
import numpy as np
import torch
import torchmetrics
from skimage.metrics import structural_similarity

images = np.random.default_rng(0).normal(size=(2, 64, 64)) + 1e4
for kind in ("float64", "float32"):
    one, other = images.astype(kind)
    tensors = [torch.tensor(x)[None, None] for x in (one, other)]
    results = {
        "scikit-image": structural_similarity(one, other, data_range=6.0),
        "torchmetrics": torchmetrics.image.StructuralSimilarityIndexMeasure(data_range=6.0)(*tensors),
        "kornia": kornia.metrics.ssim(*tensors, 11, max_val=6.0).mean(),
    }
    words = (f"{name} {f'{v:.2f}' if abs(v) <= 1 else 'outside'}" for name, v in results.items())
    print(f"{kind}: {', '.join(words)}")
PY
