"""``fastbn bench``: its suites, contenders, files and errors, on shapes so small that the times mean nothing."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import numba
import numpy as np
import pytest

import fastbn
from fastbn.cli import main
from fastbn.cli.bench import _cells, _peers, _session, _timing
from fastbn.cli.bench._cells import BACKWARD, FIRST, FORWARD, LAST, OPERATIONS, SUITES, TRAINING, Cell, Suite
from fastbn.cli.bench._copy import copies
from fastbn.cli.bench._problem import Problem, worst_error
from fastbn.cli.bench._results import Failure, Measured, Results, Timing

ROOT = Path(__file__).parents[2]
INSTALLED = [name for name, peer in _peers.PEERS.items() if name != "torch.compile" and not peer.missing()]


def tiny_cells():
    for axis, shape in ((FIRST, (3, 8, 5, 7)), (LAST, (3, 5, 7, 8))):
        for operation in OPERATIONS:
            for direction in (FORWARD, BACKWARD)[: 1 if operation == _cells.INFERENCE else 2]:
                yield Cell(operation, direction, shape, axis, groups=4 if operation == _cells.GROUP else None)
        for direction in (FORWARD, BACKWARD):
            for residual in (False, True):
                yield Cell(TRAINING, direction, shape, axis, activation="relu", residual=residual)
    yield Cell(TRAINING, BACKWARD, (2, 3, 4, 3, 5))
    yield Cell(TRAINING, FORWARD, (6, 5))


@pytest.fixture
def tiny(monkeypatch):
    """A suite "tiny", quickly measured."""
    monkeypatch.setitem(SUITES, "tiny", Suite(tiny_cells, seconds=0.001))
    monkeypatch.setattr(_timing, "LEAST_ROUNDS", 2)
    monkeypatch.setattr(_timing, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(_timing, "REST_SECONDS", 0)
    monkeypatch.setattr(_timing, "BLOCK_SECONDS", 0)
    return ["bench", "--suite", "tiny", "--threads", "1", "--peers", "numpy"]


def timing(contender, median, form="new", spread=0.1):
    return Timing(contender, form, median, ((1 - spread) * median, (1 + spread) * median), rounds=5, calls=1)


def results(*measured, **changes):
    made = Results(
        suite="tiny",
        date="2026-01-02T03:04:05+00:00",
        threads=2,
        machine={"fastbn": "1.2.3", "cpu": "abacus"},
        peers={"numpy": "2.0"},
        missing={"jax": ["jax"]},
        tolerance=1e-4,
        cells=list(measured),
    )
    return replace(made, **changes)


def cell_with(fastbn=1e-3, numpy=2e-3, copy=8e-4, **cell):
    cell = {"operation": TRAINING, "direction": FORWARD, "shape": (2, 3, 4, 4)} | cell
    return Measured(Cell(**cell), [timing("copy", copy), timing("fastbn", fastbn), timing("numpy", numpy)], [])


def python(code, *arguments, cwd):
    """Run `code` in a process of its own that sees this very fastbn."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300)


# the command ----------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_bench_from_end_to_end(tiny, tmp_path, capsys):
    before = numba.get_num_threads()
    written, picture = tmp_path / "results.json", tmp_path / "picture.png"
    assert main([*tiny, "--json", str(written), "--png", str(picture)]) == 0
    assert numba.get_num_threads() == before
    out = capsys.readouterr().out
    assert all(f"\n{operation}, forward\n" in out for operation in OPERATIONS)
    assert re.search(r"^3x5x7x8 last +3 kB( +[\d.]+){3} +\d+ %$", out, re.M)
    assert re.search(rf"^all +{len(list(tiny_cells()))} ", out, re.M)
    assert "Not timed" not in out
    assert out.endswith(f"Results: {written}\nPicture: {picture}\n")
    loaded = Results.load(written)
    assert [measured.cell for measured in loaded.cells] == list(tiny_cells())
    assert (loaded.suite, loaded.threads, list(loaded.peers)) == ("tiny", 1, ["numpy"])
    assert loaded.machine["fastbn"] == fastbn.__version__
    for measured in loaded.cells:
        assert {t.contender for t in measured.timings} == {"copy", "fastbn", "numpy"}
        assert all(t.rounds >= 2 for t in measured.timings)
    png = picture.read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(png) > 20_000  # a blank picture has some 5 kB


