#!/usr/bin/env bash
# coremltools 9.0, numpy 2.4.6.  A conversion makes a mean of a sum that is multiplied by 1 / count, and takes any factor for that which
# is within 1e-6 of it.  From about a thousand numbers on, an unbiased variance, 1 / (count - 1), becomes the biased one; of the
# 4,194,304 pixels of a large image a sum in millions becomes the mean, four times less, and so does the sum times 0 or times -5e-7.
# That only 1 / count itself is a mean was expected, to the digits of float32.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install coremltools==9.0 numpy==2.4.6
expect '10 numbers, times 1 / 10: reduce_mean
10 numbers, times 1 / 9: reduce_sum, mul
2000 numbers, times 1 / 1999: reduce_mean
4194304 numbers, times 1e-06: reduce_mean
4194304 numbers, times 0: reduce_mean
4194304 numbers, times -5e-07: reduce_mean' <<'PY'
import logging
import sys

import numpy as np

logging.disable(logging.CRITICAL)
sys.stderr = open("errors", "w")  # where coremltools draws its bars
import coremltools as ct
from coremltools.converters.mil import Builder as mb


def converted(count, factor):
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, count))])
    def program(x):
        return mb.mul(x=mb.reduce_sum(x=x, axes=[1], keep_dims=True), y=np.float32(factor))

    result = ct.convert(
        program,
        source="milinternal",
        convert_to="milinternal",
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS15,
    )
    return ", ".join(op.op_type for op in result.functions["main"].operations if op.op_type != "const")


for count, factor in (
    (10, "1 / 10"),
    (10, "1 / 9"),
    (2000, "1 / 1999"),
    (2**22, "1e-06"),
    (2**22, "0"),
    (2**22, "-5e-07"),
):
    print(f"{count} numbers, times {factor}: {converted(count, eval(factor))}")
PY
