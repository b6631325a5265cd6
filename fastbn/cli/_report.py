"""What ``fastbn demo`` prints: tables and text on standard output, progress on standard error."""

from itertools import product
from pathlib import Path

from rich.table import Table
from rich.text import Text

import fastbn
from fastbn.cli import _check, _digits, _news, info
from fastbn.cli._check import DIRECTIONS, DTYPES, LAYOUTS, OPERATIONS
from fastbn.cli._console import console, heading, make_table, progress, say
from fastbn.cli._digits import LEARNING_RATES, NORMS, TARGET, Trials
from fastbn.cli._findings import find, percent

VERDICT_COLORS = {"holds": "green", "does not hold": "red", "is not settled": "yellow"}


def say_where() -> None:
    heading("What this runs on")
    console.print(info.as_text(info.config()))


def check() -> bool:
    """Check every operation and print the worst errors; true if all are within what is allowed."""
    heading("Every operation against its definition in float64")
    errors: dict[tuple[str, ...], float] = {}
    for operation, dtype, layout in progress(list(product(OPERATIONS, DTYPES, LAYOUTS)), ", ".join):
        for direction, error in zip(DIRECTIONS, _check.worst_errors(operation, dtype, layout), strict=True):
            errors[operation, direction, dtype, layout] = error
    console.print(_error_table(errors), "")
    means = " and ".join(f"{mean:g}" for mean in _check.MEANS)
    say(
        f"The worst error of any output, relative to its largest value, over images of unit spread at means {means}; "
        "NCHW is channels first, NHWC channels last. Allowed: "
        + ", ".join(f"{dtype} {direction} {error:g}" for (dtype, direction), error in _check.TOLERANCES.items())
        + "."
    )
    failed = sum(not _check.passes(error, dtype, direction) for (_, direction, dtype, _), error in errors.items())
    if failed:
        say(f"{failed} of {len(errors)} fail: no network is trained.", style="bold red")
    else:
        say(f"All {len(errors)} pass.", style="green")
    return not failed


def _error_table(errors: dict[tuple[str, ...], float]) -> Table:
    kinds = list(product(DTYPES, LAYOUTS))
    table = make_table(("worst error", "", *map("\n".join, kinds), ""))
    for operation, direction in product(OPERATIONS, DIRECTIONS):
        row = [errors[operation, direction, *kind] for kind in kinds]
        passed = [_check.passes(error, dtype, direction) for error, (dtype, _) in zip(row, kinds, strict=True)]
        cells = [Text(f"{error:.1e}", "" if ok else "red") for error, ok in zip(row, passed, strict=True)]
        table.add_row(operation, direction, *cells, Text("pass", "green") if all(passed) else Text("FAIL", "bold red"))
    return table


def train(epochs: int, seeds: range) -> Trials:
    """Train every network and print what came of it."""
    heading("A small convolutional network on real images")
    digits = _digits.load_digits()
    plan = list(product(seeds, LEARNING_RATES, NORMS))
    say(
        f"{len(digits.train_y)} handwritten digits to learn from and {len(digits.test_y)} to test on, 8 x 8 pixels. "
        f"Four convolutions, SGD with momentum; batch size {_digits.BATCH_SIZE}, epochs {epochs}, "
        f"seeds {seeds[0]} to {seeds[-1]}: {len(plan)} trainings."
    )
    console.print()
    runs = []
    for seed, lr, norm in progress(plan, lambda step: f"{step[2]}, lr {step[1]:g}, seed {step[0]}"):
        runs.append(_digits.train(norm, lr, seed, epochs, digits))
    trials = _digits.collect(runs)
    say(f"Test accuracy by epoch in %, mean of the seeds (chance is {_digits.CHANCE:.0f} %):")
    console.print("", _epoch_table(trials), "", sep="\n")
    say("Accuracy at the end (worst to best seed), seeds that get there or fail, median time of a training step:")
    console.print("", _summary_table(trials), sep="\n")
    console.print()
    for norm in _digits.NUMPY_NORMS:
        ours, numpys = (1e3 * seconds for seconds in _digits.step_seconds(norm, digits))
        say(
            f"The same network with {norm} written in NumPy takes {numpys:.2f} ms a step, {numpys / ours:.2f} times as "
            f"long as with fastbn's ({ours:.2f} ms, measured in turns)."
        )
    if any(trial.diverged for trial in trials.values()):
        console.print()
        say("A run diverges when its loss becomes NaN or infinite; it stops there and is counted at chance.")
    return trials


def _epoch_table(trials: Trials) -> Table:
    kinds = list(product(LEARNING_RATES, NORMS))
    table = make_table(("epoch", *(f"{norm}\nlr {lr:g}" for lr, norm in kinds)))
    means = [trials[norm, lr].by_epoch.mean(0) for lr, norm in kinds]
    for epoch, row in enumerate(zip(*means, strict=True), 1):
        table.add_row(str(epoch), *(f"{accuracy:.1f}" for accuracy in row))
    return table


def _summary_table(trials: Trials) -> Table:
    table = make_table(("", "lr", "accuracy at the end", f"reach {TARGET:.0f} %", "diverge", "ms a step"))
    for trial in trials.values():
        reached, diverged = (f"{count} of {len(trial.runs)}" for count in (sum(trial.reached), trial.diverged))
        table.add_row(trial.norm, f"{trial.lr:g}", percent(trial.final), reached, diverged, f"{trial.step_ms:.2f}")
    return table


def say_findings(trials: Trials) -> None:
    heading("What these numbers show about batch norm's claims")
    for claim, verdict, numbers in find(trials):
        say(claim)
        say(verdict, 2, next(f"bold {color}" for word, color in VERDICT_COLORS.items() if verdict.startswith(word)))
        say(numbers, 2)
    console.print()
    say("One small network, small images, two learning rates: what holds here need not hold elsewhere.")


def say_news() -> None:
    heading(f"What is new in fastbn {fastbn.__version__}")
    table = make_table(("new", "as it is written", "seen here"))
    for column in table.columns:
        column.justify = "left"
    for item in progress(_news.news(), lambda item: item.what):
        table.add_row(item.what, item.how, item.show())
    console.print(table)


def say_saved(path: Path) -> None:
    console.print(f"\nLearning curves: {path.resolve()}", soft_wrap=True)
