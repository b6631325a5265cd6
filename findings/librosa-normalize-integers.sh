#!/usr/bin/env bash
# librosa 0.11.0, numpy 2.4.6.  util.normalize takes any real array and writes the quotient into one of its type: samples of int16, as sound
# files hold them, become 0 but for the largest, under norm=2 all of them.  With a sample of -32768, whose magnitude int16 cannot hold,
# the divisor is the next larger one, and what was to be at most 1 is -327.  What float32 of the same samples gives was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install librosa==0.11.0 numpy==2.4.6
expect 'int16 [0, 0, 1], float32 [-0.75, 0.5, 1.0]
norm=2: int16 [0, 0, 0], float32 [-0.56, 0.37, 0.74]
with -32768: int16 [-327, 1], float32 [-1.0, 0.0]' <<'PY'
import librosa
import numpy as np


def results(samples, **given):
    told = []
    for kind in (np.int16, np.float32):
        normalized = librosa.util.normalize(np.array(samples, kind), **given)
        told.append(f"{kind.__name__} {[round(v, 2) for v in normalized.tolist()]}")
    return ", ".join(told)


print(results([-300, 200, 400]))
print("norm=2:", results([-300, 200, 400], norm=2))
print("with -32768:", results([-32768, 100]))
PY
