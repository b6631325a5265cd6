"""Networks and training loops of the studies: what ``fastbn demo`` trains, with the parts that it does not need.

All layers speak the protocol of fastbn's own (call, ``backward``, ``parameters``, ``grads``, ``zero_grad``, ``train``,
``eval``).  Arrays are channels last, (N, C) or (N, H, W, C).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

import fastbn
from fastbn.cli._network import (
    SGD,
    Array,
    AvgPool2d,
    Conv2d,
    Layer,
    Linear,
    Loss,
    ReLU,
    Sequential,
    batches,
    cross_entropy,
    train_step,
)

__all__ = [
    "SGD",
    "Adam",
    "Array",
    "Data",
    "Dropout",
    "LeakyReLU",
    "Linear",
    "ReLU",
    "Recurrent",
    "Sequential",
    "Tanh",
    "accuracy",
    "batches",
    "convolutional",
    "cross_entropy",
    "dense",
    "fit",
    "learning_curve",
    "norm",
    "test_loss",
    "train_step",
    "with_relu",
]


class Data(NamedTuple):
    """What is learned from, and what is tested with."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


# layers ---------------------------------------------------------------------------------------------------------------


def norm(kind: str, channels: int) -> list[Any]:
    """The layer of one normalization, or none; layer norm is over all of a sample, with parameters per channel."""
    makers: dict[str, Callable[[], Any]] = {
        "batch norm": lambda: fastbn.BatchNorm(channels, axis=-1),
        "ghost norm": lambda: fastbn.BatchNorm(channels, axis=-1, virtual_batch_size=8),
        "renorm": lambda: fastbn.BatchNorm(channels, axis=-1, renorm=(1.0, 0.0)),  # to be relaxed
        "layer norm": lambda: fastbn.GroupNorm(1, channels, axis=-1),
        "group norm": lambda: fastbn.GroupNorm(4, channels, axis=-1),
    }
    return [] if kind == "no norm" else [makers[kind]()]


class Tanh(Layer):
    """The hyperbolic tangent."""

    def __call__(self, x: Array) -> Array:
        self.y = np.tanh(x)
        return self.y

    def backward(self, dy: Array) -> Array:
        return dy * (1 - self.y * self.y)


class LeakyReLU(Layer):
    """x where it is positive, a fifth of it elsewhere."""

    def __call__(self, x: Array) -> Array:
        self.slope = np.where(x > 0, np.float32(1), np.float32(0.2))
        return x * self.slope

    def backward(self, dy: Array) -> Array:
        return dy * self.slope


class Dropout(Layer):
    """Sets a share of the elements to zero in training, and scales the others up so that the mean stays."""

    def __init__(self, rate: float, rng: np.random.Generator) -> None:
        super().__init__()
        self.rate, self.rng = rate, rng

    def __call__(self, x: Array) -> Array:
        if not self.training:
            return x
        self.scale = (self.rng.random(x.shape, dtype=np.float32) >= self.rate) / np.float32(1 - self.rate)
        return x * self.scale

    def backward(self, dy: Array) -> Array:
        return dy * self.scale


class Recurrent:
    """A network that reads a word letter by letter and scores, after each, what letter comes next.

    h[t] = tanh(norm(embedding[letter] + h[t-1] @ recurrent + bias)).  Batch norm has statistics of its own for each
    step; `masked` keeps words that have ended out of them.
    """

    def __init__(self, kind: str, letters: int, hidden: int, steps: int, rng: np.random.Generator) -> None:
        self.masked = kind.endswith("masked")
        normal = rng.standard_normal
        self.cell = Layer(
            embedding=normal((letters, hidden), np.float32) / np.float32(2),
            recurrent=normal((hidden, hidden), np.float32) / np.float32(sqrt(hidden)),
            bias=np.zeros(hidden, np.float32),
            readout=normal((hidden, letters), np.float32) / np.float32(sqrt(hidden)),
            readout_bias=np.zeros(letters, np.float32),
        )
        self.norms: list[Any] = []
        if kind == "layer norm":
            self.norms = [fastbn.LayerNorm(hidden)] * steps
        elif kind.startswith("batch norm"):
            self.norms = [fastbn.BatchNorm1d(hidden) for _ in range(steps)]
        self.layers = (self.cell, *dict.fromkeys(self.norms))

    def __call__(self, words: Array, alive: Array) -> Array:
        """Scores (N, steps, letters) of the next letter; steps that fewer than two words reach are left out."""
        p = self.cell.parameters
        steps = int((alive.sum(0) > 1).sum())
        self.words, self.kept = words[:, :steps], []
        self.states = [np.zeros((len(words), len(p["bias"])), np.float32)]
        for t in range(steps):
            h = p["embedding"][words[:, t]] + self.states[-1] @ p["recurrent"] + p["bias"]
            if self.norms:
                h, context = self.norms[t].forward(h, where=alive[:, t, None] if self.masked else None)
                self.kept.append(context)
            self.states.append(np.tanh(h))
        return np.stack(self.states[1:], axis=1) @ p["readout"] + p["readout_bias"]

    def backward(self, dlogits: Array) -> None:
        p, grads = self.cell.parameters, self.cell.grads
        grads["readout"] += np.einsum("nth,ntl->hl", np.stack(self.states[1:], axis=1), dlogits, optimize=True)
        grads["readout_bias"] += dlogits.sum((0, 1))
        dh = np.zeros_like(self.states[0])
        for t in reversed(range(dlogits.shape[1])):
            state = self.states[t + 1]
            dz = (dh + dlogits[:, t] @ p["readout"].T) * (1 - state * state)
            if self.norms:
                dz = self.norms[t].backward(dz, self.kept[t])
            grads["recurrent"] += self.states[t].T @ dz
            grads["bias"] += dz.sum(0)
            np.add.at(grads["embedding"], self.words[:, t], dz)
            dh = dz @ p["recurrent"].T

    def zero_grad(self) -> None:
        for layer in self.layers:
            layer.zero_grad()

    def train(self, mode: bool = True) -> None:
        for layer in self.layers:
            layer.train(mode)


