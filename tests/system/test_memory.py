"""How much memory calls take; and that of results, used again: never by two arrays at a time, bounded, given back."""

import gc
import os
import random
import sys
import threading
import time
import tracemalloc

import internals
import numpy as np
import pytest
from cases import Case, channels_first_view, ids
from internals import memory
from processes import python

import fastbn

SIZE = 1 << 12


@pytest.mark.full
@pytest.mark.parametrize("more", [{}, {"activation": "relu"}], ids=["plain", "relu"])
@pytest.mark.parametrize(
    ("case", "arrange"),
    [
        (Case("batch_norm", (32, 64, 32, 32)), np.asarray),
        (Case("batch_norm", (4, 3, 300, 300)), np.asarray),
        (Case("batch_norm", (32, 32, 32, 64), axis=-1), np.asarray),
        (Case("group_norm", (32, 64, 32, 32), 8), np.asarray),
        (Case("instance_norm", (32, 64, 32, 32)), np.asarray),
        (Case("layer_norm", (4096, 1024), 1024), np.asarray),
        (Case("rms_norm", (4096, 1024), 1024), np.asarray),
        (Case("layer_norm", (8, 32, 32, 256), 256), channels_first_view),
    ],
    ids=lambda value: ids(value) if isinstance(value, Case) else "",
)
def test_no_array_of_the_inputs_size_is_made_beside_the_result(case, arrange, more):
    x, dy = arrange(case.data(np.float32)), arrange(case.upstream(np.float32))
    parameters, out = case.parameters(np.float32), np.empty_like(x)

    def both_ways():
        _, statistics = case.forward(fastbn, x, **parameters, **more, out=out)
        named = parameters if more else {"weight": parameters["weight"]}
        case.backward(fastbn, dy, x, statistics, **named, **more, out=out)

    def peak():
        tracemalloc.start()
        both_ways()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    both_ways()  # compiles; so may a later one that tries how fast another number of threads is, and that takes memory
    assert min(peak() for _ in range(4)) < 0.1 * x.nbytes


@pytest.fixture
def keeper():
    """The thread that gives idle memory back, which a test asks for by this name."""


@pytest.fixture(autouse=True)
def small_results_count(monkeypatch, request):
    internals.stop_the_keeper_of_memory()
    if "keeper" not in request.fixturenames:  # else it may be looking at memory that is being counted
        internals.no_keeper_of_memory_begins(monkeypatch)
    before = fastbn.get_memory_pool()
    monkeypatch.setattr(memory, "LEAST", SIZE)
    fastbn.set_memory_pool(0)
    fastbn.set_memory_pool(64 * SIZE)
    yield
    fastbn.set_memory_pool(before)


