"""The second process that compiles what the demo needs: where it helps, and that it ends."""

import subprocess
import sys

import pytest
from processes import python

import fastbn
from fastbn.cli import _ahead
from fastbn.kernels import folders


@pytest.mark.parametrize("why", ["one thread", "a program of its own", "nothing is kept", "Python is not told"])
def test_none_is_started_where_it_would_not_help(why, monkeypatch):
    def started(*args, **kwargs):
        raise AssertionError(f"started {args}")

    monkeypatch.setattr(subprocess, "Popen", started)
    if why == "a program of its own":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    elif why == "nothing is kept":
        monkeypatch.setattr(folders, "ours", lambda: folders.Folders(None, (), ()))
    elif why == "Python is not told":
        monkeypatch.setattr(sys, "executable", "")
    with fastbn.num_threads(1 if why == "one thread" else fastbn.get_num_threads()), _ahead.compiling():
        pass


@pytest.mark.full
def test_kernels_appear_and_the_process_ends_with_the_block(tmp_path):
    program = """
    import os
    import time
    from pathlib import Path

    from fastbn.cli import _ahead

    begun, started = time.monotonic(), []
    popen = _ahead.subprocess.Popen
    _ahead.subprocess.Popen = lambda *args, **kwargs: started.append(popen(*args, **kwargs)) or started[0]
    with _ahead.compiling():
        while not any(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.forward.serial*.nbc")):
            assert time.monotonic() < begun + 240
            time.sleep(0.1)
        assert started[0].poll() is None
    print(started[0].poll() is not None)
    """
    out, err = python(program, NUMBA_CACHE_DIR=tmp_path)
    assert (out, err) == ("True\n", "")
