"""``fastbn bench --suite torch``, on the smallest cells, and its table on a narrow terminal."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fastbn.cli import main
from fastbn.cli._errors import CommandError
from fastbn.cli.bench import _torch_networks, _torch_report, _torch_steps
from fastbn.cli.bench._torch_results import Cell, Timed, TorchResults

ROOT = Path(__file__).parents[3]
CELL = Cell("ConvNeXt-Tiny", (16, 3, 224, 224), "channels last", True)


def measured(training, compiled=True):
    """Figures as they may come."""
    names = ["torch", "fastbn", "bare", *(["torch.compile"] if compiled else [])]
    seconds = dict(zip(names, ([1.2345, 1.2] * 15, [1.1, 1.15] * 15, [0.9, 0.92] * 15, [1.0] * 30), strict=False))
    peak = {"torch": 100, "fastbn": 97} if training else {}
    return Timed(replace(CELL, training=training), seconds, peak, (53, 53))


def timed(times, network="ResNet-50", training=True, peak=(100, 97)):
    """A cell whose contenders took so long in every two rounds."""
    seconds = {name: list(values) * 15 for name, values in zip(("torch", "fastbn", "bare"), times, strict=True)}
    peaks = dict(zip(("torch", "fastbn"), peak, strict=True)) if training else {}
    return Timed(Cell(network, (8, 3, 128, 128), "contiguous", training), seconds, peaks)


def results(*cells, **fields):
    machine = {"cpu": "abacus", "fastbn": "1.2.3"}
    return TorchResults(**({"date": "2026-01-02T03:04:05", "threads": 2, "torch": "2.13", "machine": machine} | fields
                           | {"cells": list(cells)}))  # fmt: skip


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_the_table_is_whole_at_80_columns(training):
    console = Console(width=80, record=True, color_system=None)
    console.print(_torch_report.table_of([measured(training)]))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for part in ("ConvNeXt-Tiny", "16 at 224", "channels last", "torch", "fastbn", "bare", "compile", "1217", "1125"):
        assert part in text, (part, text)
    assert re.search(r"1\.08\b", text)
    assert (("0.97" in text) and ("gained" in text)) is training
    assert ("53 of 53" in text) is not training
    assert any(said in text for said in ("reached", "missed", "not judged"))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (timed([(1.2, 1.21), (1.0, 1.01), (0.8, 0.81)]), {"gained": "reached", "speed-up": "reached"}),
        (timed([(1.2, 1.21), (1.1, 1.11), (0.8, 0.81)]), {"gained": "missed", "speed-up": "missed"}),
        (timed([(1.2, 1.21), (1.1, 1.11), (0.9, 0.91)], "ConvNeXt-Tiny"), {"gained": "reached"}),
        (timed([(1.2, 2.0), (1.1, 1.9), (1.0, 1.9)]), {"gained": "not judged", "speed-up": "not judged"}),
        (timed([(1.2, 1.21), (1.0, 1.01), (0.8, 0.81)], peak=(100, 101)), {"memory": "missed"}),
        (timed([(1.2, 1.21), (1.2, 1.21), (0.8, 0.81)], training=False), {"speed-up": "reached"}),
        (timed([(1.2, 1.3), (1.21, 1.3), (0.8, 0.81)], training=False), {"speed-up": "level"}),
        (timed([(1.2, 1.21), (1.22, 1.23), (0.8, 0.81)], training=False), {"speed-up": "missed"}),
    ],
)
def test_what_is_said_of_a_cell(cell, said):
    expected = ({"memory": "reached", "gained": "reached", "speed-up": "reached"} if cell.cell.training else {}) | said
    if "speed-up" not in said and cell.cell.network == "ConvNeXt-Tiny":
        del expected["speed-up"]
    assert cell.verdicts() == expected


@pytest.fixture
def small(monkeypatch):
    """Networks of a block, and no process for their memory."""
    networks = {"ResNet-50": lambda bare=False: _torch_networks.ResNet((1,), 8, 5, bare)}
    for name, network in networks.items():
        monkeypatch.setitem(_torch_networks.NETWORKS, name, (network, ((2, 3, 32, 32),)))
    monkeypatch.setattr(_torch_steps, "peaks", lambda cell, threads: {"torch": 1, "fastbn": 1})


def test_from_the_command_line_to_the_files(tmp_path, small, capsys):
    files = tmp_path / "cells.json", tmp_path / "cells.png"
    arguments = ["--only", "^ResNet-50", "--rounds", "4", "--peers", "torch", "--json", str(files[0])]
    assert main(["bench", "--suite", "torch", *arguments, "--png", str(files[1])]) in (0, 1)
    out = capsys.readouterr().out
    assert "Training steps, in milliseconds" in out
    assert "Inference, in milliseconds" in out
    content = json.loads(files[0].read_text())
    assert content["suite"] == "torch"
    assert len(content["cells"]) == 6  # a shape, and two batches, in two layouts
    for cell in content["cells"]:
        assert set(cell["seconds"]) == {"torch", "fastbn", "bare"}
        assert all(len(times) == 4 and min(times) > 0 for times in cell["seconds"].values())
        assert cell["norms"] == [0 if cell["cell"]["training"] else 5, 5]
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_cells_that_a_file_has_are_kept(tmp_path, small, capsys):
    path = tmp_path / "cells.json"
    command = ["bench", "--suite", "torch", "--rounds", "2", "--peers", "torch", "--json", str(path), "--resume"]
    for only, count in (("^ResNet-50.*contiguous, training", 1), ("^ResNet-50.*training", 2)):
        before = TorchResults.load(path).cells if path.exists() else []
        assert main([*command, "--only", only]) in (0, 1)
        after = TorchResults.load(path).cells
        assert len(after) == count
        assert all(cell in after for cell in before)
    assert "channels last" in capsys.readouterr().out
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"torch": "1.0"}))
    assert main([*command, "--only", "^ResNet-50"]) == 2
    assert "torch is" in capsys.readouterr().err
    assert main(["bench", "--suite", "quick", "--resume"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_files_of_several_runs_make_one_table(tmp_path):
    module = importlib.util.spec_from_file_location("render_table", ROOT / "benchmarks" / "render_table.py")
    render = importlib.util.module_from_spec(module)
    module.loader.exec_module(render)
    paths, page = [tmp_path / f"{k}.json" for k in range(2)], tmp_path / "page.md"
    results(timed([(1.2, 1.21), (1.1, 1.11), (0.8, 0.81)]), measured(False)).save(paths[0])
    results(timed([(1.2, 1.21), (1.0, 1.01), (0.8, 0.81)]), date="2026-02-03T04:05:06").save(paths[1])
    page.write_text("above\n" + "\n".join(render.marks("torch")) + "\nbelow\n")
    arguments = [*map(str, paths), "--page", str(page), "--marks", "torch"]
    assert render.main(arguments) == 0
    text = page.read_text()
    row = "| ResNet-50, 8 at 128, contiguous | 1205 | 1005 | 805 | 1.20 (1.20 to 1.20), reached | 0.50 "
    assert row in re.sub(r"\(1\.\d\d to 1\.\d\d\)", "(1.20 to 1.20)", text)
    assert "| ConvNeXt-Tiny, 16 at 224, channels last | 1217 | 1125 |" in text
    assert "2026-02-03: abacus, 2 threads, fastbn 1.2.3, torch 2.13" in text
    assert render.main([*arguments, "--check"]) == 0
    assert render.main([*arguments, "--line"]) == 0
    assert "training steps of ResNet-50 are 1.20 to 1.20 times as fast" in page.read_text()
    with pytest.raises(CommandError, match="threads is '2' in one run and '4' in another"):
        results().joined([results(threads=4)])
