#!/usr/bin/env bash
# torch 2.13.0, on a CPU.  Of one sample, instance norm's gradient is wrong, by more than its largest value, where the
# upstream gradient lies channels last in memory, as that of a convolution behind it may; with two samples it is right.
# One would expect strides to make no difference to values.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torch==2.13.0 numpy==2.4.6
expect 'samples 1: wrong
samples 2: right' <<'PY'
import torch


def gradient(x, dy):
    x = x.clone().requires_grad_()
    torch.nn.functional.instance_norm(x).backward(dy)
    return x.grad


for samples in (1, 2):
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(samples, 8, 4, 4, generator=generator) for _ in range(2))
    expected = gradient(x.double(), dy.double()).float()
    found = gradient(x, dy.contiguous(memory_format=torch.channels_last))
    error = (found - expected).abs().max().item()
    assert error < 1e-5 or error > expected.abs().max().item(), error
    print(f"samples {samples}: {'right' if error < 1e-5 else 'wrong'}")
PY
