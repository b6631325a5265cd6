# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""What C calls: pointers and numbers in, checks, the plan of the call, and a serial kernel.

The plan is that of Python's calls: the arithmetic of `fastbn.engine.integers`.  A missing weight or bias of a channel
is one of ones or zeros in working memory, which gives the same bits; layer and RMS norm, which are to need none, have
kernels without them.
"""

import numpy as np

from fastbn._compiled import steps  # noqa: F401 - it makes the functions of `integers` known to Numba
from fastbn._export.memory import (
    OVERHEAD,
    array,
    computed,
    either,
    extent,
    fill,
    filled,
    fits,
    item_of,
    misaligned,
    null,
    opened,
    overlapping,
    room,
    wanted,
    widened,
)
from fastbn.engine import integers
from fastbn.kernels import columns, rows, runs, statistics
from fastbn.kernels.jit import tile
from fastbn.kernels.plans import Runs

# What entries call takes together what belongs together: `memory`, x and y, or dy, x and dx; `affine`, weight and bias;
# `saved`, mean and rstd; `grads`, dweight and dbias.

OK, NULL, SIZE, OVERLAP, SETTING, FEW, ALIGNMENT = range(7)  # what entries return

_runs_forward, _runs_scale = tile(runs.forward.serial.py_func), tile(runs.scale.serial.py_func)
_rows_forward = tile(rows.forward.serial.py_func)
_columns_forward, _columns_scale = tile(columns.forward.serial.py_func), tile(columns.scale.serial.py_func)
_update, _apart = tile(statistics.update.py_func), tile(columns.apart)


@tile
def _wrong(eps, least):
    """Whether eps is not finite, negative, or zero where it must not be."""
    return not (eps < np.inf and (eps >= 0.0 if least == 0 else eps > 0.0))


@tile
def _misplaced(sources, target, written, read):
    """A status, of memory as `overlapping` takes it."""
    if overlapping(sources, target, written, read):
        return OVERLAP
    return ALIGNMENT if misaligned(sources, target, written, read) else OK


@tile
def of_nothing(first, second, count, value):
    """Write what there is without elements: statistics that are NaN, or gradients that are 0; NULL: not wanted."""
    behind = extent(first, count, item_of(first))[2] | extent(second, count, item_of(second))[2]
    if behind != 0:
        return ALIGNMENT
    fill(wanted(first, count), value)
    fill(wanted(second, count), value)
    return OK


# Layer and RMS norm ---------------------------------------------------------------------------------------------------


@tile
def _rows_refused(x, y, rows, cols, eps, most):
    """A status; OK also where there is nothing to do."""
    if not fits(rows, cols, 1, item_of(x), most):
        return SIZE
    if _wrong(eps, 0):
        return SETTING
    return NULL if rows * cols > 0 and (null(x) or null(y)) else OK


@tile
def _rows_plan(x, rows, cols, centered):
    item = item_of(x)
    view = Runs(1, rows, 1, cols, cols)
    return view, integers.runs_forward(view, 0, rows * cols * item, item, centered, 1)


@tile
def layer_norm(x, y, weight, bias, rows, cols, eps, mean, rstd, work, most):
    refused = _rows_refused(x, y, rows, cols, eps, most)
    if refused:
        return refused
    item, size = item_of(x), rows * cols
    written = extent(mean, rows, 8), extent(rstd, rows, 8)
    read = extent(weight, cols, item_of(weight)), extent(bias, cols, item_of(weight))
    refused = _misplaced((extent(x, size, item),), extent(y, size, item), written, read)
    if refused:
        return refused
    means, roots = wanted(mean, rows), wanted(rstd, rows)
    if size == 0:
        fill(means, np.nan)
        fill(roots, np.nan)
        return OK
    plan, source, target = _rows_plan(x, rows, cols, 1), array(x, size), array(y, size)
    w, b = array(weight, cols), array(bias, cols)
    if null(weight):
        if null(bias):
            _rows_forward(plan, source, target, None, None, eps, means, roots, None)
        else:
            _rows_forward(plan, source, target, None, b, eps, means, roots, None)
    elif null(bias):
        _rows_forward(plan, source, target, w, None, eps, means, roots, None)
    else:
        _rows_forward(plan, source, target, w, b, eps, means, roots, None)
    return OK


@tile
def rms_norm(x, y, weight, rows, cols, eps, rstd, work, most):
    refused = _rows_refused(x, y, rows, cols, eps, most)
    if refused:
        return refused
    item, size = item_of(x), rows * cols
    written, read = (extent(rstd, rows, 8),), (extent(weight, cols, item_of(weight)),)
    refused = _misplaced((extent(x, size, item),), extent(y, size, item), written, read)
    if refused:
        return refused
    roots = wanted(rstd, rows)
    if size == 0:
        fill(roots, np.nan)
        return OK
    plan, source, target = _rows_plan(x, rows, cols, 0), array(x, size), array(y, size)
    if null(weight):
        _rows_forward(plan, source, target, None, None, eps, array(rstd, 0), roots, None)
    else:
        _rows_forward(plan, source, target, array(weight, cols), None, eps, array(rstd, 0), roots, None)
    return OK


@tile
def rows_workspace(rows, cols, item, most):
    return 0


# Batch norm -----------------------------------------------------------------------------------------------------------


@tile
def _split(outer, channels, inner):
    """How channels are seen by kernels, as by Python's calls: one channel is a run."""
    return (1, 1, outer * inner) if channels == 1 else (outer, channels, inner)


