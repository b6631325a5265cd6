"""What the trainings show: each claim about batch norm beside the numbers for or against it.

Every verdict is computed.  Networks are compared seed by seed, because those of one seed share their initial weights
and their batches; a claim holds when every seed shows it, and does not when none does.
"""

from collections.abc import Sequence
from math import inf
from statistics import mean
from typing import NamedTuple

from fastbn.cli._digits import HIGH, MODEST, TARGET, Trials


class Finding(NamedTuple):
    claim: str
    verdict: str
    numbers: str


def span(values: Sequence[float], digits: int) -> str:
    """The smallest and the largest value, "1 to 3"; an infinite one is "never"."""
    low, high = (f"{v:.{digits}f}" if v < inf else "never" for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def percent(values: Sequence[float]) -> str:
    """The mean with the smallest and the largest value."""
    return f"{mean(values):.1f} % ({span(values, 1)})"


def judge(smaller: Sequence[float], larger: Sequence[float]) -> str:
    """The verdict on a claim that the first values are smaller, compared seed by seed."""
    shown, seeds = sum(a < b for a, b in zip(smaller, larger, strict=True)), len(smaller)
    verdict = "holds here" if shown == seeds else "is not settled here" if shown else "does not hold here"
    return f"{verdict} (shown by {shown} of {seeds} seeds)"


def find(trials: Trials) -> list[Finding]:
    """The claims in the order in which they are told."""
    batch, group, none = (trials[norm, MODEST] for norm in ("batch norm", "group norm", "no norm"))
    batch_high, group_high, none_high = (trials[norm, HIGH] for norm in ("batch norm", "group norm", "no norm"))
    to_target = f"Epochs to {TARGET:.0f} % test accuracy"
    return [
        Finding(
            f"Batch norm converges in fewer epochs, at learning rate {MODEST:g}",
            judge(batch.epochs, none.epochs),
            f"{to_target}: {span(batch.epochs, 1)} with batch norm, {span(none.epochs, 1)} without.",
        ),
        Finding(
            "... and in less time",
            judge(batch.seconds, none.seconds),
            f"A step takes {batch.step_ms:.1f} ms with batch norm and {none.step_ms:.1f} ms without; "
            f"seconds to {TARGET:.0f} %: {span(batch.seconds, 2)} with, {span(none.seconds, 2)} without.",
        ),
        Finding(
            f"Batch norm learns at {HIGH / MODEST:g} times that rate, {HIGH:g}, where the network without it does not",
            judge(none_high.reached, batch_high.reached),
            f"Runs that reach {TARGET:.0f} %: "
            + ", ".join(f"{sum(t.reached)} of {len(t.runs)} with {t.norm}" for t in (batch_high, group_high, none_high))
            + f"; runs that diverge to a loss of NaN: {sum(t.diverged for t in (batch_high, group_high, none_high))}.",
        ),
        Finding(
            "... and the higher rate makes it converge in fewer epochs still",
            judge(batch_high.epochs, batch.epochs),
            f"{to_target}: {span(batch_high.epochs, 1)} at {HIGH:g}, {span(batch.epochs, 1)} at {MODEST:g}.",
        ),
        Finding(
            f"Batch norm is more accurate in the end than no norm, at learning rate {MODEST:g}",
            judge(none.final, batch.final),
            f"At the end: {percent(batch.final)} with batch norm, {percent(none.final)} without.",
        ),
        Finding(
            f"Batch norm converges in fewer epochs than group norm, which looks at each image alone, at {MODEST:g}",
            judge(batch.epochs, group.epochs),
            f"{to_target}: {span(batch.epochs, 1)} with batch norm, {span(group.epochs, 1)} with group norm.",
        ),
    ]
