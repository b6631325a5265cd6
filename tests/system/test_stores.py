"""Results of some megabytes are written past the cache where the machine is quicker that way, with the same bits."""

import numpy as np
import pytest
from internals import integers, numbers, pace, stores

import fastbn

MB = 1 << 20
FORWARD, BACKWARD = 1, 2  # shares


class Machine:
    """A clock, and calls that take `seconds`: in the cache, or past it."""

    def __init__(self, in_cache, past_cache):
        self.seconds, self.now, self.calls = (in_cache, past_cache), 0.0, []
        self.slower = 1.0  # every other call

    def passes(self, elements):
        past = elements.nbytes >= integers.PAST_CACHE_BYTES

        def run(threads, *args):
            self.calls.append("past" if past else "in")
            self.now += self.seconds[past] * (self.slower if len(self.calls) % 2 else 1.0)

        return run

    def kind(self, nbytes=8 * MB, share=FORWARD, decide=lambda elements: np.array([elements.nbytes])):
        return stores.either_way(numbers.Elements(nbytes, np.dtype(np.float32)), share, decide, self.passes)

    def finished(self):
        """A kind whose trial is over."""
        run = self.kind()
        self.last(run, 9)
        return run

    def last(self, run, calls):
        """The ways that so many further calls go."""
        self.calls.clear()
        for _ in range(calls):
            run(2)
        return self.calls


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(stores, "_found", {})

    def make(in_cache, past_cache):
        made = Machine(in_cache, past_cache)
        monkeypatch.setattr(stores, "perf_counter", lambda: made.now)
        return made

    return make


def test_the_quicker_way_is_taken(machine):
    quick = machine(0.003, 0.002)
    run = quick.kind()
    pairs = ["in", "past", "past", "in"] * 2
    assert quick.last(run, 9) == ["in", *pairs]  # the first one does not count
    assert set(quick.last(run, 100)) == {"past"}


def test_what_saves_little_is_not_worth_a_result_in_no_cache(machine):
    slightly = machine(0.003, 0.0027)
    run = slightly.finished()
    assert set(slightly.last(run, 100)) == {"in"}


def test_one_disturbed_pair_decides_nothing(machine):
    slow = machine(0.003, 0.004)
    run = slow.kind()
    slow.last(run, 1)
    slow.seconds = 0.03, 0.004  # something else keeps the machine busy
    slow.last(run, 1)
    slow.seconds = 0.003, 0.004
    slow.last(run, 7)
    assert set(slow.last(run, 100)) == {"in"}


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize(("past_cache", "way"), [(0.002, "past"), (0.003, "in"), (0.004, "in")])
def test_every_other_call_is_slow(before, past_cache, way, machine):
    alternating = machine(0.003, past_cache)
    alternating.slower = 2.0
    run = alternating.kind()
    alternating.calls.extend(["another"] * before)
    for _ in range(9):  # `last` would begin to count anew
        run(2)
    assert set(alternating.last(run, 100)) == {way}


def test_a_call_that_compiles_is_not_counted(machine):
    slow = machine(0.003, 0.004)
    run = slow.kind()
    slow.seconds = 30.0, 30.0
    slow.last(run, 1)
    slow.seconds = 0.003, 0.004
    slow.last(run, 8)
    assert set(slow.last(run, 100)) == {"in"}
    (ratios,) = stores._found.values()
    assert ratios == pytest.approx((4 / 3,))


def test_nor_is_one_that_began_before(machine):
    slow = machine(0.003, 0.004)
    run = slow.kind()
    slow.seconds = 0.0, 0.0

    def other(threads, *args):  # a call that begins and ends while the first one compiles
        slow.now += 10.0
        if threads == 2:
            run(3)

    run.ways = (other, other)
    run(2)
    assert run.ratios == []
    assert run.first == 0


