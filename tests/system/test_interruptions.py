"""Ctrl-C and what a signal's handler raises: wherever it comes, fastbn can be used afterwards, and state is whole.

An exception is raised at each line of fastbn that a call goes by, one line a try, as a signal's handler would raise it.
"""

import sys

import pytest
from processes import python

EVERY_LINE = """
import os, sys
import numpy as np
import fastbn
from fastbn import layers
from internals import memory

PACKAGE = os.path.dirname(fastbn.__file__)
memory.LEAST = 1 << 12
lost = []
sys.unraisablehook = lost.append


class Interruption(BaseException):
    pass


def raising_at(number):
    left = number

    def trace(frame, event, arg):
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise Interruption
        return trace

    return trace


def interrupted(call, number):
    "Whether the call was interrupted at this line; False when it has fewer."
    sys.settrace(raising_at(number))
    try:
        call()
        return False
    except Interruption:
        return True
    finally:
        sys.settrace(None)


def at_every_line(call, check):
    for _ in range(3):
        call()
    number = 1
    while interrupted(call, number):
        check()
        number += 1
    check()
    assert lost == [], lost
    assert number > 2, number
    return number


x = np.random.default_rng(0).normal(size=(8, 4, 32)).astype(np.float32)
right = fastbn.layer_norm(x, 32).copy()


def usable():
    np.testing.assert_array_equal(fastbn.layer_norm(x, 32), right)
    y, z = (memory.empty((1 << 12,), np.dtype(np.uint8)) for _ in range(2))
    assert not np.shares_memory(y, z)
"""


def at_every_line(program, seconds=400):
    out, err = python(EVERY_LINE, program, seconds=seconds)
    assert err == ""
    assert out == "right\n"


def test_functions_and_the_pool():
    at_every_line(
        """
at_every_line(lambda: fastbn.layer_norm(x, 32), usable)
at_every_line(lambda: fastbn.batch_norm_backward(x, *((x,) + fastbn.batch_norm_forward(x)[1:])), usable)
at_every_line(lambda: fastbn.set_memory_pool(1 << 20), usable)
at_every_line(lambda: [memory.empty((k << 12,), np.dtype(np.uint8)) for k in (1, 2, 1, 3)], usable)
at_every_line(memory.let_go, usable)
print("right")
"""
    )


def test_the_number_of_threads():
    at_every_line(
        """
import numba
from internals import threads
before = fastbn.get_num_threads()

def call():
    with fastbn.num_threads(1):
        assert fastbn.get_num_threads() == 1
        fastbn.layer_norm(x, 32)
    threads.with_threads(1, numba.config.NUMBA_NUM_THREADS, lambda n: fastbn.layer_norm(x, 32))

def check():
    usable()
    threads.available_threads()
    assert fastbn.get_num_threads() == before, fastbn.get_num_threads()
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS

at_every_line(call, check)
print("right")
"""
    )


def test_calls_go_one_way_after_a_warm_up():
    """Computed twice, a result in the place of x would be another one."""
    at_every_line(
        """
from internals import pace
pace.available_threads = lambda: (2, 2)

def ways():
    found = []
    pace.with_team("kind", 1 << 20, found.append)
    return found

def warm_up():
    with pace.all_ways():
        assert ways() == [1, 2]

def check():
    assert len(ways()) == 1

at_every_line(warm_up, check)
print("right")
"""
    )


