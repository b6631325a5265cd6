"""PyTorch's own samples of its normalizations (OpInfo), through fastbn.torch's functions."""

import warnings

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

import fastbn.torch as fbt

FUNCTIONS = {
    f"nn.functional.{name}": getattr(fbt, name)
    for name in ("batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm")
}
OPERATORS = [op for op in op_db if op.name in FUNCTIONS]


def samples(op, kind, dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(getattr(op, kind)("cpu", dtype, requires_grad=True))


def copied(sample):
    return sample.transform(
        lambda t: t.detach().clone().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t
    )


def everything(function, sample):
    """The result, the gradients and the tensors that may have been updated."""
    arguments = [sample.input, *sample.args, *sample.kwargs.values()]
    tensors = [t for t in arguments if isinstance(t, torch.Tensor)]
    y = function(sample.input, *sample.args, **sample.kwargs)
    if y.requires_grad:
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape))
    return [y.detach(), *(t.grad for t in tensors), *(t.detach() for t in tensors)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["sample_inputs", "reference_inputs"])
@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_samples(op, kind, dtype):
    found = samples(op, kind, dtype)
    assert len(found) >= 6
    for sample in found:
        ours = everything(FUNCTIONS[op.name], copied(sample))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's rms_norm, about its own speed
            theirs = everything(op, copied(sample))
        wide = copied(sample).transform(
            lambda t: t.detach().double().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t
        )
        if "rms" in op.name and wide.kwargs.get("eps") is None and len(wide.args) < 3:
            wide.kwargs["eps"] = torch.finfo(torch.float32 if dtype is not torch.float64 else dtype).eps
        exact = everything(op, wide)
        for got, torchs, truth in zip(ours, theirs, exact, strict=True):
            assert (got is None) == (torchs is None)
            if got is None or not got.numel():
                continue
            assert got.dtype == torchs.dtype
            assert got.shape == torchs.shape
            error, of_torch = ((v.double() - truth).abs().nan_to_num().max() for v in (got, torchs))
            scale = truth.abs().nan_to_num().max()
            # As near the truth as torch's is; in float64, that is the truth here, with roundings of its own that
            # a constant group's rstd of 316 multiplies.
            of_truth = 1e-12 * max(1, float(scale)) * 316 if dtype is torch.float64 else 0
            assert error <= 2 * of_torch + 8 * torch.finfo(dtype).eps * scale + of_truth
            assert torch.equal(got.isnan(), torchs.isnan())


@pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.name)
def test_what_torch_refuses_is_refused_in_its_words(op):
    if op.error_inputs_func is None:
        return
    for error in op.error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            FUNCTIONS[op.name](sample.input, *sample.args, **sample.kwargs)
