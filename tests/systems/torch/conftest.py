"""What every test of PyTorch begins with."""

import sys

import pytest


@pytest.fixture(autouse=True)
def nothing_compiled():
    """torch.compile gives up on a function once it has compiled it eight times, in whichever tests that was."""
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
