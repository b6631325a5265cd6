"""Threads, forks and other libraries: right answers, no abort, no deadlock, on every threading layer."""

import os
import re
import sys
import threading
from itertools import pairwise

import internals
import numba
import numpy as np
import pytest
from internals import config, pace, runs, threads
from processes import on_layer, python

import fastbn

LAYERS = ("omp", "tbb", "workqueue")

every_layer = pytest.mark.parametrize("layer", LAYERS)


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.mark.full
@every_layer
def test_eight_threads(layer):
    program = """
        import workload
        workload.check()  # on the main thread, which starts the threading layer
        print(workload.in_threads())
        print(workload.check())
        import numba
        print(numba.threading_layer())
    """
    assert python(program, **on_layer(layer)) == (f"right\nright\n{layer}\n", "")


@pytest.mark.full
@every_layer
def test_eight_threads_that_compile_at_once(layer, tmp_path):
    program = """
        import workload
        print(workload.in_threads(workload.check_rows, times=1))
        print(workload.check_rows())
    """
    assert python(program, NUMBA_CACHE_DIR=tmp_path, **on_layer(layer)) == ("right\nright\n", "")


@pytest.mark.full
@every_layer
def test_the_first_call_of_all_on_a_thread(layer):
    program = """
        import workload
        workload.in_threads(times=1)
        print(workload.check())
    """
    assert python(program, **on_layer(layer)) == ("right\n", "")


@pytest.mark.full
def test_workqueue_is_never_used_off_the_main_thread():
    """Another library's kernels run on it on the main thread all the while: two at once would abort the process."""
    program = """
        import threading
        import numba, numpy, workload

        @numba.njit(parallel=True)
        def other(x):
            for i in numba.prange(x.size):
                x[i] += 1

        x, done = numpy.zeros(1 << 20), threading.Event()
        other(x)
        errors = []

        def run():
            try:
                workload.in_threads(count=2, times=20)
            except BaseException as error:
                errors.append(error)
            done.set()

        workload.check()
        thread = threading.Thread(target=run)
        thread.start()
        count = 1
        while not done.is_set():
            other(x)
            count += 1
        thread.join()
        assert not errors, errors
        assert (x == count).all()
        print(numba.threading_layer(), count > 10)
    """
    assert python(program, **on_layer("workqueue")) == ("workqueue True\n", "")


@pytest.mark.full
@every_layer
def test_a_call_from_inside_another_parallel_region(layer):
    program = """
        import numba, numpy, workload
        from numba import objmode, prange

        workload.check()

        @numba.njit(parallel=True)
        def nest(n):
            right = numpy.zeros(n)
            for i in prange(n):
                with objmode(value="float64"):
                    value = float(workload.check() == "right")
                right[i] = value
            return right.sum()

        print(nest(4))
    """
    assert python(program, **on_layer(layer)) == ("4.0\n", "")


@pytest.mark.full
def test_a_layer_that_cannot_be_loaded_leaves_one_thread():
    program = """
        import fastbn, workload
        print(workload.check(), fastbn.get_num_threads())
        from fastbn.cli import main
        main(["info"])
    """
    out, err = python(program, NUMBA_THREADING_LAYER="tbb", LD_LIBRARY_PATH=None, FASTBN_NUM_THREADS=None)
    assert err == ""
    assert out.startswith("right 1\n")


