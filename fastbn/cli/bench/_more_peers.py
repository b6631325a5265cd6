"""Peers that have a part of the operations: OpenVINO's inference, numbagg's statistics."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from fastbn.cli.bench._cells import BACKWARD, FIRST, GROUP, INFERENCE, INSTANCE, LAST, LAYER, RMS, TRAINING
from fastbn.cli.bench._contender import Calls, Contender
from fastbn.cli.bench._formulas import Axes
from fastbn.cli.bench._problem import EPS, Array, Problem
from fastbn.cli.bench._results import NEW, OUT


class OpenVino(Contender):
    """Compiled models of one operation in float32, input and output bound to arrays; there is no backward."""

    name, title, modules = "openvino", "OpenVINO", ("openvino",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.runtime: Any = import_module("openvino")
        self.ops: Any = import_module("openvino.opset13")
        self.core = self.runtime.Core()

    def calls(self, p: Problem) -> Calls:
        cell = p.cell
        if cell.direction == BACKWARD or cell.operation == TRAINING or cell.fused:
            return {}
        if cell.axis != (LAST if cell.normalizes_vectors else FIRST):  # as its operations want them
            return {}
        x = self.ops.parameter(cell.shape, np.float32)
        model = self.runtime.Model([self._node(p, x)], [x], cell.operation)
        request = self.core.compile_model(model, "CPU", self._settings()).create_infer_request()
        request.set_input_tensor(self.runtime.Tensor(p.x, shared_memory=True))
        request.set_output_tensor(self.runtime.Tensor(p.out, shared_memory=True))

        def call() -> Array:
            request.infer()
            return p.out

        return {OUT: call}

    def _settings(self) -> dict[str, Any]:
        return {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }

    def _node(self, p: Problem, x: Any) -> Any:
        ops, cell, w, b = self.ops, p.cell, p.weight, p.bias
        if cell.operation == INFERENCE:
            return ops.batch_norm_inference(x, w, b, p.running_mean, p.running_var, EPS)
        if cell.operation == GROUP:
            return ops.group_normalization(x, w, b, cell.groups, EPS)
        if cell.operation == RMS:
            square = ops.reduce_mean(ops.multiply(x, x), np.array([-1]), keep_dims=True)
            return ops.multiply(ops.divide(x, ops.sqrt(ops.add(square, np.float32(EPS)))), w)
        axes = np.array([-1] if cell.operation == LAYER else range(2, len(cell.shape)))
        shape = Axes(cell).of_weight
        normal = ops.mvn(x, axes, normalize_variance=True, eps=EPS, eps_mode="inside_sqrt")
        return ops.add(ops.multiply(normal, w.reshape(shape)), b.reshape(shape))


class Numbagg(Contender):
    """Mean and variance by numbagg, the rest by NumPy."""

    name, title, modules = "numbagg", "numbagg", ("numbagg",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.library: Any = import_module("numbagg")

    def calls(self, p: Problem) -> Calls:
        cell = p.cell
        if cell.direction == BACKWARD or cell.operation not in (TRAINING, LAYER, GROUP, INSTANCE) or cell.fused:
            return {}
        axes = Axes(cell)
        mean: Callable[[Array], Array] = partial(self.library.nanmean, axis=axes.shared)
        variance: Callable[[Array], Array] = partial(self.library.nanvar, axis=axes.shared, ddof=0)
        weight, bias = (vector.reshape(axes.of_weight) for vector in (p.weight, p.bias))

        def call() -> Array:
            x = p.x.reshape(axes.shape)
            scale = (variance(x).reshape(axes.of_statistics) + np.float32(EPS)) ** -0.5 * weight
            y: Array = (x - mean(x).reshape(axes.of_statistics)) * scale + bias
            return y.reshape(cell.shape)

        return {NEW: call}
