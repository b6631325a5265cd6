"""Trained weights from the files of other systems, read without these systems.

`read` opens a file of any of them, going by its content; a `File` gives its arrays, its normalizations as layers, and
its weights with the batch norms folded into them.  `write` writes arrays.  Nothing that a file holds is executed.
"""

from fastbn.files._file import File, read
from fastbn.files._save import write

__all__ = ["File", "read", "write"]
