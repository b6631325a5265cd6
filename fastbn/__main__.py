"""``python -m fastbn``: the same as the ``fastbn`` command."""

import sys

from fastbn.cli import main

if __name__ == "__main__":
    sys.exit(main())
