"""Sums of floats, or of integers with weights, of which not all count alike: by kernels, where they lie."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn._moments import Sums, from_sums
from fastbn.kernels import selected
from fastbn.moments._laid import Beside, run

Array = NDArray[Any]


def selected_sums(x: Array, kept: tuple[int, ...], w: Array) -> Sums | None:
    """The state of x, each element of which counts as often as w says; None where they do not lie as a kernel reads.

    w: a mask, or finite weights from 0 up, of float32 or float64; it broadcasts to x.
    """
    beside = Beside.of(x, kept, w)
    if beside is None or any(n > 1 for n in (beside.laid.block[k] for k in beside.laid.between)):
        return None
    units, plan = beside.plan()
    groups, inner = plan.groups, plan.inner
    args = beside.x, beside.w, beside.kinds
    shifts = np.empty(groups)
    # Where the elements lie, whatever the columns: w_inner is that of an element, not of a column.
    selected.shifts_of_groups.serial(groups, np.array(plan, np.int64), *args, shifts)
    if beside.columns:
        width = groups * inner
        sums = np.empty((units // plan.pieces, 3, width))
        run(selected.weighted_columns, units, plan, (*args, np.repeat(shifts, inner), sums.reshape(-1)))
        n, s, q = sums.sum(axis=0).reshape(3, groups, inner).sum(axis=2)
    else:
        sums = np.empty((units // (groups * plan.pieces), groups, plan.pieces, 3))
        run(selected.weighted_runs, units, plan, (*args, shifts, sums.reshape(-1)))
        n, s, q = sums.sum(axis=(0, 2)).T
    return from_sums(*beside.laid.of_kept(np.stack([n, shifts, s, q])))
