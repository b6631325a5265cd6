"""How many threads a call takes that goes the way found for calls before it."""

import internals
import pytest
from internals import pace

import fastbn


@pytest.fixture
def calls(monkeypatch):
    """What was called with how many threads, and the call, for which a way has been found; the clock is not real."""
    internals.no_number_of_threads_is_set(monkeypatch)
    now, numbers = [0.0], []
    monkeypatch.setattr(pace, "perf_counter", lambda: now[0])

    def run(threads):
        numbers.append(threads)
        now[0] += 2e-4 if threads > 1 else 1e-3

    call = pace.team(1 << 20, run)
    for _ in range(40):
        call()
    return numbers, call


def test_a_block_of_one_thread_is_heeded(calls):
    numbers, call = calls
    for _ in range(20):
        with fastbn.num_threads(1):
            call()
            assert numbers[-1] == 1
        call()


def test_what_was_found_in_a_block_ends_with_it(calls):
    numbers, call = calls
    with fastbn.num_threads(1):
        for _ in range(40):
            call()
    del numbers[:]
    for _ in range(40):
        call()
    if fastbn.get_num_threads() > 1:
        assert max(numbers) > 1


def test_another_number_for_the_process_is_heeded_at_once(calls):
    numbers, call = calls
    fastbn.set_num_threads(1)
    for _ in range(20):
        call()
        assert numbers[-1] == 1