@pytest.mark.full
def test_every_thread_goes_back_over_its_own_units():
    last_first = getattr(runs.last_first, "py_func", runs.last_first)
    for units in range(1, 40):
        for team in range(1, 10):
            order = [last_first(u, units, team) for u in range(units)]
            shares = [range(units * k // team, units * (k + 1) // team) for k in range(team)]
            if units % team == 0:
                assert order == [u for share in shares for u in reversed(share)]
            assert sorted(order) == list(range(units))
            assert sum(a < b for a, b in pairwise(order)) == min(units, team) - 1  # where another thread's begin


# Forks ----------------------------------------------------------------------------------------------------------------

FORK = """
    import os, sys, threading

    def in_child(work):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work()
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        return os.waitpid(pid, 0)[1]

    import workload
"""


@pytest.mark.full
@every_layer
def test_fork_after_use(layer):
    program = """
        workload.check()

        def child():
            workload.check()
            workload.in_threads(count=2, times=1)
            assert in_child(workload.check) == 0  # a grandchild

        print(in_child(child), workload.check())
    """
    assert python(FORK, program, **on_layer(layer)) == ("0 right\n", "")


@pytest.mark.full
@every_layer
def test_fork_from_another_thread(layer):
    program = """
        workload.check()
        statuses = []
        thread = threading.Thread(target=lambda: statuses.append(in_child(workload.check)))
        thread.start()
        while thread.is_alive():
            workload.check()  # so that the fork finds the team at work
        print(statuses, workload.check())
    """
    assert python(FORK, program, **on_layer(layer)) == ("[0] right\n", "")


@pytest.mark.full
def test_fork_while_another_thread_compiles(tmp_path):
    program = """
        import time, fastbn, numpy
        thread = threading.Thread(target=fastbn.group_norm, args=(numpy.ones((2, 4, 8), "float16"), 2))
        thread.start()
        time.sleep(0.3)  # into the compilation
        print(thread.is_alive(), in_child(lambda: fastbn.rms_norm(numpy.ones((2, 4), "float16"), 4)))
        thread.join()
    """
    assert python(FORK, program, NUMBA_CACHE_DIR=tmp_path) == ("True 0\n", "")


@pytest.mark.full
def test_a_numba_without_the_lock_that_forks_wait_for():
    without = """
        import numba.core.compiler_lock as module
        lock = module.global_compiler_lock
        del module.global_compiler_lock
        import fastbn
        module.global_compiler_lock = lock  # which Numba itself cannot do without
    """
    program = "import internals; print(internals.lock_of_compilation, workload.check(), in_child(workload.check))"
    assert python(without, FORK, program) == ("None right 0\n", "")


@pytest.mark.full
@pytest.mark.parametrize(
    ("method", "layer"),
    # the processes of the other two start anew, without a trace of what ran here before
    [*(("fork", layer) for layer in LAYERS), ("spawn", "omp"), ("forkserver", "omp")],
)
def test_pools(layer, method):
    program = f"""
        import multiprocessing, workload
        from concurrent.futures import ProcessPoolExecutor

        workload.check()
        context = multiprocessing.get_context("{method}")
        with context.Pool(2) as pool:
            print(*pool.map(workload.check, range(4)))
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            print(*pool.map(workload.check, range(2)))
        print(workload.check())
    """
    out, _ = python(program, **on_layer(layer))  # Python's own resource tracker may warn
    assert out == "right right right right\nright right\nright\n"


@pytest.mark.full
@every_layer
def test_a_server_that_loads_first_and_then_forks(layer):
    """What gunicorn does with --preload: workers of threads, and a new one in the place of one that died."""
    program = """
        import signal

        workload.check()

        def worker():
            workload.in_threads(count=2, times=2)

        def start(work):
            pid = os.fork()
            if pid == 0:
                try:
                    work()
                except BaseException:
                    os._exit(1)
                os._exit(0)
            return pid

        first, second = start(worker), start(signal.pause)
        os.kill(second, signal.SIGKILL)
        print(os.waitpid(first, 0)[1], os.waitpid(second, 0)[1] == signal.SIGKILL)
        print(os.waitpid(start(worker), 0)[1])
    """
    assert python(FORK, program, **on_layer(layer)) == ("0 True\n0\n", "")


# Other libraries ------------------------------------------------------------------------------------------------------

OTHERS = {
    "torch": """
        import torch
        other_x = torch.randn(1 << 20)
        def other():
            return float(torch.relu(other_x).sum())
    """,
    "jax": """
        import jax, jax.numpy
        other_x = jax.numpy.ones(1 << 20)
        def other():
            return float(jax.nn.relu(other_x).sum())
    """,
    "sklearn": """
        import numpy
        from sklearn.cluster import KMeans
        other_x = numpy.random.default_rng(0).random((2000, 4))
        def other():
            return float(KMeans(4, n_init=1, max_iter=5, random_state=0).fit(other_x).inertia_)
    """,
}


@pytest.mark.full
@pytest.mark.parametrize(
    "other", ["sklearn", *(pytest.param(name, marks=pytest.mark.system(name)) for name in ("torch", "jax"))]
)
@pytest.mark.parametrize("first", ["fastbn", "other"])
def test_beside_another_user_of_threads(other, first):
    """Calls by turns are right on both sides, and two threads do not always cost a multiple of one."""
    own = """
        import workload, fastbn

        print(workload.check())
    """
    use = """
        value = other()
        for _ in range(20):
            fastbn.batch_norm_forward(workload.LARGE)
            print(end="" if other() == value else "wrong")
        print(workload.check())
        print(workload.in_threads(count=2))

        import statistics, time
        import internals
        internals.pace.TEAM_BYTES = 1 << 28  # as it was before workload

        def median(threads):
            taken = []
            with fastbn.num_threads(threads):
                for _ in range(30):
                    other()
                    start = time.perf_counter()
                    fastbn.batch_norm_forward(workload.LARGE)
                    taken.append(time.perf_counter() - start)
            return statistics.median(taken)

        for _ in range(5):
            one, two = median(1), median(2)
            if two < 3 * one:
                break
        print("no collapse" if two < 3 * one else (one, two))
    """
    parts = (own, OTHERS[other]) if first == "fastbn" else (OTHERS[other], own)
    out, _ = python(*parts, use)  # sklearn and jax may warn of the machine
    assert out == "right\nright\nright\nno collapse\n"


@pytest.mark.system("torch")
def test_a_fork_that_another_library_meant_for_itself():
    program = "workload.check(); other(); print(in_child(workload.check))"
    assert python(OTHERS["torch"], FORK, program)[0] == "0\n"


# How many threads -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def settings_as_they_were(monkeypatch):
    internals.no_number_of_threads_is_set(monkeypatch)
    monkeypatch.delenv("FASTBN_NUM_THREADS", raising=False)
    internals.read_the_machine_anew()
    yield
    monkeypatch.undo()
    internals.read_the_machine_anew()


def test_set_num_threads():
    most = numba.config.NUMBA_NUM_THREADS
    for n in (1, most, np.int64(1)):
        fastbn.set_num_threads(n)
        assert fastbn.get_num_threads() == n


def test_num_threads_nests_and_ends():
    before = fastbn.get_num_threads()
    with fastbn.num_threads(numba.config.NUMBA_NUM_THREADS):
        with fastbn.num_threads(1):
            assert fastbn.get_num_threads() == 1
        assert fastbn.get_num_threads() == numba.config.NUMBA_NUM_THREADS
        seen = []
        thread = threading.Thread(target=lambda: seen.append(fastbn.get_num_threads()))
        thread.start()
        thread.join()
    assert seen == [before]  # another thread is another with
    with pytest.raises(ZeroDivisionError), fastbn.num_threads(1):
        raise ZeroDivisionError
    assert fastbn.get_num_threads() == before


@pytest.mark.parametrize("use", [fastbn.set_num_threads, lambda n: fastbn.num_threads(n).__enter__()])
@pytest.mark.parametrize(
    ("n", "error", "told"),
    [
        (0, ValueError, "n is 0; expected 1 to"),
        (-1, ValueError, "n is -1; expected 1 to"),
        (10**6, ValueError, "NUMBA_NUM_THREADS"),
        (1.5, TypeError, "n is 1.5; expected an integer"),
        ("2", TypeError, "n is '2'; expected an integer"),
        (None, TypeError, "n is None; expected an integer"),
    ],
)
def test_wrong_numbers_of_threads(use, n, error, told):
    before = fastbn.get_num_threads()
    with pytest.raises(error, match=told):
        use(n)
    assert fastbn.get_num_threads() == before


def test_the_environment_sets_the_number(monkeypatch):
    monkeypatch.setenv("FASTBN_NUM_THREADS", "1")
    assert fastbn.get_num_threads() == 1
    with fastbn.num_threads(numba.config.NUMBA_NUM_THREADS):
        assert fastbn.get_num_threads() == numba.config.NUMBA_NUM_THREADS


@pytest.mark.parametrize("value", ["two", "0", "-3", "1.5", " "])
def test_a_wrong_number_in_the_environment(monkeypatch, value):
    monkeypatch.setenv("FASTBN_NUM_THREADS", value)
    with pytest.raises(ValueError, match=f"FASTBN_NUM_THREADS={value!r}"):
        fastbn.get_num_threads()


def test_more_in_the_environment_than_there_are_is_all_there_are(monkeypatch):
    """One environment often serves machines of several sizes."""
    monkeypatch.setenv("FASTBN_NUM_THREADS", "1000000")
    assert fastbn.get_num_threads() == numba.config.NUMBA_NUM_THREADS


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has affinities")
def test_affinity_is_honoured():
    def one_cpu():
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    program = "import fastbn; print(fastbn.get_num_threads())"
    assert python(program, before=one_cpu, FASTBN_NUM_THREADS=None)[0] == "1\n"


V1 = "/sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"/proc/self/cgroup": "0::/\n"}, None),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
                "/sys/fs/cgroup/a/cpu.max": "200000 100000\n",
            },
            2.0,
        ),
        (
            {
                "/proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/x\n",  # the path as the host sees it
                f"{V1}/cpu.cfs_quota_us": "100000\n",
                f"{V1}/cpu.cfs_period_us": "50000\n",
            },
            2.0,
        ),
        (
            {
                "/proc/self/cgroup": "4:cpu:/\n",
                f"{V1}/cpu.cfs_quota_us": "-1\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "nonsense\n"}, None),
        ({"/proc/self/cgroup": "nonsense\n"}, None),
        ({"/proc/self/cgroup": "4:cpu:/\n", f"{V1}/cpu.cfs_quota_us": "1\n", f"{V1}/cpu.cfs_period_us": "0\n"}, None),
    ],
)
def test_quota_of_a_container(control_groups, files, quota):
    control_groups(files)
    assert threads.cpu_quota() == quota


