"""PyTorch's own sample inputs (OpInfo) for its normalizations, with its results and its autograd as the truth."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cases import Case, assert_close
from torch.testing._internal.common_methods_invocations import op_db

import fastbn


@dataclass
class Call:
    """A sample in fastbn's terms; `trained` says whether the statistics are those of x."""

    case: Case
    x: torch.Tensor
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    eps: float | None = 1e-5
    running_mean: torch.Tensor | None = None
    running_var: torch.Tensor | None = None
    momentum: float = 0.1
    trained: bool = True


# One function for each of PyTorch's signatures, with its names and its order


def batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    case = Case("batch_norm", tuple(x.shape))
    return Call(case, x, weight, bias, eps, running_mean, running_var, momentum, training)


def native_batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps):
    return batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def native_batch_norm_legit(x, weight, bias, *rest):
    running, (training, momentum, eps) = rest[:-3] or (None, None), rest[-3:]  # an overload has no running statistics
    return batch_norm(x, *running, weight, bias, training, momentum, eps)


def batch_norm_with_update(x, weight, bias, running_mean, running_var, momentum, eps):
    return batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps)


def instance_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    case = Case("instance_norm", tuple(x.shape))
    return Call(case, x, weight, bias, eps, running_mean, running_var, momentum, use_input_stats)


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    return Call(Case("group_norm", tuple(x.shape), num_groups), x, weight, bias, eps)


def native_group_norm(x, weight, bias, samples, channels, plane, num_groups, eps):
    return group_norm(x, num_groups, weight, bias, eps)


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    return Call(Case("layer_norm", tuple(x.shape), normalized_shape), x, weight, bias, eps)


def rms_norm(x, normalized_shape, weight=None, eps=None):
    return Call(Case("rms_norm", tuple(x.shape), normalized_shape), x, weight, eps=eps)


BINDINGS = {
    "nn.functional.batch_norm": batch_norm,
    "native_batch_norm": native_batch_norm,
    "_native_batch_norm_legit": native_batch_norm_legit,
    "_batch_norm_with_update": batch_norm_with_update,
    "nn.functional.instance_norm": instance_norm,
    "nn.functional.group_norm": group_norm,
    "native_group_norm": native_group_norm,
    "nn.functional.layer_norm": layer_norm,
    "native_layer_norm": layer_norm,
    "nn.functional.rms_norm": rms_norm,
}
OPERATORS = [op for op in op_db if op.name in BINDINGS]


def collect():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for op in OPERATORS:
            name = " ".join(filter(None, (op.name, op.variant_test_name)))
            for dtype in (torch.float32, torch.float64):
                for kind in ("sample_inputs", "reference_inputs"):
                    for i, sample in enumerate(getattr(op, kind)("cpu", dtype, requires_grad=True)):
                        yield pytest.param(op, sample, id=f"{name} {dtype} {kind} {i}".replace(" ", "-"))


SAMPLES = list(collect())
ERRORS = [
    pytest.param(op, error.sample_input, id=f"{op.name}-{i}")
    for op in OPERATORS
    if op.error_inputs_func is not None
    for i, error in enumerate(op.error_inputs("cpu"))
]


def test_every_operator_brought_its_samples():
    assert {op.name for op in OPERATORS} == set(BINDINGS)
    found = Counter(param.values[0].name for param in SAMPLES)
    assert min(found.values()) >= 24  # 6 samples or more, of each kind and type
    assert sum(found.values()) >= 590
    assert len(ERRORS) >= 9


def array(tensor):
    return None if tensor is None else tensor.detach().numpy().copy()


def is_refused(call):
    """What fastbn refuses on purpose and PyTorch computes.

    A negative eps, which turns into NaN wherever a variance is smaller; and batch norm of a vector of length zero, the
    one length for which PyTorch does not ask for an axis of channels.
    """
    return (call.eps is not None and call.eps < 0) or (call.case.by_channel and call.x.ndim < 2)


