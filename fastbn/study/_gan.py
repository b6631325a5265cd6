"""A small generative adversarial network, with batch norm and without."""

import numpy as np

from fastbn.cli._network import Layer
from fastbn.study._data import digits, portion
from fastbn.study._network import Adam, Array, LeakyReLU, ReLU, Sequential, Tanh, dense, norm
from fastbn.study._study import Claim, Column, Dots, Lines, Measured, Panel, Results, Study, Way

NONE, GENERATOR, BOTH = WAYS = ("no norm", "batch norm in the generator", "batch norm in both")
NOISE, WIDTH, PIXELS = 16, 96, 64
STEPS, BATCH_SIZE, RATE, LOOKS, SAMPLES = 1500, 64, 0.001, 10, 1000


def build(way: str, rng: np.random.Generator) -> tuple[Sequential, Sequential]:
    generator_norm = "no norm" if way == NONE else "batch norm"
    judge_norm = "batch norm" if way == BOTH else "no norm"
    generator = dense((NOISE, WIDTH, WIDTH, PIXELS), lambda size: [*norm(generator_norm, size), ReLU()], rng)
    judge = dense((PIXELS, WIDTH, WIDTH, 1), lambda size: [*norm(judge_norm, size), LeakyReLU()], rng, gain=0.5)
    output: Layer = Tanh()
    return Sequential(*generator.layers, output), judge


def logistic(scores: Array, sign: float) -> Array:
    """The gradient of the mean of log(1 + exp(-sign * scores))."""
    gradient: Array = -sign / (1 + np.exp(sign * scores)) / len(scores)
    return gradient.astype(np.float32)


def distance(real: Array, made: Array) -> float:
    """Frechet's distance between two sets of images, as if each were normally distributed."""
    means = [x.mean(0, dtype=np.float64) for x in (real, made)]
    first, second = (np.cov(x.T.astype(np.float64)) for x in (real, made))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    crossed = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * crossed)


def kinds(made: Array, real: Array, labels: Array) -> float:
    """How many digits are made, as their nearest neighbours tell: exp of the entropy, 10 if all are as frequent."""
    near = ((made**2).sum(1)[:, None] - 2 * made @ real.T + (real**2).sum(1)).argmin(1)
    shares = np.bincount(labels[near], minlength=10) / len(made)
    return float(np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()))


def measure(way: Way, seed: int, share: float) -> Measured:
    rng, data = np.random.default_rng(seed), digits(share)
    least, greatest = data.train_x.min(), data.train_x.max()
    real = 2 * (data.train_x.reshape(-1, PIXELS) - least) / (greatest - least) - 1
    generator, judge = build(way[0], rng)
    make, tell = (Adam(network, RATE, betas=(0.5, 0.999)) for network in (generator, judge))
    steps = portion(STEPS, share)
    looks = {round(steps * (i + 1) / LOOKS) for i in range(LOOKS)}
    curve = []
    for step in range(1, steps + 1):
        judge.zero_grad()
        judge.backward(logistic(judge(real[rng.integers(len(real), size=BATCH_SIZE)]), 1.0))
        made = generator(rng.standard_normal((BATCH_SIZE, NOISE), np.float32))
        judge.backward(logistic(judge(made), -1.0))
        tell.step()
        generator.zero_grad()
        generator.backward(judge.backward(logistic(judge(made), 1.0)))
        make.step()
        if step in looks:
            generator.eval()
            samples = generator(rng.spawn(1)[0].standard_normal((SAMPLES, NOISE), np.float32))
            generator.train()
            curve.append(distance(real, samples))
    return {"curve": curve, "distance": curve[-1], "kinds": kinds(samples, real, data.train_y)}


def claims(results: Results) -> list[Claim]:
    far, many = ({way: results.values(key, way) for way in WAYS} for key in ("distance", "kinds"))
    return [
        Claim("Batch norm in the generator makes better images", "distance saved", far[NONE] - far[GENERATOR]),
        Claim("Batch norm in both makes better images than none", "distance saved", far[NONE] - far[BOTH]),
        Claim("It is better in the generator alone than in both", "distance saved", far[BOTH] - far[GENERATOR]),
        Claim(
            "With batch norm in the generator, more of the ten digits are made", "digits", many[GENERATOR] - many[NONE]
        ),
    ]


def panels(results: Results) -> list[Panel]:
    curves = {way: results.values("curve", way) for way in WAYS}
    points = next(iter(curves.values())).shape[1]
    steps = [STEPS * (i + 1) / points for i in range(points)]
    many = {way: results.values("kinds", way) for way in WAYS}
    return [
        Lines("While it trains", "step", "Frechet distance to real digits", steps, curves, log="y"),
        Dots("After the last step", "digits made, of 10", many),
    ]


STUDY = Study(
    title="A generative adversarial network",
    about=f"A generator of handwritten digits and a network that tells them from real ones, three layers each; Adam at "
    f"{RATE:g}, {STEPS:,} steps. Images are judged by their Frechet distance to the real ones, in pixels (lower is "
    "better), and by how many of the ten digits there are, as nearest neighbours tell.",
    compared="network",
    ways=tuple((way,) for way in WAYS),
    measure=measure,
    columns=(Column("distance", "Frechet distance", ".2f"), Column("kinds", "digits made")),
    claims=claims,
    panels=panels,
)