def result(nbytes=SIZE):
    """What every operation makes its result of, from 256 KiB on: smaller arrays have shorter ways of their own."""
    y = memory.empty((nbytes // 256, 4, 16), np.dtype(np.float32))
    y[...] = 1
    return y


def address(a):
    return a.__array_interface__["data"][0]


def held():
    """Bytes that no array lies over."""
    return memory.count().idle


@pytest.mark.parametrize("shape", [(SIZE,), (3, SIZE + 4), (SIZE // 16, 4, 16)])
def test_results_begin_at_a_cache_line(shape):
    for dtype in (np.float32, np.uint8, np.float64, np.float32):
        y = memory.empty(shape, np.dtype(dtype))
        assert (y.shape, y.dtype, address(y) % 64) == (shape, dtype, 0)
        y[...] = 1


def test_memory_serves_results_of_another_shape():
    first = address(result())
    y = memory.empty((SIZE // 8,), np.dtype(np.float64))
    assert (address(y), y.shape, y.dtype) == (first, (SIZE // 8,), np.float64)
    del y
    assert address(result()) == first


def test_memory_is_used_again():
    y = result()
    first = address(y)
    del y
    y = result()
    assert address(y) == first
    assert address(result(2 * SIZE)) != first


def test_a_result_too_large_to_be_kept_leaves_others_as_they_are():
    result(65 * SIZE)
    result()
    assert held() == SIZE


def test_a_limit_of_some_results_is_none_of_others():
    fastbn.set_memory_pool(None)
    memory.maker((2 * SIZE,), np.dtype(np.uint8), most=SIZE)()
    result(3 * SIZE)
    assert held() == 3 * SIZE


def test_a_pool_that_was_full_is_used_again():
    alive = [result(2 * SIZE) for _ in range(34)]
    assert memory.count() == (64 * SIZE, 0)
    alive.clear()
    for _ in range(32):
        result(3 * SIZE)
    assert held() == 64 * SIZE - SIZE  # as many of the old ones as leave room for a new one


@pytest.mark.parametrize(
    "over",
    [lambda y: y[:1], lambda y: y.T, lambda y: y.reshape(-1)[5:].view(np.int32), lambda y: y[:1][:, 3:], memoryview],
    ids=["part", "transposed", "other type", "view of view", "buffer"],
)
def test_not_while_anything_lies_over_it(over):
    y = result()
    first = address(y)
    view = over(y)
    del y
    gc.collect()
    other = result()
    assert address(other) != first
    del view
    assert address(result()) == first


def test_no_two_live_arrays_share_memory():
    """In eight threads at once, results and views of them come and go, each filled with a number of its own."""
    errors = []

    def work(seed):
        rng, alive = random.Random(seed), []
        try:
            for number in range(seed * 1000, seed * 1000 + 600):
                y = memory.empty((rng.randint(1, 3) * SIZE // 64, 16), np.dtype(np.float32))
                y[...] = number
                alive.append((y if rng.random() < 0.5 else y[rng.randrange(len(y)) :, 2:], number))
                rng.shuffle(alive)
                del alive[rng.randrange(12) :]
                if rng.random() < 0.02:
                    gc.collect(0)  # a whole collection takes half a second after thousands of tests
                for array, own in alive:
                    assert (array == own).all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert 0 < held() <= 64 * SIZE


def test_results_of_one_loop_keep_what_they_showed():
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((SIZE // 256, 16, 4)).astype(np.float32) for _ in range(20)]
    kept = [fastbn.instance_norm(x, activation="relu") for x in inputs for _ in range(3)][::3]
    for x, y in zip(inputs, kept, strict=True):
        np.testing.assert_array_equal(y, fastbn.instance_norm(x, activation="relu", out=np.empty_like(x)))


def test_what_is_kept_is_bounded():
    results = [result(k * SIZE) for k in range(1, 30)]
    del results
    assert 32 * SIZE < held() <= 64 * SIZE
    y, z = result(20 * SIZE), result(21 * SIZE)
    fastbn.set_memory_pool(SIZE)
    assert held() <= SIZE
    del y, z
    assert held() <= SIZE
    y = result(8 * SIZE)  # larger than all that may be kept
    del y
    assert held() <= SIZE


def test_turned_off():
    fastbn.set_memory_pool(0)
    assert fastbn.get_memory_pool() == 0
    y = result()
    assert y.flags.owndata
    del y
    assert held() == 0


def test_what_nothing_asks_for_is_given_back(monkeypatch):
    y, z = result(), result(2 * SIZE)
    del y
    assert held() == SIZE
    now = memory.monotonic()
    monkeypatch.setattr(memory, "monotonic", lambda: now + 1000)
    other = result(2 * SIZE)  # a look at what is idle comes first
    assert held() == 0
    del z, other
    assert held() == 4 * SIZE
    monkeypatch.setattr(memory, "monotonic", lambda: now + 1005)
    z = result(2 * SIZE)
    assert held() == 2 * SIZE
    del z


def test_it_is_given_back_without_a_further_call(keeper, monkeypatch):
    internals.idle_memory_goes_after(0.1, monkeypatch)
    y, z = result(), result(2 * SIZE)
    del y
    end = memory.monotonic() + 20
    while held() and memory.monotonic() < end:
        time.sleep(0.01)
    assert memory.count() == (2 * SIZE, 0)
    del z
    while internals.held_buffers() and memory.monotonic() < end:
        time.sleep(0.01)
    assert not internals.held_buffers()


def test_a_result_made_while_the_keeper_ends_is_given_back_as_well(keeper, monkeypatch):
    made = []

    class Held(dict):
        def __bool__(self):
            found = len(self) > 0
            if not found and not made:  # the keeper has seen that there is nothing left, and here comes a call
                made.append(None)
                result()
            return found

    internals.hold_memory_in(Held(), monkeypatch)
    internals.idle_memory_goes_after(0.1, monkeypatch)
    result()
    end = memory.monotonic() + 20
    while (len(internals.held_buffers()) or not made) and memory.monotonic() < end:
        time.sleep(0.01)
    assert made
    assert len(internals.held_buffers()) == 0


def test_a_result_that_was_in_use_for_long_is_kept_as_long_as_any(monkeypatch):
    y, now = result(), memory.monotonic()
    first = address(y)
    for seconds in (100, 102):
        monkeypatch.setattr(memory, "monotonic", lambda seconds=seconds: now + seconds)
        result(2 * SIZE)
    del y
    result(2 * SIZE)
    assert address(result()) == first


def test_results_and_what_is_kept_are_together_no_more_than_was_alive_at_once():
    fastbn.set_memory_pool(None)
    memory.let_go()
    results = [result(k * SIZE) for k in range(1, 8)]  # 28 sizes
    del results
    for k in range(8, 12):
        y = result(k * SIZE)
        assert held() <= (28 - k) * SIZE
        del y
    assert held() > 0


def test_where_memory_is_short_the_pool_lets_go_and_one_more_try_is_made():
    for k in range(1, 4):
        result(k * SIZE)
    assert held() > 0
    seen = []

    def make(*args):
        seen.append(held())
        if len(seen) == 1:
            raise MemoryError
        return args

    assert memory.retried(make, 1, 2) == (1, 2)
    assert seen[0] > 0
    assert seen[1] == 0
    with pytest.raises(MemoryError):
        memory.retried(np.empty, 1 << 60, np.uint8)


@pytest.mark.full
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_forked_while_the_pool_was_at_work():
    python(
        f"""
import os, threading, numpy as np
from internals import memory
memory.LEAST = {SIZE}
y = memory.empty(({SIZE},), np.dtype(np.uint8))
go = threading.Event()

def come_and_go():
    while not go.is_set():
        z = [memory.empty(({SIZE},), np.dtype(np.uint8)) for _ in range(3)]

thread = threading.Thread(target=come_and_go)
thread.start()
child = os.fork()
if child == 0:
    del y
    memory.empty(({SIZE},), np.dtype(np.uint8))
    os._exit(7)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
go.set()
thread.join()
assert code == 7
print("right")
"""
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork_the_parent_gives_it_back_without_a_further_call():
    out = python(
        f"""
import os, time, numpy as np
from internals import held_buffers, memory
memory.LEAST, memory._IDLE = {SIZE}, 0.1
y = memory.empty(({SIZE},), np.dtype(np.uint8))
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
del y
end = time.monotonic() + 20
while held_buffers() and time.monotonic() < end:
    time.sleep(0.01)
print(len(held_buffers()))
"""
    )
    assert out == ("0\n", "")


def test_two_threads_that_fork_at_once_stop_the_keeper_once(monkeypatch):
    class Released:
        def locked(self):
            return True  # as when it was looked at

        def release(self):
            raise RuntimeError("release unlocked lock")

    internals.a_keeper_of_memory_is_stopped_by(Released(), monkeypatch)
    internals.stop_the_keeper_of_memory()


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="the resident memory is read from /proc")
def test_the_system_gets_it_back():
    python(
        """
import numpy as np, fastbn
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
x = np.ones((1 << 21, 16), np.float32)
y = fastbn.layer_norm(x, 16)
full = resident()
del y
assert resident() > full - (1 << 26)  # 128 MiB are kept
fastbn.set_memory_pool(0)
assert resident() < full - (1 << 26)
print("right")
""",
    )


@pytest.mark.parametrize("text", ["lots", "-1", "1.5"])
def test_an_environment_that_says_nothing_of_use(text):
    out, _ = python(
        """
import numpy as np, fastbn
try:
    fastbn.layer_norm(np.ones((1 << 20, 16), np.float32), 16)
except ValueError as error:
    print(error)
""",
        FASTBN_MEMORY_POOL=text,
    )
    assert "FASTBN_MEMORY_POOL" in out
    assert text in out


@pytest.mark.parametrize(("limit", "error"), [("1", TypeError), (1.0, TypeError), (-1, ValueError)])
def test_limits_that_are_none(limit, error):
    with pytest.raises(error, match="nbytes is"):
        fastbn.set_memory_pool(limit)
