"""Keras 3 models on the NumPy backend, normalized by fastbn; needs ``pip install "fastbn[keras]"``."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn._doors import need

__all__ = ["convert"]

Array = NDArray[Any]


def convert(model: Any) -> Any:
    """A copy of a Keras model whose normalization layers are computed by fastbn.

    Parameters
    ----------
    model : keras.Model
        Sequential or functional, on the NumPy backend (``KERAS_BACKEND=numpy``); models within it are converted too.

    Returns
    -------
    model : keras.Model
        With the same layers, names and configuration, and copies of the weights.  BatchNormalization,
        LayerNormalization, GroupNormalization and RMSNormalization are subclasses of Keras' own.

    Raises
    ------
    ImportError
        If Keras is not installed.
    RuntimeError
        If Keras runs on another backend.
    TypeError
        If `model` is not a Keras model.
    ValueError
        If the model has neither of the two forms (Keras says so), or no layer to convert.

    Notes
    -----
    What Keras alone defines stays Keras' own: batch renormalization, ``rms_scaling=True``, an epsilon of 0, batches of
    integers or booleans, and those with fewer than two values a channel.  A layer inside a wrapper, such as
    ``TimeDistributed``, is not converted.
    Moving statistics take in the biased variance, as Keras has it.

    Errors are those of `fastbn.batch_norm` and its kin, which do not grow with the mean.

    Examples
    --------
    >>> import fastbn
    >>> import keras  # doctest: +SKIP
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.BatchNormalization()])  # doctest: +SKIP
    >>> fast = fastbn.keras.convert(model)  # doctest: +SKIP
    """
    keras = need("keras", "keras")
    if keras.backend.backend() != "numpy":
        raise RuntimeError(
            f"Keras runs on its {keras.backend.backend()} backend, whose arrays are not NumPy's; expected numpy: set "
            "KERAS_BACKEND=numpy before Keras is imported"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"model is of type {type(model).__name__}; expected a keras.Model")
    fast, converted = _layers(), []

    def clone(layer: Any) -> Any:
        cls = fast.get(type(layer), type(layer))
        converted.extend([cls] if cls in fast.values() else [])  # also where it was converted before
        return cls.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    if not converted:
        raise ValueError(f"model {model.name!r} has no normalization layer that fastbn computes")
    copy.set_weights(model.get_weights())
    return copy


def _array(value: Any, shape: tuple[int, ...] | None = None) -> Array | None:
    """A tensor or variable; shape: of a weight over axes, whose lengths Keras has in the order it was told the axes."""
    if value is None:
        return None
    array = np.asarray(getattr(value, "value", value))
    return array if shape is None else array.reshape(shape)


def _whole_numbers(x: Array | None) -> bool:
    """Whether they are integers or booleans, of which each of Keras' layers makes something else."""
    return x is not None and x.dtype.kind in "iub"


def _over_last(x: Array, axes: list[int]) -> tuple[Array, tuple[int, ...], list[int]]:
    """x with the normalized axes last, their shape, and the order that undoes it."""
    reduced = sorted(a % x.ndim for a in axes)
    order = [a for a in range(x.ndim) if a not in reduced] + reduced
    return x.transpose(order), tuple(x.shape[a] for a in reduced), sorted(range(x.ndim), key=order.__getitem__)


@cache
def _layers() -> dict[Any, Any]:
    """Keras' classes and those that take their place."""
    keras = need("keras", "keras")
    register, theirs = keras.saving.register_keras_serializable("fastbn"), keras.layers

    @register
    class BatchNormalization(theirs.BatchNormalization):  # type: ignore[misc,name-defined]
        def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
            x, where = _array(inputs), _mask(mask, inputs)
            trains = bool(training) and self.trainable
            counted = _counted(x, where, self.axis)
            wrong = mask is not None and len(mask.shape) != len(inputs.shape) - 1
            own = (
                self.renorm
                or _whole_numbers(x)
                or self.epsilon <= 0
                or wrong
                or (trains and (counted < 2 or not _last(self.axis, x, where)))
            )
            if x is None or own:
                return super().call(inputs, training=training, mask=mask)
            gamma, beta = _array(self.gamma), _array(self.beta)
            more: dict[str, Any] = {"eps": self.epsilon, "axis": self.axis}
            if not trains:
                y = F.batch_norm(x, _array(self.moving_mean), _array(self.moving_variance), gamma, beta, **more)
                return keras.ops.cast(y, self.compute_dtype)
            mean, var = np.zeros(x.shape[self.axis]), np.zeros(x.shape[self.axis])
            y = F.batch_norm(x, mean, var, gamma, beta, training=True, momentum=1.0, where=where, **more)
            if where is not None:  # Keras normalizes what is masked, too, by the statistics of the rest
                y = F.batch_norm(x, mean, var * ((counted - 1) / counted), gamma, beta, **more)
            self._move(self.moving_mean, mean)
            self._move(self.moving_variance, var * ((counted - 1) / counted))
            return keras.ops.cast(y, self.compute_dtype)

        def _move(self, running: Any, batch: Array) -> None:
            moved = _array(running) * self.momentum + batch * (1.0 - self.momentum)
            running.assign(moved)

    @register
    class LayerNormalization(theirs.LayerNormalization):  # type: ignore[misc,name-defined]
        def call(self, inputs: Any) -> Any:
            x = np.asarray(inputs)
            if self.rms_scaling or _whole_numbers(x):
                return super().call(inputs)
            x, shape, back = _over_last(x, self.axis)
            y = F.layer_norm(x, shape, _array(self.gamma, shape), _array(self.beta, shape), self.epsilon)
            return keras.ops.cast(y.transpose(back), self.compute_dtype)

    @register
    class GroupNormalization(theirs.GroupNormalization):  # type: ignore[misc,name-defined]
        def call(self, inputs: Any) -> Any:
            x = np.asarray(inputs)
            if _whole_numbers(x):
                return super().call(inputs)
            y = F.group_norm(x, self.groups, _array(self.gamma), _array(self.beta), self.epsilon, axis=self.axis)
            return keras.ops.cast(y, self.compute_dtype)

    @register
    class RMSNormalization(theirs.RMSNormalization):  # type: ignore[misc,name-defined]
        def call(self, x: Any) -> Any:
            values = np.asarray(x)
            if _whole_numbers(values):
                return super().call(x)
            rows, shape, back = _over_last(values, self.axis)
            y = F.rms_norm(rows, shape, _array(self.scale, shape), self.epsilon)
            return keras.ops.cast(y.transpose(back), x.dtype)

    ours = BatchNormalization, LayerNormalization, GroupNormalization, RMSNormalization
    return {cls.__mro__[1]: cls for cls in ours}


def _mask(mask: Any, inputs: Any) -> Array | None:
    """Keras' mask, which lacks the last axis, as `where`."""
    return None if mask is None else np.asarray(mask).astype(bool)[..., None]


def _last(axis: int, x: Array | None, where: Array | None) -> bool:
    """Whether a mask, if there is one, leaves every channel as many values."""
    return where is None or x is None or axis % x.ndim == x.ndim - 1


def _counted(x: Array | None, where: Array | None, axis: int) -> int:
    """How many values of each channel count."""
    if x is None or not x.size:
        return 0
    return x.size // x.shape[axis] if where is None else int(np.broadcast_to(where[..., 0], x.shape[:-1]).sum())
