#!/usr/bin/env bash
# awkward 2.14.0, numpy 2.4.6.  ak.softmax takes exponentials of the values as they are: two of 1000 become NaN, two of -1000 too, and of 88 and 89
# in float32 the larger one becomes 0.  The greatest value of a list, which changes no quotient, was expected to be subtracted first,
# as everywhere: 0.5 and 0.5, and 0.269 and 0.731.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install awkward==2.14.0 numpy==2.4.6
expect '[0, 1] is [0.269, 0.731]
[1000, 1000] is [nan, nan]
[-1000, -1000] is [nan, nan]
float32: [88, 89] is [0.0, nan]' <<'PY'
import warnings

import awkward as ak
import numpy as np

warnings.simplefilter("ignore")
for kind, values in (("", [0, 1]), ("", [1000, 1000]), ("", [-1000, -1000]), ("float32: ", [88, 89])):
    lists = ak.Array([values, [0]])
    result = ak.softmax(ak.values_astype(lists, np.float32 if kind else np.float64), axis=-1)[0]
    print(f"{kind}{values} is {[round(v, 3) for v in result.to_list()]}")
PY
