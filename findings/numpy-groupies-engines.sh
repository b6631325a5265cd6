#!/usr/bin/env bash
# numpy-groupies 0.16.0, numba 0.66.0, numpy 2.4.6.  aggregate takes numba where it is installed, and numpy otherwise.  With numba a group's
# variance is the difference of two mean squares in the type of the data: of 10,000 and 10,001 in float32 it is -0.25, of five
# hundred such pairs less than -100, and the deviation NaN.  What numpy gives of the same numbers, 0.25, was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install numpy-groupies==0.16.0 numpy==2.4.6
program='import warnings

import numpy as np
import numpy_groupies

warnings.simplefilter("ignore")
pair = np.array([10_000, 10_001], np.float32)
many = np.tile(pair, 500)
whole = np.zeros(many.size, int)
var, std = (numpy_groupies.aggregate(whole[:2], pair, func=what)[0] for what in ("var", "std"))
below = numpy_groupies.aggregate(whole, many, func="var")[0] < -100
print(f"variance {var}, deviation {std}, of many below -100 {below}")'
expect 'variance 0.25, deviation 0.5, of many below -100 False' <<<"$program"
"$folder/environment/bin/pip" install numba==0.66.0 numpy==2.4.6
expect 'variance -0.25, deviation nan, of many below -100 True' <<<"$program"
