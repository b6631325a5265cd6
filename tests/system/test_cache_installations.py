"""The cache of a package that is no folder of sources: after an upgrade, whatever it came in, the new code runs."""

import compileall
import shutil
import zipfile

import pytest
from internals import sources
from processes import PACKAGE, python

ROWS = """
    import numpy as np, fastbn
    from fastbn.kernels import rows
    fastbn.set_num_threads(1)
    print(*fastbn.layer_norm(np.array([[-2.0, 0.0, 2.0, 4.0]], "float32"), 4, activation="relu").round(2).ravel())
    stats = rows.forward.serial.stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
OLD, NEW = "0.0 0.0 0.45 1.34", "1.0 1.0 1.0 1.34"
EDIT = "    return less(z, 0.0, 0.0, z)\n", "    return less(z, 1.0, 1.0, z)\n"  # relu, of "the next release"


def a_folder(source, target):
    shutil.copytree(source, target / "site")
    return target / "site"


def a_zip(source, target):
    with zipfile.ZipFile(target / "app.zip", "w") as file:
        for path in sorted(source.rglob("*")):
            file.write(path, path.relative_to(source))
    return target / "app.zip"


def byte_code(source, target):
    """As `python -m compileall -b` leaves it, when the sources are taken away."""
    site = a_folder(source, target)
    assert compileall.compile_dir(site, quiet=1, legacy=True, workers=1)
    for path in site.rglob("*.py"):
        path.unlink()
    return site


def zipped_byte_code(source, target):
    return a_zip(byte_code(source, target), target)


long = pytest.mark.full
KINDS = [pytest.param(a_folder, marks=long), a_zip, byte_code, pytest.param(zipped_byte_code, marks=long)]


@pytest.fixture
def releases(tmp_path):
    """Two releases that differ in an activation, in a module that holds no driver."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("old", "new"):
        shutil.copytree(PACKAGE / "fastbn", tmp_path / name / "fastbn", ignore=ignore)
    path = tmp_path / "new" / "fastbn" / "kernels" / "activations.py"
    text = path.read_text()
    assert text.count(EDIT[0]) == 1
    path.write_text(text.replace(*EDIT))
    return tmp_path / "old", tmp_path / "new"


@pytest.mark.parametrize("kind", KINDS)
def test_an_upgrade_runs_the_new_code(kind, releases, tmp_path):
    """Each release is installed at the same place, where the one before it lay."""
    place, cache = tmp_path / "installed", tmp_path / "cache"
    for release, answer in zip(releases, (OLD, NEW), strict=True):
        for counts in ("0 1", "1 0"):  # compiled by the first process, found by the second
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            path = kind(release, place)
            assert python(ROWS, package=path, NUMBA_CACHE_DIR=cache) == (f"{answer}\n{counts}\n", "")
    assert len(list(cache.iterdir())) == 2


@pytest.mark.full
@long
def test_byte_code_alone_keeps_its_kernels_beside_itself(releases, tmp_path):
    (tmp_path / "installed").mkdir()
    path = byte_code(releases[0], tmp_path / "installed")
    for counts in ("0 1", "1 0"):
        assert python(ROWS, package=path, NUMBA_CACHE_DIR=None) == (f"{OLD}\n{counts}\n", "")


@long
def test_modules_that_show_nothing_keep_nothing(tmp_path):
    """An importer may hold code alone: then every process compiles, and one sentence says why."""
    hide = """
        import sys
        from importlib.machinery import SourceFileLoader
        from fastbn import __path__ as where

        def get_source(self, name):
            raise ImportError(name)

        for name in [name for name in sys.modules if name.split(".")[0] == "fastbn"]:
            del sys.modules[name]
        SourceFileLoader.get_source = get_source
        import pathlib
        is_file = pathlib.Path.is_file
        pathlib.Path.is_file = lambda self: "kernels" not in str(self) and is_file(self)
    """
    for _ in range(2):
        out, err = python(hide, ROWS, NUMBA_CACHE_DIR=tmp_path)
        assert out == f"{OLD}\n0 1\n"
        assert err.count("RuntimeWarning") == 1
        assert "its modules were loaded in a way that shows neither their sources nor their byte code" in err


def code_of(text, filename="x.py"):
    return sources.of_code(compile(text, filename, "exec"))


def test_a_digest_of_code_is_of_what_it_does():
    text = "def f(x):\n    return x in {'a', 'b', 1.0} and (lambda y: x, -0.0, True, None, b'c')\n"
    assert code_of(text) == code_of(f"\n\n{text}", "elsewhere.py")
    changes = [("'b'", "'d'"), ("-0.0", "0.0"), ("True", "1"), ("1.0", "1"), ("f(x)", "f(x, /)"), (" in ", " not in ")]
    assert len({code_of(text), *(code_of(text.replace(*change)) for change in changes)}) == len(changes) + 1


def test_a_digest_of_code_is_the_same_in_every_process():
    program = """
        from fastbn.kernels import sources
        import hashlib
        print(hashlib.sha256(sources.of_code(compile("x in {'a', 'b', 'c', 'd'}", "x.py", "exec"))).hexdigest())
    """
    assert len({python(program, PYTHONHASHSEED=str(seed)) for seed in (1, 2, 3)}) == 1