def test_equal_plans_are_not_tried(machine):
    same = machine(0.003, 0.002)
    run = same.kind(decide=lambda elements: np.zeros(3))
    assert set(same.last(run, 20)) == {"in"}
    assert stores._found == {}


def test_machines_change(machine):
    changing = machine(0.003, 0.002)
    run = changing.kind()
    changing.last(run, 100)
    changing.seconds = 0.002, 0.003
    changing.last(run, 500 + 8)
    assert set(changing.last(run, 100)) == {"in"}


def test_what_others_found_is_where_a_new_kind_begins(machine):
    quick = machine(0.003, 0.002)
    quick.finished()
    quick.finished()
    assert set(quick.last(quick.kind(), 24)) == {"past"}
    assert quick.last(quick.kind(share=BACKWARD, nbytes=4 * MB), 2) == ["in", "in"]  # of gradients nothing is known
    assert quick.last(quick.kind(nbytes=5 * MB), 2) == ["in", "in"]  # nor of results of another size


def test_a_new_kind_finds_out_for_itself_later(machine):
    quick = machine(0.003, 0.002)
    quick.finished()
    quick.finished()
    run = quick.kind()
    quick.seconds = 0.002, 0.003
    quick.last(run, 24 + 9)
    assert set(quick.last(run, 100)) == {"in"}


def test_what_was_found_has_a_bound(machine):
    quick = machine(0.003, 0.002)
    for _ in range(40):
        quick.last(quick.kind(), 40)
    assert [len(ratios) for ratios in stores._found.values()] == [16]


def test_one_thread_alone_writes_into_the_cache(machine):
    quick = machine(0.003, 0.002)
    run = quick.kind()
    for _ in range(40):
        run(1)
    assert set(quick.calls) == {"in"}


@pytest.mark.parametrize(
    ("nbytes", "share", "ways"),
    [
        (2 * MB - 4, FORWARD, {"in"}),
        (2 * MB, FORWARD, {"in", "past"}),
        (16 * MB - 4, FORWARD, {"in", "past"}),
        (16 * MB, FORWARD, {"past"}),
        (4 * MB - 4, BACKWARD, {"in"}),
        (4 * MB, BACKWARD, {"in", "past"}),
        (8 * MB - 4, BACKWARD, {"in", "past"}),
    ],
)
def test_sizes(nbytes, share, ways, machine):
    same = machine(0.002, 0.002)
    assert set(same.last(same.kind(nbytes, share), 9)) == ways


@pytest.mark.parametrize("axis", [1, -1])
def test_either_way_has_the_same_bits(axis, monkeypatch):
    monkeypatch.setattr(stores, "_found", {})
    monkeypatch.setattr(pace, "TEAM_BYTES", 0)  # as if the arrays were so large that all threads are used
    rng = np.random.default_rng(7)
    x = rng.standard_normal((8, 36, 60, 64) if axis == 1 else (8, 60, 64, 36)).astype(np.float32)
    dy, weight, bias = rng.standard_normal(x.shape).astype(np.float32), rng.random(36), rng.random(36)
    weight, bias = weight.astype(np.float32), bias.astype(np.float32)

    def results():
        y, mean, rstd = fastbn.batch_norm_forward(x, weight, bias, axis=axis, activation="relu")
        back = fastbn.batch_norm_backward(dy, x, mean, rstd, weight, axis=axis, bias=bias, activation="relu")
        evaluated = fastbn.batch_norm(x, mean, 1 / rstd**2, weight, bias, axis=axis)
        return y, mean, rstd, *back, evaluated

    with fastbn.num_threads(1):
        expected = results()
    with fastbn.num_threads(min(2, fastbn.get_num_threads())):
        for _ in range(9):
            for value, right in zip(results(), expected, strict=True):
                np.testing.assert_array_equal(value.view(np.uint8), right.view(np.uint8))
        if fastbn.get_num_threads() > 1:
            assert len(stores._found) == 2  # both ways were timed, of results and of gradients
