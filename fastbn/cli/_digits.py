"""The experiment of ``fastbn demo``: one network, three ways to normalise, handwritten digits.

The runs of one seed start from the same weights and see the same batches, whatever the normalization, so that they
can be compared seed by seed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

import fastbn
from fastbn.cli._network import (
    SGD,
    Array,
    AvgPool2d,
    Conv2d,
    Linear,
    NumPyNorm,
    ReLU,
    Sequential,
    batches,
    train_step,
)

MODEST, HIGH = LEARNING_RATES = (0.05, 0.5)
BATCH_SIZE = 64
NUM_CLASSES = 10
CHANCE = 100 / NUM_CLASSES
TARGET = 90.0  # % test accuracy
TRAIN_IMAGES, TEST_IMAGES = 1437, 360
STEPS_PER_EPOCH = TRAIN_IMAGES // BATCH_SIZE

Norms = dict[str, Callable[[int], list[Any]]]

NORMS: Norms = {
    "batch norm": lambda channels: [fastbn.BatchNorm2d(channels, axis=-1)],
    "group norm": lambda channels: [fastbn.GroupNorm(4, channels, axis=-1)],
    "no norm": lambda channels: [],
}
NUMPY_NORMS: Norms = {
    "batch norm": lambda channels: [NumPyNorm(channels)],
    "group norm": lambda channels: [NumPyNorm(channels, groups=4)],
}
STEPS_TIMED = 40


class Digits(NamedTuple):
    """Images (N, 8, 8, 1), float32, standardised by the training images; labels (N,)."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


@dataclass(frozen=True)
class Run:
    """One training: the test accuracy in % after each epoch, at chance once the loss was no longer finite."""

    norm: str
    lr: float
    seed: int
    accuracy: list[float]
    diverged: bool
    step_seconds: float


@dataclass(frozen=True)
class Trial:
    """One normalization at one learning rate: a run a seed, and what they say, seed by seed."""

    norm: str
    lr: float
    runs: list[Run]

    @property
    def step_ms(self) -> float:
        return 1000 * median(run.step_seconds for run in self.runs)

    @property
    def by_epoch(self) -> Array:
        """Test accuracies (seeds, epochs)."""
        return np.array([run.accuracy for run in self.runs])

    @property
    def final(self) -> list[float]:
        return [run.accuracy[-1] for run in self.runs]

    @property
    def epochs(self) -> list[float]:
        return [epochs_to_target(run.accuracy) for run in self.runs]

    @property
    def seconds(self) -> list[float]:
        """The time that those epochs spend in training steps."""
        return [epochs * STEPS_PER_EPOCH * self.step_ms / 1000 for epochs in self.epochs]

    @property
    def reached(self) -> list[bool]:
        return [epochs < inf for epochs in self.epochs]

    @property
    def diverged(self) -> int:
        return sum(run.diverged for run in self.runs)


def epochs_to_target(accuracy: list[float]) -> float:
    """Where a curve, straight from epoch to epoch, first meets `TARGET`; infinite where it never does."""
    for epoch, (before, after) in enumerate(pairwise([CHANCE, *accuracy])):
        if after >= TARGET:
            return epoch + (TARGET - before) / (after - before)
    return inf


Trials = dict[tuple[str, float], Trial]


def collect(runs: Iterable[Run]) -> Trials:
    trials: Trials = {}
    for run in runs:
        trials.setdefault((run.norm, run.lr), Trial(run.norm, run.lr, [])).runs.append(run)
    return trials


def load_digits() -> Digits:
    """The 1,797 digits that ship inside scikit-learn, always split the same way."""
    from sklearn import datasets

    data = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    images = data.images[..., None]
    standardised = ((images - images[train].mean()) / images[train].std()).astype(np.float32)
    return Digits(standardised[train], data.target[train], standardised[test], data.target[test])


def build_network(norm: str, rng: np.random.Generator, norms: Norms = NORMS) -> Sequential:
    """Four convolutions, each followed by `norm` and ReLU; pooling after the second and the fourth."""

    def block(in_channels: int, out_channels: int) -> list[Any]:
        return [Conv2d(in_channels, out_channels, rng), *norms[norm](out_channels), ReLU()]

    return Sequential(
        *block(1, 16), *block(16, 16), AvgPool2d(),
        *block(16, 32), *block(32, 32), AvgPool2d(),
        Linear(2 * 2 * 32, NUM_CLASSES, rng),
    )  # fmt: skip


@contextmanager
def _one_thread() -> Iterator[None]:
    """For products and norms as small as these, which gain little when threads share them, or lose."""
    with threadpool_limits(1, user_api="blas"), fastbn.num_threads(1):
        yield


def step_seconds(norm: str, digits: Digits) -> tuple[float, float]:
    """A training step with fastbn's norm, and of the same network with NumPy's: medians of steps that take turns."""
    networks = [build_network(norm, np.random.default_rng(0), norms) for norms in (NORMS, NUMPY_NORMS)]
    optimisers = [SGD(network, MODEST) for network in networks]
    x, labels = digits.train_x[:BATCH_SIZE], digits.train_y[:BATCH_SIZE]
    seconds: list[list[float]] = [[], []]
    with _one_thread():
        for step in range(STEPS_TIMED + 2):
            for k in (0, 1) if step % 2 else (1, 0):
                start = perf_counter()
                train_step(networks[k], optimisers[k], x, labels)
                if step >= 2:  # the first ones compile, or make memory
                    seconds[k].append(perf_counter() - start)
    return median(seconds[0]), median(seconds[1])


def evaluate(network: Sequential, digits: Digits) -> float:
    """The test accuracy in %."""
    network.eval()
    return 100 * float((network(digits.test_x).argmax(1) == digits.test_y).mean())


def train(norm: str, lr: float, seed: int, epochs: int, digits: Digits) -> Run:
    """Train one network from its initial weights; stop early when the loss is no longer finite."""
    rng = np.random.default_rng(seed)
    network = build_network(norm, rng)
    optimiser = SGD(network, lr)
    accuracy: list[float] = []
    seconds = []
    with np.errstate(over="ignore", invalid="ignore"), _one_thread():  # divergence is told from the loss
        for _ in range(epochs):
            network.train()
            for batch in batches(len(digits.train_y), BATCH_SIZE, rng):
                start = perf_counter()
                loss = train_step(network, optimiser, digits.train_x[batch], digits.train_y[batch])
                seconds.append(perf_counter() - start)
            if not np.isfinite(loss):
                break
            accuracy.append(evaluate(network, digits))
    missing = epochs - len(accuracy)
    return Run(norm, lr, seed, accuracy + [CHANCE] * missing, missing > 0, median(seconds))
