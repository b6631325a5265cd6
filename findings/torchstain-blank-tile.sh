#!/usr/bin/env bash
# torchstain 1.4.1, numpy 2.4.6.  The Reinhard normalizer brings the colours of a tile of a slide to the mean and deviation of another.  A tile
# without tissue, white or grey all over, as at the edges of each slide, comes back black: its deviation is 0, the quotient NaN, and NaN
# cast to uint8 is 0.  The mean of the other tile, or the tile itself, was expected; one pixel that differs is enough for that.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torchstain==1.4.1 numpy==2.4.6
expect 'white: from 0 to 0
grey: from 0 to 0
white but for a pixel: brighter than 100 True' <<'PY'
import warnings

import numpy as np
import torchstain

warnings.simplefilter("ignore")
across, down = np.meshgrid(np.arange(64), np.arange(64))
tissue = np.stack([150 + across, 100 + down, 160 + (across + down) // 2], -1).astype(np.uint8)
normalizer = torchstain.normalizers.ReinhardNormalizer(backend="numpy")
normalizer.fit(tissue)
for name, value in (("white", 255), ("grey", 200)):
    result = normalizer.normalize(np.full(tissue.shape, value, np.uint8))
    print(f"{name}: from {result.min()} to {result.max()}")
speck = np.full(tissue.shape, 255, np.uint8)
speck[0, 0] = 200, 150, 180
print(f"white but for a pixel: brighter than 100 {np.median(normalizer.normalize(speck)) > 100}")
PY