@tile
def _view_of_columns(parts):
    outer, channels, inner = parts
    return integers.columns(outer, channels * inner, inner, inner, channels, 0)


@tile
def _given_room(parts, item):
    outer, channels, inner = parts
    blocks = 0
    if integers.channels_are_columns(outer, channels, inner, 0):
        view = _view_of_columns(parts)
        blocks = (3 * _apart(view.width * view.fold) + 16) * computed(item) + OVERHEAD
    return room(2 * channels, item, 2 * channels, blocks)


@tile
def _batch_room(parts, item):
    outer, channels, inner = parts
    blocks = 0
    if integers.channels_are_columns(outer, channels, inner, 1):
        blocks = _of_panel(_view_of_columns(parts), item)
    return room(2 * channels, item, 2 * channels, blocks)


@tile
def _of_panel(view, item):
    """The bytes that `columns.forward` is given."""
    n = view.panel
    return 5 * _apart(n) * 8 + (3 * _apart(n) + 16) * computed(item) + 2 * n * 8 + 3 * OVERHEAD


@tile
def _size(places, most):
    """Of working memory; 0 where the call will be refused."""
    return places[3] if places[3] <= most else 0


@tile
def _nothing(batch, channels, plane, item, most):
    """Whether a call will be refused, or has no elements."""
    return not fits(batch, channels, plane, item, most) or batch * channels * plane == 0


