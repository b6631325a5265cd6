"""Settings of the whole suite."""

import pytest
from hypothesis import HealthCheck, settings

from fastbn import _calls

# No deadline: the first example of a kind compiles a kernel.  Derandomized: a run says the same thing twice.
settings.register_profile(
    "fastbn", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fastbn")


@pytest.fixture(autouse=True)
def nothing_remembered():
    """What is remembered of a call includes how it was to run, which tests of other ways would not change."""
    _calls._remembered.clear()