def compute(call):
    """(y, statistics that backward takes, running arrays) by fastbn."""
    x, weight, bias = array(call.x), array(call.weight), array(call.bias)
    running = {"running_mean": array(call.running_mean), "running_var": array(call.running_var)}
    named = {"weight": weight, "eps": call.eps} | ({} if call.case.op == "rms_norm" else {"bias": bias})
    if call.case.op == "instance_norm":
        y = fastbn.instance_norm(x, **named, **running, use_input_stats=call.trained, momentum=call.momentum)
        return y, call.case.forward(fastbn, x, **named)[1], running
    if call.case.op != "batch_norm":
        return *call.case.forward(fastbn, x, **named), {}
    if call.trained:
        return *call.case.forward(fastbn, x, **named, **running, momentum=call.momentum), running
    y = fastbn.batch_norm(x, **named, **running, momentum=call.momentum)
    return y, (running["running_mean"], 1 / np.sqrt(running["running_var"].astype(np.float64) + call.eps)), running


def bind(op, sample):
    return BINDINGS[op.name](sample.input, *sample.args, **sample.kwargs)


def outputs(op, sample, **named):
    found = op(sample.input, *sample.args, **sample.kwargs | named)
    return found if isinstance(found, tuple) else (found,)


def autograd(op, sample, dy):
    """Gradients for x, weight and bias (None where there is none) by PyTorch in float64.

    In float32 its noise is the larger one: a group of one value has h = 0, which it computes as x r - mean r, r = 316.
    """
    eps = {"eps": torch.finfo(sample.input.dtype).eps} if bind(op, sample).eps is None else {}
    sample = sample.transform(lambda v: v.detach().double() if isinstance(v, torch.Tensor) else v)
    call = bind(op, sample)
    leaves = [t.requires_grad_() for t in (call.x, call.weight, call.bias) if t is not None]
    found = iter(torch.autograd.grad(outputs(op, sample, **eps)[0], leaves, dy.double()))
    return [None if t is None else array(next(found)) for t in (call.x, call.weight, call.bias)]


@pytest.mark.parametrize(("op", "sample"), SAMPLES)
def test_sample(op, sample):
    call = bind(op, sample)
    if is_refused(call):
        with pytest.raises(ValueError, match=r"eps|axes"):
            compute(call)
        return
    x, weight = array(call.x), array(call.weight)
    y, statistics, running = compute(call)
    expected_y, *expected_statistics = outputs(op, sample)  # this updates the sample's running tensors
    # PyTorch's own float32 results are a few roundings off; fastbn's are held tighter elsewhere
    tolerance = 1e-5 if x.dtype == np.float32 else 1e-12
    assert y.dtype == x.dtype
    assert_close(y, array(expected_y), tolerance)
    if call.trained:  # in evaluation PyTorch's saved statistics are empty
        for value, truth in zip(statistics, expected_statistics, strict=False):
            assert_close(value, array(truth).reshape(value.shape), tolerance)
    for name, value in running.items():
        if value is not None:
            assert_close(value, array(getattr(call, name)), tolerance)

    dy = torch.testing.make_tensor(x.shape, dtype=call.x.dtype, device="cpu", low=-1, high=1)
    frozen = {} if call.trained else {"training": False}
    gradients = call.case.backward(fastbn, array(dy), x, statistics, weight=weight, **frozen)
    truths = autograd(op, sample, dy)
    assert any(truth is not None for truth in truths)
    for gradient, truth in zip(gradients, truths, strict=False):
        if truth is not None:
            assert_close(
                gradient, truth, 2e-6 if x.dtype == np.float32 else 1e-12, scale=np.max(statistics[-1], initial=1)
            )


@pytest.mark.parametrize(("op", "sample"), ERRORS)
def test_what_torch_refuses_is_refused(op, sample):
    with pytest.raises(RuntimeError):
        outputs(op, sample)
    with pytest.raises((TypeError, ValueError)):
        compute(bind(op, sample))
