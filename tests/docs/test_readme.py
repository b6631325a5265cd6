"""The README and docs/ as a reader takes them: the examples run, the links lead somewhere, the names exist."""

import inspect
import re
from pathlib import Path

import pytest

import fastbn

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")))


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def run_examples(page):
    """Run the page's Python blocks in order, as one program; return its variables."""
    variables = {}
    for block in re.finditer(r"^```python\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL):
        first_line = read(page)[: block.start(1)].count("\n")
        exec(compile("\n" * first_line + block[1], page, "exec"), variables)  # padded: errors name the page's own lines
    return variables


def marks(page):
    """Examples take long to compile; a page says which packages its own need: <!-- needs: torch -->"""
    needed = re.search(r"^<!-- needs: (.*) -->$", read(page), re.MULTILINE)
    systems = [pytest.mark.system(name) for name in (needed[1].split(", ") if needed else ())]
    return [pytest.mark.example, pytest.mark.full, *systems]


@pytest.mark.parametrize("page", [pytest.param(page, marks=marks(page)) for page in PAGES])
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(page)


@pytest.mark.example
@pytest.mark.full
def test_example_network_learns():
    assert run_examples("docs/start.md")["accuracy"] > 0.95


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#:]+)[^)]*\)", read(page))
    assert [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()] == []


def test_commands_stand_near_the_top():
    top = read("README.md").splitlines()[:15]
    assert '    pip install ".[demo]" && fastbn demo' in top
    assert '    pip install -e ".[test]" && pytest' in top


def test_named_operations_exist():
    table = re.findall(r"^\| `(\w+)\(([^)]*)\)` \|", read("README.md"), re.MULTILINE)
    assert len(table) == 5
    for name, arguments in table:
        parameters = inspect.signature(getattr(fastbn, name)).parameters
        assert set(arguments.split(", ")) <= set(parameters)
        assert hasattr(fastbn, f"{name}_forward")
        assert hasattr(fastbn, f"{name}_backward")


def test_readme_is_short():
    assert len(read("README.md").splitlines()) < 120
