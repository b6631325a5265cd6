"""The ``fastbn`` command, in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import fastbn

RUN = "import sys; from fastbn.cli import main; sys.exit(main())"


def without(*modules):
    """The command where `modules` are not installed."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules})); {RUN}"


def python(code, *args, **kwargs):
    """Run `code` in a process of its own that sees this very fastbn."""
    env = os.environ | {"PYTHONPATH": str(Path(fastbn.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, **kwargs)