def test_the_quota_bounds_the_threads(control_groups):
    control_groups({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert fastbn.get_num_threads() == 1  # half a CPU


# Whether threads help -------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """The time as fastbn sees it, two threads, and no call that was timed before."""
    now = [0.0]
    monkeypatch.setattr(pace, "perf_counter", lambda: now[0])
    monkeypatch.setattr(pace, "available_threads", lambda: (2, 2))
    internals.no_pace_is_known(monkeypatch)
    return now


def test_the_faster_way_is_taken_until_it_is_the_slower_one(clock):
    def share(serial, parallel, seconds):
        """Of parallel calls in so many seconds, where calls cost this much."""
        ways, end = [], clock[0] + seconds

        def run(team):
            ways.append(team > 1)
            clock[0] += parallel if team > 1 else serial

        while clock[0] < end:
            pace.with_team("kind", 1 << 20, run)
        return np.mean(ways)

    assert share(100e-6, 60e-6, seconds=1) > 0.99
    assert share(100e-6, 3e-3, seconds=1) < 0.01  # busy from here on: a few calls are enough to tell
    share(100e-6, 60e-6, seconds=1)  # quiet again, which is found out when the other way is tried
    assert share(100e-6, 60e-6, seconds=1) > 0.99
    assert share(100e-6, 130e-6, seconds=1) < 0.05  # a little busy


@pytest.mark.parametrize(
    ("nbytes", "parallel", "expected"),
    [
        (1 << 20, 60e-6, "1111 2222 2222"),
        (1 << 22, 60e-6, "1222 2122 2222"),
        (1 << 22, 130e-6, "1222 2111 1111"),
        (1 << 22, 3e-3, "1222 1111 1111"),
    ],
)
def test_which_way_the_first_calls_go(clock, nbytes, parallel, expected):
    """Of large arrays, the team's way first: a program that calls but a few times gets it."""
    ways = []

    def run(team):
        ways.append(team)
        clock[0] += 100e-6 if team == 1 else parallel

    for _ in range(12):
        pace.with_team("kind", nbytes, run)
    assert "".join(map(str, ways)) == expected.replace(" ", "")


def test_threads_that_slept_are_not_judged_by_how_they_wake_up(clock):
    slept, ways = True, []

    def run(team, disturbed=False):
        nonlocal slept
        ways.append(team > 1)
        clock[0] += 100e-6 if team == 1 else 2e-3 if disturbed else 500e-6 if slept else 60e-6
        slept = team == 1

    def calls(n, disturbed=False):
        for _ in range(n):
            pace.with_team("kind", 1 << 20, run, disturbed)
        return ways[-n:]

    calls(8)
    calls(2, disturbed=True)
    assert all(calls(100))
    calls(12, disturbed=True)  # a few more
    assert not any(calls(30, disturbed=True))
    clock[0] += 1
    calls(110)  # what trying cost, twenty calls' time each, is to be no more than a share of what calls cost
    assert all(calls(100))


@pytest.mark.parametrize("apart", [5e-3, 0.5])
def test_in_a_program_that_does_other_work_between_calls_the_slower_way_is_rarely_tried(clock, apart):
    ways = []

    def run(team):
        ways.append(team > 1)
        clock[0] += 100e-6 if team == 1 else 80e-6

    for _ in range(1000):
        pace.with_team("kind", 1 << 20, run)
        clock[0] += apart
    assert np.mean(ways) > 0.94


def test_calls_after_a_pause_do_not_stand_for_all(clock):
    ways = []

    def run(team):
        ways.append(team > 1)
        clock[0] += 100e-6 if team == 1 else 500e-6 if clock[0] > awake else 60e-6

    for _ in range(1000):
        for k in range(10):
            awake = clock[0] - 1 if k == 0 else clock[0]  # threads sleep meanwhile
            pace.with_team("kind", 1 << 20, run)
        clock[0] += 5e-3
    first, others = ways[100::10], [way for k, way in enumerate(ways[100:]) if k % 10]
    assert np.mean(others) > 0.9
    assert np.mean(first) < 0.1  # which have a choice of their own


def test_calls_in_a_row_do_not_decide_for_calls_after_other_work(clock, monkeypatch):
    monkeypatch.setattr(threads, "_any_thread_may", True)
    ways, cold = [], False

    def run(team):
        ways.append(team > 1)
        clock[0] += (100e-6 if team > 1 else 200e-6) if cold else (40e-6 if team > 1 else 30e-6)

    call = pace.team(1 << 20, run)
    for _ in range(4):
        call()
    cold = True
    for _ in range(60):
        clock[0] += 12e-3
        call()
    assert sum(ways) >= 56  # three calls tried one thread


@pytest.fixture
def quicker_by_two(clock, monkeypatch):
    """A function of a size: calls that take 2 ms by two threads and 3 by one, and which of them took two."""
    monkeypatch.setattr(threads, "_any_thread_may", True)
    ways = []

    def run(team):
        ways.append(team > 1)
        clock[0] += 2e-3 if team > 1 else 3e-3

    return lambda nbytes: (pace.team(nbytes, run), ways)


def test_long_calls_in_a_row_are_not_taken_for_calls_after_other_work(quicker_by_two):
    call, ways = quicker_by_two(1 << 20)
    for _ in range(200):
        call()
    assert ways.count(False) == 4  # the first ones


def test_calls_on_arrays_larger_than_a_cache_have_one_choice(clock, quicker_by_two):
    call, ways = quicker_by_two(1 << 25)
    for _ in range(50):
        call()
        call()
        clock[0] += 12e-3
    assert ways.count(False) == 2  # the first one, and the one that is tried behind those of a team


def test_who_waited_for_a_compilation_is_not_counted():
    kind = internals.Pace(large=False)
    for k in range(4):
        kind.record(False, 0.1 * k, 15 + 0.1 * k)
    assert kind.recent == [[], []]
    for k in range(4):
        kind.record(kind.parallel, 20.0 + k, 20.001 + k)
    assert kind.parallel


@pytest.mark.parametrize("first", [False, True], ids=["one thread first", "all first"])
def test_who_waited_for_a_compilation_and_comes_late_says_nothing_of_a_way(first):
    kind, now = internals.Pace(large=first), 10.0
    kind.record(False, 0.0, now)
    for _ in range(4 if first else 6):  # up to the last call that tries the other way
        kind.record(kind.parallel, now, now + 1e-3)
        now += 1e-3
    assert (kind.parallel, kind.left) == (not first, 1)
    kind.record(first, 0.0, now)
    kind.record(not first, now, now + 2e-3)
    assert kind.parallel == first


@pytest.mark.full
def test_a_spinning_process_on_every_core():
    program = """
        import os, statistics, subprocess, sys, time
        import numpy as np, fastbn

        x = np.ones((1, 64, 112, 112), np.float32)

        def median(seconds):
            taken, end = [], time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                fastbn.batch_norm_forward(x, out=x)
                taken.append(time.perf_counter() - start)
            return statistics.median(taken)

        median(0.5)
        for _ in range(5):
            quiet = median(0.5)
            spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
            time.sleep(0.3)  # until they spin
            busy = median(1)
            for spinner in spinners:
                spinner.kill()
                spinner.wait()
            if busy < 3 * quiet:
                break
        print("as quick as before" if busy < 3 * quiet else (quiet, busy))
    """
    assert python(program, FASTBN_NUM_THREADS=None) == ("as quick as before\n", "")


# What stays as it was -------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_numbas_own_setting_stays_as_it_is():
    """And what else belongs to the whole process."""
    program = """
        import os, signal, warnings
        import numba, numpy

        def settings():
            config = {name: repr(value) for name, value in vars(numba.config).items() if name.isupper()}
            handlers = [signal.getsignal(number) for number in signal.valid_signals()]
            return config, dict(os.environ), numpy.geterr(), warnings.filters[:], handlers

        before, threads = settings(), numba.get_num_threads()
        import fastbn
        import workload
        workload.check()
        with fastbn.num_threads(1):
            workload.check()
        fastbn.set_num_threads(2)
        workload.check()
        try:
            fastbn.batch_norm_forward(workload.LARGE.astype(int))
        except TypeError:
            pass
        print(threads == numba.get_num_threads(), [a == b for a, b in zip(before, settings())])
        numba.set_num_threads(1)
        workload.check()
        print(numba.get_num_threads())
    """
    assert python(program) == (f"True {[True] * 5}\n1\n", "")


def test_what_is_remembered_of_calls_has_bounds():
    program = """
        import sys
        import numpy as np
        import fastbn
        from internals import pace, threads

        x = np.ones(10_000, np.float32)
        for pace.SERIAL_BYTES in (0, 1 << 18):  # with threads, and without
            for n in range(1, 4_200):
                fastbn.layer_norm(x[:n].reshape(1, n), n)
                fastbn.group_norm(x[: 2 * n].reshape(1, 2, n), 1)
                fastbn.batch_norm(x[: 2 * n].reshape(2, n), training=True)
        sizes = {}
        for module in [module for name, module in sys.modules.items() if name.startswith("fastbn.")]:
            for name, value in vars(module).items():
                if isinstance(value, (dict, list, set)):
                    sizes[name] = len(value)
                elif hasattr(value, "cache_info"):
                    sizes[name] = value.cache_info().currsize
        print(sizes["_paces"] > 0, max(sizes.values()) <= 4096)
    """
    assert python(program) == ("True True\n", "")


# Import ---------------------------------------------------------------------------------------------------------------


def test_import_compiles_nothing_and_starts_nothing(tmp_path):
    program = """
        import threading
        import numba.core.dispatcher as dispatcher
        import numba

        def compiled(*args):
            raise AssertionError("compiled at import")

        dispatcher.Dispatcher.compile = compiled
        import fastbn
        try:
            print(numba.threading_layer())
        except ValueError:
            print("no threads", threading.active_count())
    """
    assert python(program, NUMBA_CACHE_DIR=tmp_path) == ("no threads 1\n", "")
    assert not list(tmp_path.rglob("*.nb*"))


def test_import_brings_in_nothing_beyond_numba_and_numpy():
    program = """
        import sys, numba, numpy
        before = {name.partition(".")[0] for name in sys.modules}
        import fastbn
        more = {name.partition(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names)
        print(sorted(more))
    """
    assert python(program)[0] == "['fastbn']\n"


@pytest.mark.system("torch")
@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the peak of a process by itself")
def test_peak_memory_of_a_first_result():
    """The times, which depend on the machine, are those of benchmarks/bench_start.py."""
    start = "import numpy; x = numpy.ones((32, 768), 'float32')"
    own = "import fastbn; fastbn.layer_norm(x, 768)"
    peer = "import torch; torch.nn.functional.layer_norm(torch.from_numpy(x), (768,))"
    peak = "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    python(start, own)  # for the cache
    ours, theirs = (int(python(start, call, peak)[0]) for call in (own, peer))
    assert ours <= 0.7 * theirs


# The commands ---------------------------------------------------------------------------------------------------------


def fastbn_command(*words, **environment):
    program = f"import sys; from fastbn.cli import main; sys.exit(main({list(words)!r}))"
    return python(program, **environment)


def test_info_tells_what_it_runs_on():
    out, err = fastbn_command("info", **on_layer("workqueue"), FASTBN_NUM_THREADS="2")
    assert err == ""
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if line and line[0] != " ")
    assert {"numba", "numpy", "python", "system", "cpu", "vectors", "cores", "quota", "peers"} <= set(rows)
    assert rows["fastbn"] == fastbn.__version__
    assert rows["threading"].startswith("layer  workqueue (NUMBA_THREADING_LAYER asks for it")
    assert "writable" in rows["cache"]
    assert rows["threads"] == "2 of Numba's 2 (FASTBN_NUM_THREADS=2)"
    assert ("A better threading layer" in out) == (config.usable_cores() > 1)


def test_show_config_is_what_info_prints(capsys):
    config.show_config()
    assert capsys.readouterr().out.splitlines()[0].split() == ["fastbn", fastbn.__version__]


def test_advice_names_the_tbb_that_is_installed(monkeypatch):
    monkeypatch.setattr(config, "usable_cores", lambda: 2)
    monkeypatch.setattr(threads, "threading_layer", lambda: "workqueue")
    monkeypatch.setattr(config, "tbb_folder", lambda: "/somewhere/lib")
    assert any("LD_LIBRARY_PATH=/somewhere/lib" in line for line in config.advice())
    monkeypatch.setattr(config, "tbb_folder", lambda: None)
    assert any("pip install tbb" in line for line in config.advice())
    monkeypatch.setattr(threads, "threading_layer", lambda: "tbb")
    monkeypatch.setattr(config, "cache_folder", lambda: ("/somewhere", True))
    assert config.advice() == []
    monkeypatch.setattr(config, "cache_folder", lambda: ("/somewhere", False))
    assert any("NUMBA_CACHE_DIR" in line for line in config.advice())


@pytest.mark.full
def test_after_a_warmup_nothing_is_compiled():
    command = "warmup", "--ops", "rms_norm", "--layouts", "channels_last"
    told = fastbn_command(*command)[0]
    assert re.match(r"\d+ kernels: \d+ compiled, \d+ found, in [\d.]+ s\n/", told)
    program = """
        import numpy as np, fastbn, workload
        from internals import compiled_kernels
        for x in (workload.LARGE, workload.SMALL, workload.LARGE.reshape(1, -1)):
            for weight in (None, np.ones(x.shape[-1], np.float32)):
                fastbn.rms_norm(x, x.shape[-1], weight)
                y, rstd = fastbn.rms_norm_forward(x, x.shape[-1], weight)
                fastbn.rms_norm_backward(y, x, rstd, weight)
        print(compiled_kernels()[0], compiled_kernels()[1] > 0)
    """
    assert python(program) == ("0 True\n", "")
    assert re.match(r"\d+ kernels: 0 compiled", fastbn_command(*command)[0])


@pytest.mark.full
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_after_a_warmup_batch_norm_compiles_nothing(layout):
    """Layers, whose running statistics are float32, and backward of so many weights that threads share their sums."""
    program = f"""
        import numpy as np, fastbn
        from fastbn import warmup
        from internals import compiled_kernels
        warmup("batch_norm", layouts="{layout}")
        before = compiled_kernels()
        axis = 1 if "{layout}" == "channels_first" else -1
        for shape in ((2, 8, 8, 8), (8, 64, 16, 64), (64, 8192)):
            x = np.ones(shape, np.float32)
            layer = (fastbn.BatchNorm1d if x.ndim == 2 else fastbn.BatchNorm2d)(shape[axis], axis=axis)
            for _ in range(8):
                layer.train()
                layer.backward(layer(x))
                layer.eval()
                layer(x)
        print([after - b for after, b in zip(compiled_kernels(), before)])
    """
    assert python(program, NUMBA_NUM_THREADS="2")[0] == "[0, 0]\n"


@pytest.mark.full
def test_a_warmup_of_calls_with_more(monkeypatch):
    """Of small arrays alone, lest this take a minute."""
    x, w = np.ones((2, 8, 16), np.float32), np.ones(16, np.float32)
    internals.warm_up_on([(x, -1)], monkeypatch)
    more = {"activation": "relu", "where": True, "residual": True}
    fastbn.warmup(["group_norm", "rms_norm"], **more)
    fastbn.warmup(["add_rms_norm"])
    before = internals.compiled_kernels()
    given = more | {"where": x < 2}
    y, *statistics = fastbn.group_norm_forward(x, 4, w, w, axis=-1, **given | {"residual": x})
    fastbn.group_norm_backward(y, x, *statistics, w, bias=w, axis=-1, **given | {"residual": x})
    del given["residual"]  # which RMS norm has not, so that it was left out
    y, rstd = fastbn.rms_norm_forward(x, 16, w, **given)
    fastbn.rms_norm_backward(y, x, rstd, w, **given)
    y, total, rstd = fastbn.add_rms_norm_forward(x, x, 16, w)
    fastbn.add_rms_norm_backward(y, y, total, rstd, w)
    assert internals.compiled_kernels() == before


@pytest.mark.parametrize("wrong", [{"ops": ["norm"]}, {"dtypes": ["int8"]}, {"layouts": "NCHW"}])
def test_warmup_refuses_unknown_names(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} names"):
        fastbn.warmup(**wrong)


@pytest.mark.full
def test_warmup_tells_its_progress():
    told = []
    fastbn.warmup(["rms_norm"], layouts=["channels_last"], progress=lambda *step: told.append(step))
    total = told[-1][1]
    assert [step[:2] for step in told] == [(done, total) for done in range(total + 1)]
    assert total == len(told) - 1  # none is left over
