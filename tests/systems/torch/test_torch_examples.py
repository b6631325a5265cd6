"""The examples in the docstrings of fastbn.torch, and what is imported when."""

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fastbn.torch as fbt

MODULES = sorted(path.stem for path in Path(fbt.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module("fastbn.torch" if name == "__init__" else f"fastbn.torch.{name}")
    assert doctest.testmod(module).failed == 0


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_torch_is_imported_on_use_alone():
    code = """
import fastbn, inspect, pydoc, sys
for module in (fastbn, fastbn.torch):
    dir(module), inspect.getmembers(module), pydoc.render_doc(module)
print('torch' in sys.modules)
"""
    assert run(code) == "False"


def test_all_names_are_shown_once_torch_is_there():
    members = {name for name, _ in inspect.getmembers(fbt)}
    assert members >= set(fbt.__all__)
    assert members >= {"convert", "layer_norm", "BatchNorm2d", "SyncBatchNorm"}


def test_without_torch_the_command_is_named():
    code = """
import sys
sys.modules["torch"] = None
import fastbn
try:
    fastbn.torch.convert
except ImportError as error:
    print(error)
"""
    assert 'pip install "fastbn[torch]"' in run(code)


def test_a_version_that_was_not_tried_gets_one_sentence(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "__version__", "9.0.0")
    with pytest.warns(UserWarning, match=r"torch is 9\.0\.0, with which fastbn\.torch was not tried; expected 2\.13"):
        fbt._require_torch()
