#!/usr/bin/env bash
# albumentations 2.0.8, albucore 0.0.24, opencv-python-headless 4.13.0.92, numpy 2.4.6.  Normalize by the statistics of each channel takes
# another way for float32 images of several channels.  With "image_per_channel" a blank channel becomes NaN, where one of uint8, or one
# that is alone, becomes 0: the epsilon is not added.  With "min_max_per_channel" it is added, so that a faint image ends at 0.09, where one
# of a single channel ends at 1; and the result is written over the image that was given.  One result for one channel was expected,
# and an image that stays as it was.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install albumentations==2.0.8 albucore==0.0.24 opencv-python-headless==4.13.0.92 numpy==2.4.6
export NO_ALBUMENTATIONS_UPDATE=1
expect 'blank, uint8, 3 channels: [0.0], as float64
blank, float32, 1 channel: [0.0], as float32
blank, float32, 3 channels: [nan], as float32
faint, 1 channel: up to 1.00, image kept True
faint, 3 channels: up to 0.09, image kept False' <<'PY'
import warnings

warnings.simplefilter("ignore")
import albumentations as A
import numpy as np

normalize = A.Normalize(normalization="image_per_channel")
for kind, channels in ((np.uint8, 3), (np.float32, 1), (np.float32, 3)):
    result = normalize(image=np.zeros((8, 8, channels), kind))["image"]
    said = f"{np.dtype(kind)}, {channels} channel{'s' * (channels > 1)}"
    print(f"blank, {said}: {np.unique(result).tolist()}, as {result.dtype}")
normalize = A.Normalize(normalization="min_max_per_channel")
for channels in (1, 3):
    image = np.zeros((8, 8, channels), np.float32)
    image[::2] = 1e-5
    before = image.copy()
    result = normalize(image=image)["image"]
    said = f"{channels} channel{'s' * (channels > 1)}"
    print(f"faint, {said}: up to {result.max():.2f}, image kept {np.array_equal(image, before)}")
PY
