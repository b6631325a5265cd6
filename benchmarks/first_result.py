"""How long a new process takes to its first result, and how much memory: fastbn beside others for small machines.

    python benchmarks/first_result.py              # all that is installed
    python benchmarks/first_result.py --cores 1    # on one core

The work is a layer norm of (32, 768), float32, with weight and bias, by fastbn with its kernels in the cache and with
none, by the C library that `fastbn export` makes, through ctypes, without Numba, by PyTorch, ONNX Runtime and LiteRT
(ai-edge-litert; ONNX and LiteRT run models that are made beforehand).  Processes take turns; what is told is the median
of the times to the result, from the start of the process on, and of peak memory.  All must give the same.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

ARRAYS = """
import numpy
rng = numpy.random.default_rng(0)
x, weight, bias = (rng.random(shape, "float32") for shape in ((32, 768), 768, 768))
"""

FASTBN = f"{ARRAYS}import fastbn; y = fastbn.layer_norm(x, 768, weight, bias)"

TORCH = f"""{ARRAYS}
import torch
x, weight, bias = map(torch.from_numpy, (x, weight, bias))
with torch.inference_mode():
    y = torch.nn.functional.layer_norm(x, (768,), weight, bias).numpy()
"""

ONNX = f"""{ARRAYS}
import onnxruntime
y = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"]).run(None, {{"x": x}})[0]
"""

LITERT = f"""{ARRAYS}
from ai_edge_litert.interpreter import Interpreter
model = Interpreter("model.tflite")
model.allocate_tensors()
model.set_tensor(model.get_input_details()[0]["index"], x)
model.invoke()
y = model.get_tensor(model.get_output_details()[0]["index"])
"""

LIBRARY = f"""{ARRAYS}
import ctypes
library = ctypes.CDLL("./library/libfastbn.so")
y = numpy.empty_like(x)
pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, y, weight, bias)]
sizes = map(ctypes.c_int64, x.shape)
assert library.fastbn_layer_norm_f32(*pointers, *sizes, ctypes.c_double(1e-5), None, None, None) == 0
"""

EMPTY = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""

PROGRAMS = {
    "NumPy's arrays alone": ("numpy", f"{ARRAYS}y = x"),
    "`import numba` alone": ("numba", f"{ARRAYS}import numba; y = x"),
    "fastbn, kernels in the cache": ("numba", FASTBN),
    "fastbn, an empty cache": ("numba", EMPTY + FASTBN),
    "`fastbn export`, ctypes and NumPy": ("numpy", LIBRARY),
    "PyTorch": ("torch", TORCH),
    "ONNX Runtime": ("onnxruntime", ONNX),
    "LiteRT": ("ai_edge_litert", LITERT),
}
ALONE = tuple(PROGRAMS)[:2]  # for comparison, without a result
OTHER = "PyTorch"

MAKE_ONNX = f"""{ARRAYS}
from onnx import TensorProto, helper, numpy_helper
node = helper.make_node("LayerNormalization", ["x", "weight", "bias"], ["y"], axis=-1, epsilon=1e-5)
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [32, 768]) for name in "xy"]
constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
graph = helper.make_graph([node], "layer_norm", ends[:1], ends[1:], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
open("model.onnx", "wb").write(model.SerializeToString())
"""

# LiteRT has no operator for it: mean, squared difference, mean, + eps, 1 / root, and the rest
MAKE_LITERT = f"""{ARRAYS}
import flatbuffers
from ai_edge_litert import schema_py_generated as schema

buffers, tensors, codes, operators = [schema.BufferT()], [], [], []

def tensor(name, shape, kind=schema.TensorType.FLOAT32, value=None):
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, list(shape), kind, 0
    if value is not None:
        made.buffer = len(buffers)
        buffers.append(schema.BufferT())
        buffers[-1].data = numpy.frombuffer(value.tobytes(), numpy.uint8)
    tensors.append(made)
    return len(tensors) - 1

def operator(code, inputs, shape, options=None, kind=schema.BuiltinOptions.NONE):
    codes.append(schema.OperatorCodeT())
    codes[-1].builtinCode = codes[-1].deprecatedBuiltinCode = code
    codes[-1].version = 1
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = len(codes) - 1, inputs, [tensor(str(len(tensors)), shape)]
    made.builtinOptions, made.builtinOptionsType = options, kind
    operators.append(made)
    return made.outputs[0]

def mean(of):
    options = schema.ReducerOptionsT()
    options.keepDims = True
    return operator(code.MEAN, [of, axes], (32, 1), options, schema.BuiltinOptions.ReducerOptions)

code = schema.BuiltinOperator
given = tensor("x", x.shape)
axes = tensor("axes", (1,), schema.TensorType.INT32, numpy.array([1], "int32"))
eps = tensor("eps", (1,), value=numpy.array([1e-5], "float32"))
scale, shift = tensor("weight", (768,), value=weight), tensor("bias", (768,), value=bias)

def binary(of, inputs, shape=(32, 768)):
    kinds = {{code.ADD: "Add", code.MUL: "Mul", code.SUB: "Sub", code.SQUARED_DIFFERENCE: "SquaredDifference"}}
    name = f"{{kinds[of]}}Options"
    return operator(of, inputs, shape, getattr(schema, name + "T")(), getattr(schema.BuiltinOptions, name))

average = mean(given)
variance = mean(binary(code.SQUARED_DIFFERENCE, [given, average]))
inverse = operator(code.RSQRT, [binary(code.ADD, [variance, eps], (32, 1))], (32, 1))
normal = binary(code.MUL, [binary(code.SUB, [given, average]), inverse])
result = binary(code.ADD, [binary(code.MUL, [normal, scale]), shift])
graph, model = schema.SubGraphT(), schema.ModelT()
graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, operators, [given], [result]
model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], buffers, codes
builder = flatbuffers.Builder(1024)
builder.Finish(model.Pack(builder), b"TFL3")
open("model.tflite", "wb").write(builder.Output())
"""


def prepare(folder: str) -> set[str]:
    """Make the models and the library; the packages for which that can be done here."""
    export = [sys.executable, "-m", "fastbn", "export", "--ops", "layer_norm", "--target", "host", "-o", "library"]
    steps = {
        "numpy": export,
        "onnxruntime": [sys.executable, "-c", MAKE_ONNX],
        "ai_edge_litert": [sys.executable, "-c", MAKE_LITERT],
    }
    there = {package for package, _ in PROGRAMS.values() if find_spec(package)}
    for package in there & steps.keys():
        done = subprocess.run(steps[package], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            there.remove(package)
            print(f"without {package}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
    return there


def cost(program: str, folder: str, cores: int | None) -> tuple[float, float, float]:
    """Seconds until a new process has its result, its peak memory in MB, and a sum over the result."""
    # an installed package has its byte code, too
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = None if cores is None else lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    told = f"{program}\nprint(float(abs(y).sum(dtype='float64')), flush=True)"
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", told],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=folder,
        preexec_fn=before,
    )
    line = process.stdout.readline()
    seconds = time.perf_counter() - start
    _, status, usage = os.wait4(process.pid, 0)
    process.stdout.close()
    if status or not line:
        raise RuntimeError(f"status {status} of {program}")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), float(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="processes of a kind (%(default)s)")
    parser.add_argument("--cores", type=int, help="the cores that a process may use; all by default (Linux)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(folder).resolve() / "cache"))
        there = prepare(folder)
        programs = {kind: program for kind, (package, program) in PROGRAMS.items() if package in there}
        for program in programs.values():
            if not program.startswith(EMPTY):
                cost(program, folder, args.cores)  # fills the caches, the system's as well
        costs: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in programs}
        for _ in range(args.rounds):
            for kind, program in programs.items():
                costs[kind].append(cost(program, folder, args.cores))
    show(costs)


def show(costs: dict[str, list[tuple[float, float, float]]]) -> None:
    medians = {kind: [median(column) for column in zip(*values, strict=True)] for kind, values in costs.items()}
    results = [sums for kind, (_, _, sums) in medians.items() if kind not in ALONE]
    assert max(results) - min(results) < 1e-5 * max(results), medians
    print("| layer norm of (32, 768) | first result | peak memory | of PyTorch's time | of its memory |")
    print("|---|---:|---:|---:|---:|")
    for kind, (seconds, megabytes, _) in medians.items():
        row = f"| {kind} | {seconds:.2f} s | {megabytes:.0f} MB |"
        if OTHER in medians:
            row += f" {seconds / medians[OTHER][0]:.2f} | {megabytes / medians[OTHER][1]:.2f} |"
        print(row)


if __name__ == "__main__":
    main()
