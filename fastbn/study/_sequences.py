"""A recurrent network on words of unequal length, with layer norm, and batch norm with and without a mask."""

import numpy as np

from fastbn.study._data import portion, words
from fastbn.study._network import Adam, Array, Recurrent, batches, cross_entropy
from fastbn.study._study import Claim, Column, Dots, Lines, Measured, Panel, Results, Study, Way

NONE, LAYER, COUNTED, MASKED = WAYS = ("no norm", "layer norm", "batch norm, padding counted", "batch norm, masked")
LETTERS, HIDDEN, STEPS = 27, 64, 12  # the end of a word and a to z; the longest word
EPOCHS, BATCH_SIZE, RATE = 8, 64, 0.005


def encode(found: list[str]) -> tuple[Array, Array, Array]:
    """The letters, those that follow each of them, and where there are any: (N, STEPS) each."""
    numbers = np.zeros((len(found), STEPS + 1), np.int64)
    for row, word in enumerate(found):
        numbers[row, : len(word)] = [ord(letter) - ord("a") + 1 for letter in word]
    return numbers[:, :-1], numbers[:, 1:], numbers[:, :-1] > 0


def loss(network: Recurrent, inputs: Array, targets: Array, alive: Array) -> tuple[float, Array]:
    """The mean over the letters that there are, and its gradient by the scores."""
    scores = network(inputs, alive)
    there = alive[:, : scores.shape[1]]
    value, gradient = cross_entropy(scores[there], targets[:, : scores.shape[1]][there])
    dscores = np.zeros_like(scores)
    dscores[there] = gradient
    return value, dscores


def measure(way: Way, seed: int, share: float) -> Measured:
    rng = np.random.default_rng(seed)
    train, test = (encode(found) for found in words(share))
    network = Recurrent(way[0], LETTERS, HIDDEN, STEPS, rng)
    optimiser = Adam(network, RATE)
    curve = []
    for _ in range(portion(EPOCHS, share)):
        network.train()
        for batch in batches(len(train[0]), BATCH_SIZE, rng):
            network.zero_grad()
            network.backward(loss(network, *(part[batch] for part in train))[1])
            optimiser.step()
        network.train(False)
        curve.append(loss(network, *test)[0])
    return {"curve": curve, "loss": curve[-1], "best": min(curve)}


def claims(results: Results) -> list[Claim]:
    best = {way: results.values("best", way) for way in WAYS}
    early = {way: results.values("curve", way)[:, :2][:, -1] for way in WAYS}
    nats = "nats a letter saved, each at its best epoch"
    return [
        Claim("Layer norm predicts the next letter better than no norm", nats, best[NONE] - best[LAYER]),
        Claim("It learns faster: after two epochs it is better", "nats a letter saved", early[NONE] - early[LAYER]),
        Claim("Batch norm without the padding is better than one that counts it", nats, best[COUNTED] - best[MASKED]),
        Claim("Batch norm without the padding is better than layer norm", nats, best[LAYER] - best[MASKED]),
    ]


def panels(results: Results) -> list[Panel]:
    curves = {way: results.values("curve", way) for way in WAYS}
    epochs = range(1, curves[NONE].shape[1] + 1)
    best = {way: results.values("best", way) for way in WAYS}
    return [
        Lines("While it trains", "epoch", "test loss (nats a letter)", list(epochs), curves),
        Dots("At the best epoch", "test loss (nats a letter)", best),
    ]


STUDY = Study(
    title="Recurrent networks and unequal lengths",
    about="A recurrent network learns the next letter of words from Python's own documentation: 2,000 words of 3 to 12 "
    f"letters to learn from, 500 to test with, in batches of {BATCH_SIZE} that are padded to {STEPS}; Adam, "
    f"{EPOCHS} epochs. Batch norm has statistics of its own for each step (Cooijmans et al. 2017).",
    compared="norm",
    ways=tuple((way,) for way in WAYS),
    measure=measure,
    columns=(
        Column("best", "test loss at the best epoch (nats a letter)", ".3f"),
        Column("loss", "after the last", ".3f"),
    ),
    claims=claims,
    panels=panels,
)
