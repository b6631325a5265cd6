"""Writes models of OpenVINO with what OpenVINO computes from them: the ONNX model onnx_17.onnx, and one batch norm.

Run with openvino 2026.4.1, after write_torch.py: python write_openvino.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
data = ops.parameter([2, 4, 3, 6], np.float32, name="data")
affine = [rng.uniform(0.5, 2, 4), rng.normal(size=4), rng.normal(size=4), rng.uniform(1, 2, 4)]
gamma, beta, mean, var = (ops.constant(value.astype(np.float32)) for value in affine)
bn = ops.batch_norm_inference(data, gamma, beta, mean, var, 1e-3, name="bn")
ov.save_model(ov.Model([bn], [data], "net"), folder / "openvino_kept.xml", compress_to_fp16=False)
x = rng.normal(1, 2, (2, 4, 3, 6)).astype(np.float32)
compiled = ov.compile_model(folder / "openvino_kept.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.savez_compressed(folder / "openvino_kept.outputs.npz", **{"bn.x": x, "bn.y": compiled(x)[0]})

model = ov.convert_model(folder / "onnx_17.onnx")
ov.save_model(model, folder / "openvino.xml", compress_to_fp16=False)
ov.save_model(model, folder / "openvino_half.xml", compress_to_fp16=True)
