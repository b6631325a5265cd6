# mypy: disallow-untyped-defs=false, check-untyped-defs=false
"""What C calls for gradients; see `entries`.

Gradients of weights are summed in working memory, block by block, as those of Python's calls.  A missing weight is one
of ones in working memory, which gives the same bits.
"""

from fastbn._export.entries import (
    NULL,
    OK,
    SETTING,
    SIZE,
    _groups_of,
    _misplaced,
    _nothing,
    _size,
    _split,
    _view_of_columns,
    _view_of_groups,
    of_nothing,
    workspaces,
)
from fastbn._export.memory import (
    OVERHEAD,
    array,
    array3,
    at_byte,
    computed,
    either,
    extent,
    filled,
    fits,
    item_of,
    null,
    opened,
    room,
)
from fastbn.engine import integers
from fastbn.kernels import columns, runs
from fastbn.kernels.jit import tile
from fastbn.kernels.loops import ROWS_AT_ONCE
from fastbn.kernels.plans import Runs
from fastbn.kernels.simd import LANES, LINE

_COLLECTED, _ROWS, _LANES, _LINE = runs.COLLECTED, ROWS_AT_ONCE, LANES, LINE

_rows_backward, _runs_backward = tile(runs.rows_backward.serial.py_func), tile(runs.backward.serial.py_func)
_columns_backward, _collect = tile(columns.backward.serial.py_func), tile(runs.collect_rows.serial.py_func)
_apart = tile(columns.apart)


# What a kernel is given: blocks of gradients, and bytes of its own ----------------------------------------------------


@tile
def _of_rows(view, nbytes, item):
    plan = integers.rows_backward(view, nbytes, item)
    own = 3 * _ROWS * computed(item) + (2 * _ROWS + 1) * (_LANES + 1) * 8 + 2 * OVERHEAD
    if plan.collected:
        own += (_LINE + _ROWS * view.length) * item + OVERHEAD
    return plan.units, own


@tile
def _of_runs(view, nbytes, item):
    plan = integers.runs_backward(view, nbytes, item)
    return plan.units // plan.groups, (_LINE + view.parts * view.length) * item + OVERHEAD if plan.collected else 0


@tile
def _of_columns(view, blocks, item):
    n = view.panel
    return blocks, 4 * _apart(n) * 8 + (9 * _apart(n) + _LANES) * computed(item) + 2 * OVERHEAD


@tile
def _room(needs, weights, item):
    """Places for ones, dweight and dbias where they are not wanted, and the gradients of blocks."""
    blocks, own = needs
    return room(3 * weights, item, blocks * 2 * weights, own)


@tile
def _rows_room(view, nbytes, item):
    return _room(_of_rows(view, nbytes, item), view.weights, item)


@tile
def _batch_room(shape, item):
    parts = _split(*shape)
    outer, channels, inner = parts
    if integers.channels_are_columns(outer, channels, inner, 1):
        return _room(_of_columns(_view_of_columns(parts), 1, item), channels, item)
    view = Runs(outer, channels, 1, inner, channels)
    return _room(_of_runs(view, outer * channels * inner * item, item), channels, item)


@tile
def _groups_room(batch, before, groups, span, behind, item):
    channels, plane, count = groups * span, before * behind, batch * groups
    nbytes = batch * channels * plane * item
    if before == 1 or channels == 1:
        if plane == 1 and span > 1:
            return _room(_of_rows(Runs(1, count, 1, span, channels), nbytes, item), channels, item)
        return _room(_of_runs(Runs(1, count, span, plane, channels), nbytes, item), channels, item)
    view = _view_of_groups(before, groups, span, behind)
    return _room(_of_columns(view, batch, item), channels, item)


# Kernels --------------------------------------------------------------------------------------------------------------


@tile
def _gradients(base, places, like, blocks, weights):
    return array3(base + places[1], like, blocks, 2, weights)


@tile
def _add_up(sums, grads):
    _collect(integers.ceil_div(sums.size, _COLLECTED), sums, *grads)


@tile
def _by_rows(view, memory, w, saved, of_blocks, grads):
    (dy, x, dx), (base, places, like) = memory, of_blocks
    plan = integers.rows_backward(view, x.size * x.itemsize, x.itemsize)
    sums = _gradients(base, places, like, plan.units, view.weights)
    _rows_backward((view, plan), dy, x, dx, w, *saved, sums, w[:0], None)
    _add_up(sums, grads)


