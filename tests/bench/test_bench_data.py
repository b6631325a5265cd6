"""fastbn bench --suite data: every contender that is installed gives fastbn's answer, and is shown."""

import json

import numpy as np
import pytest

pytest.importorskip("rich")

from fastbn.cli import main
from fastbn.cli.bench import _data


@pytest.fixture
def small(monkeypatch):
    """The suite's cells with little data."""
    images, floats = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), np.uint8), np.ones((4, 5, 6, 7))
    floats += np.random.default_rng(1).normal(0, 1, floats.shape)
    first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    monkeypatch.setattr(_data, "_images", lambda channels_first=False: first if channels_first else images)
    monkeypatch.setattr(_data, "_floats", lambda axis, dtype: floats.astype(dtype))
    monkeypatch.setattr(_data, "_copy", lambda nbytes: lambda: None)
    monkeypatch.setattr(_data, "_reading", lambda nbytes: lambda: None)


@pytest.mark.full
def test_suite(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["bench", "--suite", "data", "--rounds", "2", "--json", str(tmp_path / "data.json")]) == 0
    rows = json.loads((tmp_path / "data.json").read_text())
    assert len({row["cell"] for row in rows}) == 8
    assert [row for row in rows if row["wrong"] and row["contender"] in ("fastbn", "NumPy", "scikit-learn")] == []
    assert all(row["best"] > 0 for row in rows if not row["wrong"])
    shown = capsys.readouterr().out
    assert all(row["contender"] in shown and row["cell"] in shown for row in rows)


@pytest.mark.full
def test_only_and_what_is_refused(small, capsys):
    assert main(["bench", "--suite", "data", "--rounds", "2", "--only", "float64.*last"]) == 0
    assert "normalize" not in capsys.readouterr().out
    for only, message in (("nothing", "is found in no cell"), ("(", "is not a regular expression")):
        assert main(["bench", "--suite", "data", "--only", only]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.full
def test_peers_and_threads(small, tmp_path, capsys):
    command = ["bench", "--suite", "data", "--rounds", "2", "--only", "float64.*last"]
    path = tmp_path / "data.json"
    assert main([*command, "--peers", "numpy", "--threads", "1", "--json", str(path)]) == 0
    assert {row["contender"] for row in json.loads(path.read_text())} == {"fastbn", "NumPy", "reading as many bytes"}
    assert ", 1 thread" in capsys.readouterr().out
    for more, message in (
        (["--peers", "jax"], "no peer 'jax'; the peers are numpy, opencv"),
        (["--threads", "100000"], "--threads 100000: Numba has at most"),
        (["--seconds", "1"], "--seconds is no option of suite data; leave it out"),
    ):
        assert main([*command, *more]) == 2
        assert message in capsys.readouterr().err