@tile
def _given(memory, affine, statistics, shape, eps, work, most):
    (x, y), (weight, bias), (mean, var), (outer, channels, inner) = memory, affine, statistics, shape
    item, size = item_of(x), outer * channels * inner
    if not fits(outer, channels, inner, item, most):
        return SIZE
    if _wrong(eps, 0):
        return SETTING
    if size == 0:
        return OK
    parts = _split(outer, channels, inner)
    places = _given_room(parts, item)
    if places[3] > most:
        return SIZE
    if null(x) or null(y) or null(mean) or null(var) or null(work):
        return NULL
    own = item_of(weight)
    of_affine, given = (extent(weight, channels, own), extent(bias, channels, own)), extent(mean, channels, own)
    read = (*of_affine, given, extent(var, channels, own))
    refused = _misplaced((extent(x, size, item),), extent(y, size, item), (extent(work, places[3], 1),), read)
    if refused:
        return refused
    base = opened(work, places)
    ones, zeros = base + places[0], base + places[0] + channels * own
    w, b = filled(weight, ones, channels, 1.0), filled(bias, zeros, channels, 0.0)
    # In float64, as statistics that are computed are: so functions of `_train` serve here, too.
    means = widened(mean, base + places[1], work, channels)
    variances = widened(var, base + places[1] + channels * 8, work, channels)
    source, target = array(x, size), array(y, size)
    if integers.channels_are_columns(parts[0], parts[1], parts[2], 0):
        of_columns = _view_of_columns(parts)
        plan = of_columns, integers.columns_scale(of_columns, 1, size * item, item, 1, 1)
        _columns_scale(plan, source, target, w, b, None, None, eps, means, variances, w[:0], None)
    else:
        view = Runs(parts[0], parts[1], 1, parts[2], channels)
        _runs_scale(
            (view, integers.runs_scale(view, 1, size * item, item)), source, target, w, b, eps, means, variances, None
        )
    return OK


@tile
def _train(memory, affine, shape, settings, running, saved, work, most):
    """settings: eps and momentum."""
    (x, y), (weight, bias), (outer, channels, inner), (eps, momentum) = memory, affine, shape, settings
    (running_mean, running_var), (mean, rstd) = running, saved
    item, size = item_of(x), outer * channels * inner
    if not fits(outer, channels, inner, item, most):
        return SIZE
    if _wrong(eps, 1) or not abs(momentum) < np.inf:
        return SETTING
    if size == channels and size > 0:
        return FEW
    if size == 0:
        return of_nothing(mean, rstd, channels, np.nan)
    parts = _split(outer, channels, inner)
    places = _batch_room(parts, item)
    if places[3] > most:
        return SIZE
    if null(x) or null(y) or null(work):
        return NULL
    own = item_of(weight)
    of_running = extent(running_mean, channels, own), extent(running_var, channels, own)
    written = (extent(mean, channels, 8), extent(rstd, channels, 8), extent(work, places[3], 1), *of_running)
    read = extent(weight, channels, own), extent(bias, channels, own)
    refused = _misplaced((extent(x, size, item),), extent(y, size, item), written, read)
    if refused:
        return refused
    base = opened(work, places)
    w = filled(weight, base + places[0], channels, 1.0)
    b = filled(bias, base + places[0] + channels * own, channels, 0.0)
    means = array(either(mean, base + places[1]), channels)
    variances = array(either(rstd, base + places[1] + channels * 8), channels)
    source, target = array(x, size), array(y, size)
    if integers.channels_are_columns(parts[0], parts[1], parts[2], 1):
        of_columns = _view_of_columns(parts)
        plan = of_columns, integers.columns_forward(of_columns, 1, size * item, item, 1, 0)
        _columns_forward(plan, source, target, w, b, None, None, eps, means, variances, w[:0], None)
    else:
        view = Runs(parts[0], parts[1], 1, parts[2], channels)
        of_runs = view, integers.runs_forward(view, 1, size * item, item, 1, 0)
        _runs_forward(of_runs, source, target, w, b, None, None, eps, means, variances, None)
    terms = size // channels
    of_mean, of_var = wanted(running_mean, channels), wanted(running_var, channels)
    _update(means, variances, terms / (terms - 1), momentum, eps, 0, of_mean, of_var, array(work, 0))
    return OK


@tile
def batch_norm_nchw(x, y, weight, bias, running_mean, running_var, batch, channels, plane, eps, work, most):
    running = running_mean, running_var
    return _given((x, y), (weight, bias), running, (batch, channels, plane), eps, work, most)


@tile
def batch_norm_nhwc(x, y, weight, bias, running_mean, running_var, batch, channels, plane, eps, work, most):
    if not fits(batch, channels, plane, 1, most):
        return SIZE
    running = running_mean, running_var
    return _given((x, y), (weight, bias), running, (batch * plane, channels, 1), eps, work, most)


