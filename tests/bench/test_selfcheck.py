"""``fastbn selfcheck``: that it passes, and that it notices what it is there to notice."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from commands import RUN, python, without
from processes import PACKAGE, TWO_THREADS

import fastbn
from fastbn.cli import _selfcheck, main


def outcome(topic, title):
    [check] = [check for check in _selfcheck.checks() if (check.topic, check.title) == (topic, title)]
    return check.run()


@pytest.mark.full
def test_passes_from_end_to_end():
    done = python(RUN, "selfcheck")
    assert (done.returncode, done.stderr) == (0, "")
    number = len(list(_selfcheck.checks()))
    assert len(re.findall(r"  pass$", done.stdout, re.M)) == number
    assert re.search(rf"^All {number} pass \(\d+ s\)\.$", done.stdout, re.M)
    assert "\x1b" not in done.stdout


@pytest.mark.full
@pytest.mark.skipif(sys.platform == "win32", reason="a signal to both processes, as a terminal sends it, is POSIX's")
def test_an_interrupt_is_one_line(tmp_path):
    """Of two processes, the second of which compiles for many threads."""
    environment = {"PYTHONPATH": str(PACKAGE), "NUMBA_CACHE_DIR": str(tmp_path), **TWO_THREADS}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "selfcheck"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell has its background jobs ignore it
    )
    limit = time.monotonic() + 300
    while time.monotonic() < limit and not any(tmp_path.rglob("*.parallel*.nbc")):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, "fastbn selfcheck: interrupted\n")
    assert any(tmp_path.rglob("*.parallel*.nbc"))


def test_missing_extra_says_what_to_install():
    done = python(without("rich"), "selfcheck")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'fastbn selfcheck: rich not installed; run: pip install "fastbn[demo]"\n'


@pytest.mark.full
def test_without_ml_dtypes_float16_is_checked():
    done = python(without("ml_dtypes"), "selfcheck")
    assert done.returncode == 0
    assert re.search(r"^  float16 .*pass$", done.stdout, re.M)
    assert "  bfloat16 " not in done.stdout


def test_a_failure_is_told_and_exits_1(monkeypatch, capsys):
    checks = [
        _selfcheck.Check("topic", "right", lambda: ("identical", True)),
        _selfcheck.Check("topic", "wrong", lambda: ("different", False)),
    ]
    monkeypatch.setattr(_selfcheck, "checks", lambda: iter(checks))
    assert main(["selfcheck"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^  right +identical +pass$", out, re.M)
    assert re.search(r"^  wrong +different +FAIL$", out, re.M)
    assert re.search(r"^1 of 2 fail", out, re.M)


def spoiled(monkeypatch, name, spoil):
    """fastbn.<name> with another first result."""
    right = getattr(fastbn, name)

    def wrong(x, *args, **named):
        y, *others = right(x, *args, **named)
        return spoil(np.asarray(x), y), *others

    monkeypatch.setattr(fastbn, name, wrong)


BATCH_NORM, LAYER_NORM = "batch_norm_forward", "layer_norm_forward"
ERROR, BITS = "error against float64, means 0 to 1e6", "the same bits"
EXTREMES = "huge and tiny values"


@pytest.mark.full
@pytest.mark.parametrize(
    ("topic", "title", "name", "spoil"),
    [
        (ERROR, "batch norm, training", BATCH_NORM, lambda x, y: y * np.float32(1 + 1e-6)),
        (ERROR, "layer norm", LAYER_NORM, lambda x, y: y + np.float32(np.nan)),
        ("constants become the bias", "layer norm", LAYER_NORM, lambda x, y: np.nextafter(y, np.float32(9))),
        (
            "huge and tiny values",
            "1e30 and 1e-30 to unit spread",
            LAYER_NORM,
            lambda x, y: y * (np.abs(x).max() < 1e20),
        ),
        (BITS, "a sample alone and in its batch", LAYER_NORM, lambda x, y: y + np.float32(len(x) > 3)),
        (BITS, "at any address", LAYER_NORM, lambda x, y: y + np.float32(x.ctypes.data % 64 == 0)),
        (BITS, "strided, read-only, in place", LAYER_NORM, lambda x, y: y + np.float32(not x.flags.writeable)),
        (BITS, "channels-last view and channels last", BATCH_NORM, lambda x, y: y + np.float32(x.flags.c_contiguous)),
    ],
)
def test_a_wrong_result_is_noticed(monkeypatch, topic, title, name, spoil):
    assert outcome(topic, title)[1]
    spoiled(monkeypatch, name, spoil)
    assert not outcome(topic, title)[1]


@pytest.mark.full
def test_inexact_moments_are_noticed(monkeypatch):
    right = fastbn.batch_norm_forward

    def wrong(*args, **named):
        y, mean, rstd = right(*args, **named)
        return y, mean, np.nextafter(rstd, 0)

    assert outcome("data with exact moments", "batch norm")[1]
    monkeypatch.setattr(fastbn, "batch_norm_forward", wrong)
    assert not outcome("data with exact moments", "batch norm")[1]


@pytest.mark.full
def test_bits_that_depend_on_threads_are_noticed(monkeypatch):
    title = next(c.title for c in _selfcheck.checks() if c.topic == BITS and c.title.startswith("layer norm"))
    monkeypatch.setattr(_selfcheck, "_thread_counts", lambda: [1, 2])
    assert outcome(BITS, title)[1]
    spoiled(monkeypatch, LAYER_NORM, lambda x, y: y + np.float32(fastbn.get_num_threads() > 1))
    assert not outcome(BITS, title)[1]


@pytest.mark.full
@pytest.mark.parametrize("dtype", _selfcheck._halves(), ids=str)
def test_a_wrong_code_is_noticed(monkeypatch, dtype):
    assert outcome("all 65,536 codes, rounded once", str(dtype))[1]
    right = fastbn.batch_norm

    def truncating(*args, **named):
        y = right(*args, **named).copy()
        y.view(np.uint16)[..., 1000] ^= 1
        return y

    monkeypatch.setattr(fastbn, "batch_norm", truncating)
    assert outcome("all 65,536 codes, rounded once", str(dtype)) == ("2 wrong", False)
