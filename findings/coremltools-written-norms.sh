#!/usr/bin/env bash
# coremltools 9.0, numpy 2.4.6.  A conversion makes one instance norm of the operations that (x - mean) / deviation * scale + shift is
# written with, and looks at the axes of the mean alone, and at how many numbers the scale has: a variance over the channels counts as
# one over height and width, and a scale of the columns as one of the channels where there are as many of both.  No error, and other
# values.  That such a graph stays as it is was expected.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install coremltools==9.0 numpy==2.4.6
expect 'mean over [2, 3], variance over [2, 3], scale (1, 3, 1, 1): instance_norm by [1.0, 2.0, 3.0]
mean over [2, 3], variance over [1], scale (1, 3, 1, 1): instance_norm by [1.0, 2.0, 3.0]
mean over [2, 3], variance over [2, 3], scale (1, 1, 1, 3): instance_norm by [1.0, 2.0, 3.0]
mean over [3], variance over [1, 2, 3], scale (3,): layer_norm over [3] by [1.0, 2.0, 3.0]' <<'PY'
import logging
import sys

import numpy as np

logging.disable(logging.CRITICAL)
sys.stderr = open("errors", "w")  # where coremltools draws its bars
import coremltools as ct
from coremltools.converters.mil import Builder as mb


def converted(mean_axes, variance_axes, shape):
    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 3, 4, 3))])
    def program(x):
        mean = mb.reduce_mean(x=x, axes=mean_axes, keep_dims=True)
        squares = mb.square(x=mb.sub(x=x, y=mean))
        variance = mb.reduce_mean(x=squares, axes=variance_axes, keep_dims=True)
        deviation = mb.pow(x=mb.add(x=variance, y=1e-5), y=0.5)
        normalized = mb.real_div(x=mb.sub(x=x, y=mean), y=deviation)
        scale = np.arange(1, 4, dtype=np.float32).reshape(shape)
        return mb.add(x=mb.mul(x=normalized, y=scale), y=np.zeros(shape, np.float32))

    result = ct.convert(
        program,
        source="milinternal",
        convert_to="milinternal",
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS15,
    )
    for op in result.functions["main"].operations:
        if op.op_type != "const":
            axes = f" over {op.axes.val.tolist()}" if op.op_type == "layer_norm" else ""
            yield f"{op.op_type}{axes}" + (f" by {op.gamma.val.tolist()}" if op.op_type.endswith("norm") else "")


for axes, variance_axes, shape in (
    ([2, 3], [2, 3], (1, 3, 1, 1)),
    ([2, 3], [1], (1, 3, 1, 1)),
    ([2, 3], [2, 3], (1, 1, 1, 3)),
    ([3], [1, 2, 3], (3,)),
):
    written = f"mean over {axes}, variance over {variance_axes}, scale {shape}"
    print(f"{written}: {', '.join(converted(axes, variance_axes, shape))}")
PY
