#!/usr/bin/env bash
# pyvips 3.2.0 with libvips 8.18.7.  The deviation of an image of doubles comes from its sum and its sum of squares: about a mean of 1e8 it is
# at least 1.5 instead of 1.  And a single NaN pixel is an error, "parameter out not set", from `avg` and `deviate`, while `min` and `max` pass over it and
# `stats` has NaN.  Either NaN everywhere or numbers everywhere was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install pyvips==3.2.0 pyvips-binary==8.18.7 numpy==2.4.6
expect 'about 1e8: above 1.5 True, of NumPy 1.0
with NaN: avg unable to call avg, deviate unable to call deviate, min 0.0, max 63.0, stats nan' <<'PY'
import numpy as np
import pyvips

x = np.random.default_rng(0).standard_normal((64, 64))
x = x / x.std(ddof=1) + 1e8
print(f"about 1e8: above 1.5 {pyvips.Image.new_from_array(x).deviate() > 1.5}, of NumPy {x.std(ddof=1):.1f}")

x = np.arange(64.0).reshape(8, 8)
x[3, 3] = np.nan
image = pyvips.Image.new_from_array(x)


def told(name):
    try:
        return getattr(image, name)()
    except pyvips.Error as error:
        return error.message


words = [f"{name} {told(name)}" for name in ("avg", "deviate", "min", "max")]
print("with NaN:", ", ".join(words) + f", stats {image.stats().numpy()[0, 4]}")
PY
