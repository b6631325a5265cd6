"""The cache of compiled kernels: whatever befalls it, the right answer, at most one warning, and never stale code."""

import ctypes
import os
import shutil
import subprocess
import sys

import pytest
from internals import Store, folders
from processes import PACKAGE, SUPPORT, TWO_THREADS, python

CALL = """
    import os, warnings
    if {room}:
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
    import fastbn, workload
    from internals import rows
    print(workload.check_rows())
    for build in rows.forward:
        print(sum(build.stats.cache_hits.values()), sum(build.stats.cache_misses.values()))
"""

FOUND = "right\n1 0\n1 0\n"  # both builds, serial and parallel
COMPILED = "right\n0 1\n0 1\n"


def call(room=0, **how):
    return python(CALL.format(room=room), **how)


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A folder with the kernels of `workload.check_rows`."""
    folder = tmp_path_factory.mktemp("filled")
    assert call(NUMBA_CACHE_DIR=folder) == (COMPILED, "")
    return folder


@pytest.fixture
def folder(filled, tmp_path):
    """A copy of it, to be harmed."""
    return shutil.copytree(filled, tmp_path / "cache")


def entries(folder):
    return sorted(folder.rglob("*.nbc"))


def drivers(folder):
    """Without what compares calls, and what hands over Python's lock, which every process has."""
    return [path for path in entries(folder) if not path.name.startswith(("likeness.", "lock."))]


def warned_once(err):
    return err.count("RuntimeWarning: fastbn cannot keep its compiled kernels") == 1 and "Traceback" not in err


def unprivileged():
    """Read-only means read-only for root as well, from the next exec on."""
    cap_dac_override, pr_capbset_drop = 1, 24
    ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override, 0, 0, 0)


# What works -----------------------------------------------------------------------------------------------------------


def test_kernels_are_found_again(folder):
    assert call(NUMBA_CACHE_DIR=folder) == (FOUND, "")


@pytest.mark.full
def test_a_kernel_that_is_found_is_all_that_is_loaded(folder):
    """To get ready to compile, Numba imports half of itself and, where it is installed, SciPy."""
    program = """
        import sys, numpy, fastbn
        fastbn.layer_norm(numpy.ones((2, 64), "float32"), 64)
        print([name for name in ("numba.np.linalg", "scipy.linalg") if name in sys.modules])
        fastbn.layer_norm(numpy.ones((2, 64)), 64)  # is compiled, as ever
        print("numba.np.linalg" in sys.modules)
    """
    python("import numpy, fastbn; fastbn.layer_norm(numpy.ones((2, 64), 'float32'), 64)", NUMBA_CACHE_DIR=folder)
    assert python(program, NUMBA_CACHE_DIR=folder) == ("[]\nTrue\n", "")


@pytest.mark.full
def test_serial_and_parallel_build_never_share_an_entry(filled):
    names = [path.name for path in drivers(filled)]
    assert len(names) == 2
    assert names[0].startswith("rows.forward.parallel-")
    assert names[1].startswith("rows.forward.serial-")


@pytest.mark.full
def test_entries_can_be_read_by_other_users(tmp_path):
    """In an image they are written by root and used by someone else."""
    python("import os; os.umask(0o022); import workload; workload.check_rows()", NUMBA_CACHE_DIR=tmp_path)
    assert {path.stat().st_mode & 0o777 for path in entries(tmp_path)} == {0o644}


