"""Commands whose output cannot be written: closed by whoever started them, or to a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import RUN

import fastbn
from fastbn.cli import main
from fastbn.cli.bench._cells import SUITES

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="streams are closed by a shell of POSIX")


def in_shell(command, **kwargs):
    """Run `command`, in which $FASTBN is the command, in a shell."""
    environment = os.environ | {"PYTHONPATH": str(Path(fastbn.__file__).parents[1]), "PYTHON": sys.executable}
    command = command.replace("$FASTBN", f"\"$PYTHON\" -c '{RUN}'")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | kwargs
    return subprocess.run(["sh", "-c", command], env=environment, text=True, timeout=300, **streams)


@POSIX
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
@pytest.mark.parametrize("command", ["info", "study --list", "--version"])
def test_closed_streams_are_no_error(command, closed):
    done = in_shell(f"$FASTBN {command} {closed}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device stands for a full disk here")
@pytest.mark.parametrize("command", ["info", "study --list"])
def test_a_full_disk_is_one_line(command):
    done = in_shell(f"$FASTBN {command} >/dev/full")
    name = command.partition(" ")[0]
    assert done.stderr == f"fastbn {name}: cannot write the output: No space left on device\n"
    assert done.returncode == 2


@POSIX
def test_an_output_that_is_open_for_reading_alone_is_one_line():
    done = in_shell("$FASTBN info 1</dev/null")
    assert done.stderr == "fastbn info: cannot write the output: Bad file descriptor\n"
    assert done.returncode == 2


@POSIX
def test_a_reader_that_has_seen_enough_is_told_nothing():
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = in_shell("$FASTBN info", stdout=writes)
    finally:
        os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")


def test_every_suite_is_named_where_one_is_unknown(capsys):
    pytest.importorskip("rich")
    assert main(["bench", "--suite", "nope"]) == 2
    told = capsys.readouterr().err
    assert all(name in told for name in (*SUITES, "torch", "data"))
    assert main(["bench", "--only", "no such cell"]) == 2
    assert capsys.readouterr().err.endswith("'batch norm, training, forward, 32x64x56x56, channels first'\n")


@pytest.mark.parametrize(("suite", "option"), [("quick", "--resume"), ("torch", "--between=none")])
def test_options_of_other_suites(suite, option, capsys):
    pytest.importorskip("rich")
    assert main(["bench", "--suite", suite, option]) == 2
    name = option.partition("=")[0]
    assert capsys.readouterr().err == f"fastbn bench: {name} is no option of suite {suite}; leave it out\n"
