#!/usr/bin/env bash
# openvino 2026.4.1.  A constant of a float16 array that is not in C order, as transposed weights of half precision are, is one of int16
# whose numbers are the bits of the halves: 1.0 becomes 15360, silently.  [[1, 3], [2, 4]] of float16 was expected, as of float32, and as
# of float16 in C order.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install openvino==2026.4.1 numpy==2.4.6
expect 'float32 transposed: f32 [[1.0, 3.0], [2.0, 4.0]]
float16 in C order: f16 [[1.0, 3.0], [2.0, 4.0]]
float16 transposed: i16 [[15360, 16896], [16384, 17408]]' <<'PY'
import numpy as np
import openvino.opset13 as operators

x = np.array([[1, 2], [3, 4]])
for name, array in (
    ("float32 transposed", x.astype(np.float32).T),
    ("float16 in C order", np.ascontiguousarray(x.astype(np.float16).T)),
    ("float16 transposed", x.astype(np.float16).T),
):
    constant = operators.constant(array)
    print(f"{name}: {constant.get_element_type().to_string()} {constant.data.tolist()}")
PY
