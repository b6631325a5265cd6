"""Trained weights from the files of other systems, read without these systems.

>>> import fastbn.files
>>> help(fastbn.files.read)  # doctest: +SKIP
"""

from fastbn.files._file import File, read
from fastbn.files._save import write

__all__ = ["File", "read", "write"]
