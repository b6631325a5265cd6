"""The pages as a site: each is in the index, and nothing of the reference is forgotten."""

import re
from pathlib import Path

import fastbn

DOCS = Path(__file__).parents[2] / "docs"


def test_every_page_is_in_the_index():
    entries = "\n".join(re.findall(r"^```\{toctree\}\n(.*?)^```$", (DOCS / "index.md").read_text(), re.M | re.S))
    pages = {page.stem for page in DOCS.glob("*.md")} - {"README", "index"}
    assert sorted(pages - set(entries.split())) == []


def test_every_public_name_is_in_the_reference():
    written = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    named = set(re.findall(r"auto(?:function|class):: (?:fastbn\.)?([\w.]+)", written))
    assert sorted(set(fastbn.__all__) - named) == []
