"""A new process: the import, and the first result with a full and with an empty cache of compiled code."""

from .common import random_array

FIRST_RESULT = """
import numpy, fastbn
fastbn.layer_norm(numpy.arange(8, dtype="float32").reshape(2, 4), 4)
"""

EMPTY_CACHE = """
import os, tempfile
folder = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = folder.name
"""


class Start:
    number = 1
    repeat = 5

    def timeraw_import_numba(self):
        return "import numba"

    def timeraw_import(self):
        return "import fastbn"

    def timeraw_first_result_from_cache(self):
        return FIRST_RESULT

    def timeraw_first_result_compiled(self):
        return FIRST_RESULT, EMPTY_CACHE


def peakmem_first_result():
    import fastbn

    fastbn.layer_norm(random_array((2, 4)), 4)
