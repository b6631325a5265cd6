"""What ``fastbn demo`` shows at its end: every line runs, and fits on one screen."""

import re

import pytest

from fastbn.cli import _news


def test_it_fits_on_one_screen():
    items = _news.news()
    assert len(items) <= 15
    assert all(len(item.what) <= 25 and len(item.how) <= 27 for item in items)


@pytest.mark.full
def test_every_line_is_run(monkeypatch):
    monkeypatch.setattr(_news, "REPEATS", 1)
    seen = {item.what: item.show() for item in _news.news()}
    assert all(0 < len(text) <= 25 for text in seen.values())
    assert float(re.fullmatch(r"as without it, to (\S+)", seen["padding does not count"])[1]) < 1e-5
    assert seen["statistics that merge"] == "parts = whole, to the bit"
    assert float(re.fullmatch(r"folded, exact to (\S+)", seen["files of any system"])[1]) < 1e-12
    assert 20 < int(re.match(r"(\d+)%", seen["watching layers train"])[1]) < 80
