"""What tests of the machine's limits share."""

import internals
import pytest

from fastbn.engine import threads


@pytest.fixture
def control_groups(monkeypatch, tmp_path):
    """Control groups as told: text by path, in the place of the machine's own."""

    def tell(files):
        for path, text in files.items():
            file = tmp_path / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.setattr(threads, "Path", lambda path: tmp_path / path.lstrip("/"))
        internals.read_the_machine_anew()

    return tell
