"""Layers as the monitor sees them: fastbn's own."""

from collections.abc import Callable
from typing import Any
from weakref import ref

from fastbn.engine import arguments
from fastbn.layers._base import Context
from fastbn.layers._batch import BatchNorm
from fastbn.monitor import _record

_LOOKS = {"forward": "after_forward", "_gradients": "after_backward"}  # a layer's methods, and what follows them


class Watch:
    """A layer of fastbn: while it is armed, its forward and backward leave their numbers in `values`."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.values: dict[str, float] = {}
        self._last: Any = None  # the context of the last forward, until its backward
        self._weak = ref(self)

    def arm(self) -> None:
        """From now on, look."""
        for name, look in _LOOKS.items():
            vars(self.layer)[name] = _Looked(self.layer, name, look, self._weak)

    def let_go(self) -> None:
        """Look no longer."""
        for name in _LOOKS:
            _Looked.end(self.layer, name, self)
        self._last = None

    def seen(self) -> dict[str, float]:
        """What was seen, the gradients of the parameters as they are now included."""
        values, self.values = self.values, {}
        return values | self._parameter_gradients() if values else values

    def after_forward(self, args: Any, result: Any) -> None:
        """Look at what went in and came out."""
        if not self.layer.training:
            return
        y, context = result
        self._last, self.values = context, {}
        if y.size:
            self.values |= _numbers(self.layer, arguments.array(context.x, "x"), y, context)

    def after_backward(self, args: Any, result: Any) -> None:
        """Look at the gradient that belongs to it."""
        if args[1] is self._last and self.values:
            self._last, self.values["input_gradient"] = None, _record.norm(result[0])

    def _parameter_gradients(self) -> dict[str, float]:
        grads = self.layer.grads
        return {f"{name}_gradient": _record.norm(grads[name]) for name in ("weight", "bias") if name in grads}


def _numbers(layer: Any, x: Any, y: Any, context: Any) -> dict[str, float]:
    if hasattr(layer, "_batched") and x.ndim == layer._ranks[0]:  # a single sample, without an axis for more
        x, y = x[None], y[None]
    axis, where = getattr(layer, "axis", -1), context.extras.get("where")
    return _record.of_call(x, y, axis, where, layer.activation, running_of(layer), _batch_of(layer, context))


def running_of(layer: Any) -> tuple[Any, Any] | None:
    """Running mean and variance, if the layer has them."""
    mean, var = getattr(layer, "running_mean", None), getattr(layer, "running_var", None)
    return None if mean is None or var is None else (mean, var)


def _batch_of(layer: Any, context: Any) -> _record.Batch | None:
    """What batch norm has computed of each channel; None for other layers, and where it normalized by other numbers."""
    if not isinstance(layer, BatchNorm) or type(context) is not Context:
        return None
    if not context.training or context.correction is not None or context.mean.ndim > 1 or not context.rstd.all():
        return None
    return _record.Batch(context.mean, context.rstd, float(layer.eps))


class _Looked:
    """A method of one layer, after which a watch looks at arguments and result.

    Several monitors may have put theirs around one another's.  One that is done lets the others be, so what is found in
    the layer goes only when all that is around it has gone.  Nor does one hold its watch: a monitor may be forgotten
    without having been closed.
    """

    __slots__ = ("around", "call", "look", "watch")

    def __init__(self, layer: Any, name: str, look: str, watch: Callable[[], Any]) -> None:
        self.around = vars(layer).get(name)  # another monitor's, or a function of the user's
        self.call = getattr(layer, name)
        self.look, self.watch = look, watch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.call(*args, **kwargs)
        watch = self.watch()
        if watch is not None:
            getattr(watch, self.look)(args, result)
        return result

    @classmethod
    def end(cls, layer: Any, name: str, watch: Any) -> None:
        """Let this watch look no longer, and take away what nobody looks through any more."""
        found = vars(layer).get(name)
        while isinstance(found, cls):
            if found.watch() is watch:
                found.watch = _nobody
            found = found.around
        while isinstance(found := vars(layer).get(name), cls) and found.watch() is None:
            if found.around is None:
                del vars(layer)[name]
            else:
                vars(layer)[name] = found.around


def _nobody() -> None:
    """In the place of a reference to a watch that looks."""
