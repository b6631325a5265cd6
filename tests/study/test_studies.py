"""`fastbn study`: every study runs on a small share of its work, and verdicts are what the numbers say."""

import re
import subprocess
import sys

import numpy as np
import pytest
from commands import python, without

import fastbn
from fastbn.cli import main
from fastbn.study import NAMES, _judge, _network, _run
from fastbn.study._judge import FAILS, HOLDS, OPEN, judge
from fastbn.study._report import Report
from fastbn.study._study import Claim, Column, Dots, Lines, Results, Study
from fastbn.study._table import find


def verdict(*values, bound=0.0):
    return judge(Claim("It is larger", "points", np.array(values), bound)).words


# verdicts -------------------------------------------------------------------------------------------------------------


def test_a_claim_holds_where_the_interval_lies_above_its_bound():
    assert verdict(1.0, 1.2, 0.9, 1.1, 1.0) == HOLDS
    assert verdict(-1.0, -1.2, -0.9, -1.1, -1.0) == FAILS
    assert verdict(1.0, -0.5, 0.8, -0.9, 0.3) == OPEN
    assert verdict(-0.1, -0.2, -0.1, bound=-1.0) == HOLDS
    assert verdict(1.0, 1.2, 0.9, bound=2.0) == FAILS


def test_two_seeds_judge_only_what_is_plain():
    assert verdict(1.0, 1.01) == HOLDS
    assert verdict(1.0, 2.0) == OPEN
    assert verdict(-1.0, -2.0) == OPEN


def test_no_difference_at_all_is_no_proof():
    assert verdict(0.0, 0.0, 0.0) == FAILS


@pytest.mark.parametrize("values", [(1.0,), (1.0, np.nan, 1.0), (1.0, np.inf)])
def test_too_few_numbers_or_none_are_not_judged(values):
    assert verdict(*values) == OPEN


