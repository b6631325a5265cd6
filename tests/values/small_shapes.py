"""The small shapes of the table, for a run of the kernels as plain Python, where coverage sees their lines:

    NUMBA_DISABLE_JIT=1 pytest tests/values/small_shapes.py

An element costs a microsecond there, so ``pytest`` by itself leaves this file alone.
"""

from math import prod

import pytest
from against_reference import check_backward, check_forward
from cases import CASES, FLOATS, ids
from treatments import as_large

MOST_ELEMENTS = 20_000
IN_PIECES = [(1, 3, 100_003), (2, 100_003), (2, 9000, 17)]  # so long that even one group is cut up for several threads
SHAPES = [case for case in CASES if prod(case.shape) <= MOST_ELEMENTS or case.shape in IN_PIECES]

pytestmark = [
    pytest.mark.parametrize("case", SHAPES, ids=ids),
    pytest.mark.parametrize("dtype", FLOATS),
]


@pytest.fixture(params=["as small", "as large"], autouse=True)
def treatment(request, monkeypatch):
    """As the small arrays that they are, or as if they were large and there were many threads to share them."""
    if request.param == "as large":
        as_large(monkeypatch)


def test_forward(case, dtype):
    check_forward(case, case.data(dtype))


def test_backward(case, dtype):
    check_backward(case, case.upstream(dtype), case.data(dtype))