@tile
def _by_runs(view, memory, w, saved, of_blocks, grads):
    (dy, x, dx), (base, places, like) = memory, of_blocks
    plan = integers.runs_backward(view, x.size * x.itemsize, x.itemsize)
    sums = _gradients(base, places, like, plan.units // plan.groups, view.weights)
    _runs_backward((view, plan), dy, x, dx, w, *saved, sums, None)
    _add_up(sums, grads)


@tile
def _by_columns(view, blocks, memory, w, saved, of_blocks, grads):
    (dy, x, dx), (base, places, like) = memory, of_blocks
    plan = integers.columns_backward(view, blocks, x.size * x.itemsize, x.itemsize, 1)
    sums = _gradients(base, places, like, blocks, view.weights)
    _columns_backward((view, plan), dy, x, dx, w, None, *saved, sums, None, w[:0], None)
    _add_up(sums, grads)


@tile
def _three(dy, x, dx, size):
    return array(dy, size), array(x, size), array(dx, size)


@tile
def _of_weights(weight, dweight, dbias, base, places, count):
    """The weight, and where its gradient and that of the bias go."""
    first, item = base + places[0], item_of(weight)
    w = filled(weight, first, count, 1.0)
    return w, array(either(dweight, first + count * item), count), array(either(dbias, first + 2 * count * item), count)


@tile
def _conflicting(memory, weight, saved, grads, sizes, work, places):
    """sizes: of x, a weight and a statistic."""
    (dy, x, dx), (mean, rstd), (dweight, dbias), (size, weights, groups) = memory, saved, grads, sizes
    item, own = item_of(x), item_of(weight)
    written = extent(dweight, weights, own), extent(dbias, weights, own), extent(work, places[3], 1)
    read = extent(weight, weights, own), extent(mean, groups, 8), extent(rstd, groups, 8)
    return _misplaced((extent(dy, size, item), extent(x, size, item)), extent(dx, size, item), written, read)


# Entries --------------------------------------------------------------------------------------------------------------


@tile
def layer_norm_backward(dy, x, dx, weight, rows, cols, mean, rstd, dweight, dbias, work, most):
    item, size = item_of(x), rows * cols
    if not fits(rows, cols, 1, item, most):
        return SIZE
    if size == 0:
        return of_nothing(dweight, dbias, cols, 0.0)
    view = Runs(1, rows, 1, cols, cols)
    places = _rows_room(view, size * item, item)
    if places[3] > most:
        return SIZE
    if null(dy) or null(x) or null(dx) or null(mean) or null(rstd) or null(work):
        return NULL
    refused = _conflicting((dy, x, dx), weight, (mean, rstd), (dweight, dbias), (size, cols, rows), work, places)
    if refused:
        return refused
    base = opened(work, places)
    w, dw, db = _of_weights(weight, dweight, dbias, base, places, cols)
    saved = array(mean, rows), array(rstd, rows)
    _by_rows(view, _three(dy, x, dx, size), w, saved, (base, places, mean), (dw, db))
    return OK


@tile
def rms_norm_backward(dy, x, dx, weight, rows, cols, rstd, dweight, work, most):
    item, size = item_of(x), rows * cols
    if not fits(rows, cols, 1, item, most):
        return SIZE
    if size == 0:
        return of_nothing(dweight, dweight, cols, 0.0)
    view = Runs(1, rows, 1, cols, cols)
    places = _rows_room(view, size * item, item)
    if places[3] > most:
        return SIZE
    if null(dy) or null(x) or null(dx) or null(rstd) or null(work):
        return NULL
    absent = at_byte(0, dweight)
    refused = _conflicting((dy, x, dx), weight, (rstd, rstd), (dweight, absent), (size, cols, rows), work, places)
    if refused:
        return refused
    base = opened(work, places)
    w, dw, db = _of_weights(weight, dweight, absent, base, places, cols)
    _by_rows(view, _three(dy, x, dx, size), w, (None, array(rstd, rows)), (base, places, rstd), (dw, db))
    return OK


@tile
def rows_backward_workspace(rows, cols, item, most):
    if not fits(rows, cols, 1, item, most) or rows * cols == 0:
        return 0
    return _size(_rows_room(Runs(1, rows, 1, cols, cols), rows * cols * item, item), most)


@tile
def _batch(memory, weight, shape, saved, grads, work, most):
    (dy, x, dx), (outer, channels, inner), (mean, rstd), (dweight, dbias) = memory, shape, saved, grads
    item, size = item_of(x), outer * channels * inner
    if not fits(outer, channels, inner, item, most):
        return SIZE
    if size == 0:
        return of_nothing(dweight, dbias, channels, 0.0)
    places = _batch_room(shape, item)
    if places[3] > most:
        return SIZE
    if null(dy) or null(x) or null(dx) or null(mean) or null(rstd) or null(work):
        return NULL
    refused = _conflicting(memory, weight, saved, grads, (size, channels, channels), work, places)
    if refused:
        return refused
    base = opened(work, places)
    w, dw, db = _of_weights(weight, dweight, dbias, base, places, channels)
    three, given = _three(dy, x, dx, size), (array(mean, channels), array(rstd, channels))
    of_blocks, of_weights = (base, places, mean), (dw, db)
    parts = _split(outer, channels, inner)
    if integers.channels_are_columns(parts[0], parts[1], parts[2], 1):
        _by_columns(_view_of_columns(parts), 1, three, w, given, of_blocks, of_weights)
    else:
        view = Runs(parts[0], parts[1], 1, parts[2], channels)
        _by_runs(view, three, w, given, of_blocks, of_weights)
    return OK


@tile
def batch_norm_train_backward_nchw(dy, x, dx, weight, batch, channels, plane, mean, rstd, dweight, dbias, work, most):
    return _batch((dy, x, dx), weight, (batch, channels, plane), (mean, rstd), (dweight, dbias), work, most)


@tile
def batch_norm_train_backward_nhwc(dy, x, dx, weight, batch, channels, plane, mean, rstd, dweight, dbias, work, most):
    if not fits(batch, channels, plane, 1, most):
        return SIZE
    return _batch((dy, x, dx), weight, (batch * plane, channels, 1), (mean, rstd), (dweight, dbias), work, most)


@tile
def batch_norm_train_backward_nchw_workspace(batch, channels, plane, item, most):
    if _nothing(batch, channels, plane, item, most):
        return 0
    return _size(_batch_room((batch, channels, plane), item), most)


@tile
def batch_norm_train_backward_nhwc_workspace(batch, channels, plane, item, most):
    if _nothing(batch, channels, plane, item, most):
        return 0
    return _size(_batch_room((batch * plane, channels, 1), item), most)


@tile
def _groups(memory, weight, shape, saved, grads, work, most):
    """After sizes have been checked."""
    (dy, x, dx), (batch, before, groups, span, behind), (mean, rstd), (dweight, dbias) = memory, shape, saved, grads
    channels, count, plane, item = groups * span, batch * groups, before * behind, item_of(x)
    size = batch * channels * plane
    if size == 0:
        return of_nothing(dweight, dbias, channels, 0.0)
    places = _groups_room(batch, before, groups, span, behind, item)
    if places[3] > most:
        return SIZE
    if null(dy) or null(x) or null(dx) or null(mean) or null(rstd) or null(work):
        return NULL
    refused = _conflicting(memory, weight, saved, grads, (size, channels, count), work, places)
    if refused:
        return refused
    base = opened(work, places)
    w, dw, db = _of_weights(weight, dweight, dbias, base, places, channels)
    three, given = _three(dy, x, dx, size), (array(mean, count), array(rstd, count))
    of_blocks, of_weights = (base, places, mean), (dw, db)
    if before == 1 or channels == 1:
        if plane == 1 and span > 1:
            _by_rows(Runs(1, count, 1, span, channels), three, w, given, of_blocks, of_weights)
        else:
            _by_runs(Runs(1, count, span, plane, channels), three, w, given, of_blocks, of_weights)
    else:
        view = _view_of_groups(before, groups, span, behind)
        _by_columns(view, batch, three, w, given, of_blocks, of_weights)
    return OK


@tile
def group_norm_backward_nchw(dy, x, dx, weight, batch, channels, plane, groups, mean, rstd, dweight, dbias, work, most):
    span = _groups_of(channels, groups)
    if not fits(batch, channels, plane, item_of(x), most):
        return SIZE
    if span < 0:
        return SETTING
    return _groups((dy, x, dx), weight, (batch, 1, groups, span, plane), (mean, rstd), (dweight, dbias), work, most)


@tile
def group_norm_backward_nhwc(dy, x, dx, weight, batch, channels, plane, groups, mean, rstd, dweight, dbias, work, most):
    span = _groups_of(channels, groups)
    if not fits(batch, channels, plane, item_of(x), most):
        return SIZE
    if span < 0:
        return SETTING
    return _groups((dy, x, dx), weight, (batch, plane, groups, span, 1), (mean, rstd), (dweight, dbias), work, most)


@tile
def instance_norm_backward_nchw(dy, x, dx, weight, batch, channels, plane, mean, rstd, dweight, dbias, work, most):
    if not fits(batch, channels, plane, item_of(x), most):
        return SIZE
    return _groups((dy, x, dx), weight, (batch, 1, channels, 1, plane), (mean, rstd), (dweight, dbias), work, most)


@tile
def instance_norm_backward_nhwc(dy, x, dx, weight, batch, channels, plane, mean, rstd, dweight, dbias, work, most):
    if not fits(batch, channels, plane, item_of(x), most):
        return SIZE
    return _groups((dy, x, dx), weight, (batch, plane, channels, 1, 1), (mean, rstd), (dweight, dbias), work, most)


(
    group_norm_backward_nchw_workspace,
    group_norm_backward_nhwc_workspace,
    instance_norm_backward_nchw_workspace,
    instance_norm_backward_nhwc_workspace,
) = workspaces(_groups_room)
