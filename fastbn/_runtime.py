"""Threads: how many a call may use."""

import numba

_SERIAL_BYTES = 1 << 19  # of x: below it, starting threads costs more than they save


def threads_for(nbytes):
    """How many threads a call over an array of so many bytes uses."""
    return 1 if nbytes < _SERIAL_BYTES else numba.get_num_threads()
