"""The ``fastbn`` command: its frame, its errors, and the demo from end to end."""

import re
import sys

import numpy as np
import pytest
from commands import RUN, python, without

import fastbn
from fastbn.cli import COMMANDS, _digits, _errors, _findings, info, main
from fastbn.cli._digits import CHANCE, HIGH, LEARNING_RATES, MODEST, NORMS, Run
from fastbn.cli._network import AvgPool2d, Conv2d, Linear, ReLU, cross_entropy

# the frame ------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^ +{command}\b", out, re.M) for command in COMMANDS)
    assert "Examples" not in out  # of the package, whose help is for Python


def test_help_imports_no_more_than_fastbn_itself():
    done = python(
        "import sys, fastbn\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        "from fastbn.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "more = {name.partition('.')[0] for name in sys.modules} - before\n"
        "print(*more & {'numba', 'numpy', 'rich', 'matplotlib', 'sklearn'}, file=sys.stderr)"
    )
    assert (done.returncode, done.stderr) == (0, "\n")


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"fastbn {fastbn.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "required: command"),
        (["demp"], "'demp'"),
        (["demo", "--epochs", "0"], "at least 1, not 0"),
        (["demo", "--epochs", "ten"], "must be a whole number of at least 1, not 'ten'"),
        (["bench", "--threads", "x"], "must be a whole number of at least 1, not 'x'"),
        (["bench", "--rounds", "0"], "must be at least 1, not 0"),
        (["bench", "--seconds", "x"], "must be a number above 0, not 'x'"),
        (["bench", "--seconds", "inf"], "must be a number above 0, not 'inf'"),
        (["demo", "--seed", "-1"], "at least 0, not -1"),
        (["study", "--seed", "-1"], "at least 0, not -1"),
        (["demo", "--speed"], "--speed"),
        (["info", "cpu"], "cpu"),
    ],
)
def test_wrong_arguments_are_told_and_exit_2(argv, told, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert told in capsys.readouterr().err


def test_interrupt_is_one_line_and_130(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "run", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "fastbn info: interrupted\n"


@pytest.mark.full
def test_info_needs_no_extra():
    done = python(without("rich", "matplotlib", "sklearn"), "info")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("fastbn", "numba", "numpy", "python", "cpu", "threads"):
        assert re.search(rf"^{name} +\S", done.stdout, re.M)


# errors before the work -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "named"),
    [(("rich",), "rich"), (("sklearn", "matplotlib"), "scikit-learn and matplotlib")],
)
def test_missing_extra_says_what_to_install(missing, named):
    done = python(without(*missing), "demo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'fastbn demo: {named} not installed; run: pip install "fastbn[demo]"\n'


def test_no_plot_needs_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(_errors.CommandError, match="matplotlib"):
        _errors.require("demo", "rich", "matplotlib")
    _errors.require("demo", "rich")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("missing/curves.png", "No such file"),
        ("a-file/curves.png", "Not a directory"),
        ("a-folder.png", "Is a directory"),
        ("curves.pdf", "must end in .png"),
        ("curves", "must end in .png"),
    ],
)
def test_unwritable_output_is_told_before_the_work(tmp_path, name, told, capsys):
    (tmp_path / "a-file").touch()
    (tmp_path / "a-folder.png").mkdir()
    assert main(["demo", "--output", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"fastbn demo: cannot write {tmp_path / name}: ")
    assert told in err
    assert err.count("\n") == 1


def test_checking_the_output_leaves_it_as_it_was(tmp_path):
    fresh, existing = tmp_path / "fresh.png", tmp_path / "existing.PNG"
    existing.write_bytes(b"keep me")
    _errors.require_writable_png(fresh)
    _errors.require_writable_png(existing)
    assert not fresh.exists()
    assert existing.read_bytes() == b"keep me"


# the network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [Conv2d(3, 5, np.random.default_rng(0)), Linear(48, 5, np.random.default_rng(0)), ReLU(), AvgPool2d()],
    ids=lambda layer: type(layer).__name__,
)
def test_gradients_of_a_layer_against_central_differences(layer):
    rng = np.random.default_rng(1)
    for parameters in (layer.parameters, layer.grads):
        parameters.update({name: array.astype(np.float64) for name, array in parameters.items()})
    x = rng.standard_normal((2, 4, 4, 3))
    dy = rng.standard_normal(layer(x).shape)
    dx = layer.backward(dy)
    for array, gradient in [(x, dx), *((p, layer.grads[name]) for name, p in layer.parameters.items())]:
        np.testing.assert_allclose(gradient, _central_differences(lambda: (dy * layer(x)).sum(), array), atol=1e-7)


def test_gradient_of_the_loss_against_central_differences():
    rng = np.random.default_rng(1)
    logits, labels = rng.standard_normal((6, 4)), rng.integers(4, size=6)
    dlogits = cross_entropy(logits, labels)[1]
    expected = _central_differences(lambda: cross_entropy(logits, labels)[0], logits)
    np.testing.assert_allclose(dlogits, expected, atol=1e-9)


def _central_differences(f, array, h=1e-6):
    gradient = np.empty_like(array)
    for i in np.ndindex(array.shape):
        value = array[i]
        array[i] = value + h
        above = f()
        array[i] = value - h
        gradient[i] = (above - f()) / (2 * h)
        array[i] = value
    return gradient


