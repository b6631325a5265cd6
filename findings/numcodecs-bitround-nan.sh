#!/usr/bin/env bash
# numcodecs 0.16.6, numpy 2.4.6.  BitRound rounds a NaN like a number: the one that NVIDIA's processors make, 0x7fffffff, has all
# bits set, goes over into the sign, and is read back as minus zero, so that no mask finds it any more.  NumPy's own NaN, whose
# other bits are 0, stays.  NaN was expected of both.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install numcodecs==0.16.6 numpy==2.4.6
expect 'nan [1.0, nan, nan], mean nan; rounded [1.0, nan, -0.0], mean of what is no NaN 0.5' <<'PY'
import numcodecs
import numpy as np

x = np.array([0x3F800000, 0x7FC00000, 0x7FFFFFFF], np.uint32).view(np.float32)
codec = numcodecs.BitRound(keepbits=7)
rounded = codec.decode(codec.encode(x))
print(f"nan {x.tolist()}, mean {x.mean()}; rounded {rounded.tolist()}, mean of what is no NaN {np.nanmean(rounded)}")
PY
