"""Who is measured: every contender gives its ways to compute a cell, all with the same number of threads."""

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from importlib.metadata import version
from math import prod
from typing import Any

import numpy as np

import fastbn
from fastbn.cli.bench._cells import (
    BACKWARD,
    FIRST,
    FORWARD,
    GROUP,
    INFERENCE,
    INSTANCE,
    LAST,
    LAYER,
    RMS,
    TRAINING,
)
from fastbn.cli.bench._contender import Calls, Contender
from fastbn.cli.bench._formulas import formula
from fastbn.cli.bench._more_peers import Numbagg, OpenVino
from fastbn.cli.bench._problem import EPS, Array, Call, Problem, as_it_lies, library_call
from fastbn.cli.bench._results import COPY, FASTBN, NEW, OBJECT, OUT

SMALL_BYTES = 1 << 17  # of x: up to here, where the call itself counts, fastbn's layer objects are timed too


class FastBN(Contender):
    name, title = FASTBN, "fastbn"

    def calls(self, p: Problem) -> Calls:
        calls = {NEW: library_call(fastbn, p), OUT: library_call(fastbn, p, out=p.seen(p.out))}
        if p.cell.operation in (INFERENCE, LAYER) and p.cell.direction == FORWARD and p.cell.nbytes <= SMALL_BYTES:
            calls[OBJECT] = partial(_layer_object(p), p.seen(p.x))
        return calls

    def read(self, output: Any, p: Problem) -> Array:
        return as_it_lies(output, p.seen_axis, p.cell)


def _layer_object(p: Problem) -> Any:
    channels, rank = p.cell.channels, len(p.cell.shape)
    if p.cell.operation == LAYER:
        return _filled(fastbn.LayerNorm(channels, eps=EPS), p, "weight", "bias")
    kind = {4: fastbn.BatchNorm2d, 5: fastbn.BatchNorm3d}.get(rank, fastbn.BatchNorm1d)
    return _filled(kind(channels, eps=EPS, axis=p.cell.axis), p, "weight", "bias", "running_mean", "running_var")


def _filled(layer: Any, p: Problem, *names: str) -> Any:
    layer.load_state_dict({name: getattr(p, name) for name in names}, strict=False)
    return layer.eval()


class Copy(Contender):
    """Not a peer but the limit."""

    name, title = COPY, "copy"

    def calls(self, p: Problem) -> Calls:
        from fastbn.cli.bench._copy import copies

        return copies(p.x, p.out)

    def expected(self, p: Problem) -> tuple[Array, ...]:
        return (p.x,)


class NumPy(Contender):
    name, title, modules = "numpy", "NumPy", ("numpy",)

    def calls(self, p: Problem) -> Calls:
        function, arrays = formula(p)
        return {NEW: partial(function, *arrays)}


