"""Normalization of thinc, of Keras on NumPy and of ONNX's reference evaluator beside fastbn's in their place.

KERAS_BACKEND=numpy python benchmarks/doors.py

Speed: the median of interleaved calls, each of the two first in turn.  Error: the largest, of float32 data of unit
spread about the mean that the column names, against float64.
"""

import os
import sys
from statistics import median
from time import perf_counter, sleep

os.environ.setdefault("KERAS_BACKEND", "numpy")

import numpy as np

import fastbn
from fastbn import reference

ROUNDS, REST = 15, 0.004
MEANS = (0.0, 1e4, 1e6)


def thinc_layer_norm():
    from thinc.api import LayerNorm

    x = np.random.default_rng(0).standard_normal((2000, 64), dtype=np.float32)

    def call(layer):
        model = layer().initialize(X=x)

        def run(x):
            y, back = model(x, True)
            back(x)
            return y

        return run

    return x, call(LayerNorm), call(fastbn.thinc.LayerNorm), lambda x: reference.layer_norm(x, 64, eps=1e-8)


def keras_layer(name, shape, define, **options):
    import keras

    layer = getattr(keras.layers, name)(**options)
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    fast = fastbn.keras.convert(model)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    training = {"training": True} if name == "BatchNormalization" else {}
    return x, lambda x: layer(x, **training), lambda x: fast.layers[0](x, **training), define


def keras_batch_norm():
    def define(x):
        return reference.batch_norm(x, training=True, eps=1e-3, axis=-1)

    return keras_layer("BatchNormalization", (16, 56, 56, 64), define)


def keras_layer_norm():
    return keras_layer("LayerNormalization", (64, 197, 384), lambda x: reference.layer_norm(x, 384, eps=1e-3))


def keras_group_norm():
    def define(x):
        return reference.group_norm(x, 32, eps=1e-3, axis=-1)

    return keras_layer("GroupNormalization", (8, 28, 28, 256), define, groups=32)


def onnx_layer_norm():
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    x = np.random.default_rng(0).standard_normal((64, 197, 384), dtype=np.float32)
    value = helper.make_tensor_value_info
    node = helper.make_node("LayerNormalization", ["x", "scale"], ["y"], epsilon=1e-5)
    ins = [value("x", TensorProto.FLOAT, x.shape), value("scale", TensorProto.FLOAT, [384])]
    graph = helper.make_graph([node], "one", ins, [value("y", TensorProto.FLOAT, x.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    scale = np.ones(384, np.float32)

    def call(**more):
        evaluator = ReferenceEvaluator(model, **more)
        return lambda x: evaluator.run(None, {"x": x, "scale": scale})[0]

    return x, call(), call(new_ops=fastbn.onnx.reference_ops()), lambda x: reference.layer_norm(x, 384)


ROWS = {
    "thinc LayerNorm (2000, 64), forward and backward": thinc_layer_norm,
    "Keras BatchNormalization (16, 56, 56, 64), training": keras_batch_norm,
    "Keras LayerNormalization (64, 197, 384)": keras_layer_norm,
    "Keras GroupNormalization (8, 28, 28, 256), 32 groups": keras_group_norm,
    "ONNX LayerNormalization (64, 197, 384)": onnx_layer_norm,
}


def speed_up(x, theirs, ours):
    """Their time over ours."""
    times = {theirs: [], ours: []}
    for call in times:
        call(x)
    for round_ in range(ROUNDS):
        for call in (theirs, ours) if round_ % 2 else (ours, theirs):
            sleep(REST)
            start = perf_counter()
            call(x)
            times[call].append(perf_counter() - start)
    return median(times[theirs]) / median(times[ours])


def worst_error(x, call, define, mean):
    moved = (x + mean).astype(np.float32)
    with np.errstate(all="ignore"):
        return np.max(np.abs(np.asarray(call(moved), np.float64) - define(moved)))


def main():
    means = " | ".join(f"error at mean {mean:g}: theirs, fastbn" for mean in MEANS)
    print(f"| in their place | times as fast | {means} |")
    print("|---|---:|" + "---:|" * len(MEANS))
    for name, make in ROWS.items():
        print(f"measuring {name}", file=sys.stderr)
        x, theirs, ours, define = make()
        ratio = speed_up(x, theirs, ours)
        errors = (f"{worst_error(x, theirs, define, m):.1e}, {worst_error(x, ours, define, m):.1e}" for m in MEANS)
        print(f"| {name} | {ratio:.1f} | " + " | ".join(errors) + " |", flush=True)


if __name__ == "__main__":
    main()
