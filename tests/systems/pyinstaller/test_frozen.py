"""An application frozen by PyInstaller: no sources, and, as one file, another folder in every run."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from processes import PACKAGE

pytest.importorskip("PyInstaller")

APP = """
    import sys
    import numpy as np
    import fastbn
    from fastbn.kernels import rows

    print(*fastbn.layer_norm(np.array([[-2.0, 0.0, 2.0, 4.0]], "float32"), 4, activation="relu").round(2).ravel())
    stats = rows.forward.serial.stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), getattr(sys, "frozen", False))
"""
EDIT = "    return less(z, 0.0, 0.0, z)\n", "    return less(z, 1.0, 1.0, z)\n"  # relu, of "the next release"
OLD, NEW = "0.0 0.0 0.45 1.34", "1.0 1.0 1.0 1.34"
LEFT_OUT = ("torch", "scipy", "matplotlib", "pandas", "onnx", "onnxruntime", "openvino", "sklearn", "IPython", "pytest")


def release(folder, edit):
    shutil.copytree(PACKAGE / "fastbn", folder / "fastbn", ignore=shutil.ignore_patterns("__pycache__"))
    if edit:
        path = folder / "fastbn" / "kernels" / "activations.py"
        text = path.read_text()
        assert text.count(EDIT[0]) == 1
        path.write_text(text.replace(*EDIT))
    (folder / "app.py").write_text(textwrap.dedent(APP))


def freeze(folder, kind):
    """The application's file; each release is built where the one before it lay."""
    place = folder.parent / "installed"
    shutil.rmtree(place, ignore_errors=True)
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level=ERROR", kind, "--name=app"]
    command += [f"--paths={folder}", f"--distpath={place}", f"--workpath={folder / 'work'}", f"--specpath={folder}"]
    command += [f"--exclude-module={name}" for name in LEFT_OUT]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*command, folder / "app.py"], check=True, env=environment, cwd=folder, timeout=600)
    return place / "app" / "app" if kind == "--onedir" else place / "app"


def run(app, tmp_path, where):
    """From a folder of its own: a relative file name in the code must not say where kernels are kept."""
    (tmp_path / where).mkdir(exist_ok=True)
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run([app], capture_output=True, text=True, env=environment, cwd=tmp_path / where, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["--onedir", "--onefile"])
def test_an_upgrade_of_a_frozen_application_runs_the_new_code(kind, tmp_path):
    for name, answer in (("old", OLD), ("new", NEW)):
        release(tmp_path / name, edit=name == "new")
        app = freeze(tmp_path / name, kind)
        assert run(app, tmp_path, "here") == (f"{answer}\n0 1 True\n", "")  # compiled
        assert run(app, tmp_path, "there") == (f"{answer}\n1 0 True\n", "")  # found