@pytest.mark.parametrize(
    "layer",
    [
        "BatchNorm1d(4)",
        'BatchNorm1d(4, dtype="float16")',
        "BatchNorm1d(4, virtual_batch_size=4)",
        "BatchNorm1d(4, renorm=(3.0, 5.0))",
        "BatchNorm1d(4, momentum=None)",
        "InstanceNorm1d(4, affine=True, track_running_stats=True)",
        "GroupNorm(2, 4)",
    ],
)
def test_a_layers_state_is_the_old_one_or_the_new_one(layer):
    """Whole, in the arrays that the user holds."""
    at_every_line(
        f"""
layer = layers.{layer}
held = [*layer.state_dict(), *layer.grads]
arrays = [*layer._state().values(), *layer.grads.values()]
names = [*layer.state_dict(), *("grad of " + name for name in layer.grads)]

def copy():
    return [a.copy() for a in arrays]

def put(values):
    for a, value in zip(arrays, values):
        a[...] = value

def same(a, b):
    return all((p == q).all() for p, q in zip(a, b))

def whole(call):
    call()  # has compiled
    old = copy()
    call()
    new = copy()
    put(old)

    def check():
        now = copy()
        assert same(now, old) or same(now, new), [n for n, p, q in zip(names, now, old) if not (p == q).all()]
        put(old)

    def again():
        put(old)
        call()

    at_every_line(again, check)

whole(lambda: layer(x))
context = layer.forward(x)[1]
whole(lambda: layer.backward(x, context))
layer(x)
layer.backward(x)
state = layer.state_dict()
for value in layer.state_dict().values():
    value += 1
layer(x + 1)
other = layer.state_dict()
layer.load_state_dict(state)
whole(lambda: layer.load_state_dict(other))
layer.backward(x, layer.forward(x)[1])
whole(layer.zero_grad)
usable()
print("right")
"""
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there are no interval timers here")
def test_signals_at_any_time():
    """A timer's handler raises while results come and go; nothing is lost, and nothing waits for ever."""
    out, err = python(
        """
import random, signal, sys
import fastbn
import numpy as np
from fastbn import layers
from internals import memory

memory.LEAST = 1 << 12

class Timeout(Exception):
    pass

def handler(*_):
    raise Timeout

lost = []
sys.unraisablehook = lost.append
x = np.random.default_rng(0).normal(size=(8, 4, 64)).astype(np.float32)
layer = layers.BatchNorm1d(4)
right = fastbn.layer_norm(x, 64).copy()
layer(x)
layer.backward(x)
signal.signal(signal.SIGALRM, handler)
rng, stopped = random.Random(0), 0
for _ in range(600):
    try:
        signal.setitimer(signal.ITIMER_REAL, 20e-6 + rng.random() * 500e-6)
        for _ in range(200):
            kept = [fastbn.layer_norm(x, 64) for _ in range(3)]
            layer(x)
            layer.backward(x)
            fastbn.set_memory_pool(None)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Timeout:
        stopped += 1
    assert np.isfinite(layer.running_var).all()
np.testing.assert_array_equal(fastbn.layer_norm(x, 64), right)
assert lost == [], lost
assert stopped > 100, stopped
print("right")
"""
    )
    assert (out, err) == ("right\n", "")


def test_population_statistics_put_the_layers_back():
    at_every_line(
        """
layer = fastbn.BatchNorm1d(4)
layer.eval()
batch = x[:, :, :2]
old = layer.state_dict()
fastbn.population_statistics([layer], [batch], layer, progress=False)
new = layer.state_dict()

def call():
    layer.load_state_dict(old)
    fastbn.population_statistics([layer], [batch], layer, progress=False)

def check():
    usable()
    assert "forward" not in vars(layer) and not layer.training, vars(layer)
    state = layer.state_dict()
    whole = [all((state[k] == known[k]).all() for k in known) for known in (old, new)]
    assert any(whole), state

at_every_line(call, check)
print("right")
"""
    )


@pytest.mark.parametrize("affine", [False, True])
def test_a_layer_is_frozen_whole_or_not_at_all(affine):
    at_every_line(
        f"""
layer = layers.BatchNorm1d(4)
layer.backward(x, layer.forward(x)[1])
dicts = layer.parameters, layer.grads

def seen():
    assert (layer.parameters, layer.grads) == dicts and layer.weight.shape == layer.bias.shape == (4,)
    return layer.frozen, list(layer.parameters), list(layer.grads), list(layer.state_dict())

def between(change, back):
    states = []
    for step in (back, change):
        step()
        states.append(seen())

    def call():
        back()
        change()

    def check():
        assert seen() in states, (seen(), states)

    at_every_line(call, check)

between(lambda: layer.freeze({affine}), layer.unfreeze)
between(layer.unfreeze, lambda: layer.freeze({affine}))
print("right")
"""
    )