class Torch(Contender):
    """PyTorch without a graph where it can: its operators, and their variants that write into existing tensors."""

    name, title, modules = "torch", "PyTorch", ("torch",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.torch: Any = import_module("torch")
        self.aten = self.torch.ops.aten
        self.torch.set_num_threads(threads)

    def context(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.torch.inference_mode()
        return context

    def read(self, output: Any, p: Problem) -> Array:
        return as_it_lies(output.detach().numpy(), self._axis(p), p.cell)

    def calls(self, p: Problem) -> Calls:
        return self._backward(p) if p.cell.direction == BACKWARD else self._forward(p)

    def _axis(self, p: Problem) -> int:
        """Where torch sees the channels, however they lie: channels last is a memory format there."""
        return -1 if p.cell.normalizes_vectors else 1

    def _view(self, array: Array, p: Problem) -> Any:
        return self.torch.from_numpy(array).movedim(p.cell.axis, self._axis(p))

    def _vectors(self, *arrays: Array) -> Iterable[Any]:
        return (self.torch.from_numpy(a.astype(np.float32)) for a in arrays)

    def _ordinary(self, p: Problem) -> Callable[..., Any]:
        """The operation as a function of x, weight and bias."""
        torch, width, groups = self.torch, (p.cell.channels,), p.cell.groups
        running = tuple(self._vectors(p.running_mean, p.running_var))
        functions: dict[str, Callable[..., Any]] = {
            TRAINING: lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, EPS, False),
            INFERENCE: lambda x, w, b: torch.batch_norm(x, w, b, *running, False, 0.1, EPS, False),
            LAYER: lambda x, w, b: torch.layer_norm(x, width, w, b, EPS, False),
            GROUP: lambda x, w, b: torch.group_norm(x, groups, w, b, EPS, False),
            INSTANCE: lambda x, w, b: torch.instance_norm(x, w, b, None, None, True, 0.1, EPS, False),
            RMS: lambda x, w, b: torch.rms_norm(x, width, w, EPS),
        }
        return functions[p.cell.operation]

    def _forward(self, p: Problem) -> Calls:
        if p.cell.fused:
            return {NEW: self._then_fused(p)}
        return self._forward_alone(p)

    def _then_fused(self, p: Problem) -> Call:
        """The ordinary operation, then the sum and the activation in the same memory."""
        x, w, b = self._view(p.x, p), *self._vectors(p.weight, p.bias)
        residual = None if p.residual is None else self._view(p.residual, p)
        ordinary = self._ordinary(p)

        def call() -> Any:
            y = ordinary(x, w, b)
            if residual is not None:
                y.add_(residual)
            return y.relu_()

        return call

    def _forward_alone(self, p: Problem) -> Calls:
        cell, empty, aten, batch_norm = p.cell, self.torch.empty, self.aten, self.torch.native_batch_norm
        x, out = self._view(p.x, p), self._view(p.out, p)
        w, b, *running = self._vectors(p.weight, p.bias, p.running_mean, p.running_var)
        calls: Calls = {NEW: partial(self._ordinary(p), x, w, b)}
        if cell.operation in (TRAINING, INFERENCE):
            training = cell.operation == TRAINING
            given = (None, None) if training else running
            outs = out, empty(w.shape), empty(w.shape)
            calls[OUT] = partial(batch_norm, x, w, b, *given, training, 0.1, EPS, out=outs)
        elif cell.operation == LAYER:
            saved = {name: empty(*x.shape[:-1], 1) for name in ("out1", "out2")}
            calls[OUT] = partial(aten.native_layer_norm.out, x, w.shape, w, b, EPS, out0=out, **saved)
        elif cell.operation == GROUP:
            saved = {name: empty(x.shape[0], cell.groups) for name in ("out1", "out2")}
            arguments = (x, w, b, *_extents(x), cell.groups, EPS)
            calls[OUT] = partial(aten.native_group_norm.out, *arguments, out0=out, **saved)
        elif cell.operation == INSTANCE and cell.axis == FIRST:
            # every channel of every sample a channel of one sample: then it is batch norm
            x, out = (tensor.view(1, -1, *x.shape[2:]) for tensor in (x, out))
            w, b = (vector.repeat(cell.shape[0]) for vector in (w, b))
            outs = out, empty(w.shape), empty(w.shape)
            calls[OUT] = partial(batch_norm, x, w, b, None, None, True, 0.1, EPS, out=outs)
        return calls

    def _backward(self, p: Problem) -> Calls:
        if p.cell.operation in (INSTANCE, RMS):
            return self._autograd(p)
        if p.cell.fused:
            return {NEW: self._fused_backward(p)}
        aten, every = self.aten, [True, True, True]
        dy, x, out = (self._view(a, p) for a in (p.dy, p.x, p.out))
        w, mean, rstd = self._vectors(p.weight, *p.statistics)
        function, arguments = {
            TRAINING: lambda: (
                aten.native_batch_norm_backward,
                (dy, x, w, None, None, mean, rstd, True, EPS, every),
            ),
            LAYER: lambda: (
                aten.native_layer_norm_backward,
                (dy, x, w.shape, mean[..., None], rstd[..., None], w, w, every),
            ),
            GROUP: lambda: (
                aten.native_group_norm_backward,
                (dy, x, mean, rstd, w, *_extents(x), p.cell.groups, every),
            ),
        }[p.cell.operation]()
        outs = {"out0": out, "out1": self.torch.empty_like(w), "out2": self.torch.empty_like(w)}
        return {NEW: partial(function.default, *arguments), OUT: partial(function.out, *arguments, **outs)}

    def _fused_backward(self, p: Problem) -> Call:
        """Batch norm's with relu's before it, as autograd does it: from the y that forward has kept."""
        aten, (w, mean, rstd) = self.aten, self._vectors(p.weight, *p.statistics)
        dy, x, y = self._view(p.dy, p), self._view(p.x, p), self._then_fused(p)()

        def call() -> tuple[Any, ...]:
            dz = aten.threshold_backward(dy, y, 0)
            gradients = aten.native_batch_norm_backward(dz, x, w, None, None, mean, rstd, True, EPS, [True, True, True])
            return gradients if p.residual is None else (*gradients, dz)

        return call

    def _autograd(self, p: Problem) -> Calls:
        """Through the graph of one forward: torch has no backward operator of its own for these."""
        with self.torch.inference_mode(False), self.torch.enable_grad():
            dy = self._view(p.dy, p)
            inputs = [self._view(p.x, p), *self._vectors(p.weight, p.bias)][: 2 if p.cell.operation == RMS else 3]
            for tensor in inputs:
                tensor.requires_grad_()
            w_and_b = (*inputs[1:], None)[:2]
            y = self._ordinary(p)(inputs[0], *w_and_b)
        return {NEW: partial(self.torch.autograd.grad, y, inputs, dy, retain_graph=True)}


def _extents(x: Any) -> tuple[int, int, int]:
    """Samples, channels, positions, as torch's group norm wants to be told."""
    return x.shape[0], x.shape[1], prod(x.shape[2:])


class TorchCompile(Torch):
    """The formula compiled by torch, its result fused into an existing tensor."""

    name, title = "torch.compile", "torch.compile"

    def calls(self, p: Problem) -> Calls:
        self.torch._dynamo.reset()  # or it gives up after a number of shapes
        function, arrays = formula(p)
        tensors = [a if a is None else self.torch.from_numpy(a) for a in arrays]
        out = self.torch.from_numpy(p.out)

        def into_out(*tensors: Any) -> tuple[Any, ...]:
            result, *gradients = function(*tensors)
            return (out.copy_(result), *gradients)

        return {OUT: partial(self.torch.compile(into_out, dynamic=False), *tensors)}

    def _axis(self, p: Problem) -> int:
        return p.cell.axis


class OneDNN(Torch):
    """oneDNN's own tensors inside PyTorch: there, batch norm of images is all that it normalizes."""

    name, title = "onednn", "oneDNN"

    def calls(self, p: Problem) -> Calls:
        if p.cell.operation not in (TRAINING, INFERENCE) or len(p.cell.shape) != 4 or p.cell.fused:
            return {}
        x, w, b = self._view(p.x, p).to_mkldnn(), *self._vectors(p.weight, p.bias)
        if p.cell.direction == FORWARD:
            return {NEW: partial(self._ordinary(p), x, w, b)}
        dy = self._view(p.dy, p).to_mkldnn()
        running = tuple(self._vectors(p.running_mean, p.running_var))
        _, *saved = self.aten.native_batch_norm(x, w, b, *running, True, 0.1, EPS)
        arguments = (dy, x, w, *running, *saved, True, EPS, [True, True, True])
        return {NEW: partial(self.aten.native_batch_norm_backward.default, *arguments)}

    def read(self, output: Any, p: Problem) -> Array:
        return super().read(output.to_dense() if output.is_mkldnn else output, p)


class Jax(Contender):
    name, title, modules = "jax", "JAX", ("jax",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        os.environ["PJRT_NPROC"] = str(threads)  # XLA sizes its pool by it, once, when it starts
        self.jax: Any = import_module("jax")

    def calls(self, p: Problem) -> Calls:
        jax, cpu = self.jax, self.jax.devices("cpu")[0]
        function, arrays = formula(p)
        arrays = jax.device_put(arrays, cpu)
        compiled = jax.jit(function)
        # a donated array lends its memory to the result
        donating = jax.jit(lambda out, *args: function(*args), donate_argnums=0, keep_unused=True)
        out = jax.device_put(p.out, cpu, may_alias=False)

        def into_out() -> Any:
            nonlocal out
            results = jax.block_until_ready(donating(out, *arrays))
            out = results[0]
            return results

        return {NEW: lambda: jax.block_until_ready(compiled(*arrays)), OUT: into_out}


class OnnxRuntime(Contender):
    """Inference sessions of one operator, inputs and outputs bound to arrays; there is no backward."""

    name, title, modules = "onnxruntime", "ONNX Runtime", ("onnx", "onnxruntime")

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.runtime: Any = import_module("onnxruntime")

    def calls(self, p: Problem) -> Calls:
        # its images lie channels first, its vectors last
        if p.cell.direction == BACKWARD or p.cell.axis != (LAST if p.cell.normalizes_vectors else FIRST):
            return {}
        if p.cell.fused:
            return {}
        x, c = p.x, (p.cell.channels,)
        w, b, mean, var = p.weight, p.bias, p.running_mean, p.running_var
        nodes: dict[str, tuple[str, tuple[Array, ...], tuple[tuple[int, ...], ...], dict[str, Any]]] = {
            TRAINING: ("BatchNormalization", (x, w, b, mean, var), (x.shape, c, c), {"training_mode": 1}),
            INFERENCE: ("BatchNormalization", (x, w, b, mean, var), (x.shape,), {}),
            LAYER: ("LayerNormalization", (x, w, b), (x.shape,), {}),
            GROUP: ("GroupNormalization", (x, w, b), (x.shape,), {"num_groups": p.cell.groups}),
            INSTANCE: ("InstanceNormalization", (x, w, b), (x.shape,), {}),
            RMS: ("RMSNormalization", (x, w), (x.shape,), {}),
        }
        operator, inputs, outputs, attributes = nodes[p.cell.operation]
        session = self._session(operator, inputs, outputs, attributes)
        binding, value = session.io_binding(), self.runtime.OrtValue
        for i, array in enumerate(inputs):
            binding.bind_ortvalue_input(f"input{i}", value.ortvalue_from_numpy(array))
        results = [value.ortvalue_from_shape_and_type(list(shape), np.float32, "cpu") for shape in outputs]
        for i, result in enumerate(results):
            binding.bind_ortvalue_output(f"output{i}", result)

        def call() -> list[Any]:
            session.run_with_iobinding(binding)
            return results

        return {OUT: call}

    def _session(self, operator: str, inputs: Any, outputs: Any, attributes: dict[str, Any]) -> Any:
        onnx: Any = import_module("onnx")
        ins = [self._info(f"input{i}", array.shape) for i, array in enumerate(inputs)]
        outs = [self._info(f"output{i}", shape) for i, shape in enumerate(outputs)]
        names = [[info.name for info in infos] for infos in (ins, outs)]
        node = onnx.helper.make_node(operator, *names, epsilon=EPS, **attributes)
        graph = onnx.helper.make_graph([node], operator, ins, outs)
        opset = onnx.helper.make_opsetid("", 23)  # the first with RMSNormalization
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3  # errors only
        # idle threads wait for work in a loop; not while others are being timed
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return self.runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def _info(self, name: str, shape: tuple[int, ...]) -> Any:
        onnx: Any = import_module("onnx")
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    def read(self, output: Any, p: Problem) -> Array:
        array: Array = output.numpy()
        return array


_PEERS: tuple[type[Contender], ...] = (NumPy, Torch, TorchCompile, OneDNN, Jax, OnnxRuntime, OpenVino, Numbagg)
_ALL: tuple[type[Contender], ...] = (FastBN, Copy, *_PEERS)
TITLES = {contender.name: contender.title for contender in _ALL}
PEERS = {contender.name: contender for contender in _PEERS}


def versions(peers: Iterable[type[Contender]]) -> dict[str, str]:
    """The versions of the libraries behind `peers`."""
    return {module: version(module) for peer in peers for module in peer.modules}