@pytest.mark.full
def test_training_learns_and_repeats_itself():
    digits = _digits.load_digits()
    first = _digits.train("no norm", MODEST, 0, 6, digits)
    again = _digits.train("no norm", MODEST, 0, 6, digits)
    other = _digits.train("no norm", MODEST, 1, 6, digits)
    assert first.accuracy[-1] > 90
    assert first.accuracy == again.accuracy != other.accuracy


@pytest.mark.full
def test_batch_norm_learns_and_repeats_itself():
    digits = _digits.load_digits()
    first, again = (_digits.train("batch norm", MODEST, 0, 2, digits) for _ in range(2))
    assert first.accuracy[-1] > 90
    assert first.accuracy == again.accuracy


@pytest.mark.full
def test_divergence_is_noticed_and_counted_at_chance():
    run = _digits.train("no norm", 1e30, 0, 3, _digits.load_digits())
    assert run.diverged
    assert run.accuracy == [CHANCE] * 3


# what the numbers show ------------------------------------------------------------------------------------------------


def verdicts(curves):
    """The verdicts in their order, for one list of curves, a seed each, by (norm, learning rate)."""
    return [finding.verdict.partition(" (")[0] for finding in _findings.find(trials(curves))]


def trials(curves):
    return _digits.collect(
        Run(norm, lr, seed, curve, diverged=False, step_seconds=0.004 if norm == "batch norm" else 0.003)
        for norm in NORMS
        for lr in LEARNING_RATES
        for seed, curve in enumerate(curves[norm, lr])
    )


FAST, MIDDLE, SLOW, STUCK = [95.0, 99.0], [70.0, 96.0], [40.0, 92.0], [10.0, 10.0]
HOLDS, FAILS, UNSETTLED = "holds here", "does not hold here", "is not settled here"


def test_every_claim_can_hold():
    curves = {(norm, lr): [STUCK] * 2 for norm in NORMS for lr in LEARNING_RATES}
    curves |= {("batch norm", MODEST): [MIDDLE] * 2, ("batch norm", HIGH): [FAST] * 2}
    assert verdicts(curves) == [HOLDS] * 6


def test_every_claim_can_fail():
    curves = {(norm, lr): [FAST] * 2 for norm in NORMS for lr in LEARNING_RATES}
    curves |= {("batch norm", MODEST): [MIDDLE] * 2, ("batch norm", HIGH): [SLOW] * 2}
    assert verdicts(curves) == [FAILS] * 6


def test_every_claim_can_stay_open():
    curves = {(norm, lr): [MIDDLE] * 2 for norm in NORMS for lr in LEARNING_RATES}
    curves |= {
        ("batch norm", MODEST): [FAST, SLOW],
        ("batch norm", HIGH): [SLOW, FAST],
        ("no norm", HIGH): [STUCK, FAST],
    }
    assert verdicts(curves) == [UNSETTLED] * 6


def test_costlier_steps_count_in_time_but_not_in_epochs():
    curves = {(norm, lr): [[85.0, 95.0]] * 2 for norm in NORMS for lr in LEARNING_RATES}
    curves["batch norm", MODEST] = [[88.0, 95.0]] * 2
    assert verdicts(curves)[:2] == [HOLDS, FAILS]


def test_epochs_to_target_are_read_off_the_curve():
    curves = {(norm, lr): [[50.0, 70.0, 110.0], STUCK + STUCK[:1]] for norm in NORMS for lr in LEARNING_RATES}
    assert trials(curves)["no norm", MODEST].epochs == [2.5, np.inf]


# the demo -------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("factor", [1 + 1e-5, np.nan])
def test_a_wrong_operation_fails_the_demo(monkeypatch, capsys, factor):
    right = fastbn.layer_norm_backward

    def wrong(*args, **kwargs):
        dx, dweight, dbias = right(*args, **kwargs)
        return dx, dweight * factor, dbias

    monkeypatch.setattr(fastbn, "layer_norm_backward", wrong)
    assert main(["demo", "--quick", "--no-plot"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^layer norm +backward .*FAIL$", out, re.M)
    assert out.count("FAIL") == 1
    assert out.rstrip().endswith("4 of 48 fail: no network is trained.")


@pytest.mark.full
def test_demo_from_end_to_end(tmp_path):
    import matplotlib.font_manager  # noqa: F401  # builds its cache, which the first process to do so says on stderr

    done = python(RUN, "demo", "--quick", "--seed", 7, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout
    assert "\x1b" not in out
    picture = tmp_path / "fastbn-demo.png"
    told, new = out.split(f"Learning curves: {picture}\n")
    assert max(map(len, (told + new).splitlines())) <= 80
    assert "All 48 pass." in out
    assert out.count("written in NumPy takes") == 2
    assert len(re.findall(r"^[123]( +\d+\.\d){6}$", out, re.M)) == 3  # accuracy by epoch, six trials
    assert len(re.findall(r"(holds|does not hold|is not settled) here \(shown by \d of 2 seeds\)", out)) == 6
    assert re.search(r"^What is new in fastbn \d+\.\d+\.\d+$", new, re.M)
    png = picture.read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = np.frombuffer(png[16:24], ">u4")
    assert (width, height) == (1500, 660)
    assert len(png) > 20_000  # a blank picture of this size has some 5 kB
