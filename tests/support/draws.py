"""The numbers that tests draw: the same in every run, others with `pytest --seed=N`."""

import numpy as np

seed = None  # of the run, set by conftest.py


def generator(number=0):
    """A generator of its own for each number."""
    return np.random.default_rng(number if seed is None else (seed, number))
