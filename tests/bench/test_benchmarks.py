"""Each operation in fastbn, NumPy and PyTorch: ``pytest --benchmark-only`` times them, plain ``pytest`` calls them."""

import numpy as np
import pytest

import fastbn
from fastbn import reference

IMAGES, TOKENS = (16, 64, 28, 28), (1024, 768)
NUM_GROUPS = 32
OPERATIONS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")


@pytest.fixture
def benchmark(benchmark, request):
    """pytest-benchmark's fixture; without ``--benchmark-only`` it calls the function once and times nothing."""
    benchmark.disabled = not request.config.getoption("benchmark_only")
    return benchmark


def arrays(operation):
    """x, dy, then weight and, as far as the operation has one, bias."""
    shape, channels = (TOKENS, TOKENS[-1]) if operation in ("layer_norm", "rms_norm") else (IMAGES, IMAGES[1])
    shapes = (shape, shape, channels, channels)[: 3 if operation == "rms_norm" else 4]
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s, dtype=np.float32) for s in shapes]


def numpy_calls(library, operation):
    """Forward and backward through the face that fastbn and its reference share."""
    x, dy, *affine = arrays(operation)
    extra = {"group_norm": (NUM_GROUPS,), "layer_norm": (TOKENS[-1],), "rms_norm": (TOKENS[-1],)}.get(operation, ())
    forward, backward = (getattr(library, f"{operation}_{direction}") for direction in ("forward", "backward"))
    _, *statistics = forward(x, *extra, *affine)
    return {
        "forward": lambda: forward(x, *extra, *affine)[0],
        "backward": lambda: backward(dy, x, *statistics, affine[0])[0],
    }


def torch_calls(operation):
    """Forward without a graph; backward through the graph of one forward."""
    import torch

    function = {
        "batch_norm": lambda x, *affine: torch.nn.functional.batch_norm(x, None, None, *affine, training=True),
        "layer_norm": lambda x, *affine: torch.nn.functional.layer_norm(x, TOKENS[-1:], *affine),
        "group_norm": lambda x, *affine: torch.nn.functional.group_norm(x, NUM_GROUPS, *affine),
        "instance_norm": lambda x, *affine: torch.nn.functional.instance_norm(x, None, None, *affine),
        "rms_norm": lambda x, *affine: torch.nn.functional.rms_norm(x, TOKENS[-1:], *affine),
    }[operation]
    x, dy, *affine = map(torch.from_numpy, arrays(operation))
    inputs = [v.clone().requires_grad_() for v in (x, *affine)]
    y = function(*inputs)
    return {
        "forward": lambda: function(x, *affine),
        "backward": lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)[0],
    }


CALLS = {
    "fastbn": lambda operation: numpy_calls(fastbn, operation),
    "numpy": lambda operation: numpy_calls(reference, operation),
    "torch": torch_calls,
}


@pytest.mark.full
@pytest.mark.parametrize("library", ["fastbn", "numpy", pytest.param("torch", marks=pytest.mark.system("torch"))])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation(benchmark, operation, direction, library):
    benchmark.group = f"{operation} {direction}"
    call = CALLS[library](operation)[direction]
    call()  # compiles, before any clock runs
    result = benchmark(call)
    another = "fastbn" if library == "numpy" else "numpy"
    # a few float32 roundings of values up to about 10; torch misses float64 by up to 2e-6 here
    np.testing.assert_allclose(result, CALLS[another](operation)[direction](), rtol=0, atol=5e-6)
