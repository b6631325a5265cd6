"""What ``fastbn warmup`` asks for, and what it says meanwhile; nothing is compiled."""

import sys

import pytest

from fastbn import _warmup
from fastbn.cli import main, warmup


@pytest.fixture
def asked(monkeypatch):
    """What the command asked for last."""
    seen = {}

    def stand_in(ops, dtypes, layouts, progress, **more):
        seen.update(ops=ops, dtypes=dtypes, layouts=layouts, **more)
        for step in ((0, 2, "a"), (1, 2, "b"), (2, 2, "")):
            progress(*step)
        return _warmup.Warmup(2, 0, "/folder", 1.0)

    monkeypatch.setattr(warmup, "warmup", stand_in)
    return seen


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["rms_norm,layer_norm"], ["rms_norm", "layer_norm"]),
        (["rms_norm", "layer_norm"], ["rms_norm", "layer_norm"]),
        (["rms_norm,", "layer_norm,group_norm"], ["rms_norm", "layer_norm", "group_norm"]),
    ],
)
def test_names_are_parted_by_commas_or_spaces(asked, words, names, capsys):
    assert main(["warmup", "--ops", *words, "--dtypes", "float32,float64"]) == 0
    assert asked["ops"] == names
    assert asked["dtypes"] == ["float32", "float64"]
    assert asked["layouts"] is None
    out, err = capsys.readouterr()
    assert out == "2 kernels: 2 compiled, 0 found, in 1.0 s\n/folder\n"
    assert err.startswith("2 kernels, ")


def test_unknown_names_are_one_line(asked, capsys):
    assert main(["warmup", "--dtypes", "float32,int8"]) == 2
    told = "fastbn warmup: --dtypes names 'int8'; expected some of float16, bfloat16, float32, float64\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("option", ["--ops", "--dtypes", "--layouts"])
def test_a_comma_alone_names_nothing(option, asked, capsys):
    assert main(["warmup", option, ","]) == 2
    assert capsys.readouterr().err.startswith(f"fastbn warmup: {option} names nothing; expected some of ")
    assert not asked


def test_bfloat16_without_ml_dtypes_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r'pip install "fastbn\[half\]"'):
        _warmup.warmup(["rms_norm"], ["bfloat16"])


def test_layer_norm_is_over_the_last_axis_unless_channels_first_is_named():
    def layouts(op, asked):
        return [layout for _, _, layout in _warmup._steps([op], ["float32"], asked)]

    assert layouts("layer_norm", None) == ["channels_last"]
    assert layouts("batch_norm", None) == ["channels_first", "channels_last"]
    assert layouts("layer_norm", ["channels_first"]) == ["channels_first"]


def test_calls_of_other_threads_compute_while_kernels_are_counted():
    """Meanwhile a call of the counting thread computes nothing."""
    import threading

    import numpy as np

    import fastbn

    x, results = np.array([[0.0, 2.0]]), []
    with _warmup._asked_for():
        fastbn.layer_norm(x, 2, eps=0)
        thread = threading.Thread(target=lambda: results.append(fastbn.layer_norm(x, 2, eps=0)))
        thread.start()
        thread.join()
    assert results[0].tolist() == [[-1.0, 1.0]]
    assert fastbn.layer_norm(x, 2, eps=0).tolist() == [[-1.0, 1.0]]
