"""Python's lock, which short kernels keep or hand on: everyone gets a turn, and nobody waits for what never comes."""

import re

import numba
import numpy as np
import pytest
from internals import driver, nothing_is_kept_of_what_is_compiled
from processes import python

THREADS = """
    import threading, time
    import numpy as np
    import fastbn

    rng = np.random.default_rng(0)
    small, large = rng.standard_normal((16, 768), np.float32), rng.standard_normal((256, 768), np.float32)
    for x in [small, large] * 50:  # compiles whatever they may need
        fastbn.layer_norm(x, 768)
    expected = {len(x): fastbn.layer_norm(x, 768) for x in (small, large)}

    def call(x, turns, stop):
        while not stop.is_set():
            y = fastbn.layer_norm(x, 768)
            turns.append(bool((y == expected[len(x)]).all()) if len(turns) % 50 == 0 else True)

    def sleep(turns, stop):
        while not stop.is_set():
            time.sleep(1e-3)
            turns.append(True)

    def count(turns, stop):  # never lets go of the lock by itself
        while not stop.is_set():
            turns.append(sum(range(10)) == 45)

    def together(*jobs, seconds=200):
        "Whether everyone has turns within that time, however slow the machine is, and all are right."
        stop, turns = threading.Event(), [[] for _ in jobs]
        threads = [threading.Thread(target=f, args=(*args, mine, stop)) for (f, *args), mine in zip(jobs, turns)]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        while not (done := all(len(mine) > 50 for mine in turns)) and time.monotonic() < begun + seconds:
            time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join()
        return done and all(map(all, turns))
"""


MANY = "*[(call, small)] * 4, *[(call, large)] * 4, (sleep,)"
FEW = [
    "(call, small), (sleep,)",
    "(call, small), (count,), (sleep,)",
    "(call, small), (call, small), (sleep,)",
    "(call, small), (call, small), (call, small), (sleep,), (count,)",
    "(call, small), (call, large), (sleep,)",
]


@pytest.mark.parametrize("jobs", [MANY, *(pytest.param(jobs, marks=pytest.mark.full) for jobs in FEW)])
def test_everyone_gets_turns(jobs):
    program = f"""
        print(together({jobs}))
        from internals import lock
        print(lock.waiting())
    """
    assert python(THREADS, program) == ("True\n(0, 0)\n", "")


@pytest.mark.full
def test_a_fork_while_threads_take_turns():
    program = """
        import os
        stop = threading.Event()
        for _ in range(4):
            threading.Thread(target=call, args=(small, [], stop), daemon=True).start()
        for _ in range(5):
            time.sleep(0.02)
            child = os.fork()
            if not child:
                for _ in range(200):
                    assert (fastbn.layer_norm(small, 768) == expected[16]).all()
                os._exit(0 if together(*[(call, small)] * 4, (sleep,)) else 1)
            print(os.waitpid(child, 0)[1])
        stop.set()
    """
    assert python(THREADS, program) == ("0\n" * 5, "")


@pytest.mark.full
def test_python_ends_while_threads_take_turns():
    program = """
        import atexit

        @atexit.register
        def late():
            for _ in range(2000):
                fastbn.layer_norm(small, 768)
            print("ended")

        for _ in range(6):
            threading.Thread(target=call, args=(small, [], threading.Event()), daemon=True).start()
        time.sleep(0.1)
    """
    assert python(THREADS, program) == ("ended\n", "")


def test_a_parallel_region_does_not_ask_for_it(monkeypatch):
    nothing_is_kept_of_what_is_compiled(monkeypatch)  # for it could not be inspected

    def double(x):
        for i in numba.prange(x.size):
            x[i] *= 2

    ours, numbas = driver(double).parallel, numba.njit(nogil=True, parallel=True)(double)
    for build, times in ((ours, {"PyEval_SaveThread": 0, "fastbn_hand_over": 2}), (numbas, {"PyEval_SaveThread": 2})):
        x = np.ones(4)
        build(x)
        assert x.tolist() == [2, 2, 2, 2]
        [code] = build.inspect_llvm().values()
        assert {name: len(re.findall(f"call .*@{name}", code)) for name in times} == times
