"""What the module itself shows: public names, submodules that are loaded when they are asked for."""

import inspect
import pydoc
import re
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_looking_loads_no_other_package():
    code = f"""
import inspect, pydoc, sys, fastbn
known = {{name.partition(".")[0] for name in sys.modules}}
dir(fastbn), inspect.getmembers(fastbn), pydoc.render_doc(fastbn)
for name in {fastbn._DOORS}:
    module = getattr(fastbn, name)
    dir(module), inspect.getmembers(module), pydoc.render_doc(module), hasattr(module, "no_such_name")
loaded = {{name.partition(".")[0] for name in sys.modules}} - known
print(sorted(loaded - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


OTHERS = [
    "dask",
    "h5py",
    "keras",
    "mpi4py",
    "onnx",
    "rich",
    "sklearn",
    "tensorboard",
    "tensorboardX",
    "thinc",
    "torch",
    "xarray",
]


def test_doors_can_be_looked_at_without_their_packages():
    code = f"""
import inspect, pydoc, sys, fastbn
sys.modules.update(dict.fromkeys({OTHERS}))
for name in {fastbn._DOORS}:
    module = getattr(fastbn, name)
    dir(module), inspect.getmembers(module), pydoc.render_doc(module)
    assert not hasattr(module, "no_such_name")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_opens_with_an_index_of_what_there_is_and_an_example():
    text = pydoc.plain(pydoc.render_doc(fastbn))
    start = text[: text.index("PACKAGE CONTENTS")]
    assert "What to use for what" in start
    assert ">>> fastbn.layer_norm(x, 4)" in start
    named = re.findall(r"`(?:fastbn\.)?([A-Za-z_0-9]+)`", fastbn.__doc__)
    assert len(named) > 30
    assert [name for name in named if name not in (*dir(fastbn), "3d", "fastbn")] == []


def test_signatures_name_their_types_as_people_do():
    """Not by what ArrayLike is made of, which fills a screen for every argument."""
    functions = {name: getattr(fastbn, name) for name in fastbn.__all__ if callable(getattr(fastbn, name))}
    for name, of_class in list(functions.items()):
        if inspect.isclass(of_class):
            methods = inspect.getmembers(of_class, inspect.isfunction)
            functions |= {f"{name}.{m}": method for m, method in methods if not m.startswith("_")}
    assert len(functions) > 200
    shown = {name: str(inspect.signature(function)) for name, function in functions.items()}
    assert {
        name: text for name, text in shown.items() if re.search(r"\b(typing|collections|_array_like)\.", text)
    } == {}
