"""The small shapes of the table, for a run of the kernels as plain Python, where coverage sees their lines:

    NUMBA_DISABLE_JIT=1 pytest tests/small_shapes.py

An element costs microseconds there, so ``pytest`` by itself leaves this file alone.
"""

from math import prod

import pytest
from cases import CASES, FLOATS, ids
from test_forward import check_forward
from test_gradients import check_backward

MOST_ELEMENTS = 20_000
SMALL_SHAPES = [case for case in CASES if prod(case.shape) <= MOST_ELEMENTS]

pytestmark = [
    pytest.mark.parametrize("case", SMALL_SHAPES, ids=ids),
    pytest.mark.parametrize("dtype", FLOATS),
]


def test_forward(case, dtype):
    check_forward(case, case.data(dtype))


def test_backward(case, dtype):
    check_backward(case, case.upstream(dtype), case.data(dtype))
