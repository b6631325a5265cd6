"""Self tests of libraries for other processors, run by emulators, where these and compilers are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fastbn._export import interface, library
from fastbn.cli.export import LAYOUTS

# Debian: gcc, gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, gcc-riscv64-linux-gnu, libc6-dev-riscv64-cross, lld,
# nodejs, qemu-user-static.
COMPILERS = {"host": "gcc", "x86-64-v3": "gcc", "aarch64": "aarch64-linux-gnu-gcc", "riscv64": "riscv64-linux-gnu-gcc"}
EMULATORS = {"aarch64": ("qemu-aarch64-static", "qemu-aarch64"), "riscv64": ("qemu-riscv64-static", "qemu-riscv64")}


def needed(*names):
    """The path of one of these programs."""
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"{names[0]} is not installed, so nothing is known of this target")
    return path


def make(folder, target, dtype, operations=interface.OPERATIONS):
    order = library.Order(operations, (dtype,), LAYOUTS, target, folder, backward=operations is interface.OPERATIONS)
    return library.export(order)


def run(*words, folder):
    done = subprocess.run([*words], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.full
@pytest.mark.parametrize(("target", "dtype"), [*((target, "float32") for target in COMPILERS), ("host", "float64")])
def test_the_self_test_passes(target, dtype, tmp_path):
    compiler = needed(COMPILERS[target])
    emulator = [needed(*EMULATORS[target])] if target in EMULATORS else []
    if target == "x86-64-v3" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has not what x86-64-v3 has")
    make(tmp_path, target, dtype)
    strict = "-std=c99", "-Wall", "-Wextra", "-Werror", "-O1"
    run(compiler, *strict, "-static", "selftest.c", "libfastbn.a", "-o", "selftest", folder=tmp_path)
    assert "0 of " in run(*emulator, "./selftest", folder=tmp_path)
    run(compiler, *strict, "-static", "example.c", "libfastbn.o", "-o", "example", folder=tmp_path)
    assert "1.82337" in run(*emulator, "./example", folder=tmp_path)


def test_half_precision_passes_without_instructions_for_it(tmp_path):
    compiler, emulator = needed(COMPILERS["riscv64"]), needed(*EMULATORS["riscv64"])
    make(tmp_path, "riscv64", "float16", ("group_norm",))
    run(compiler, "-static", "-O1", "selftest.c", "libfastbn.a", "-o", "selftest", folder=tmp_path)
    assert "0 of " in run(emulator, "./selftest", folder=tmp_path)


@pytest.mark.parametrize(
    ("dtype", "operations"),
    [
        ("float32", ("layer_norm",)),
        pytest.param("float32", interface.OPERATIONS, marks=pytest.mark.full),
        pytest.param("float16", ("group_norm",), marks=pytest.mark.full),
    ],
)
def test_the_self_test_passes_in_webassembly(dtype, operations, tmp_path):
    node, made = needed("node", "nodejs"), make(tmp_path, "wasm32", dtype, operations)
    if made.linker is None:
        pytest.skip("wasm-ld is not installed, so nothing is known of WebAssembly")
    assert "0 of " in run(node, "selftest.mjs", folder=tmp_path)
