#!/usr/bin/env bash
# OpenCV 5.0.0 (opencv-python-headless 5.0.0.93), SciPy 1.17.1, numpy 2.4.6.  The mean of a window is kept up while the window moves: what left it
# is subtracted.  One missing pixel (NaN) in the middle of 41 x 41 makes not 9 means of 3 x 3 NaN but all below, with cv2.blur, and all
# below and right of it with uniform_filter; with larger windows cv2.blur, too, loses a whole quarter of the image.  An infinite pixel
# does the same, and one of 1e20 leaves means of a third where all pixels are 1.  Filters that multiply by a kernel lose the windows
# with the pixel in it, and that was expected of means.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install opencv-python-headless==5.0.0.93 scipy==1.17.1 numpy==2.4.6
expect '3 x 3: cv2.blur 66, uniform_filter 484; cv2.GaussianBlur 9, scipy'\''s convolve 9
9 x 9: cv2.blur 625, uniform_filter 625; cv2.GaussianBlur 81, scipy'\''s convolve 81
after 1e20: cv2.blur 0.333, uniform_filter 0.000; cv2.GaussianBlur 1.000, scipy'\''s convolve 1.000' <<'PY'
import cv2
import numpy as np
from scipy import ndimage


def filtered(x, size):
    return {
        "cv2.blur": cv2.blur(x, (size, size)),
        "uniform_filter": ndimage.uniform_filter(x, size),
        "cv2.GaussianBlur": cv2.GaussianBlur(x, (size, size), 1),
        "scipy's convolve": ndimage.convolve(x, np.full((size, size), size**-2.0)),
    }


def told(results, form):
    words = [f"{name} {value:{form}}" for name, value in results.items()]
    return f"{', '.join(words[:2])}; {', '.join(words[2:])}"


x = np.ones((41, 41), np.float32)
x[20, 20] = np.nan
for size in (3, 9):
    lost = {name: np.isnan(result).sum() for name, result in filtered(x, size).items()}
    print(f"{size} x {size}: {told(lost, 'd')}")
x[20, 20] = 1e20
far = {name: result[(20, -1) if name == "uniform_filter" else (-1, 20)] for name, result in filtered(x, 3).items()}
print("after 1e20:", told(far, ".3f"))
PY
