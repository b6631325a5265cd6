"""Batch norm as the first layer, in the place of standardized data."""

import numpy as np

from fastbn.study._data import diabetes, portion, standardized
from fastbn.study._network import SGD, Array, Sequential, dense, fit, norm, with_relu
from fastbn.study._study import Claim, Column, Lines, Measured, Panel, Results, Study, Way

RAW, NORM, STANDARD = WAYS = ("as measured", "batch norm first", "standardized")
RATES = (0.0001, 0.001, 0.01, 0.1)
SIZES = (10, 32, 32, 1)
EPOCHS, BATCH_SIZE = 40, 32
WORST = -1.0  # what a run counts as whose predictions are worse than that, or no numbers


def squares(predicted: Array, truth: Array) -> tuple[float, Array]:
    """Half the mean of the squared errors, and its gradient."""
    error = predicted - truth
    return float((error * error).mean() / 2), error / len(error)


def measure(way: Way, seed: int, share: float) -> Measured:
    which, rate = way
    rng, data = np.random.default_rng(seed), diabetes(share)
    if which == STANDARD:
        data = standardized(data)
    first = norm("batch norm" if which == NORM else "no norm", SIZES[0])
    network = Sequential(*first, *dense(SIZES, with_relu("no norm"), rng).layers)
    for _ in fit(network, SGD(network, rate), data, BATCH_SIZE, portion(EPOCHS, share), rng, squares):
        pass
    network.eval()
    error = ((network(data.test_x) - data.test_y) ** 2).mean() / data.test_y.var()
    explained = 1 - float(error)
    return {"explained": max(explained, WORST) if np.isfinite(explained) else WORST}


def by_rate(results: Results, which: str) -> Array:
    return results.along("explained", [(which, rate) for rate in RATES])


def claims(results: Results) -> list[Claim]:
    best = {which: by_rate(results, which).max(axis=1) for which in WAYS}
    mean = {which: by_rate(results, which).mean(axis=1) for which in WAYS}
    share = "share of the variance explained"
    return [
        Claim("Batch norm first is better than data as measured, each at its best rate", share, best[NORM] - best[RAW]),
        Claim(
            "It takes the place of standardized data, to within 0.05, each at its best rate",
            share,
            best[NORM] - best[STANDARD],
            bound=-0.05,
        ),
        Claim("It is better than data as measured in the mean of all rates", share, mean[NORM] - mean[RAW]),
    ]


def panels(results: Results) -> list[Panel]:
    curves = {which: by_rate(results, which) for which in WAYS}
    return [Lines("", "learning rate", "share of the variance explained", RATES, curves, log="x")]


STUDY = Study(
    title="Batch norm in the place of standardized data",
    about="A network of two hidden layers predicts the progress of diabetes from ten numbers as they were measured "
    "(scikit-learn's data), with batch norm as its first layer, and from standardized numbers; SGD with momentum, "
    f"{EPOCHS} epochs. The share of the variance of 122 test patients that is explained counts as {WORST:g} where it "
    "is less.",
    compared="data, learning rate",
    ways=tuple((which, rate) for which in WAYS for rate in RATES),
    measure=measure,
    columns=(Column("explained", "variance explained", ".2f"),),
    claims=claims,
    panels=panels,
)
