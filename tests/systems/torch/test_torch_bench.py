"""``fastbn bench --suite torch``, on the smallest cells, and its table on a narrow terminal."""

import json
import re

import pytest
from rich.console import Console

from fastbn.cli.bench import _torch_networks, _torch_steps
from fastbn.cli.bench._torch_steps import Cell, Timed


def measured(training, compiled=True):
    """Figures as they may come."""
    names = ["torch", "fastbn", "bare", *(["torch.compile"] if compiled else [])]
    seconds = dict(zip(names, ([1.2345, 1.2] * 15, [1.1, 1.15] * 15, [0.9, 0.92] * 15, [1.0] * 30), strict=False))
    cell = Cell("ConvNeXt-Tiny", (16, 3, 224, 224), "channels last", training)
    return Timed(cell, seconds, {"torch": 100, "fastbn": 97} if training else {})


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_the_table_is_whole_at_80_columns(training):
    console = Console(width=80, record=True, color_system=None)
    console.print(_torch_steps.table_of([measured(training)]))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for part in ("ConvNeXt-Tiny", "16 at 224", "channels last", "torch", "fastbn", "bare", "compile", "1217", "1125"):
        assert part in text, (part, text)
    assert re.search(r"1\.08\b", text)
    assert (("0.97" in text) and ("gained" in text)) is training
    assert any(said in text for said in ("reached", "missed", "not judged"))


def test_from_the_command_line_to_the_files(tmp_path, monkeypatch, capsys):
    from fastbn.cli import main

    small = lambda bare=False: _torch_networks.ResNet((1,), 8, 5, bare)  # noqa: E731
    monkeypatch.setitem(_torch_networks.NETWORKS, "ResNet-50", (small, ((2, 3, 32, 32),)))
    monkeypatch.setattr(_torch_steps, "peaks", lambda cell, threads: {"torch": 1, "fastbn": 1})  # another process's
    files = tmp_path / "cells.json", tmp_path / "cells.png"
    arguments = ["--only", "^ResNet-50", "--rounds", "4", "--json", str(files[0]), "--png", str(files[1])]
    assert main(["bench", "--suite", "torch", *arguments]) in (0, 1)
    out = capsys.readouterr().out
    assert "Training steps, in milliseconds" in out
    assert "Inference, in milliseconds" in out
    content = json.loads(files[0].read_text())
    assert content["suite"] == "torch"
    assert len(content["cells"]) == 6  # a shape, and two batches, in two layouts
    for cell in content["cells"]:
        assert set(cell["seconds"]) == {"torch", "fastbn", "bare"}
        assert all(len(times) == 4 and min(times) > 0 for times in cell["seconds"].values())
    assert files[1].read_bytes().startswith(b"\x89PNG")
