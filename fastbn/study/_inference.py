"""Inference with running, precise and batch statistics, on data as in training and on data that shifted."""

from copy import deepcopy
from functools import lru_cache

import numpy as np

import fastbn
from fastbn.study._data import digits, portion
from fastbn.study._network import SGD, Array, Data, Sequential, convolutional, cross_entropy, fit, with_relu
from fastbn.study._study import Claim, Column, Dots, Measured, Panel, Results, Study, Way

EPOCHS, BATCH_SIZE, RATE = 3, 16, 0.05
RUNNING, PRECISE, SHIFTED, BATCH, SMALL = STATISTICS = (
    "running",
    "precise",
    "precise of shifted data",
    "of batches of 64",
    "of batches of 4",
)
SAME, SHIFT = DATA = ("as trained", "shifted")


def shift(x: Array) -> Array:
    """Half the contrast, brighter, and noisy."""
    noise = np.random.default_rng(1).standard_normal(x.shape, np.float32)
    return 0.5 * x + np.float32(1) + np.float32(0.2) * noise


@lru_cache(maxsize=1)
def trained(seed: int, share: float) -> tuple[Sequential, Data]:
    """A trained network, the same for all ways of a seed."""
    rng, data = np.random.default_rng(seed), digits(share)
    network = convolutional(with_relu("batch norm"), rng)
    for _ in fit(network, SGD(network, RATE), data, BATCH_SIZE, portion(EPOCHS, share), rng):
        pass
    return network, data


def scores(network: Sequential, x: Array, statistics: str, seen: Array) -> Array:
    """The network's output with these statistics; `seen`: images that precise ones are taken of."""
    if statistics in (BATCH, SMALL):
        size = 64 if statistics == BATCH else 4
        network.train()
        return np.concatenate([network(x[i : i + size]) for i in range(0, len(x), size)])
    if statistics in (PRECISE, SHIFTED):
        layers = [layer for layer in network.layers if isinstance(layer, fastbn.BatchNorm)]
        parts = np.array_split(seen, max(1, len(seen) // 128))
        fastbn.population_statistics(layers, parts, network, progress=False)
    network.eval()
    return network(x)


def measure(way: Way, seed: int, share: float) -> Measured:
    statistics, which = way
    network, data = trained(seed, share)
    seen = shift(data.train_x) if statistics == SHIFTED else data.train_x
    x = shift(data.test_x) if which == SHIFT else data.test_x
    output = scores(deepcopy(network), x, statistics, seen)
    right = output.argmax(1) == data.test_y
    return {"accuracy": 100 * right.mean(), "loss": cross_entropy(output, data.test_y)[0]}


def claims(results: Results) -> list[Claim]:
    same, shifted = ({s: results.values("accuracy", s, which) for s in STATISTICS} for which in DATA)
    loss = {s: results.values("loss", s, SAME) for s in STATISTICS}
    points = "points of test accuracy"
    return [
        Claim("Precise statistics give a lower loss than running ones", "nats saved", loss[RUNNING] - loss[PRECISE]),
        Claim("They are at most half a point less accurate", points, same[PRECISE] - same[RUNNING], bound=-0.5),
        Claim("Statistics of batches of 4 are less accurate than running ones", points, same[RUNNING] - same[SMALL]),
        Claim("After a shift, statistics of the batch beat running ones", points, shifted[BATCH] - shifted[RUNNING]),
        Claim(
            "After a shift, precise statistics of shifted training images beat running ones",
            points,
            shifted[SHIFTED] - shifted[RUNNING],
        ),
        Claim(
            "They bring back all but two points of the accuracy before the shift",
            points,
            shifted[SHIFTED] - same[RUNNING],
            bound=-2.0,
        ),
    ]


def panels(results: Results) -> list[Panel]:
    def by(which: str) -> dict[str, Array]:
        return {s: results.values("accuracy", s, which) for s in STATISTICS}

    titles = ("Images as in training", "Shifted: half the contrast, brighter, noisy")
    return [Dots(title, "test accuracy (%)", by(which)) for title, which in zip(titles, DATA, strict=True)]


STUDY = Study(
    title="Running, precise and batch statistics in inference",
    about=f"Four convolutions with batch norm, trained on handwritten digits in batches of {BATCH_SIZE} for {EPOCHS} "
    "epochs; then the same network is tested with running statistics, with those of all training images "
    "(`population_statistics`), and with those of the batch at hand, on test images as they are and on images of half "
    "the contrast, brighter, with noise.",
    compared="statistics, images",
    ways=tuple((statistics, which) for which in DATA for statistics in STATISTICS),
    measure=measure,
    columns=(Column("accuracy", "test accuracy (%)"), Column("loss", "test loss (nats)", ".3f")),
    claims=claims,
    panels=panels,
)
