#!/usr/bin/env bash
# numba 0.68.1.  A function compiled with nogil=True and parallel=True takes Python's lock before every parallel region, and again
# after it, though nothing in there needs it: it stands still while another thread holds the lock.  Without parallel=True it
# goes on, which was expected of both.  (With many threads that call at once, that is three fights for the lock a call.)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install numba==0.68.1 numpy==2.4.6
expect 'serial: written while the lock was held
parallel: written after that' <<'PY'
import sys
import threading
import time

import numpy as np
from numba import njit, prange


def work(steps, marks):
    s = 1.0
    for _ in range(steps):
        s = s * 1.0000001 + 1e-9
    for i in prange(marks.size):
        marks[i] = s
    return s


def seen(function):
    function(10, np.zeros(64))
    begin = time.perf_counter()
    function(10**8, np.zeros(64))
    steps = int(10**8 * 0.5 / (time.perf_counter() - begin))  # half a second
    marks = np.zeros(64)
    thread = threading.Thread(target=function, args=(steps, marks))
    thread.start()
    time.sleep(0.1)  # until it has let go of the lock, and counts
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    begin = time.perf_counter()
    while time.perf_counter() < begin + 3:  # holds the lock
        pass
    meanwhile = bool(marks.all())
    sys.setswitchinterval(interval)
    thread.join()
    return "written while the lock was held" if meanwhile else "written after that" if marks.all() else "lost"


print("serial:", seen(njit(nogil=True)(work)))
print("parallel:", seen(njit(nogil=True, parallel=True)(work)))
PY
