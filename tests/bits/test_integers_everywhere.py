"""Integers normalized and summed give the same bits on any processor, and in plain Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastbn

PROGRAM = Path(__file__).with_name("results_of_integers.py")


def digests(**environment):
    variables = dict(os.environ, PYTHONPATH=str(Path(fastbn.__file__).parents[1]), **environment)
    done = subprocess.run([sys.executable, PROGRAM], env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.full
@pytest.mark.parametrize(
    "environment",
    [{"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, {"FASTBN_NUM_THREADS": "1"}],
    ids=["python", "generic", "one thread"],
)
def test_the_same_bits(environment):
    as_it_is = digests()
    assert len(as_it_is) == 41
    assert digests(**environment) == as_it_is
