"""What a process keeps of a kernel that it compiled: little more than native code."""

import sys

import pytest
from processes import python

PROGRAM = """
    import ctypes, gc
    import fastbn

    def resident():
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return int(open("/proc/self/statm").read().split()[1]) * 4096

    fastbn.warmup(ops=["layer_norm"], dtypes=["float32"])  # and get the compiler ready
    before = resident()
    kernels = fastbn.warmup(ops=["layer_norm"], dtypes=["float64"]).compiled
    each = (resident() - before) / kernels
    print("few" if kernels > 5 and each < 5e6 else (kernels, each))
"""


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc gives back all that is free")
def test_a_compiled_kernel_takes_few_megabytes(tmp_path):
    assert python(PROGRAM, NUMBA_CACHE_DIR=tmp_path) == ("few\n", "")
