"""The norms in NumPy that ``fastbn demo`` compares speeds with compute the same as fastbn's layers."""

import numpy as np
import pytest

import fastbn
from fastbn.cli._network import NumPyNorm


@pytest.mark.full
@pytest.mark.parametrize("groups", [None, 4])
def test_norms_in_numpy_are_the_same(groups):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 6, 5, 4, 16)).astype(np.float32)
    ours = fastbn.BatchNorm2d(16, axis=-1) if groups is None else fastbn.GroupNorm(groups, 16, axis=-1)
    numpys = NumPyNorm(16, groups)
    for layer in (ours, numpys):
        layer.parameters["weight"][:] = np.linspace(0.5, 1.5, 16)
    np.testing.assert_allclose(numpys(x), ours(x), atol=1e-5)
    np.testing.assert_allclose(numpys.backward(dy), ours.backward(dy), atol=1e-5)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(numpys.grads[name], ours.grads[name], atol=1e-4)


@pytest.mark.full
def test_steps_of_both_are_timed():
    from fastbn.cli import _digits

    assert min(_digits.step_seconds("group norm", _digits.load_digits())) > 0


def test_time_left_is_told_in_lines_where_there_is_no_terminal(monkeypatch, capsys):
    from fastbn.cli import _console

    monkeypatch.setattr(_console, "SECONDS_A_LINE", -1)
    assert list(_console.progress([1, 2], str, lines=True)) == [1, 2]
    assert "1 of 2, about 0 s left: 2\n" in capsys.readouterr().err
    assert list(_console.progress([1, 2], str)) == [1, 2]
    assert capsys.readouterr().err == ""
    assert _console.in_minutes(75) == "1 min 15 s"
