"""docs/features.md: every yes of fastbn names tests that are there, and the rest of its cells say no."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "features.md").read_text(encoding="utf-8")
HEADER = ["feature", "fastbn", "PyTorch", "Keras", "Flax", "oneDNN", "ONNX Runtime"]
NODE = r"`(\w+\.py)::(\w+)`"


def rows():
    """The cells of all tables, without headers and rules."""
    lines = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return [row for row in cells if row != HEADER and set("".join(row)) != {"-"}]


@cache
def defined_in(file):
    [path] = TESTS.rglob(file)  # the names of test files are their own, whatever folder they lie in
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_is_complete(row):
    assert len(row) == len(HEADER)
    assert all(row)
    assert re.fullmatch(rf"no|yes: {NODE}(, {NODE})*", row[1])


def test_every_named_test_exists():
    named = re.findall(NODE, PAGE)
    assert len(named) > len(rows())
    assert [f"{file}::{test}" for file, test in named if test not in defined_in(file)] == []


def test_no_feature_is_named_twice():
    features = [row[0] for row in rows()]
    assert len(set(features)) == len(features)
