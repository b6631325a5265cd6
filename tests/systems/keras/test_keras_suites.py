"""Keras' own tests of its normalization layers, run on fastbn's."""

import os
import subprocess
import sys

import pytest

SUITES = ("batch_normalization", "layer_normalization", "group_normalization", "rms_normalization")

# In a process of its own: the classes are exchanged where the suites look them up.
RUN = """
import sys
import pytest
from keras.src import layers
from fastbn.keras import _layers

for theirs, ours in _layers().items():
    setattr(layers, theirs.__name__, ours)


class Exchanged:
    def pytest_collection_modifyitems(self, items):
        for item in items:
            for theirs, ours in _layers().items():
                if getattr(item.module, theirs.__name__, None) is theirs:
                    setattr(item.module, theirs.__name__, ours)


# left out: tests that call fit(), which Keras' NumPy backend does not have
choice = ["-m", "not requires_trainable_backend", "-W", "ignore"]
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *choice, "--pyargs", sys.argv[1]], plugins=[Exchanged()]))
"""


@pytest.mark.parametrize("suite", SUITES)
def test_keras_own_suite(suite, tmp_path):
    module = f"keras.src.layers.normalization.{suite}_test"
    command = [sys.executable, "-c", RUN, module]
    environment = os.environ | {"KERAS_BACKEND": "numpy"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "failed" not in done.stdout