# networks -------------------------------------------------------------------------------------------------------------


def convolutional(after: Callable[[int], list[Any]], rng: np.random.Generator, width: int = 8) -> Sequential:
    """Four convolutions, each followed by the layers of ``after(channels)``; pooling after the second and the fourth.

    It takes images (N, 8, 8, 1), and its output is one score for each of ten digits.
    """

    def block(in_channels: int, out_channels: int) -> list[Any]:
        return [Conv2d(in_channels, out_channels, rng), *after(out_channels)]

    return Sequential(
        *block(1, width), *block(width, width), AvgPool2d(),
        *block(width, 2 * width), *block(2 * width, 2 * width), AvgPool2d(),
        Linear(2 * 2 * 2 * width, 10, rng),
    )  # fmt: skip


def dense(
    sizes: Sequence[int], after: Callable[[int], list[Any]], rng: np.random.Generator, gain: float = 1.0
) -> Sequential:
    """Fully connected layers, each but the last followed by ``after(features)``; their first weights times `gain`."""
    layers: list[Any] = []
    for size, next_size in pairwise(sizes):
        layers += after(size) if layers else []
        layers.append(Linear(size, next_size, rng))
        layers[-1].parameters["weight"] *= np.float32(gain)
    return Sequential(*layers)


def with_relu(kind: str) -> Callable[[int], list[Any]]:
    """Each convolution or linear layer followed by a norm and ReLU."""
    return lambda channels: [*norm(kind, channels), ReLU()]


# training -------------------------------------------------------------------------------------------------------------


class Adam:
    """Kingma and Ba (2015), with the bias correction in the step size."""

    def __init__(self, network: Any, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.lr, self.betas, self.steps = lr, betas, 0
        self.pairs = [(la.parameters[name], la.grads[name]) for la in network.layers for name in la.parameters]
        self.moments = [(np.zeros_like(p), np.zeros_like(p)) for p, _ in self.pairs]

    def step(self) -> None:
        self.steps += 1
        first, second = self.betas
        lr = self.lr * sqrt(1 - second**self.steps) / (1 - first**self.steps)
        for (parameter, grad), (m, v) in zip(self.pairs, self.moments, strict=True):
            m += (1 - first) * (grad - m)
            v += (1 - second) * (grad * grad - v)
            parameter -= lr * m / (np.sqrt(v) + 1e-8)


def fit(
    network: Any,
    optimiser: Any,
    data: Data,
    size: int,
    epochs: int,
    rng: np.random.Generator,
    loss: Loss = cross_entropy,
) -> Iterator[float]:
    """Train; after each epoch its mean loss is handed out.  It ends early once a loss is no longer finite."""
    for _ in range(epochs):
        network.train()
        losses = [
            train_step(network, optimiser, data.train_x[batch], data.train_y[batch], loss)
            for batch in batches(len(data.train_y), size, rng)
        ]
        if not np.isfinite(losses).all():
            return
        yield float(np.mean(losses))


def learning_curve(
    network: Any, optimiser: Any, data: Data, size: int, epochs: int, rng: np.random.Generator
) -> list[float]:
    """Train; the test accuracy in % after each epoch, that of guesses once the loss was no longer finite."""
    curve = [accuracy(network, data) for _ in fit(network, optimiser, data, size, epochs, rng)]
    guesses = 100 / (int(data.train_y.max()) + 1)
    return curve + [guesses] * (epochs - len(curve))


def accuracy(network: Any, data: Data) -> float:
    """The test accuracy in %, in evaluation mode."""
    network.train(False)
    return 100 * float((network(data.test_x).argmax(1) == data.test_y).mean())


def test_loss(network: Any, data: Data) -> float:
    """The mean cross-entropy of the test data, in evaluation mode."""
    network.train(False)
    return cross_entropy(network(data.test_x), data.test_y)[0]
