"""Runs a study: every way with every seed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastbn._doors import need
from fastbn.study._judge import judge
from fastbn.study._report import Report
from fastbn.study._study import Measured, Results, Study, Way
from fastbn.study._table import find

SEEDS, QUICK_SEEDS = 5, 2

Step = tuple[int, Way]


def run(
    name: str,
    *,
    quick: bool = False,
    seed: int = 0,
    progress: Callable[[Sequence[Step]], Iterable[Step]] | None = None,
) -> Report:
    """Run a study and judge its claims.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    quick : bool
        Two seeds instead of five: most claims are then not judged.
    seed : int
        The first seed.
    progress : callable, optional
        Takes the list of runs, pairs of a seed and a way, and hands them on one by one.

    Returns
    -------
    Report
        The table, the verdicts and the picture.

    Raises
    ------
    ValueError
        If there is no such study.
    ImportError
        If scikit-learn is missing; the error names the command that installs it.

    Notes
    -----
    Runs of the same seed start from the same weights and see the same batches, so ways are compared seed by seed: a
    claim is judged by Student's 95 % interval of the differences.  A study takes some seconds to a minute.
    """
    seeds = range(seed, seed + (QUICK_SEEDS if quick else SEEDS))
    return report(name, find(name), seeds, progress=progress)


def report(
    name: str,
    study: Study,
    seeds: Sequence[int],
    share: float = 1.0,
    progress: Callable[[Sequence[Step]], Iterable[Step]] | None = None,
) -> Report:
    """Run every way with every seed, seed by seed."""
    limits: Any = need("threadpoolctl", "study").threadpool_limits
    runs: dict[Way, list[Measured]] = {way: [] for way in study.ways}
    steps = [(seed, way) for seed in seeds for way in study.ways]
    for seed, way in progress(steps) if progress else steps:
        # Divergence is told from the loss; products as small as these lose time when threads share them.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"), limits(1, user_api="blas"):
            runs[way].append(study.measure(way, seed, share))
    results = Results(runs)
    return Report(name, study, results, [judge(claim) for claim in study.claims(results)])