@pytest.mark.full
def test_only_rounds_and_peers(tiny, tmp_path):
    written = tmp_path / "results.json"
    only = ["--only", "group NORM, back.*last", "--rounds", "3", "--json", str(written)]
    assert main([*tiny, *only]) == 0
    (measured,) = Results.load(written).cells
    assert measured.cell == Cell(_cells.GROUP, BACKWARD, (3, 5, 7, 8), LAST, groups=4)
    assert {t.rounds for t in measured.timings} == {3}


@pytest.mark.full
def test_a_peer_that_is_not_installed_is_named(tiny, monkeypatch, capsys):
    monkeypatch.setattr(_peers.OnnxRuntime, "modules", ("onnx_that_nobody_has",))
    assert main([*tiny[:-1], "numpy,onnxruntime", "--only", "RMS"]) == 0
    assert "ONNX Runtime is left out: onnx_that_nobody_has not installed\n" in capsys.readouterr().out


@pytest.mark.full
def test_failing_and_wrong_peers_are_rows(tiny, monkeypatch, capsys):
    calls = _peers.NumPy.calls

    def broken(self, p):
        if p.cell.axis == LAST:
            raise RuntimeError("no such luck\nand more")
        return {form: lambda call=call: (call()[0] + 1, *call()[1:]) for form, call in calls(self, p).items()}

    monkeypatch.setattr(_peers.NumPy, "calls", broken)
    assert main([*tiny, "--only", "layer norm, forward"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^3x\S+ +(first|last) +3 kB +[\d.]+ +failed +- +\d+ %$", out, re.M)) == 2
    told = " ".join(out.partition("Not timed")[2].split())
    assert "NumPy (new), layer norm, forward, 3x8x5x7, channels first: wrong by" in told
    assert "NumPy, layer norm, forward, 3x5x7x8, channels last: RuntimeError: no such luck" in told
    assert "and more" not in told


@pytest.mark.full
@pytest.mark.parametrize("factor", [1.001, np.nan])
def test_a_wrong_fastbn_is_a_row_and_exit_1(tiny, monkeypatch, capsys, factor):
    right = fastbn.layer_norm
    monkeypatch.setattr(fastbn, "layer_norm", lambda *args, **kwargs: right(*args, **kwargs) * np.float32(factor))
    assert main([*tiny, "--only", "layer norm, forward"]) == 1
    assert "fastbn (out), layer norm, forward" in capsys.readouterr().out


def test_interrupt_is_one_line_and_130(tiny, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_session, "measure", interrupted)
    assert main(tiny) == 130
    assert capsys.readouterr().err == "fastbn bench: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--suite", "huge"], "no suite 'huge'; the suites are quick, networks, program, small, tiny"),
        (["--peers", "numpy,abacus"], "no peer 'abacus'; the peers are numpy, torch, torch.compile"),
        (["--between", "matmul+nap"], "--between matmul+nap: no work 'nap'; expected none, or some of matmul+copy"),
        (["--only", "no such operation"], "'no such operation' is found in no cell"),
        (["--only", "(batch"], "'(batch' is not a regular expression: missing )"),
        (["--threads", "100000"], "--threads 100000: Numba has at most"),
        (["--json", "absent/results.json"], "cannot write absent/results.json: No such file or directory"),
        (["--png", "absent/picture.png"], "cannot write absent/picture.png: No such file or directory"),
        (["--png", "picture.pdf"], "must end in .png"),
        (["--compare", "absent.json", "absent.json"], "cannot read absent.json: No such file or directory"),
        (["--compare", "truncated.json", "other.json"], "truncated.json is not JSON: "),
        (["--compare", "other.json", "other.json"], "other.json is not a file that this version of fastbn bench wrote"),
        (["--compare", "list.json", "list.json"], "list.json is not a file that this version of fastbn bench wrote"),
        (["--compare", "folder", "folder"], "cannot read folder: Is a directory"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(tiny, arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("truncated.json").write_text('{"format": 1, "cells": [')
    Path("other.json").write_text('{"name": "other"}')
    Path("list.json").write_text("[1, 2]")
    assert main([*tiny, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastbn bench: ")
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--seconds", "0"], ["--seconds", "nan"], ["--threads", "x"]])
def test_wrong_numbers_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(("missing", "arguments"), [("rich", []), ("matplotlib", ["--png", "x.png"])])
def test_missing_extra_says_what_to_install(missing, arguments, tmp_path):
    code = f"import sys; sys.modules[{missing!r}] = None; from fastbn.cli import main; sys.exit(main())"
    done = python(code, "bench", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'fastbn bench: {missing} not installed; run: pip install "fastbn[bench]"\n'


# contenders -----------------------------------------------------------------------------------------------------------


EVERYONE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from test_bench import SUITES, Suite, tiny_cells
from fastbn.cli import main
SUITES["tiny"] = Suite(tiny_cells, seconds=1)
sys.exit(main())
"""


@pytest.mark.full
def test_everyone_installed_gives_the_right_answer(tmp_path):
    """In a process of its own: these libraries start threads, and some object to forks from then on."""
    arguments = ["bench", "--suite", "tiny", "--peers", ",".join(INSTALLED), "--rounds", "1", "--json", "results.json"]
    done = python(EVERYONE, str(Path(__file__).parent), *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(re.match(r"\d+ of \d+, about ", line) for line in done.stderr.splitlines())  # of the time left
    cells = Results.load(tmp_path / "results.json").cells
    assert [failure for measured in cells for failure in measured.failures] == []
    for measured in cells:
        forms = {(t.contender, t.form) for t in measured.timings}
        assert {("copy", "streaming"), ("fastbn", "new"), ("fastbn", "out"), ("numpy", "new")} <= forms
    assert {t.contender for measured in cells for t in measured.timings} == {"copy", "fastbn", *INSTALLED}


def test_layer_objects_are_timed_on_small_arrays():
    forms = [list(_peers.FastBN(1).calls(Problem(Cell(_cells.LAYER, FORWARD, (rows, 512), LAST)))) for rows in (64, 65)]
    assert forms == [["new", "out", "layer"], ["new", "out"]]


@pytest.mark.parametrize("size", [1, 15, 16, 17, 16384, 16385, 50_001])
@pytest.mark.parametrize("offset", [0, 1])
def test_copies_copy(size, offset):
    source = np.arange(size + 2, dtype=np.float32)[1:-1]
    for form, call in copies(
        source, (target := np.full(size + 2 * offset, -1, np.float32))[offset : size + offset]
    ).items():
        target[:] = -1
        call()
        np.testing.assert_array_equal(target[offset : size + offset], source, form)
        np.testing.assert_array_equal(np.delete(target, np.s_[offset : size + offset]), -1, form)


def test_worst_error_is_of_the_worst_output():
    expected = [np.array([1.0, -4.0]), np.array([1.0, 2.0])]
    assert worst_error([expected[0], expected[1] + [0, 0.5]], expected) == 0.25
    assert np.isnan(worst_error([expected[0] * np.nan, expected[1]], expected))


# suites ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUITES)
def test_cells_of_a_suite_differ_and_fit_in_memory(name):
    cells = list(SUITES[name].cells())
    assert len({cell.key for cell in cells}) == len(cells)
    assert max(cell.nbytes for cell in cells) <= 210e6
    for cell in cells:
        assert cell.channels % (cell.groups or 1) == 0


def test_networks_has_everything_in_both_orders():
    cells = list(SUITES["networks"].cells())
    images = [c for c in cells if len(c.shape) == 4]
    for operation in OPERATIONS[:-1]:  # RMS norm is not used on images
        for direction in (FORWARD,) if operation == _cells.INFERENCE else (FORWARD, BACKWARD):
            axes = {c.axis for c in images if (c.operation, c.direction) == (operation, direction)}
            assert axes == {FIRST, LAST}
    assert {1, 64} <= {c.shape[0] for c in images}
    planes = {c.shape[2] for c in images if c.axis == FIRST}
    assert {1, 7, 14, 28, 56, 112} <= planes
    assert all(c.source for c in cells)


def test_program_has_every_operation_in_both_orders_at_small_batches():
    cells = list(SUITES["program"].cells())
    assert {c.shape[0] for c in cells} == {1, 8, 16}
    assert {c.operation for c in cells} == set(OPERATIONS)
    for residual in (False, True):
        fused = {(c.direction, c.axis) for c in cells if c.activation and c.residual == residual}
        assert fused == {(direction, axis) for direction in (FORWARD, BACKWARD) for axis in (FIRST, LAST)}
    assert {c.axis for c in cells if len(c.shape) == 4 and c.operation == _cells.GROUP} == {FIRST, LAST}
    assert all(c.source for c in cells)


def test_small_has_the_calls_that_matter_and_spans_the_sizes():
    cells = list(SUITES["small"].cells())
    shapes = {(c.operation, c.shape) for c in cells}
    assert {("layer norm", (1, 768)), ("layer norm", (2, 8))} <= shapes
    assert {(_cells.INFERENCE, (1, 512, 7, 7)), (_cells.INFERENCE, (8, 16, 8, 8))} <= shapes
    for operation in (_cells.LAYER, TRAINING):
        sizes = [c.nbytes for c in cells if c.operation == operation]
        assert min(sizes) <= 1024
        assert max(sizes) > 200e6


def test_quick_takes_about_a_minute():
    suite = SUITES["quick"]
    assert 8 <= len(list(suite.cells())) <= 12
    assert suite.seconds * len(list(suite.cells())) <= 45


# results --------------------------------------------------------------------------------------------------------------


def test_results_survive_json(tmp_path):
    failed = replace(cell_with(shape=(9, 4), axis=LAST, operation="group norm", groups=2, source="Net, layer"))
    failed.failures.append(Failure("torch", "out", "wrong by 1.0e+00 of the largest value"))
    saved = results(cell_with(), failed)
    saved.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == saved


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.update(format=99),
        lambda record: record.pop("threads"),
        lambda record: record.update(cells=[{}]),
        lambda record: record["cells"][0]["cell"].update(operation="long division"),
        lambda record: record["cells"][0]["timings"][0].update(median="fast"),
        lambda record: record["cells"][0]["timings"][0].update(median=-1),
        lambda record: record["cells"][0]["timings"][0].update(quartiles=[]),
        lambda record: record.update(machine="abacus"),
    ],
)
def test_damaged_results_are_refused(damage, tmp_path, capsys):
    path = tmp_path / "results.json"
    results(cell_with()).save(path)
    record = json.loads(path.read_text())
    damage(record)
    path.write_text(json.dumps(record))
    assert main(["bench", "--compare", str(path), str(path)]) == 2
    assert capsys.readouterr().err.endswith(" is not a file that this version of fastbn bench wrote\n")


def test_ratios():
    measured = cell_with(fastbn=1e-3, numpy=2e-3, copy=6e-4, direction=BACKWARD)
    measured.timings.append(timing("fastbn", 2e-3, form="out"))
    measured.timings.append(timing("fastbn", 1e-4, form="layer"))
    assert measured.speedup(measured.best_peer) == pytest.approx(2)
    assert measured.fraction_of_copy == pytest.approx(1.5 * 0.6)
    assert measured.price_of_new == pytest.approx(0.5)
    assert measured.bandwidth(timing("fastbn", 1e-3)) == pytest.approx(3 * 4 * prod((2, 3, 4, 4)) / 1e-3)


def report(capsys, shown):
    from fastbn.cli.bench import _report

    _report.show(shown)
    return " ".join(capsys.readouterr().out.split())


def test_a_winning_peer_is_told(capsys):
    lost, close = cell_with(fastbn=1e-3, numpy=4e-4), cell_with(fastbn=1e-3, numpy=9.5e-4, shape=(5, 3))
    out = report(capsys, results(lost, close, cell_with(shape=(7, 3))))
    assert "A peer is faster in 2 of 3 cells:" in out
    assert "2x3x4x4, channels first: NumPy 0.400 ms, fastbn 1.00 ms batch" in out
    assert "5x3, channels first: NumPy 0.950 ms, fastbn 1.00 ms; their quartiles overlap, so it may be noise" in out
    assert "JAX is left out: jax not installed" in out


def test_no_winning_peer_is_told_too(capsys):
    cell = cell_with()
    cell.timings.append(timing("torch", 3e-3))
    out = report(capsys, results(cell))
    assert "No peer is faster, in 1 cell." in out
    assert "only peer" not in out


def test_numpy_alone_is_no_great_rival(capsys):
    out = report(capsys, results(cell_with()))
    assert "NumPy is the only peer" in out
    assert "No peer is faster" not in out


def test_more_than_the_limit_is_explained(capsys):
    assert "More than 100 % of the limit" not in report(capsys, results(cell_with()))
    assert "More than 100 % of the limit" in report(capsys, results(cell_with(copy=2e-3)))


def test_work_between_calls_is_told(capsys):
    assert "after other work" not in report(capsys, results(cell_with()))
    assert "Every call comes after other work, as in a program: a copy of 64 MB." in report(
        capsys, results(cell_with(), between="copy")
    )


@pytest.mark.full
def test_one_call_after_other_work(tiny, tmp_path):
    """Every timed call has the work before it, and returns a new array where the library makes one."""
    written = tmp_path / "results.json"
    assert main([*tiny, "--between", "copy", "--only", "layer norm, forward.*last", "--json", str(written)]) == 0
    loaded = Results.load(written)
    assert loaded.between == "copy"
    forms = {(t.contender, t.form, t.calls) for t in loaded.cells[0].timings}
    assert {form for form in forms if form[0] != "copy"} == {("fastbn", "new", 1), ("numpy", "new", 1)}


def test_work_is_done_before_every_call():
    from fastbn.cli.bench import _between

    seen = []
    runner = _timing._Runner("a", "new", lambda: seen.append("call"), lambda: seen.append("work"))
    del seen[:]
    runner.take_turn()
    assert seen == ["work", "call"] * (_timing.CALLS_BETWEEN + 1)
    assert _between.make("none", 1) is None
    _between.make("matmul+copy", 1)()


def test_everyone_is_first_in_turn():
    rng = np.random.default_rng(0)
    orders = [_timing._order(4, turn, rng) for turn in range(8)]
    assert [order[0] for order in orders] == [0, 1, 2, 3] * 2
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len({tuple(order) for order in orders}) > 4  # and who follows whom changes


def test_without_peers_nobody_wins(capsys):
    alone = cell_with()
    alone.timings.pop()
    out = report(capsys, results(alone))
    assert "peer is faster" not in out
    assert "2x3x4x4 first 384 B 1.00 - 80 %" in out


def test_pictures_of_little(tmp_path):
    from fastbn.cli.bench._plot import plot

    nothing = Measured(cell_with().cell, [], [Failure("numpy", "", "no such luck")])
    for shown in (results(cell_with()), results(nothing)):
        plot(shown, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "picture.png").unlink()


def compared(capsys, tmp_path, a, b):
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    for path, made in zip(paths, (a, b), strict=True):
        made.save(path)
    assert main(["bench", "--compare", *map(str, paths)]) == 0
    return capsys.readouterr().out


def test_compare_tells_changes_from_noise(capsys, tmp_path):
    shapes = [(2, 3), (4, 3), (6, 3), (8, 3)]
    a = results(*(cell_with(fastbn=1e-3, shape=shape) for shape in shapes))
    b = results(*(cell_with(fastbn=t, shape=shape) for t, shape in zip((5e-4, 2e-3, 1.1e-3), shapes, strict=False)))
    out = compared(capsys, tmp_path, a, replace(b, threads=1))
    assert re.search(r", 2x3 first +1\.00 +0\.500 +2\.00 +2\.00 +B is faster *$", out, re.M)
    assert re.search(r", 4x3 first +1\.00 +2\.00 +0\.50 +0\.50 +B is slower *$", out, re.M)
    assert re.search(r", 6x3 first +1\.00 +1\.10 +0\.91 +0\.91 +quartiles overlap$", out, re.M)
    assert "8x3" not in out
    words = " ".join(out.split())
    assert "abacus, 2 threads" in words
    assert "abacus, 1 thread" in words
    assert "geometric means of 3 cells; in one file only: 1" in words
    assert "Noise: " in words


def test_compare_in_copies_forgives_a_slow_machine(capsys, tmp_path):
    slow = cell_with(fastbn=2e-3, copy=16e-4)
    assert re.search(r" 0\.50 +1\.00 +B is slower", compared(capsys, tmp_path, results(cell_with()), results(slow)))


def test_compare_of_nothing_in_common(capsys, tmp_path):
    assert "No cell is in both files." in compared(capsys, tmp_path, results(cell_with()), results())


# the table in README --------------------------------------------------------------------------------------------------


@pytest.fixture
def render():
    spec = importlib.util.spec_from_file_location("render_table", ROOT / "benchmarks" / "render_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_is_rendered_between_the_marks_and_checked(render, tmp_path, capsys):
    path, page = tmp_path / "results.json", tmp_path / "page.md"
    results(cell_with()).save(path)
    page.write_text(f"above\n{render.marks('loop')[0]}\nold\n{render.marks('loop')[1]}\nbelow\n")
    arguments = [str(path), "--page", str(page)]
    assert render.main([*arguments, "--check"]) == 1
    assert "page.md has another table than results.json" in capsys.readouterr().err
    assert render.main(arguments) == 0
    assert render.main([*arguments, "--check"]) == 0
    text = page.read_text()
    assert text.startswith(f"above\n{render.marks('loop')[0]}\n| times as fast as |")
    assert text.endswith(f".\n{render.marks('loop')[1]}\nbelow\n")
    assert "\n| batch norm, training, forward | first | 1 | 2.00 | 2.00 | 2.00 | - |\n" in text
    assert "old" not in text
    assert "`fastbn bench --suite tiny`, 2026-01-02: abacus, 2 threads, fastbn 1.2.3, numpy 2.0." in text


def test_tables_have_marks_of_their_own(render, tmp_path):
    path, page = tmp_path / "results.json", tmp_path / "page.md"
    cell = cell_with()
    cell.timings.append(timing("torch", 3e-3))
    results(cell, between="copy").save(path)
    first, last = render.marks("program")
    page.write_text(f"{render.marks('loop')[0]}\nkept\n{render.marks('loop')[1]}\n{first}\nold\n{last}\n")
    arguments = [str(path), "--page", str(page), "--marks", "program"]
    assert render.main(arguments) == 0
    text = page.read_text()
    assert text.startswith(f"{render.marks('loop')[0]}\nkept\n{render.marks('loop')[1]}\n{first}\n| times as fast as |")
    assert "Every call comes after other work: a copy of 64 MB." in text
    assert render.main([*arguments, "--line"]) == 0
    told = "One call after other work, as in a program: 2.00 times as fast as the best peer of each cell, 3.00 times "
    assert told in page.read_text()


def test_rendering_what_cannot_be_rendered_is_one_line_and_exit_2(render, tmp_path, capsys):
    path, page = tmp_path / "results.json", tmp_path / "page.md"
    page.write_text("no marks")
    for told in ("cannot read", "expected <!-- loop: begin -->"):
        assert render.main([str(path), "--page", str(page)]) == 2
        err = capsys.readouterr().err
        assert told in err
        assert err.count("\n") == 1
        results(cell_with()).save(path)
