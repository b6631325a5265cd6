"""The core of the tables: every way through the kernels once, each result computed twice, against the definitions.

A way is a kernel and how a call gets there: by runs or by columns, alone, with threads that have whole groups each, or
with too few groups for that, whose pieces they share.  `pytest --all` goes through the tables at length.
"""

import numpy as np
import pytest
from against_reference import check_backward, check_forward, check_fused, twice
from cases import (
    MEDIUM,
    Case,
    assert_close,
    by_channel,
    channels_first_view,
    channels_last_view,
    forward_tolerance,
    ids,
    trailing,
)
from treatments import as_large

import fastbn
from fastbn import reference

WHOLE = [*MEDIUM, *by_channel((34, 6), (3,))]
IN_PIECES = [  # of so many elements, or so few groups, that threads share even one group
    *by_channel((1, 3, 50_003), (3,)),
    *by_channel((2, 9000, 17), (1,), axis=-1),
    *trailing((3, 50_003), 50_003),
]
VIEWS = [*by_channel((2, 6, 3, 5), (2,))]  # channels first, and last in memory
OVER_CHANNELS = trailing((2, 5, 7, 33), 33)  # over the last axis, which is second in memory
PLACES = [
    *((case, np.asarray) for case in WHOLE + IN_PIECES),
    *((case, channels_last_view) for case in VIEWS),
    *((case, channels_first_view) for case in OVER_CHANNELS),
]
FUSED = [
    Case("batch_norm", (4, 6, 9, 11)),
    Case("group_norm", (4, 9, 11, 6), 3, axis=-1),
    Case("layer_norm", (34, 35), 35),
    Case("rms_norm", (6, 3, 7), (3, 7)),
]

each_place = pytest.mark.parametrize(
    ("case", "place"), PLACES, ids=[f"{ids(case)}-{place.__name__}" for case, place in PLACES]
)


each_way = pytest.mark.parametrize(
    ("dtype", "treatment"),
    [
        (np.float32, "alone"),
        (np.float32, "shared"),
        (np.float64, "alone"),
        pytest.param(np.float64, "shared", marks=pytest.mark.full),
    ],
    indirect=["treatment"],
)
either = pytest.mark.parametrize("treatment", ["alone", pytest.param("shared", marks=pytest.mark.full)], indirect=True)


@pytest.fixture
def treatment(request, monkeypatch):
    """One thread, or several: 64 in name, but for groups that two have whole."""
    if request.param == "shared":
        as_large(monkeypatch, 64 if request.getfixturevalue("case") in IN_PIECES else 2)


@each_way
@each_place
def test_forward(case, place, dtype, treatment):
    check_forward(case, place(case.data(dtype, 1e3)), 1e3)


@each_way
@each_place
def test_backward(case, place, dtype, treatment):
    check_backward(case, place(case.upstream(dtype)), place(case.data(dtype, 1e3)), 1e3)


@each_way
@pytest.mark.parametrize("case", [case for case in WHOLE if case.op in ("batch_norm", "instance_norm")], ids=ids)
def test_given_statistics(case, dtype, treatment):
    """Running statistics in evaluation, and the gradients with statistics that are constants."""
    x, dy, parameters = case.data(dtype), case.upstream(dtype), case.parameters(dtype)
    mean, var = np.linspace(-1, 1, case.shape[case.axis]), np.linspace(0.5, 2, case.shape[case.axis])
    given = {"training": False} if case.op == "batch_norm" else {"use_input_stats": False}
    evaluate = getattr(fastbn, case.op)
    y = twice(lambda: evaluate(x, mean.astype(dtype), var.astype(dtype), **parameters, **given, **case.keywords))
    expected = getattr(reference, case.op)(
        x, mean.astype(dtype), var.astype(dtype), **parameters, **given, **case.keywords
    )
    assert_close(y, expected, forward_tolerance(dtype))
    if case.op == "batch_norm":
        check_backward(case, dy, x, training=False)


@either
@pytest.mark.parametrize("case", FUSED, ids=ids)
def test_fused(case, treatment):
    """Activation, residual and mask in one call, and each by itself."""
    more = {"activation": "silu", "where": case.data(np.float32, seed=6) < 1}
    if case.op in ("batch_norm", "group_norm"):
        more["residual"] = case.data(np.float32, seed=5)
    check_fused(case, np.float32, more)


@either
@pytest.mark.parametrize("case", [Case("batch_norm", (6, 5, 33)), Case("layer_norm", (34, 35), 35)], ids=ids)
def test_float16(case, treatment):
    """Computed in float32 and rounded once, both ways."""
    x, dy, named = case.data(np.float16), case.upstream(np.float16), case.parameters(np.float32)
    y, statistics = twice(lambda: case.forward(fastbn, x, **named))
    expected, _ = case.forward(reference, x, **named)
    assert_close(y, expected, 2**-11)
    gradients = twice(lambda: case.backward(fastbn, dy, x, statistics, weight=named["weight"]))
    truths = case.backward(reference, dy, x, statistics, weight=named["weight"])
    for gradient, truth in zip(gradients, truths, strict=True):
        assert_close(gradient, truth, 2**-10, scale=1.0)
