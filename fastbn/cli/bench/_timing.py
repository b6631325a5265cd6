"""Rounds in which everyone takes a turn, in one process: noise hits all alike, and only ratios are believed."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import ceil
from statistics import median
from time import perf_counter, sleep

import numpy as np

from fastbn.cli.bench._between import Between
from fastbn.cli.bench._cells import Cell
from fastbn.cli.bench._contender import Contender
from fastbn.cli.bench._problem import TOLERANCE, Call, Problem, as_tuple, worst_error
from fastbn.cli.bench._results import NEW, Failure, Measured, Timing

LEAST_ROUNDS = 5
REST_SECONDS = 4e-3  # before each turn: the threads of the contender before spin that long, and who follows would pay
SETTLE_SECONDS = 5e-3  # untimed calls before the timed
BLOCK_SECONDS = 5e-4  # timed calls in a row: the clock's own cost does not count in that
CALLS_BETWEEN = 3  # timed calls in a turn where other work is done before each


class _Runner:
    """One contender's form: its call, how often it is called in a row, and the times of one call so far."""

    def __init__(self, contender: str, form: str, call: Call, between: Between | None) -> None:
        self.contender, self.form, self.call, self.between = contender, form, call, between
        shortest = min(_seconds(call) for _ in range(3))
        self.calls = 1 if between else max(1, ceil(BLOCK_SECONDS / shortest))
        self.seconds: list[float] = []

    def take_turn(self) -> None:
        sleep(REST_SECONDS)
        if self.between:
            self.seconds.append(median(_after(self.between, self.call) for _ in range(CALLS_BETWEEN + 1)))
            return
        start = perf_counter()
        self.call()
        while perf_counter() - start < SETTLE_SECONDS:
            self.call()
        self.seconds.append(_seconds(self.call, self.calls))

    def timing(self) -> Timing:
        low, middle, high = np.percentile(self.seconds, (25, 50, 75)).tolist()
        return Timing(self.contender, self.form, middle, (low, high), len(self.seconds), self.calls)


def _seconds(call: Call, times: int = 1) -> float:
    repeat = range(times)
    start = perf_counter()
    for _ in repeat:
        call()
    return (perf_counter() - start) / times


def _after(between: Between, call: Call) -> float:
    """One call after other work; its result lives until the clock was read, as it would in a program."""
    between()
    start = perf_counter()
    result = call()
    seconds = perf_counter() - start
    del result
    return seconds


def measure(
    cell: Cell, contenders: Sequence[Contender], seconds: float, rounds: int | None, between: Between | None = None
) -> Measured:
    """Check every contender's answer, then time those that are right: `rounds` rounds, or as many as time allows.

    With other work `between` any two calls, a library that can return a new array is asked for one.
    """
    problem = Problem(cell)
    with ExitStack() as stack:
        for contender in contenders:
            stack.enter_context(contender.context())
        runners, failures = _line_up(problem, contenders, between)
        stack.enter_context(_no_collections())
        _race(runners, seconds, rounds)
    return Measured(cell, [runner.timing() for runner in runners], failures)


class _WrongAnswer(Exception):
    pass


def _line_up(
    problem: Problem, contenders: Sequence[Contender], between: Between | None
) -> tuple[list[_Runner], list[Failure]]:
    """Those that give the right answer, and what became of the others."""
    runners: list[_Runner] = []
    failures: list[Failure] = []
    for contender in contenders:
        calls: dict[str, Call] = {}
        with _noting(failures, contender, ""):
            calls = contender.calls(problem)
            if between and NEW in calls:
                calls = {NEW: calls[NEW]}
        for form, call in calls.items():
            with _noting(failures, contender, form):
                _check(contender, problem, call)
                runners.append(_Runner(contender.name, form, call, between))
    return runners, failures


@contextmanager
def _noting(failures: list[Failure], contender: Contender, form: str) -> Iterator[None]:
    """Whatever goes wrong in a peer is a row of the table, not the end of the run."""
    try:
        yield
    except _WrongAnswer as wrong:
        failures.append(Failure(contender.name, form, str(wrong)))
    except Exception as error:
        message = (str(error).strip() or "no message").splitlines()[0]
        failures.append(Failure(contender.name, form, f"{type(error).__name__}: {message}"))


def _check(contender: Contender, problem: Problem, call: Call) -> None:
    expected = contender.expected(problem)
    outputs = as_tuple(call())[: len(expected)]
    error = worst_error([contender.read(output, problem) for output in outputs], expected)
    if not error <= TOLERANCE:  # NaN is not
        raise _WrongAnswer(f"wrong by {error:.1e} of the largest value")


def _race(runners: list[_Runner], seconds: float, rounds: int | None) -> None:
    rng = np.random.default_rng(0)
    stop, done = perf_counter() + seconds, 0
    while done < (rounds or LEAST_ROUNDS) or (rounds is None and perf_counter() < stop):
        for i in _order(len(runners), done, rng):
            runners[i].take_turn()
        done += 1


def _order(count: int, turn: int, rng: np.random.Generator) -> list[int]:
    """Everyone is first in turn, and no one always follows the same other."""
    if not count:
        return []
    first = turn % count
    return [first, *(i for i in rng.permutation(count).tolist() if i != first)]


@contextmanager
def _no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
