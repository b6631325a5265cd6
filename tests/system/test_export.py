"""`fastbn export`: what it refuses, and a library for this machine, whose results have the bits of Python's calls."""

import sys

import pytest
from calls_of_library import faults
from numba import njit
from processes import python

import fastbn
from fastbn._export import cases, halves, header, interface, library, linkers, modules, targets
from fastbn._export.errors import ExportError
from fastbn.cli import export as command
from fastbn.cli import main

LINUX = sys.platform.startswith("linux")


def order(folder, *operations, dtypes=("float32",), target="host", layouts=command.LAYOUTS, **more):
    return library.Order(operations, dtypes, layouts, target, folder, **more)


def test_the_command_and_the_library_know_the_same_names():
    assert command.OPERATIONS == interface.OPERATIONS
    assert command.DTYPES == interface.DTYPES
    assert set(command.LAYOUTS) == set(interface.LAYOUTS.values())
    assert command.TARGETS == targets.NAMES


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ops", "layer_norm,lrn", "--target", "host"], "--ops names 'lrn'; expected some of layer_norm"),
        (["--ops", ",", "--target", "host"], "--ops names nothing"),
        (["--ops", "rms_norm", "--target", "vax"], "--target is 'vax'; expected one of x86-64-v3"),
        (
            ["--ops", "rms_norm", "--target", "armv7"],
            "--target is 'armv7', 32-bit Arm, for which there is none: its NEON",
        ),
        (["--ops", "rms_norm", "--target", "aarch64", "--cpu", "z80"], "--cpu is 'z80', which LLVM does not know"),
        (["--ops", "rms_norm", "--target", "x86-64-v3", "--cpu", "i386"], "--cpu is 'i386', for which LLVM cannot"),
        (
            ["--ops", "rms_norm", "--target", "riscv64", "--cpu", "rocket-rv32"],
            "--cpu is 'rocket-rv32', for which",
        ),
        (["--ops", "rms_norm", "--target", "aarch64", "--linker", "no-ld"], "--linker is 'no-ld'"),
        (["--ops", "rms_norm", "--target", "aarch64", "--dtypes", "int8"], "--dtypes names 'int8'"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(words, told, tmp_path, capfd):
    assert main(["export", *words, "-o", str(tmp_path / "new")]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"fastbn export: {told}")
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_is_refused(tmp_path, capsys):
    (tmp_path / "notes").write_text("mine")
    assert main(["export", "--ops", "rms_norm", "--target", "aarch64", "-o", str(tmp_path)]) == 2
    assert "is not empty; name a new folder, or say --force" in capsys.readouterr().err
    assert main(["export", "--ops", "rms_norm", "--target", "aarch64", "-o", str(tmp_path / "notes")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_folder_without_a_name_is_not_the_one_at_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--ops", "rms_norm", "--target", "aarch64", "--force", "-o", ""]) == 2
    assert capsys.readouterr().err == "fastbn export: -o names nothing; expected a folder, or . for this one\n"
    assert not list(tmp_path.iterdir())


def test_a_numba_that_was_not_tried_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("numba.__version__", "0.99.1")
    with pytest.raises(ExportError, match=r"Numba is 0\.99\.1, with which it was not tried; install numba==0\.68\.\*"):
        library.export(order(tmp_path, "rms_norm"))


@pytest.mark.parametrize("name", ["NUMBA_DEBUGINFO", "NUMBA_ENABLE_PROFILING", "NUMBA_BOUNDSCHECK"])
def test_what_would_be_added_for_this_machine_alone_is_refused(name, tmp_path):
    program = "from fastbn.cli import main; print(main({}))"
    words = ["export", "--ops", "rms_norm", "--target", "riscv64", "-o", str(tmp_path / "new")]
    out, err = python(program.format(words), **{name: 1})
    assert out == "2\n"
    assert err.startswith(f"fastbn export: {name} is set, ")
    assert err.count("\n") == 1


def test_a_name_that_no_folder_can_have_is_told_of(tmp_path, capsys):
    assert main(["export", "--ops", "rms_norm", "--target", "riscv64", "-o", str(tmp_path / ("x" * 300))]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fastbn export: cannot look into ")
    assert said.count("\n") == 1


def test_processors_are_those_of_llvm():
    assert {"cortex-a72", "neoverse-v1", "generic"} <= set(targets.processors(targets.TARGETS["aarch64"].triple))
    assert targets.find("aarch64", "cortex-a72").cpu == "cortex-a72"


def test_the_header_has_the_functions_of_the_documentation():
    text = header.header(list(interface.functions(interface.OPERATIONS, interface.DTYPES)))
    declared = " ".join(text.split())
    assert (
        "int fastbn_layer_norm_f32(const float *x, float *y, const float *weight, const float *bias, int64_t rows, "
        "int64_t cols, double eps, double *mean, double *rstd, void *work);" in declared
    )
    assert "size_t fastbn_layer_norm_f32_workspace(int64_t rows, int64_t cols);" in declared
    for operation in ("batch_norm", "batch_norm_train", "group_norm", "instance_norm"):
        for layout in ("nchw", "nhwc"):
            for suffix in ("f32", "f64"):
                assert f"int fastbn_{operation}_{layout}_{suffix}(" in declared
    assert f'#define FASTBN_VERSION "{fastbn.__version__}"' in text


def check_library(folder, *operations, dtypes=("float32",), backward=False):
    """Make one for this machine, and compare all calls of its self test with Python's."""
    if not LINUX:
        pytest.skip("a library for the machine itself is made on Linux alone")
    made = library.export(order(folder, *operations, dtypes=dtypes, backward=backward))
    content = (folder / "libfastbn.o").read_bytes()
    assert modules.undefined(content) == []
    assert {"README.md", "example.c", "fastbn.h", "libfastbn.a", "libfastbn.o", "selftest.c"} <= set(made.files)
    if made.linker is None:
        pytest.skip("no linker was found, so the object was not called; install one, such as gcc")
    tried = list(cases.cases(interface.functions(operations, dtypes, backward=backward)))
    assert faults(folder / "libfastbn.so", tried) == []
    return made


@pytest.mark.full
def test_a_library_has_the_bits_of_python(tmp_path):
    made = check_library(tmp_path, "rms_norm")
    assert made.nbytes < 40_000


def test_half_precision_is_converted_as_the_target_does():
    text = """define <16 x half> @f(<16 x half> %0) {
  %2 = fpext <16 x half> %0 to <16 x float>
  %3 = fptrunc <16 x float> %2 to <16 x half>
  %4 = fpext <16 x half> %3 to <16 x double>
  %5 = extractelement <16 x half> %0, i64 0
  %6 = fpext half %5 to double
  %7 = insertelement <16 x double> %4, double %6, i64 0
  %8 = fptrunc <16 x double> %7 to <16 x float>
  %9 = fptrunc <16 x float> %8 to <16 x half>
  %10 = fcmp olt <16 x half> %3, %9
  %11 = select <16 x i1> %10, <16 x half> %3, <16 x half> %9
  ret <16 x half> %11
}
"""
    by_instructions = []
    for name in targets.TARGETS:
        target = targets.find(name)
        machine = target.machine()
        module = targets.parsed(halves.converting(text, target, machine), target, machine)
        module.verify()
        assert modules.undefined(machine.emit_object(module)) == []
        by_instructions += [name] if halves.has_instructions(target, machine) else []
    assert by_instructions == ["x86-64-v3", "aarch64"]


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["export", "--ops", "rms_norm", "--target", "aarch64", "-o", str(tmp_path / "file" / "new")]) == 2
    assert "cannot make" in capsys.readouterr().err


EXPORTED_ANYHOW = """
    import hashlib
    from pathlib import Path
    import numpy as np
    import fastbn
    from fastbn._export import library

    {before}
    library.export(library.Order(["rms_norm"], ["float32"], [], "aarch64", Path({folder!r})))
    print(hashlib.sha256(Path({folder!r}, "libfastbn.o").read_bytes()).hexdigest())
"""


@pytest.mark.full
def test_an_object_is_the_same_whatever_was_compiled_before(tmp_path):
    def exported(before, name):
        cache = tmp_path / f"cache-{name}"  # of its own: what is read from there is not compiled
        return python(EXPORTED_ANYHOW.format(before=before, folder=str(tmp_path / name)), NUMBA_CACHE_DIR=cache)

    alone = exported("", "alone")
    assert exported("fastbn.rms_norm(np.ones((2, 8), np.float32), 8)", "after") == alone


def test_a_user_s_function_may_be_of_no_module(tmp_path):
    names = {"njit": njit}
    exec("@njit\ndef doubled(x):\n    return 2 * x\n", names)
    assert names["doubled"].py_func.__module__ is None
    assert names["doubled"](2) == 4
    named = njit(lambda x: x)
    named.py_func.__module__ = 3  # which Numba does not read before it compiles it
    unfinished = type(named).__new__(type(named))  # as another thread may be making one
    made = library.export(order(tmp_path, "rms_norm", target="riscv64"))
    assert "libfastbn.o" in made.files
    assert names["doubled"](3) == 6
    assert len(names["doubled"].overloads) == 1  # it was left alone
    assert not hasattr(unfinished, "py_func")


@pytest.mark.full
def test_every_operation_is_small():
    target = targets.find("x86-64-v3")
    machine = target.machine()
    with modules.compiled_apart():
        built = {f: modules.build(f, target, machine) for f in interface.functions(interface.OPERATIONS, ["float32"])}

    def size(*ours):
        return len(modules.emitted(modules.linked(ours, machine), target, machine)[1])

    assert len(built) == 10
    for own in {(f.operation, f.layout) for f in built}:
        assert size(*(module for f, module in built.items() if (f.operation, f.layout) == own)) < 40_000, own
    # What is the same in several is there once.
    assert size(*built.values()) < 0.9 * sum(size(module) for module in built.values())


@pytest.mark.full
@pytest.mark.parametrize("dtype", interface.DTYPES)
def test_all_functions_have_the_bits_of_python(dtype, tmp_path):
    check_library(tmp_path, *interface.OPERATIONS, dtypes=[dtype], backward=True)
    readme = (tmp_path / "README.md").read_text()
    assert "`fastbn export --ops layer_norm rms_norm batch_norm" in readme


def test_a_linker_that_fails_is_told_of(tmp_path):
    bad = tmp_path / "bad-ld"
    bad.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    bad.chmod(0o755)
    target = targets.TARGETS["aarch64"]
    with pytest.raises(ExportError, match="bad-ld cannot link for aarch64: no such luck"):
        linkers.link(str(bad), target, tmp_path / "a.o", tmp_path / "a.so", [])


def test_a_linker_that_makes_nothing_is_told_of(tmp_path):
    with pytest.raises(ExportError, match=r"true has made no a\.so; expected a linker"):
        linkers.link("true", targets.TARGETS["riscv64"], tmp_path / "a.o", tmp_path / "a.so", [])
