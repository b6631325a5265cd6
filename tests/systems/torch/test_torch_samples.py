"""PyTorch's own samples of its normalizations (OpInfo), through fastbn.torch's functions."""

import inspect
import math
import warnings

import mpmath
import numpy as np
import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

import fastbn.torch as fbt
from fastbn.torch._plans import COMPUTED_IN

FUNCTIONS = {
    f"nn.functional.{name}": getattr(fbt, name)
    for name in ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm")
}
OPERATORS = [op for op in op_db if op.name in FUNCTIONS]


def samples(op, kind, dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(getattr(op, kind)("cpu", dtype, requires_grad=True))


def named(op, sample):
    """Torch's names of a sample's arguments, with copies of its tensors."""
    sample = sample.transform(
        lambda t: t.detach().clone().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t
    )
    signature = inspect.signature(getattr(torch.nn.functional, op.name.split(".")[-1]))
    bound = signature.bind(sample.input, *sample.args, **sample.kwargs)
    bound.apply_defaults()
    return bound.arguments


def everything(function, arguments):
    """The result, the gradients and the tensors that may have been updated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's rms_norm, about its own speed
        y = function(**arguments)
    if y.requires_grad:
        y.backward(upstream(y))
    tensors = {name: t for name, t in arguments.items() if isinstance(t, torch.Tensor)}
    found = {"y": y, **tensors, **{f"d{name}": t.grad for name, t in tensors.items()}}
    return {name: None if t is None else t.detach() for name, t in found.items()}


def upstream(y):
    return torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)


def numbers(values, wide):
    """Numbers with far more digits than the results': mpmath's for float64, else float64's."""
    values = values.detach().double().numpy()
    return np.vectorize(mpmath.mpf, otypes=[object])(values) if wide else values


def inverse_root(values):
    if values.dtype != object:
        return 1 / np.sqrt(values)
    return np.vectorize(lambda v: 1 / mpmath.sqrt(v), otypes=[object])(values)


def grouped_as(op_name, arguments, constant):
    """The order of axes in which groups are rows, and how many rows there are."""
    x = arguments["input"]
    if op_name == "batch_norm" or constant:
        return (1, 0, *range(2, x.ndim)), x.shape[1]
    counts = {"instance_norm": math.prod(x.shape[:2]), "group_norm": x.shape[0] * arguments.get("num_groups", 1)}
    lead = x.shape[: x.ndim - len(arguments.get("normalized_shape", ()))]
    return tuple(range(x.ndim)), counts.get(op_name, math.prod(lead))


def truth_of(op_name, given, dtype):
    """Every result by the formulas, and the sum of the absolute values of the terms that it is the sum of."""
    wide, rms, by_channel = dtype is torch.float64, op_name == "rms_norm", op_name not in ("layer_norm", "rms_norm")
    x, dy = numbers(given["input"], wide), numbers(upstream(given["input"]), wide)
    eps = torch.finfo(COMPUTED_IN[dtype]).eps if given["eps"] is None else given["eps"]
    along = (-1, *(1,) * (x.ndim - 2)) if by_channel else tuple(given["normalized_shape"])
    w, b = (None if given.get(k) is None else numbers(given[k], wide).reshape(along) for k in ("weight", "bias"))
    constant = not given.get("training", given.get("use_input_stats", True))
    order, groups = grouped_as(op_name, given, constant)

    def rows(v):
        return v.transpose(order).reshape(groups, -1)

    def back(v):
        return v.reshape([x.shape[a] for a in order]).transpose(order)  # the order is its own inverse

    def average(v):
        return v.sum(1, keepdims=True) / v.shape[1]

    mean = numbers(given["running_mean"], wide)[:, None] if constant else average(rows(x)) * (0 if rms else 1)
    d = rows(x) - mean
    var = numbers(given["running_var"], wide)[:, None] if constant else average(d * d)
    rstd = inverse_root(var + eps)
    h = d * rstd
    # The mean is a float64: x less the mean is no nearer than that.
    size = abs(h) + abs(mean) * rstd * (torch.finfo(torch.float64).eps / torch.finfo(COMPUTED_IN[dtype]).eps)
    normal, terms = back(h), back(size)
    g = rows(dy if w is None else dy * w)
    if constant:
        found = {"dinput": (back(rstd * g), back(rstd * abs(g)))}
    else:
        own = 0 if rms else 1
        dx = rstd * (g - own * average(g) - h * average(h * g))
        found = {"dinput": (back(dx), back(rstd * (abs(g) + own * average(abs(g)) + size * average(size * abs(g)))))}
    rest = tuple(a for a in range(x.ndim) if a != 1) if by_channel else tuple(range(x.ndim - len(along)))
    found["dweight"] = (dy * normal).sum(rest), (abs(dy) * terms).sum(rest)
    found["dbias"] = dy.sum(rest), abs(dy).sum(rest)
    if w is not None:
        normal, terms = normal * w, terms * abs(w)
    found["y"] = (normal, terms) if b is None else (normal + b, terms + abs(b))
    if not constant and given.get("running_mean") is not None:
        share, count = given["momentum"], d.shape[1]
        for name, new in (("running_mean", mean), ("running_var", var * count / (count - 1))):
            old, new = numbers(given[name], wide) * (1 - share), share * new.reshape(-1, x.shape[1])
            found[name] = old + new.sum(0) / len(new), abs(old) + abs(new).sum(0) / len(new)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["sample_inputs", "reference_inputs"])
@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_samples(op, kind, dtype):
    """No further from the truth than 8 roundings, of the dtype computed in, of the terms of the sum that a result is.

    Half precision is computed in float32 and rounded once more, to the result.
    """
    found = samples(op, kind, dtype)
    assert len(found) >= 6
    op_name = op.name.rpartition(".")[-1]
    torch_function = getattr(torch.nn.functional, op_name)
    eps = torch.finfo(COMPUTED_IN[dtype]).eps
    last, least = (0.0 if dtype in (torch.float32, torch.float64) else torch.finfo(dtype).eps / 2), smallest(dtype)
    for sample in found:
        given = named(op, sample)
        # torch's own operations compute what no kernel takes; in half precision they keep rstd in half precision.
        by_torch = (given["eps"] or 0) < 0 or not sample.input.numel()
        with mpmath.workprec(160):
            truth = {} if by_torch else truth_of(op_name, given, dtype)
        theirs = everything(torch_function, named(op, sample))
        ours = everything(FUNCTIONS[op.name], given)
        assert ours.keys() == theirs.keys()
        for name, torchs in theirs.items():
            got = ours[name]
            assert (got is None) == (torchs is None), name
            if got is None:
                continue
            assert (got.dtype, got.shape) == (torchs.dtype, torchs.shape), name
            if name not in truth:  # torch's own, or what the call only reads
                assert torch.equal(got.nan_to_num(), torchs.nan_to_num()), name
                assert torch.equal(got.isnan(), torchs.isnan()), name
                continue
            exact, terms = (np.reshape(v, got.shape) for v in truth[name])
            with mpmath.workprec(160):
                error = abs(got.double().numpy() - exact)
                assert (error <= last * abs(exact) + 8 * eps * terms + least).all(), name


def smallest(dtype):
    """Half a step between the smallest numbers of a dtype."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_what_torch_refuses_is_refused_in_its_words(op):
    if op.error_inputs_func is None:
        return
    for error in op.error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            FUNCTIONS[op.name](sample.input, *sample.args, **sample.kwargs)
