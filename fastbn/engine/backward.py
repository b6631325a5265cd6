"""Plans of gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn._quiet import cast, quietly
from fastbn.engine import arguments, arrays, by_columns, by_runs, memory, numbers, pace, stores
from fastbn.engine.arrays import Reading, reading
from fastbn.engine.forward import scaling, threaded, whole_or_in_steps
from fastbn.engine.groups import Groups
from fastbn.engine.numbers import Elements
from fastbn.engine.operands import Extras, GradientExtras, none_if_empty
from fastbn.engine.views import View
from fastbn.kernels import activations

Array = NDArray[Any]


class Gradients(NamedTuple):
    """What is decided about a backward."""

    groups: Groups
    centered: bool = True
    through_statistics: bool = True  # or mean and rstd are constants
    activation: Any = None


def passes(x: Array, view: View, centered: bool, through_statistics: bool = True) -> by_runs.Backward:
    """All passes of a backward over arrays like x: (threads, the fields of Gradient)."""
    family: Any = by_columns if view.columns else by_runs
    if not through_statistics:
        return _by_constants(view, x, family)

    def of(elements: Elements) -> by_runs.Backward:
        whole = family.backward(view, elements, centered)
        if numbers.undivided_back(view) or x.nbytes < pace.SERIAL_BYTES:
            return whole
        units = numbers.backward(view, elements, centered)[1]
        return whole_or_in_steps(whole, family.backward_in_steps(view, elements, centered), units)

    def decide(elements: Elements) -> Array:
        return numbers.backward(view, elements, centered)[0]

    return stores.either_way(numbers.of(x), 2, decide, of)


@quietly
def _inverse_square(values: Array) -> Array:
    return np.asarray(1.0 / (values * values))


def _by_constants(view: Any, x: Array, family: Any) -> by_runs.Backward:
    """The gradients where mean and rstd are constants: dx is a multiple of dy."""
    of_weights, scale, groups = family.backward_in_steps(view, numbers.of(x), True), scaling(x, view, 0.0), view.groups

    def run(threads: int, flat: Any) -> None:
        dy, x, dx, w, mean, rstd, dweight, dbias, extras = flat
        of_weights(threads, (dy, x, None, w, mean, rstd, dweight, dbias, extras))
        where = None if extras is None else extras.where
        masked = None if where is None else Extras(where=where)
        scale(threads, dy, dx, w, None, np.zeros(groups), _inverse_square(rstd), masked)

    return run


def plan(spec: Gradients, operands: tuple[Any, ...]) -> Callable[..., Any]:
    """Of (dy, x, rstd, mean, weight, bias, residual, where, dsum, out): dx, dweight, dbias and, with one, dresidual."""
    (view_of, args, final, *_), weight, out = spec.groups, operands[4], operands[-1]
    x, read = reading(operands[1], view_of, args)
    order, view, dtype, empty, flat = read
    compute = arguments.COMPUTED_IN[dtype]
    run: Any = passes(x, view, spec.centered, spec.through_statistics) if x.size else None
    call, new = threaded(x, run), np.empty if x.size else np.zeros
    direct = out is not None and arrays.is_in_order(out, order)
    indirect = out is not None and not direct
    prepared = _extras(spec, read, operands)
    plain = view.weight_order is None and (weight is None or weight.dtype == compute)
    reshaped = final != (view.weights,) or not plain
    stats_axes = None if view.stats_axes is None else arrays.inverse(view.stats_axes)
    small = run is not None and x.nbytes < pace.SERIAL_BYTES and order is None and not view.columns
    simple = run is not None and order is None and prepared is None and spec.through_statistics
    if simple and not (indirect or reshaped) and arrays.all_in_c_order(operands):
        if small:
            return by_runs.small_backward(view, operands, spec.centered)
        return _plain(call, None if direct else empty, view.weights, compute)

    def differentiate(dy: Array, x: Array, rstd: Array, others: tuple[Any, ...]) -> Any:
        mean, weight = others[:2]
        w, dx = weight, others[-1] if direct else empty()
        flat_dy, flat_x, flat_dx = flat(dy), flat(x), flat(dx)
        dweight, dbias = new(view.weights, compute), new(view.weights, compute)
        if stats_axes is not None:
            mean, rstd = mean if mean is None else mean.transpose(stats_axes), rstd.transpose(stats_axes)
        if w is not None:
            w = w.ravel() if plain else arrays.flat_weights(np.ascontiguousarray(cast(w, compute)), view)
        dresidual = extras = None
        if prepared is not None:
            flat_dy, dresidual, extras = prepared(others, flat_dy, flat_x, flat_dx)
        mean, rstd = mean if mean is None else mean.ravel(), rstd.ravel()
        call((flat_dy, flat_x, flat_dx, w, mean, rstd, dweight, dbias, extras))
        if indirect:
            others[-1][...] = dx
            dx = others[-1]
        if reshaped:
            dweight, dbias = (arrays.shaped_gradient(g, view, weight, final) for g in (dweight, dbias))
        return (dx, dweight, dbias) if dresidual is None else (dx, dweight, dbias, dresidual)

    return differentiate


def _plain(call: Callable[..., None], empty: Any, weights: int, compute: np.dtype[Any]) -> Callable[..., Any]:
    """Of arrays in C order, and nothing beside: the fewest steps.  empty: makes dx, which else is given."""
    new = np.empty

    def differentiate(dy: Array, x: Array, rstd: Array, others: tuple[Any, ...]) -> Any:
        dx, dweight, dbias = others[-1] if empty is None else empty(), new(weights, compute), new(weights, compute)
        call((dy, x, dx, others[1], others[0], rstd, dweight, dbias, None))
        return dx, dweight, dbias

    return differentiate


def _extras(spec: Gradients, read: Reading, operands: tuple[Any, ...]) -> Callable[..., Any] | None:
    """From operands, and flat dy, x and dx, to dy as kernels take it, dresidual, and the rest; None where all is plain.

    With an activation, kernels put the gradient of what goes into it where dresidual is to be; else where dx will be.
    """
    residual, where, dsum = operands[6:9]
    if spec.activation is None and residual is None and where is None and dsum is None:
        return None
    _, view, dtype, empty, flat = read
    activation, by_channel = activations.packed(spec.activation), view.affine == "channel"
    inner = activation is not None or (residual is not None and where is not None)
    full, (*_, kept, split), compute = operands[1].shape, spec.groups, arguments.COMPUTED_IN[dtype]
    added, masked = residual is not None, where is not None

    def prepared(others: tuple[Any, ...], dy: Array, x: Array, dx: Array) -> Any:
        _, _, bias, residual, where, dsum, _ = others
        dz, dresidual, counts, mask = dy, None, None, None
        if added:
            dresidual = empty()
            dz = flat(dresidual)
            if not inner:
                dz[...] = dy
        elif inner:
            dz = memory.empty(dx.shape, dtype) if np.may_share_memory(dx, x) else dx
        if masked:
            counts = arrays.flat_statistics(arguments.counts(where, full, kept, split), view)
            mask = flat(np.broadcast_to(where, full))
        added_to_dx = None if dsum is None else flat(dsum)
        b = None if bias is None or not inner else arrays.flat_weights(np.ascontiguousarray(cast(bias, compute)), view)
        if inner:
            of_channel, of_element = (b, None) if by_channel else (None, b)
            before = flat(residual) if added else None
            extras = GradientExtras(of_channel, of_element, before, activation, mask, dy, added_to_dx, counts)
        else:
            extras = GradientExtras(where=mask, dsum=added_to_dx, counts=counts)
        return dz, dresidual, none_if_empty(extras)

    return prepared
