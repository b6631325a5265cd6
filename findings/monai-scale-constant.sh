#!/usr/bin/env bash
# monai 1.6.1, torch 2.13.0.  ScaleIntensity scales an image into the range from minv to maxv.  A constant image it multiplies with minv: into
# the range from -1 to 1, one of 7 becomes -7, one of 1000 -1000.  Also by channels, where one is blank.  A value of the range was
# expected, as of any other image.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install monai==1.6.1 torch==2.13.0 numpy==2.4.6
expect '[1.0, 7.0, 4.0] is [-1.0, 1.0, 0.0]
[7.0, 7.0, 7.0] is [-7.0, -7.0, -7.0]
[1000.0, 1000.0, 1000.0] is [-1000.0, -1000.0, -1000.0]
channels: [[-1.0, 1.0, 0.0], [-7.0, -7.0, -7.0]]' <<'PY'
import numpy as np
from monai.transforms import ScaleIntensity

for image in ([1, 7, 4], [7, 7, 7], [1000, 1000, 1000]):
    x = np.array([image], np.float32)
    print(f"{x[0].tolist()} is {ScaleIntensity(minv=-1, maxv=1)(x)[0].tolist()}")
both = np.array([[1, 7, 4], [7, 7, 7]], np.float32)
print("channels:", ScaleIntensity(minv=-1, maxv=1, channel_wise=True)(both).tolist())
PY
