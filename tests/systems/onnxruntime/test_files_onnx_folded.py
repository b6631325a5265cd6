"""Whole ONNX models, folded: ONNX Runtime gives the same, and no batch norm is left."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from fastbn import files

DATA = Path(__file__).parents[2] / "values" / "files" / "data"


@pytest.mark.parametrize("name", ["onnx_11", "onnx_17", "onnx_18", "onnx_21", "onnx_23"])
def test_folded_models_give_the_same(name):
    seen = np.load(DATA / f"{name}.outputs.npz")
    with files.read(DATA / f"{name}.onnx") as file:
        model = file._content.graph.folded()
        assert set(file.fold()) == {tensor.name for tensor in model.graph.initializer}
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: seen["x"]})
    np.testing.assert_allclose(y, seen["y"], atol=1e-6 * np.abs(seen["y"]).max())