def test_the_interval_is_students():
    low, high = _judge.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-3)  # 2.776 * sqrt(2.5 / 5)
    rng = np.random.default_rng(0)
    covered = [low < 0 < high for low, high in (_judge.interval(rng.standard_normal(5)) for _ in range(2000))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


# studies --------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_a_share_of_every_study_runs_and_repeats_itself(name, tmp_path):
    study = find(name)
    first = _run.report(name, study, range(1), share=0.01)
    assert first.rows()[1:] == _run.report(name, study, range(1), share=0.01).rows()[1:]
    assert len(first.rows()) == 1 + len(study.ways)
    assert {v.words for v in first.verdicts} == {OPEN}  # a single seed proves nothing
    assert not any("nan" in cell for row in first.rows() for cell in row)
    first.save_picture(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "picture.png").stat().st_size < 100_000
    assert all(v.claim.text in first.markdown() for v in first.verdicts)


@pytest.mark.full
def test_batch_norm_takes_higher_rates_and_any_first_weights():
    for name, claim in (("learning-rates", 0), ("initialization", 0)):
        assert _run.run(name, quick=True).verdicts[claim].mean > 0


def made(better):
    """A study of two ways, of which the first is better, or not, by 2 points in each of five seeds."""

    def measure(way, seed, share):
        return {"points": seed * 0.01 + (2.0 if (way == ("with",)) == better else 0.0), "curve": [0.0, 1.0]}

    return Study(
        title="Made",
        about="Numbers that were made up.",
        compared="way",
        ways=(("with",), ("without",)),
        measure=measure,
        columns=(Column("points", "points"),),
        claims=lambda results: [
            Claim("It is better", "points", results.values("points", "with") - results.values("points", "without"))
        ],
        panels=lambda results: [
            Lines("", "epoch", "points", (1, 2), {"with": results.values("curve", "with")}),
            Dots("", "points", {"with": results.values("points", "with")}),
        ],
    )


@pytest.mark.parametrize(("better", "words"), [(True, HOLDS), (False, FAILS)])
def test_the_verdict_is_what_the_numbers_say(better, words):
    report = _run.report("made", made(better), range(5))
    assert [v.words for v in report.verdicts] == [words]
    assert f"- It is better: **{words}**; points: {2 if better else -2} (5 seeds" in report.markdown()
    assert report.rows()[1] == ["with", "2.0" if better else "0.0"]


def test_steps_are_told_seed_by_seed():
    seen = []
    _run.report("made", made(True), (3, 4), progress=lambda steps: seen.extend(steps) or steps)
    assert seen == [(3, ("with",)), (3, ("without",)), (4, ("with",)), (4, ("without",))]


# networks -------------------------------------------------------------------------------------------------------------


def differences(f, array, h=1e-6):
    gradient = np.empty_like(array)
    for i in np.ndindex(array.shape):
        value = array[i]
        array[i] = value + h
        above = f()
        array[i] = value - h
        gradient[i] = (above - f()) / (2 * h)
        array[i] = value
    return gradient


@pytest.mark.parametrize(
    "kind",
    [
        "no norm",
        pytest.param("layer norm", marks=pytest.mark.full),
        pytest.param("batch norm, padding counted", marks=pytest.mark.full),
        "batch norm, masked",
    ],
)
def test_gradients_of_the_recurrent_network(kind):
    rng = np.random.default_rng(0)
    network = _network.Recurrent(kind, letters=4, hidden=3, steps=4, rng=rng)
    for layer in network.layers:
        for arrays in (layer.parameters, layer.grads):
            arrays.update({name: array.astype(np.float64) for name, array in arrays.items()})
    words, alive = rng.integers(4, size=(5, 4)), np.arange(4) < np.array([2, 3, 4, 4, 3])[:, None]
    dscores = rng.standard_normal((5, 4, 4)) * alive[..., None]
    network(words, alive)
    network.backward(dscores)
    for layer in network.layers:
        for name, parameter in layer.parameters.items():
            expected = differences(lambda: (network(words, alive) * dscores).sum(), parameter)
            np.testing.assert_allclose(layer.grads[name], expected, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("layer", [_network.Tanh(), _network.LeakyReLU()], ids=["tanh", "leaky relu"])
def test_gradients_of_activations(layer):
    x, dy = np.random.default_rng(0).standard_normal((2, 4, 3))
    layer(x)
    np.testing.assert_allclose(layer.backward(dy), differences(lambda: (layer(x) * dy).sum(), x), atol=1e-6)


def test_dropout_keeps_the_mean_and_leaves_evaluation_alone():
    layer = _network.Dropout(0.25, np.random.default_rng(0))
    y = layer(np.ones((200, 200), np.float32))
    assert set(np.unique(y)) == {np.float32(0), np.float32(4 / 3)}
    assert y.mean() == pytest.approx(1.0, abs=0.01)
    assert np.array_equal(layer.backward(np.ones_like(y)), y)
    layer.eval()
    assert layer(y) is y


def test_adam_steps_by_its_rate_whatever_the_gradient():
    network = _network.dense((2, 3), lambda size: [], np.random.default_rng(0))
    before = network.layers[0].parameters["weight"].copy()
    network.layers[0].grads["weight"][...] = [[1e-3, -1.0, 7.0], [2.0, -3e3, 1e-2]]
    _network.Adam(network, 0.1).step()
    steps = network.layers[0].parameters["weight"] - before
    np.testing.assert_allclose(steps, -0.1 * np.sign(network.layers[0].grads["weight"]), rtol=1e-3)


def test_distance_of_a_set_to_itself_is_nothing_and_to_a_shifted_one_the_shift():
    from fastbn.study import _gan

    x = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    assert _gan.distance(x, x) == pytest.approx(0, abs=1e-8)
    assert _gan.distance(x, x + np.float32(2)) == pytest.approx(4 * 8, rel=1e-5)
    assert _gan.kinds(x[:10], x, np.arange(500) % 10) == pytest.approx(10)


# the command and the door ---------------------------------------------------------------------------------------------


def test_the_command_names_its_studies(capsys):
    assert main(["study", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(NAMES)


def test_unknown_names_are_told(capsys):
    assert main(["study", "deph"]) == 2
    told = "there is no study 'deph'; choose from learning-rates, initialization, depth"
    assert f"fastbn study: {told}" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_before_the_work(tmp_path, capsys):
    (tmp_path / "a-file").touch()
    assert main(["study", "--out", str(tmp_path / "a-file")]) == 2
    assert capsys.readouterr().err.startswith(f"fastbn study: cannot make the folder {tmp_path / 'a-file'}: ")


def test_the_command_writes_pictures_and_a_page(tmp_path, capsys, monkeypatch):
    for module in ("_run", "_table"):
        monkeypatch.setattr(f"fastbn.study.{module}.find", lambda name: made(True))
    monkeypatch.setattr("fastbn.cli._study_report.find", lambda name: made(True))
    page = tmp_path / "page.md"
    page.write_text("# Mine\n\nBefore.\n")
    command = ["study", "depth", "gan", "--quick", "--out", str(tmp_path / "pictures"), "--page", str(page)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.count("It is better") == 4
    assert "2 claims: 2 holds here, 0 does not, 0 not judged" in out
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["depth.png", "gan.png"]
    once = page.read_text()
    assert once.startswith("# Mine\n\nBefore.\n\n<!-- depth: begin -->\n## Made\n")
    assert "![Made](pictures/gan.png)" in once
    page.write_text(once + "\nAfter.\n")
    assert main(command) == 0
    assert page.read_text() == once + "\nAfter.\n"


def test_without_its_packages_the_command_and_the_door_say_what_to_install():
    done = python(without("sklearn", "matplotlib"), "study", "depth")
    told = 'matplotlib and scikit-learn not installed; run: pip install "fastbn[study]"'
    assert (done.returncode, done.stderr) == (2, f"fastbn study: {told}\n")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['sklearn', 'threadpoolctl', 'matplotlib', 'rich']))\n"
        "import fastbn\n"
        "try: fastbn.study.run('depth')\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert re.fullmatch(r'fastbn\.study needs the package \w+: pip install "fastbn\[study\]"\n', done.stdout)


def test_an_unknown_study_is_refused():
    with pytest.raises(ValueError, match="there is no study 'deph'; expected one of learning-rates"):
        fastbn.study.run("deph")


def test_results_are_by_way_and_seed():
    results = Results({("a", 1): [{"n": 1}, {"n": 2}], ("a", 2): [{"n": 3}, {"n": 4}]})
    assert results.values("n", "a", 2).tolist() == [3, 4]
    assert results.along("n", [("a", 1), ("a", 2)]).tolist() == [[1, 3], [2, 4]]
    assert Report.__doc__.startswith("What came of a study.")