@pytest.mark.full
def test_four_processes_that_fill_it_at_once(tmp_path):
    program = "import workload; print(workload.check_rows())"
    path = os.pathsep.join(map(str, (PACKAGE, SUPPORT)))
    environment = {**os.environ, **TWO_THREADS, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-P", "-W", "error::RuntimeWarning:fastbn", "-c", program]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipe) for _ in range(4)]
    assert [process.communicate(timeout=300) for process in processes] == [("right\n", "")] * 4
    assert len(drivers(tmp_path)) == 2
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == entries(tmp_path)  # nothing left over
    assert call(NUMBA_CACHE_DIR=tmp_path) == (FOUND, "")


def test_an_interrupt_while_an_entry_is_written_leaves_nothing_over(tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    store = Store(folders.only(tmp_path), "kernel")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save("key", 1)
    assert list(tmp_path.iterdir()) == []


# Damage ---------------------------------------------------------------------------------------------------------------


def flip_a_bit(content):
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


HARM = {
    "truncated": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "garbled": lambda content: os.urandom(len(content)),
    "zeroed": lambda content: bytes(len(content)),
    "one bit flipped": flip_a_bit,
}


@pytest.mark.full
@pytest.mark.parametrize("harm", HARM.values(), ids=[name.replace(" ", "-") for name in HARM])
def test_damaged_entries(folder, harm):
    for entry in entries(folder):
        entry.write_bytes(harm(entry.read_bytes()))
    assert call(NUMBA_CACHE_DIR=folder) == (COMPILED, "")
    assert call(NUMBA_CACHE_DIR=folder) == (FOUND, "")  # mended


@pytest.mark.full
def test_an_entry_that_is_a_folder(folder):
    for entry in entries(folder):
        entry.unlink()
        entry.mkdir()
    out, err = call(NUMBA_CACHE_DIR=folder)
    assert out == COMPILED
    assert warned_once(err)


@pytest.mark.full
def test_the_folder_disappears_while_it_is_in_use(tmp_path):
    program = f"""
        import shutil, fastbn
        shutil.rmtree({str(tmp_path / "cache")!r})
        import workload
        print(workload.check_rows())
    """
    assert python(program, NUMBA_CACHE_DIR=tmp_path / "cache") == ("right\n", "")
    assert len(drivers(tmp_path)) == 2


# Nowhere to write -----------------------------------------------------------------------------------------------------


def read_only(folder):
    """Take away the permission to write."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)


@pytest.fixture
def package(tmp_path):
    """A copy of the package, as site-packages would hold it."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE / "fastbn", tmp_path / "site" / "fastbn", ignore=ignore)
    yield tmp_path / "site"
    for path in [tmp_path, *tmp_path.rglob("*")]:  # so that pytest can clean up
        path.chmod(path.stat().st_mode | 0o700)


NOWHERE = {"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": None, "before": unprivileged}


@pytest.mark.full
def test_a_package_keeps_its_kernels_beside_itself(package):
    assert call(package=package, NUMBA_CACHE_DIR=None) == (COMPILED, "")
    assert len(drivers(package)) == 2


@pytest.mark.full
def test_a_read_only_package_uses_the_home(package, tmp_path):
    read_only(package)
    (tmp_path / "home").mkdir()
    for told in (COMPILED, FOUND):
        assert call(package=package, HOME=tmp_path / "home", **NOWHERE) == (told, "")
    assert not entries(package)


@pytest.mark.full
@pytest.mark.parametrize("home", ["/proc/nonexistent", "/proc", None])
def test_a_read_only_package_and_no_home(package, home):
    read_only(package)
    out, err = call(package=package, HOME=home or "", **NOWHERE)
    assert out.startswith("right\n")
    assert err == "" or warned_once(err)


@pytest.mark.full
def test_a_read_only_package_that_brings_its_kernels(package):
    """An image: filled when built, then read-only, and run by a user without a home."""
    assert call(package=package, NUMBA_CACHE_DIR=None) == (COMPILED, "")
    read_only(package)
    assert call(package=package, HOME="/proc/nonexistent", **NOWHERE) == (FOUND, "")


@pytest.mark.full
def test_a_read_only_cache_folder_that_is_filled(package, tmp_path):
    cache = tmp_path / "cache"
    assert call(package=package, NUMBA_CACHE_DIR=cache) == (COMPILED, "")
    read_only(tmp_path)
    assert call(package=package, HOME="/proc/nonexistent", **NOWHERE | {"NUMBA_CACHE_DIR": cache}) == (FOUND, "")


@pytest.mark.full
def test_a_read_only_cache_folder_that_is_empty(package, tmp_path):
    read_only(package)
    (tmp_path / "cache").mkdir(mode=0o500)
    out, err = call(package=package, HOME="/proc/nonexistent", **NOWHERE | {"NUMBA_CACHE_DIR": tmp_path / "cache"})
    assert out == COMPILED
    assert err == "" or warned_once(err)


@pytest.mark.full
def test_a_full_disk(tmp_path):
    """No file of more than 4 kB can be written; the smallest entry has twice that."""
    out, err = call(room=4_000, NUMBA_CACHE_DIR=tmp_path)
    assert out == COMPILED
    assert warned_once(err)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # not even a part of one


@pytest.mark.full
def test_a_disk_that_is_full_to_the_last_byte(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True)
    if mount.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        out, err = call(NUMBA_CACHE_DIR=disk)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert out == COMPILED
    assert warned_once(err)


@pytest.mark.full
def test_warnings_that_are_errors_do_not_fail_a_call_that_can_be_cached(tmp_path):
    program = "import warnings; warnings.simplefilter('error'); import workload; print(workload.check())"
    assert python(program, NUMBA_CACHE_DIR=tmp_path) == ("right\n", "")


# Another machine, another version -------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("variables", [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_BOUNDSCHECK": "1"}], ids=str)
def test_what_was_built_otherwise_is_not_used(folder, variables):
    for told in ("0 1", "1 0"):  # on one thread, for NUMBA_BOUNDSCHECK cannot do prange
        out = call(NUMBA_CACHE_DIR=folder, FASTBN_NUM_THREADS=1, **variables)
        assert out == (f"right\n{told}\n0 0\n", "")
        assert call(NUMBA_CACHE_DIR=folder) == (FOUND, "")  # and both can be kept
    assert len(drivers(folder)) == 3


@pytest.mark.full
def test_another_version_of_numba(folder):
    other = "import numba; numba.__version__ += '.post1'"
    assert python(other, CALL.format(room=0), NUMBA_CACHE_DIR=folder) == (COMPILED, "")
    assert call(NUMBA_CACHE_DIR=folder) == (FOUND, "")


def edit(package, name, old, new):
    path = package / "fastbn" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.full
def test_another_version_of_fastbn_with_the_same_kernels(package, filled):
    """What a kernel is made of tells entries apart, not the version; its folder has a name of its own anyway."""
    cache = package.parent / "cache"
    assert call(package=package, NUMBA_CACHE_DIR=cache) == (COMPILED, "")
    edit(package, "__init__.py", '__version__ = "', '__version__ = "9')
    assert call(package=package, NUMBA_CACHE_DIR=cache) == (FOUND, "")


ROWS = """
    import numpy as np
    import fastbn
    {then}
    print(fastbn.layer_norm(np.array([[1.0, 3.0]]), 2, eps=0))
"""


def rows(package, then=""):
    done = python(ROWS.format(then=then), package=package, NUMBA_CACHE_DIR=package.parent / "cache")
    return done[0]


# Two calls below a driver, which is in another file
EDIT = (
    "kernels/loops.py",
    "d = load_part(x, i, m) - at_part(hi, j, m)",
    "d = at_part(hi, j, m) - load_part(x, i, m)",
)


def test_an_edited_callee_is_never_stale(package):
    """A driver holds a copy of all that it calls."""
    path = package / "fastbn" / EDIT[0]
    times = path.stat()
    assert rows(package) == "[[-1.  1.]]\n"
    edit(package, *EDIT)
    assert rows(package) == "[[ 1. -1.]]\n"
    edit(package, EDIT[0], EDIT[2], EDIT[1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as it was, to the time of its last change
    assert rows(package) == "[[-1.  1.]]\n"
    assert len(drivers(package.parent / "cache")) == 2


@pytest.mark.full
def test_a_package_that_is_replaced_under_a_running_process(package):
    """What the process compiles after that is old, and is not kept as new."""
    path = package / "fastbn" / EDIT[0]
    text = path.read_text()
    new = text.replace(*EDIT[1:], 1)
    assert new != text
    assert rows(package, f"open({str(path)!r}, 'w').write({new!r})") == "[[-1.  1.]]\n"
    assert rows(package) == "[[ 1. -1.]]\n"


# Numba's private parts ------------------------------------------------------------------------------------------------

# What `fastbn.kernels.cache` builds upon, as another Numba might have it; Numba's own use of it still works.
MOVED = {
    "no class": "del caching.FunctionCache",
    "no runtime": "del runtime.rtsys",
    "another constructor": "def __init__(self, a, b): pass",
    "nothing set": "def __init__(self, function): pass",
    "another key": "def _index_key(self): pass",
    "another load": "def _load_overload(self, sig): pass",
    "another save": "def _save_overload(self, sig): pass",
}


@pytest.mark.full
@pytest.mark.parametrize("move", MOVED.values(), ids=[name.replace(" ", "-") for name in MOVED])
def test_a_numba_whose_private_parts_have_moved(move, tmp_path):
    change = move if move.startswith("del") else f"class FunctionCache(caching.FunctionCache):\n            {move}"
    program = f"""
        import numba.core.ccallback
        from numba.core import caching, runtime
        {change}
        if "FunctionCache" in globals():
            caching.FunctionCache = FunctionCache
        import workload
        print(workload.check_rows())
    """
    out, err = python(program, NUMBA_CACHE_DIR=tmp_path)
    assert out == "right\n"
    assert err == "" or warned_once(err)


# What `fastbn.kernels.libraries` builds upon.
OTHER_LIBRARIES = {
    "no-class": "del codegen.JITCodeLibrary",
    "another-constructor": """
        made = codegen.JITCodeLibrary.__init__

        def make(self, *args):
            if type(self) is not codegen.JITCodeLibrary:
                raise TypeError
            made(self, *args)

        codegen.JITCodeLibrary.__init__ = make""",
}


@pytest.mark.full
@pytest.mark.parametrize("change", OTHER_LIBRARIES.values(), ids=OTHER_LIBRARIES)
def test_a_numba_that_makes_libraries_otherwise(change, tmp_path):
    program = f"""
        import numba.core.registry
        from numba.core import codegen
        {change}
        import workload
        print(workload.check_rows())
        from internals import rows
        print([sum(build.stats.cache_hits.values()) for build in rows.forward])
    """
    assert python(program, NUMBA_CACHE_DIR=tmp_path) == ("right\n[0, 0]\n", "")
    assert python(program, NUMBA_CACHE_DIR=tmp_path) == ("right\n[1, 1]\n", "")


@pytest.mark.full
def test_what_has_compiled_runs_optimized_code(tmp_path):
    """No function is known to the process by the name of a tile that nobody optimized."""
    program = """
        import workload
        print(workload.check_rows())
        from numba.core.registry import cpu_target
        from internals import loops
        engine = cpu_target.target_context.codegen()._engine
        names = [result.fndesc.llvm_func_name for result in loops.moments.overloads.values()]
        print(len(names) > 0, any(engine.is_symbol_defined(name) for name in names))
    """
    assert python(program, NUMBA_CACHE_DIR=tmp_path) == ("right\nTrue False\n", "")
