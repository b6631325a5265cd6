"""Settings of the whole suite."""

from hypothesis import HealthCheck, settings

# No deadline: the first example of a kind compiles a kernel.  Derandomized: a run says the same thing twice.
settings.register_profile(
    "fastbn", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fastbn")