@tile
def batch_norm_train_nchw(
    x, y, weight, bias, batch, channels, plane, eps, momentum, running_mean, running_var, mean, rstd, work, most
):
    shape, settings, running = (batch, channels, plane), (eps, momentum), (running_mean, running_var)
    return _train((x, y), (weight, bias), shape, settings, running, (mean, rstd), work, most)


@tile
def batch_norm_train_nhwc(
    x, y, weight, bias, batch, channels, plane, eps, momentum, running_mean, running_var, mean, rstd, work, most
):
    if not fits(batch, channels, plane, 1, most):
        return SIZE
    shape, settings, running = (batch * plane, channels, 1), (eps, momentum), (running_mean, running_var)
    return _train((x, y), (weight, bias), shape, settings, running, (mean, rstd), work, most)


@tile
def batch_norm_nchw_workspace(batch, channels, plane, item, most):
    if _nothing(batch, channels, plane, item, most):
        return 0
    return _size(_given_room(_split(batch, channels, plane), item), most)


@tile
def batch_norm_nhwc_workspace(batch, channels, plane, item, most):
    if _nothing(batch, channels, plane, item, most):
        return 0
    return _size(_given_room(_split(batch * plane, channels, 1), item), most)


@tile
def batch_norm_train_nchw_workspace(batch, channels, plane, item, most):
    if _nothing(batch, channels, plane, item, most):
        return 0
    return _size(_batch_room(_split(batch, channels, plane), item), most)


@tile
def batch_norm_train_nhwc_workspace(batch, channels, plane, item, most):
    if _nothing(batch, channels, plane, item, most):
        return 0
    return _size(_batch_room(_split(batch * plane, channels, 1), item), most)


# Group and instance norm ----------------------------------------------------------------------------------------------


@tile
def _view_of_groups(before, groups, span, behind):
    return integers.columns(before, groups * span * behind, span * behind, behind, groups * span, 0)


@tile
def _groups_room(batch, before, groups, span, behind, item):
    blocks, numbers = 0, 0
    if not (before == 1 or groups * span == 1):
        blocks, numbers = _of_panel(_view_of_groups(before, groups, span, behind), item), 2 * batch * groups
    return room(2 * groups * span, item, numbers, blocks)


@tile
def _groups(memory, affine, shape, eps, saved, work, most):
    """After sizes have been checked."""
    (x, y), (weight, bias), (batch, before, groups, span, behind), (mean, rstd) = memory, affine, shape, saved
    item, channels, count = item_of(x), groups * span, batch * groups
    size = batch * before * channels * behind
    if _wrong(eps, 0):
        return SETTING
    if size == 0:
        return of_nothing(mean, rstd, count, np.nan)
    places = _groups_room(batch, before, groups, span, behind, item)
    if places[3] > most:
        return SIZE
    if null(x) or null(y) or null(work):
        return NULL
    written = extent(mean, count, 8), extent(rstd, count, 8), extent(work, places[3], 1)
    own = item_of(weight)
    read = extent(weight, channels, own), extent(bias, channels, own)
    refused = _misplaced((extent(x, size, item),), extent(y, size, item), written, read)
    if refused:
        return refused
    base = opened(work, places)
    source, target = array(x, size), array(y, size)
    plane, by_runs = before * behind, before == 1 or channels == 1
    by_element = by_runs and plane == 1 and span > 1
    w = filled(weight, base + places[0], channels, 1.0)
    # What is added to an element of its own must leave -0 as it is.
    b = filled(bias, base + places[0] + channels * own, channels, -0.0 if by_element else 0.0)
    if by_element:
        one_part = Runs(1, count, 1, span, channels)
        plan = one_part, integers.runs_forward(one_part, 0, size * item, item, 1, 1)
        means, roots = wanted(mean, count), wanted(rstd, count)
        _runs_forward(plan, source, target, None, None, w, b, eps, means, roots, None)  # which is here anyway
    elif by_runs:
        of_parts = Runs(1, count, span, plane, channels)
        of_runs = of_parts, integers.runs_forward(of_parts, 1, size * item, item, 1, 1)
        _runs_forward(of_runs, source, target, w, b, None, None, eps, wanted(mean, count), wanted(rstd, count), None)
    else:
        view = _view_of_groups(before, groups, span, behind)
        plan = view, integers.columns_forward(view, batch, size * item, item, 1, 1)
        means = array(either(mean, base + places[1]), count)
        roots = array(either(rstd, base + places[1] + count * 8), count)
        _columns_forward(plan, source, target, w, b, None, None, eps, means, roots, w[:0], None)
    return OK


