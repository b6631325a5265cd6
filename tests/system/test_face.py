"""What the module itself shows: public names, submodules that are loaded when they are asked for."""

import subprocess
import sys

import pytest

import fastbn


def test_only_public_names_are_shown():
    assert [name for name in dir(fastbn) if name.startswith("_")] == ["__version__"]
    assert set(dir(fastbn)) == {*fastbn.__all__, *fastbn._DOORS, "__version__"}
    for name in dir(fastbn):
        assert hasattr(fastbn, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fastbn' has no attribute 'batch_nrom'"):
        _ = fastbn.batch_nrom


def test_doors_are_loaded_when_asked_for():
    code = f"""
import sys, fastbn
doors = {fastbn._DOORS}
print([name for name in doors if "fastbn." + name in sys.modules])
for name in doors:
    assert getattr(fastbn, name) is sys.modules["fastbn." + name]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_doors_hold_no_other_package():
    """Looking at a module, as help, dir and inspect do, must not load what it is a door to."""
    code = f"""
import inspect, pydoc, sys, fastbn
known = {{name.partition(".")[0] for name in sys.modules}}
for module in (fastbn, *(getattr(fastbn, name) for name in {fastbn._DOORS})):
    dir(module), inspect.getmembers(module), pydoc.render_doc(module)
loaded = {{name.partition(".")[0] for name in sys.modules}} - known
print(sorted(loaded - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
