#!/usr/bin/env bash
# Pillow 13.0.0.  ImageStat, from which means and deviations for a normalization are often taken, counts 256 classes of values whatever
# the pixels are: of 32-bit pixels by how far they lie between the least and the largest, of 16-bit pixels by their bytes, each for
# itself.  A mean of 1500 was expected of the pixels 1000 and 2000, or an error.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install pillow==13.0.0 numpy==2.4.6
expect 'L mean [150.0] extrema [(100, 200)]
I;16 mean [117.5] extrema [(3, 232)]
I mean [127.5] extrema [(0, 255)]
F mean [127.5] extrema [(0, 255)]' <<'PY'
import numpy as np
from PIL import Image, ImageStat

for pixels, dtype in (((100, 200), "uint8"), ((1000, 2000), "uint16"), ((1000, 2000), "int32"), ((1000, 2000), "float32")):
    image = Image.fromarray(np.array([pixels], dtype))
    statistics = ImageStat.Stat(image)
    print(image.mode, "mean", statistics.mean, "extrema", statistics.extrema)
PY