@tile
def _groups_of(channels, groups):
    """The channels of a group; -1: there are no such groups."""
    if groups != channels and (groups < 1 or channels % groups != 0):
        return -1
    return channels // max(groups, 1)


@tile
def group_norm_nchw(x, y, weight, bias, batch, channels, plane, groups, eps, mean, rstd, work, most):
    if not fits(batch, channels, plane, item_of(x), most):
        return SIZE
    span = _groups_of(channels, groups)
    if span < 0:
        return SETTING
    return _groups((x, y), (weight, bias), (batch, 1, groups, span, plane), eps, (mean, rstd), work, most)


@tile
def group_norm_nhwc(x, y, weight, bias, batch, channels, plane, groups, eps, mean, rstd, work, most):
    if not fits(batch, channels, plane, item_of(x), most):
        return SIZE
    span = _groups_of(channels, groups)
    if span < 0:
        return SETTING
    return _groups((x, y), (weight, bias), (batch, plane, groups, span, 1), eps, (mean, rstd), work, most)


@tile
def instance_norm_nchw(x, y, weight, bias, batch, channels, plane, eps, mean, rstd, work, most):
    if not fits(batch, channels, plane, item_of(x), most):
        return SIZE
    if plane == 1 and batch * channels > 0:
        return FEW
    return _groups((x, y), (weight, bias), (batch, 1, channels, 1, plane), eps, (mean, rstd), work, most)


@tile
def instance_norm_nhwc(x, y, weight, bias, batch, channels, plane, eps, mean, rstd, work, most):
    if not fits(batch, channels, plane, item_of(x), most):
        return SIZE
    if plane == 1 and batch * channels > 0:
        return FEW
    return _groups((x, y), (weight, bias), (batch, plane, channels, 1, 1), eps, (mean, rstd), work, most)


def workspaces(groups_room):
    """How much working memory calls take whose places `groups_room` gives.

    Of group norm in nchw and nhwc, and of instance norm.
    """

    @tile
    def of_groups(batch, before, channels, groups, behind, item, most):
        span = _groups_of(channels, groups)
        if _nothing(batch, channels, before * behind, item, most) or span < 0:
            return 0
        return _size(groups_room(batch, before, groups, span, behind, item), most)

    @tile
    def group_nchw(batch, channels, plane, groups, item, most):
        return of_groups(batch, 1, channels, groups, plane, item, most)

    @tile
    def group_nhwc(batch, channels, plane, groups, item, most):
        return of_groups(batch, plane, channels, groups, 1, item, most)

    @tile
    def instance_nchw(batch, channels, plane, item, most):
        return of_groups(batch, 1, channels, channels, plane, item, most)

    @tile
    def instance_nhwc(batch, channels, plane, item, most):
        return of_groups(batch, plane, channels, channels, 1, item, most)

    return group_nchw, group_nhwc, instance_nchw, instance_nhwc


(
    group_norm_nchw_workspace,
    group_norm_nhwc_workspace,
    instance_norm_nchw_workspace,
    instance_norm_nhwc_workspace,
) = workspaces(_groups_room)
