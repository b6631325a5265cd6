"""Storages that are freed and filled again between calls, as those do who share parameters out among processes."""

import pytest
import torch
from torch import nn

import fastbn.torch as fbt

SHAPES = {"small": (4, 6, 5, 5), "large": (4, 6, 64, 64)}
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


class Network(nn.Module):
    """Norms alone, with an activation, and with a sum and an activation behind them; of rows, too."""

    def __init__(self, dtype):
        super().__init__()
        self.first, self.second, self.third = nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.BatchNorm2d(6)
        self.last = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
        self.rows = nn.LayerNorm(6)
        self.to(dtype)

    def forward(self, x):
        y = torch.relu(self.first(x))
        y = self.third(self.second(y))
        y += x
        return self.rows(self.last(torch.relu(y)).permute(0, 2, 3, 1))


def drawn(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def held_by(model):
    return [*model.parameters(), *model.buffers()]


def free(tensors):
    """Give the memory of tensors back; what was in it, and other memory where it may have been."""
    kept = [t.detach().clone() for t in tensors]
    for t in tensors:
        t.untyped_storage().resize_(0)
    return kept, [torch.full_like(k, 77) for k in kept for _ in range(4)]


def fill(tensors, kept):
    for t, values in zip(tensors, kept, strict=True):
        t.untyped_storage().resize_(values.numel() * values.element_size())
        t.data.copy_(values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parameters_are_freed_between_forward_and_backward(shape, form, dtype):
    found = []
    for frees in (False, True):
        torch.manual_seed(0)
        model = fbt.convert(Network(dtype))
        for _ in range(3):  # a call like an earlier one goes another way
            x = drawn(shape, 1, dtype).contiguous(memory_format=form).requires_grad_()
            y = model(x)
            if frees:
                tensors = [*held_by(model), x]
                kept, others = free(tensors)
                fill(tensors, kept)
                del others
            y.backward(drawn(y.shape, 2, dtype))
        found.append([y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    for got, truth in zip(*reversed(found), strict=True):
        assert torch.equal(got, truth)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_parameters_are_freed_and_filled_with_others_in_evaluation(shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).eval()
    own, x = fbt.convert(model), drawn(shape, 1)
    with torch.no_grad():
        for seed in range(3):
            assert torch.allclose(own(x), model(x), rtol=1e-4, atol=1e-5), seed
            for net in (own, model):
                values = [(drawn(t.shape, 10 * seed + k).abs() + 0.5).to(t.dtype) for k, t in enumerate(held_by(net))]
                free(held_by(net))
                fill(held_by(net), values)


@pytest.mark.parametrize("tracked", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("which", range(5), ids=["x", "weight", "bias", "mean", "variance"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_freed_is_not_read(shape, training, which, tracked):
    x, weight, bias, mean, var = (drawn(s, k).abs() for k, s in enumerate((shape, *[shape[1:2]] * 4)))
    weight.requires_grad_(tracked)
    for _ in range(2):
        fbt.batch_norm(x, mean, var, weight, bias, training)
    free([(x, weight, bias, mean, var)[which]])
    with pytest.raises(RuntimeError, match="its storage has no memory"):
        fbt.batch_norm(x, mean, var, weight, bias, training)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_is_freed_is_not_read_in_backward(shape):
    x, norm = drawn(shape, 1), fbt.BatchNorm2d(6)
    for _ in range(2):
        y = norm(x)
    free([norm.weight])
    with pytest.raises(RuntimeError, match="its storage has no memory"):
        y.backward(drawn(shape, 2))
