#!/usr/bin/env bash
# pyarrow 26.0.1, numpy 2.4.6.  FixedShapeTensorArray.from_numpy_ndarray takes an array whose axes lie in another order in memory, such
# as images channels last that are a view of ones channels first, and notes the order.  Where it is turned round, not swapped,
# to_numpy_ndarray gives it back turned the other way: images of (3, 4, 2) come back as (4, 2, 3), and square ones with other values.
# The array that went in was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install pyarrow==26.0.1 numpy==2.4.6
expect 'in memory (3, 4, 2): in (1, 3, 4, 2), out (1, 3, 4, 2), the same True
in memory (3, 2, 4): in (1, 3, 4, 2), out (1, 3, 4, 2), the same True
in memory (2, 3, 4): in (1, 3, 4, 2), out (1, 4, 2, 3), the same False
in memory (2, 2, 2): in (1, 2, 2, 2), out (1, 2, 2, 2), the same False' <<'PY'
import numpy as np
import pyarrow as pa

for shape, axes in (((3, 4, 2), (0, 1, 2, 3)), ((3, 2, 4), (0, 1, 3, 2)), ((2, 3, 4), (0, 2, 3, 1)), ((2, 2, 2), (0, 2, 3, 1))):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape).transpose(axes)
    y = pa.FixedShapeTensorArray.from_numpy_ndarray(x).to_numpy_ndarray()
    print(f"in memory {shape}: in {x.shape}, out {y.shape}, the same {np.array_equal(x, y)}")
PY
