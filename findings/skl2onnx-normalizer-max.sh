#!/usr/bin/env bash
# skl2onnx 1.20.0, scikit-learn 1.9.1, onnxruntime 1.32.0.  Normalizer("max") divides a row by its largest magnitude in scikit-learn, and
# by its largest value once it is converted: a row of -4 and 1 becomes itself, and one of negative numbers changes its sign.  The same
# results were expected, as Normalizer("l1") gives, which takes magnitudes in both.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install skl2onnx==1.20.0 scikit-learn==1.9.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6 scipy==1.17.1
expect 'l1: scikit-learn [[-0.8, 0.2], [-0.8, -0.2]], converted [[-0.8, 0.2], [-0.8, -0.2]]
max: scikit-learn [[-1.0, 0.25], [-1.0, -0.25]], converted [[-4.0, 1.0], [4.0, 1.0]]' <<'PY'
import warnings

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.preprocessing import Normalizer

warnings.simplefilter("ignore")
x = np.array([[-4, 1], [-4, -1]], np.float32)
for norm in ("l1", "max"):
    normalizer = Normalizer(norm).fit(x)
    content = to_onnx(normalizer, x, target_opset=17).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    results = normalizer.transform(x), session.run(None, {"X": x})[0]
    expected, converted = (result.astype(np.float64).round(2).tolist() for result in results)
    print(f"{norm}: scikit-learn {expected}, converted {converted}")
PY
