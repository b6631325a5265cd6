"""Gradients of batch norm over short planes: of some channels together or one by one, to the same bits."""

import internals
import numpy as np
import pytest
from internals import numbers, plans
from processes import python

import fastbn


@pytest.fixture
def kernels(monkeypatch):
    """Of each plan that is made from here on, whether it is of some channels together."""
    made, plan = [], numbers.adjacent

    def counted(*args):
        found = plan(*args)
        made.append(found is not None)
        return found

    monkeypatch.setattr(numbers, "adjacent", counted)
    return made


def gradients(dtype, shape, fused, threads):
    rng = np.random.default_rng(0)
    x, dy, residual = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    channels = shape[1]
    x += (100 * rng.standard_normal((channels, 1, 1))).astype(dtype)
    x[:, channels // 2], dy[:, -1] = 3, 0
    weight, bias = rng.standard_normal((2, channels)).astype(dtype)
    weight[0] = -0.0
    more = {"activation": "gelu", "residual": residual} if fused else {}
    with fastbn.num_threads(threads):
        _, *statistics = fastbn.batch_norm_forward(x, weight, bias, **more)
        found = fastbn.batch_norm_backward(dy, x, *statistics, weight, bias=bias, **more)
        in_place = dy.copy()
        again = fastbn.batch_norm_backward(in_place, x, *statistics, weight, bias=bias, **more, out=in_place)
    assert [v.tobytes() for v in again] == [v.tobytes() for v in found]
    return [v.tobytes() for v in found]


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        *((dtype, (3, 40, 8, 8)) for dtype in (np.float16, np.float32, np.float64)),  # small
        (np.float16, (5, 65, 31, 32)),
        (np.float32, (8, 70, 13, 13)),  # a last work item of fewer channels than the others
        (np.float32, (84, 40, 14, 14)),  # two pieces
        (np.float64, (7, 65, 15, 16)),
    ],
)
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_same_bits(dtype, shape, fused, kernels, monkeypatch):
    plans.clear()
    found = [gradients(dtype, shape, fused, threads) for threads in (1, 2)]
    assert any(kernels)
    kernels.clear()
    internals.channels_one_by_one(monkeypatch)
    plans.clear()
    one_by_one = gradients(dtype, shape, fused, 1)
    assert not any(kernels)
    plans.clear()
    assert found == [one_by_one, one_by_one]


PROGRAM = """
import numpy as np

import fastbn

rng = np.random.default_rng(0)
for shape in ((3, 40, 8, 8), (2, 33, 16, 16)):
    x, dy = rng.standard_normal((2, *shape), np.float32)
    mean, rstd, weight = rng.standard_normal((3, shape[1]))
    for more in ({}, {"bias": weight, "activation": "relu"}):
        print(*(v.tobytes().hex() for v in fastbn.batch_norm_backward(dy, x, mean, abs(rstd), weight, **more)))
"""


def test_same_bits_without_numba():
    assert python(PROGRAM, NUMBA_DISABLE_JIT="1") == python(PROGRAM)
