#!/usr/bin/env bash
# torch 2.13.0, onnx 1.23.2.  torch.onnx.export(dynamo=False), the only exporter that needs no onnxscript, has layer norm
# but not RMS norm, which torch.nn has had since 2.4, neither as an operator of ONNX nor in parts.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torch==2.13.0 numpy==2.4.6 onnx==1.23.2
expect 'LayerNorm: exported, RMSNorm: UnsupportedOperatorError' <<'PY'
import io
import os
import sys
import warnings

import torch

warnings.simplefilter("ignore")
output = os.dup(1)
os.dup2(2, 1)  # the exporter prints what it has read
told = []
for layer in (torch.nn.LayerNorm(4), torch.nn.RMSNorm(4)):
    try:
        torch.onnx.export(layer, (torch.randn(2, 4),), io.BytesIO(), dynamo=False, opset_version=20)
        seen = "exported"
    except torch.onnx.errors.UnsupportedOperatorError as error:
        seen = type(error).__name__
    told.append(f"{type(layer).__name__}: {seen}")
sys.stdout.flush()
os.dup2(output, 1)
print(", ".join(told))
PY
