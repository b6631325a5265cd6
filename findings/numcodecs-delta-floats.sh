#!/usr/bin/env bash
# numcodecs 0.16.6, zarr 3.1.6, numpy 2.4.6.  The filter Delta stores differences and adds them up again, in the type of the array.  Of floats
# everything after a NaN or an infinity is NaN, to the chunk's end, and small values after a large one are 0.  The documentation
# warns of integers that do not fit, of floats not.  The values that were stored were expected, with one NaN.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install numcodecs==0.16.6 zarr==3.1.6 numpy==2.4.6
expect '[1.0, 2.0, 3.0, 4.0, 5.0, 6.0] is [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
[1.0, nan, 3.0, 4.0, 5.0, 6.0] is [1.0, nan, nan, 4.0, 5.0, 6.0]
[1.0, 1e+17, 3.0, 4.0, 5.0, 6.0] is [1.0, 1e+17, 0.0, 4.0, 5.0, 6.0]' <<'PY'
import warnings

import numpy as np
import zarr
from numcodecs import Delta

warnings.simplefilter("ignore")
for second in (2.0, np.nan, 1e17):
    values = np.array([1, second, 3, 4, 5, 6], np.float64)
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(
        store, shape=6, chunks=3, dtype="f8", zarr_format=2, filters=[Delta("f8")], compressors=None
    )
    array[:] = values
    print(f"{values.tolist()} is {array[:].tolist()}")
PY
