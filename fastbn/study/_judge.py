"""Verdicts: whether a claim holds, as far as the seeds tell."""

from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np

from fastbn.study._study import Claim

HOLDS, FAILS, OPEN = "holds here", "does not", "not judged"

# Student's t, 97.5 %, for 1, 2, ... degrees of freedom; the last for any more, which errs on the side of caution.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Verdict:
    """A claim with its verdict, and the mean of its numbers with a 95 % interval over the seeds."""

    claim: Claim
    words: str
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        claim, seeds = self.claim, len(self.claim.values)
        mean, low, high = (f"{round(value, 9) + 0.0:.3g}" for value in (self.mean, self.low, self.high))
        within = f", 95 % interval {low} to {high}" if self.high < inf else ""
        bound = f"; above {claim.bound:g} it holds" if claim.bound else ""
        return f"{claim.number}: {mean} ({seeds} seed{'s' * (seeds != 1)}{within}{bound})"


def interval(values: Any) -> tuple[float, float]:
    """Where the mean lies, at 95 %, if the numbers are about normally distributed: Student's t interval."""
    values = np.asarray(values, np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return -inf, inf
    half = _T[min(len(values) - 1, len(_T)) - 1] * float(values.std(ddof=1)) / sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def judge(claim: Claim) -> Verdict:
    """Whether the interval lies above the claim's bound, or nowhere above it; else it is not judged."""
    low, high = interval(claim.values)
    words = HOLDS if low > claim.bound else FAILS if high <= claim.bound else OPEN
    return Verdict(claim, words, float(np.mean(claim.values)), low, high)
