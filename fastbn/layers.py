"""Layers: torch.nn's normalizations for NumPy arrays, with a backward.

A layer holds state and calls :mod:`fastbn.functional`, where all arithmetic is.  Every layer has

- ``parameters`` and ``grads``, dicts with the keys "weight" and "bias" (and "tau"), as far as they exist and are not
  frozen.  An optimiser updates the parameters in place; ``layer.backward(dy)`` adds to the gradients,
  ``layer.zero_grad()`` clears them.
- ``training``, the mode, set by ``train()`` and ``eval()``.
- a context between forward and backward: in training mode ``layer(x)`` keeps that of its last call until
  ``layer.backward(dy)`` has used it; ``y, context = layer.forward(x)`` hands it out instead, for
  ``layer.backward(dy, context)``.  A context holds `x` itself, not a copy.  In evaluation mode ``layer(x)`` keeps
  nothing, so threads may share a layer.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbn import _checks
from fastbn import functional as F
from fastbn import variants as V

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "FilterResponseNorm2d",
    "GlobalResponseNorm",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LayerNorm2d",
    "LocalResponseNorm",
    "RMSNorm",
    "RMSNorm2d",
]

Array = NDArray[Any]


@dataclass(slots=True, eq=False, repr=False)
class Context:
    """What a forward leaves for its backward: the input itself, not a copy, and the statistics that normalized it."""

    x: Any
    mean: Any = None  # an array, or None for norms that do not centre
    rstd: Any = None  # an array, or None for local response norm
    training: bool = True  # False: the statistics were constants, no gradient flows through them
    correction: tuple[Array, Array] | None = None  # r and d of batch renormalization


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict(state, strict=False)`` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def _index(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer (got {value!r})") from None


def _positive(name: str, value: Any) -> int:
    number = _index(name, value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1 (got {number})")
    return number


def _dimensions(normalized_shape: Any) -> tuple[int, ...]:
    sizes = (normalized_shape,) if np.ndim(normalized_shape) == 0 else normalized_shape
    return tuple(_positive("normalized_shape", size) for size in sizes)


def _floating(dtype: DTypeLike) -> np.dtype[Any]:
    # None would mean float64 to NumPy; kind V is bfloat16, which NumPy does not know as a float
    if dtype is None or np.dtype(dtype).kind not in "fV":
        raise TypeError(f"dtype must be a floating-point type (got {dtype!r})")
    return np.dtype(dtype)


def _check_rank(x: Array, ranks: tuple[int, ...]) -> None:
    if x.ndim not in ranks:
        raise ValueError(f"expected {' or '.join(f'{rank}D' for rank in ranks)} input (got {x.ndim}D input)")


def _check_channels(x: Array, axis: int, name: str, channels: int) -> None:
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis={axis} is out of range for an input of shape {x.shape}")
    if x.shape[axis] != channels:
        raise ValueError(
            f"expected input's size at axis={axis} to match {name} ({channels}), but got: {x.shape[axis]} "
            f"(input shape {x.shape})"
        )


class _Layer(ABC):
    """State and contexts; a subclass picks the functional calls: `_infer`, `forward` and `_gradients`."""

    _buffers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, shape: int | tuple[int, ...], weight: bool, bias: bool, dtype: DTypeLike) -> None:
        self.dtype = _floating(dtype)
        self.training = True
        self.parameters: dict[str, Array] = {}
        if weight:
            self.parameters["weight"] = np.ones(shape, self.dtype)
        if weight and bias:
            self.parameters["bias"] = np.zeros(shape, self.dtype)
        self.grads: dict[str, Array] = {name: np.zeros_like(value) for name, value in self.parameters.items()}
        self._constants: dict[str, Array] = {}  # parameters that have been frozen
        self._context: Context | None = None

    @property
    def weight(self) -> Array | None:
        """The array ``parameters["weight"]``, or None; assigning writes into the array."""
        return self.parameters.get("weight", self._constants.get("weight"))

    @weight.setter
    def weight(self, value: ArrayLike) -> None:
        (self.parameters | self._constants)["weight"][...] = value

    @property
    def bias(self) -> Array | None:
        """The array ``parameters["bias"]``, or None; assigning writes into the array."""
        return self.parameters.get("bias", self._constants.get("bias"))

    @bias.setter
    def bias(self, value: ArrayLike) -> None:
        (self.parameters | self._constants)["bias"][...] = value

    def __call__(self, x: ArrayLike) -> Array:
        """Normalize `x`; in training mode, keep what `backward` needs in place of what the last call kept."""
        if not self.training:
            return self._infer(x)
        y, self._context = self.forward(x)
        return y

    @abstractmethod
    def _infer(self, x: ArrayLike) -> Array:
        """The output in evaluation mode, and nothing else."""

    @abstractmethod
    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        """Normalize `x` and hand the context to the caller; the layer keeps nothing.

        This is the way to apply a layer several times before its backward, or to differentiate in evaluation mode.

        Parameters
        ----------
        x : array_like
            Input, as for calling the layer.

        Returns
        -------
        y : ndarray
            Output, of x's shape and dtype.
        context : Context
            To be passed to `backward`, as often as wanted.  It holds `x` itself, not a copy: leave `x` as it is until
            the backward is done.
        """

    @abstractmethod
    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        """dx, dweight and, where the operation has a bias, dbias."""

    def backward(self, dy: ArrayLike, context: Context | None = None) -> Array:
        """Gradient of the input; the gradients of the parameters are added to `grads`.

        Parameters
        ----------
        dy : array_like
            Gradient of the output, of its shape.
        context : Context, optional
            What `forward` returned.  Without it the context of the last ``layer(x)`` in training mode is used and let
            go of.

        Returns
        -------
        dx : ndarray
            Gradient of the input, of its shape.

        Raises
        ------
        ValueError
            If there is no context, or `dy` does not have the output's shape.
        TypeError
            If `context` is not a context.

        Notes
        -----
        The parameters enter as they are now: update them after the backward, not between forward and backward.
        """
        used = self._context if context is None else context
        if used is None:
            raise ValueError(
                "backward before forward: call layer(x) in training mode once for each backward, "
                "or pass the context that layer.forward(x) returned"
            )
        if not isinstance(used, Context):
            raise TypeError(f"context must be what layer.forward(x) returned (got {type(used).__name__})")
        dx, *gradients = self._gradients(dy, used)
        for name, gradient in zip(("weight", "bias", "tau"), gradients, strict=False):
            if name in self.grads:
                self.grads[name] += gradient
        if context is None:
            self._context = None
        return dx

    def zero_grad(self) -> None:
        """Set the gradients to zero, in place."""
        for gradient in self.grads.values():
            gradient[...] = 0

    def train(self, mode: bool = True) -> Self:
        """Set training mode, or evaluation mode with False; returns the layer.

        Evaluation mode lets go of the kept context.
        """
        self.training = bool(mode)
        if not mode:
            self._context = None
        return self

    def eval(self) -> Self:
        """Set evaluation mode; returns the layer."""
        return self.train(False)

    def _state(self) -> dict[str, Array]:
        buffers = {name: getattr(self, name) for name in self._buffers}
        return self.parameters | self._constants | {name: value for name, value in buffers.items() if value is not None}

    def state_dict(self) -> dict[str, Array]:
        """Copies of parameters and running statistics, under torch's keys.

        Returns
        -------
        dict of str to ndarray
            Those of weight, bias, tau, running_mean, running_var (all of the layer's dtype) and num_batches_tracked
            (int64, 0-d) that the layer has.
        """
        return {name: value.copy() for name, value in self._state().items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike], strict: bool = True) -> IncompatibleKeys:
        """Copy `state` into the layer's arrays, in place.

        Parameters
        ----------
        state : mapping of str to array_like
            As returned by `state_dict`, of this layer or, converted to NumPy, of torch's.
        strict : bool
            Whether keys must agree.  Shapes must agree in any case.

        Returns
        -------
        IncompatibleKeys
            Lists `missing_keys` and `unexpected_keys`; empty if `strict`.

        Raises
        ------
        ValueError
            If keys are missing or unexpected, or shapes or dtypes do not fit; all of them are named, and nothing was
            changed.
        TypeError
            If `state` is not a mapping.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping from names to arrays (got {type(state).__name__})")
        own = self._state()
        new = {name: np.asarray(state[name]) for name in own if name in state}
        missing, unexpected = [name for name in own if name not in new], [str(key) for key in state if key not in own]
        problems = []
        if strict and missing:
            problems.append(f"missing keys: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected keys: {', '.join(unexpected)}")
        for name, value in new.items():
            if value.shape != own[name].shape:
                problems.append(f"size mismatch for {name}: {value.shape} in the state, {own[name].shape} in the layer")
            if not np.can_cast(value.dtype, own[name].dtype, "same_kind"):
                problems.append(f"dtype of {name}: {value.dtype} in the state, {own[name].dtype} in the layer")
        if problems:
            raise ValueError("\n  ".join([f"cannot load the state into {self}:", *problems]))
        for name, value in new.items():
            np.copyto(own[name], value, casting="same_kind")
        return IncompatibleKeys(missing, unexpected)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_context": None}  # a saved or copied layer is a model, not a step of its training

    @abstractmethod
    def _describe(self) -> str:
        """The arguments as torch's repr writes them."""

    def __repr__(self) -> str:
        axis = getattr(self, "axis", 1)
        extras = (f", axis={axis}" if axis != 1 else "") + (f", dtype={self.dtype}" if self.dtype != np.float32 else "")
        return f"{type(self).__name__}({self._describe()}{extras})"


class _ChannelNorm(_Layer):
    """What batch and instance norm share: a number of features, an axis, and running statistics on request."""

    _buffers = ("running_mean", "running_var", "num_batches_tracked")
    _ranks: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        num_features: SupportsIndex,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_features = _positive("num_features", num_features)
        self.eps = eps
        self.momentum = momentum
        self.affine = bool(affine)
        self.axis = _index("axis", axis)
        super().__init__(self.num_features, affine, bias, dtype)
        self.running_mean = np.zeros(self.num_features, self.dtype) if track_running_stats else None
        self.running_var = np.ones(self.num_features, self.dtype) if track_running_stats else None
        self.num_batches_tracked = np.array(0, np.int64) if track_running_stats else None

    @property
    def track_running_stats(self) -> bool:
        """Whether the layer has running statistics."""
        return self.running_mean is not None

    def _by_running(self, x: Array) -> bool:
        """Whether running statistics, if there are any, normalize x."""
        return not self.training

    def _running_context(self, x: Array) -> Context | None:
        """A snapshot of the running statistics where these normalize x."""
        if self.running_mean is None or self.running_var is None or not self._by_running(x):
            return None
        rstd = 1 / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        return Context(x, self.running_mean.astype(np.float64), rstd, training=False)

    def _describe(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_ChannelNorm):
    def __init__(
        self,
        num_features: SupportsIndex,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
        on_single: Literal["raise", "eval", "zero"] = "raise",
        virtual_batch_size: SupportsIndex | None = None,
        renorm: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias=bias, axis=axis, dtype=dtype)
        self.on_single = on_single
        self.virtual_batch_size = virtual_batch_size
        self.renorm = renorm
        self.frozen = False
        self._check_options()

    def _check_options(self) -> None:
        if self.on_single not in ("raise", "eval", "zero"):
            raise ValueError(f"on_single must be 'raise', 'eval' or 'zero' (got {self.on_single!r})")
        if self.renorm is not None and np.shape(self.renorm) != (2,):
            raise ValueError(f"renorm must be a pair of limits, r_max and d_max (got {self.renorm!r})")
        ghost = self.virtual_batch_size is not None
        needing = {"on_single='eval'": self.on_single == "eval", "virtual_batch_size": ghost, "renorm": self.renorm}
        if not self.track_running_stats and any(needing.values()):
            names = " and ".join(name for name, given in needing.items() if given)
            raise ValueError(f"{names} cannot do without running statistics (got track_running_stats=False)")
        if not ghost:
            return
        _positive("virtual_batch_size", self.virtual_batch_size)
        beside = {"renorm": self.renorm, "on_single": self.on_single != "raise", "momentum=None": self.momentum is None}
        if any(beside.values()):
            names = " and ".join(name for name, given in beside.items() if given)
            raise ValueError(f"virtual_batch_size cannot be combined with {names}")

    def freeze(self, affine: bool = True) -> Self:
        """Normalize by the running statistics in training mode too, and leave them as they are; returns the layer.

        Parameters
        ----------
        affine : bool
            Whether weight and bias become constants as well.  They are then in `state_dict`, but not in `parameters`
            and `grads`: tell optimisers after freezing what to update.

        Raises
        ------
        ValueError
            If the layer keeps no running statistics.
        """
        if not self.track_running_stats:
            raise ValueError(f"cannot freeze {self}: it keeps no running statistics")
        self.unfreeze()
        self.frozen = True
        if affine:
            self._constants.update(self.parameters)
            self.parameters.clear()
            self.grads.clear()
        return self

    def unfreeze(self) -> Self:
        """Undo `freeze`; the gradients of weight and bias begin at zero; returns the layer."""
        self.frozen = False
        self.parameters.update(self._constants)
        self.grads.update({name: np.zeros_like(value) for name, value in self._constants.items()})
        self._constants.clear()
        return self

    def _checked(self, x: ArrayLike) -> Array:
        x = np.asarray(x)
        _check_rank(x, self._ranks)
        _check_channels(x, self.axis, "num_features", self.num_features)
        return x

    def _is_single(self, x: Array, treatment: str) -> bool:
        """Whether x has one value a channel and is to be treated so."""
        return self.on_single == treatment and x.size == self.num_features

    def _by_running(self, x: Array) -> bool:
        return not self.training or self.frozen or self._is_single(x, "eval")

    def _infer(self, x: ArrayLike) -> Array:
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(
            self._checked(x), mean, var, self.weight, self.bias, mean is None, 0.0, self.eps, axis=self.axis
        )

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        x = self._checked(x)
        if constant := self._running_context(x):
            return self._infer(x), constant
        if self._is_single(x, "zero"):
            return self._without_deviation(x)
        y, context = self._normalize(x)
        if self.num_batches_tracked is not None and x.size:  # an empty batch has no part in the statistics
            self.num_batches_tracked[()] += 1 if self.virtual_batch_size is None else len(context.mean)
        return y, context

    def _normalize(self, x: Array) -> tuple[Array, Context]:
        """By the batch's own statistics."""
        affine = self.weight, self.bias
        running: tuple[Any, Any] = self.running_mean, self.running_var
        momentum = self._weight_of_batch()
        if self.virtual_batch_size is not None:
            size = operator.index(self.virtual_batch_size)
            y, mean, rstd = V.ghost_batch_norm_forward(x, size, *affine, *running, momentum, self.eps, axis=self.axis)
            return y, Context(x, mean, rstd)
        if self.renorm is not None:
            r_max, d_max = self.renorm
            y, mean, rstd, r, d = V.batch_renorm_forward(
                x, *running, *affine, momentum, self.eps, r_max, d_max, axis=self.axis
            )
            return y, Context(x, mean, rstd, correction=(r, d))
        y, mean, rstd = F.batch_norm_forward(x, *affine, *running, momentum, self.eps, axis=self.axis)
        return y, Context(x, mean, rstd)

    def _without_deviation(self, x: Array) -> tuple[Array, Context]:
        """One value a channel is its own mean: y is the bias, and no gradient reaches x or weight."""
        mean, zeros = x.reshape(self.num_features).astype(np.float64), np.zeros(self.num_features)
        y = F.batch_norm(x, mean, np.ones_like(zeros), self.weight, self.bias, eps=self.eps, axis=self.axis)
        return y, Context(x, mean, zeros)

    def _weight_of_batch(self) -> float:
        """The momentum for the batch at hand; None makes all batches weigh the same."""
        if self.momentum is not None:
            return self.momentum
        return 1.0 if self.num_batches_tracked is None else 1 / (self.num_batches_tracked.item() + 1)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        x, mean, rstd = context.x, context.mean, context.rstd
        if context.correction:
            return V.batch_renorm_backward(dy, x, mean, rstd, *context.correction, self.weight, axis=self.axis)
        if mean.ndim == 2:  # of ghost batches
            size = operator.index(self.virtual_batch_size)  # type: ignore[arg-type]
            return V.ghost_batch_norm_backward(dy, x, mean, rstd, size, self.weight, axis=self.axis)
        if not context.training and not self.grads:  # no sums are wanted, and dx is a multiple of dy
            dy, _ = _checks.gradient(dy, x)
            return (F.batch_norm(dy, np.zeros_like(rstd), rstd**-2.0, self.weight, eps=0.0, axis=self.axis),)
        return F.batch_norm_backward(dy, x, mean, rstd, self.weight, axis=self.axis, training=context.training)

    def _describe(self) -> str:
        usual = {"on_single": "raise", "virtual_batch_size": None, "renorm": None, "frozen": False}
        unusual = {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
        return super()._describe() + "".join(f", {name}={value!r}" for name, value in unusual.items())


class BatchNorm1d(_BatchNorm):
    """Batch normalization of (N, C) or (N, C, L) input, with statistics per channel.

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    eps : float
        Added to the variance.
    momentum : float or None
        Weight of the new batch in the running statistics; None gives every batch the same weight (cumulative average).
    affine : bool
        Whether there are a weight and a bias, both of shape (C,).
    track_running_stats : bool
        Whether running_mean, running_var (shape (C,)) and num_batches_tracked are kept.  Evaluation mode normalizes
        with them, or, if there are none, with the statistics of the batch.
    bias : bool
        Whether an affine layer has a bias.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters, gradients and running statistics.  The output has the input's.
    on_single : {"raise", "eval", "zero"}
        What training does with one value per channel: refuse it, normalize it by the running statistics as evaluation
        would, or take it for its own mean, so that the output is the bias.  The running statistics stay as they are.
    virtual_batch_size : int, optional
        Normalize so many consecutive samples at a time in training; see `ghost_batch_norm_forward`.  Each ghost batch
        counts as a batch.
    renorm : pair of float, optional
        Batch renormalization with these limits r_max and d_max, which may be assigned anew during training; see
        `batch_renorm_forward`.

    Raises
    ------
    ValueError
        If an option needs running statistics that are not kept, or `virtual_batch_size` is combined with `renorm`,
        `on_single` or a momentum of None.  On calling: if the input's rank or number of channels is another, or
        training has one value per channel.

    Notes
    -----
    y = (x - mean) / sqrt(var + eps) * weight + bias, with the biased variance; running_var takes in the unbiased one.

    ``layer.freeze()`` makes running statistics, weight and bias constants, whatever the mode, and ``layer.unfreeze()``
    undoes it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import BatchNorm1d
    >>> layer = BatchNorm1d(3)
    >>> x = np.arange(12.0).reshape(4, 3)
    >>> y = layer(x)
    >>> dx = layer.backward(np.ones_like(y))
    >>> layer.grads["bias"]
    array([4., 4., 4.], dtype=float32)
    >>> layer.eval()
    BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalization of (N, C, H, W) input; in all else as `BatchNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import BatchNorm2d
    >>> images = np.random.default_rng(0).normal(5, 3, (2, 4, 4, 3))
    >>> y = BatchNorm2d(3, axis=-1)(images)
    >>> bool(np.allclose(y.mean((0, 1, 2)), 0)), bool(np.allclose(y.std((0, 1, 2)), 1))
    (True, True)
    """

    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalization of (N, C, D, H, W) input; in all else as `BatchNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import BatchNorm3d
    >>> BatchNorm3d(2)(np.arange(32.0).reshape(1, 2, 2, 2, 4)).shape
    (1, 2, 2, 2, 4)
    """

    _ranks = (5,)


class _InstanceNorm(_ChannelNorm):
    def __init__(
        self,
        num_features: SupportsIndex,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias=bias, axis=axis, dtype=dtype)

    def _batched(self, x: Array) -> Array:
        """The checked input with its batch axis; a view where the caller gave a single sample."""
        _check_rank(x, self._ranks)
        batch = x[None] if x.ndim == self._ranks[0] else x
        _check_channels(batch, self.axis, "num_features", self.num_features)
        return batch

    def _infer(self, x: ArrayLike) -> Array:
        x = np.asarray(x)
        batch = self._batched(x)
        mean, var = self.running_mean, self.running_var
        y = F.instance_norm(batch, mean, var, self.weight, self.bias, mean is None, 0.0, self.eps, axis=self.axis)
        return y if batch is x else y[0]

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        x = np.asarray(x)
        if constant := self._running_context(x):
            return self._infer(x), constant
        batch = self._batched(x)
        # momentum None: torch's instance norm does not average cumulatively, it leaves the statistics alone
        momentum = 0.0 if self.momentum is None else self.momentum
        y, mean, rstd = F.instance_norm_with_running(
            batch, self.weight, self.bias, self.running_mean, self.running_var, momentum, self.eps, self.axis, None
        )
        return y if batch is x else y[0], Context(x, mean, rstd)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        x = context.x
        single = x.ndim == self._ranks[0]
        if single:
            dy, x = np.asarray(dy)[None], x[None]
        if context.training:
            dx, *rest = F.instance_norm_backward(dy, x, context.mean, context.rstd, self.weight, axis=self.axis)
        else:
            dx, *rest = F.batch_norm_backward(
                dy, x, context.mean, context.rstd, self.weight, axis=self.axis, training=False
            )
        return dx[0] if single else dx, *rest


class InstanceNorm1d(_InstanceNorm):
    """Instance normalization of (N, C, L) or (C, L) input, with statistics per sample and channel.

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    eps : float
        Added to the variance.
    momentum : float or None
        Weight of the new batch in the running statistics; None leaves them as they are.
    affine : bool
        Whether there are a weight and a bias, both of shape (C,).
    track_running_stats : bool
        Whether running_mean and running_var (shape (C,), averages over the samples) are kept and normalize in
        evaluation mode.  num_batches_tracked is kept for torch's sake, and stays as it is.
    bias : bool
        Whether an affine layer has a bias.
    axis : int
        Axis of the channels, counted in batched input: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters, gradients and running statistics.  The output has the input's.

    Raises
    ------
    ValueError
        On calling: if the input's rank or number of channels is another, or training has one value per instance.

    Notes
    -----
    y = (x - mean) / sqrt(var + eps) * weight + bias, with the biased variance; running_var takes in the unbiased one.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import InstanceNorm1d
    >>> layer = InstanceNorm1d(2)
    >>> layer(np.array([[1.0, 3.0, 1.0, 3.0], [0.0, 8.0, 0.0, 8.0]])).round(3)
    array([[-1.,  1., -1.,  1.],
           [-1.,  1., -1.,  1.]])
    """

    _ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalization of (N, C, H, W) or (C, H, W) input; in all else as `InstanceNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import InstanceNorm2d
    >>> InstanceNorm2d(3, affine=True)(np.random.default_rng(0).normal(size=(2, 3, 4, 4))).shape
    (2, 3, 4, 4)
    """

    _ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Instance normalization of (N, C, D, H, W) or (C, D, H, W) input; in all else as `InstanceNorm1d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import InstanceNorm3d
    >>> InstanceNorm3d(2)(np.random.default_rng(0).normal(size=(2, 3, 4, 5))).shape
    (2, 3, 4, 5)
    """

    _ranks = (4, 5)


class GroupNorm(_Layer):
    """Group normalization of (N, C, ...) input, with statistics per sample and group of neighbouring channels.

    Parameters
    ----------
    num_groups : int
        Number of groups, G; divides C.
    num_channels : int
        Number of channels, C.
    eps : float
        Added to the variance.
    affine : bool
        Whether there are a weight and a bias, both of shape (C,).
    bias : bool
        Whether an affine layer has a bias.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters and gradients.  The output has the input's.

    Raises
    ------
    ValueError
        If G does not divide C; on calling, if the input's number of channels is another.

    Notes
    -----
    y = (x - mean) / sqrt(var + eps) * weight + bias, with the biased variance.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import GroupNorm
    >>> layer = GroupNorm(2, 4)
    >>> layer(np.array([[1.0, 3.0, 10.0, 30.0]])).round(3)
    array([[-1.,  1., -1.,  1.]])
    """

    def __init__(
        self,
        num_groups: SupportsIndex,
        num_channels: SupportsIndex,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_groups = _positive("num_groups", num_groups)
        self.num_channels = _positive("num_channels", num_channels)
        if self.num_channels % self.num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.eps = eps
        self.affine = bool(affine)
        self.axis = _index("axis", axis)
        super().__init__(self.num_channels, affine, bias, dtype)

    def _checked(self, x: ArrayLike) -> Array:
        x = np.asarray(x)
        _check_channels(x, self.axis, "num_channels", self.num_channels)
        return x

    def _infer(self, x: ArrayLike) -> Array:
        return F.group_norm(self._checked(x), self.num_groups, self.weight, self.bias, self.eps, axis=self.axis)

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        x = self._checked(x)
        y, mean, rstd = F.group_norm_forward(x, self.num_groups, self.weight, self.bias, self.eps, axis=self.axis)
        return y, Context(x, mean, rstd)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        return F.group_norm_backward(dy, context.x, context.mean, context.rstd, self.weight, axis=self.axis)

    def _describe(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LayerNorm(_Layer):
    """Layer normalization over the trailing dimensions, with statistics per sample.

    Parameters
    ----------
    normalized_shape : int or iterable of int
        Sizes of the trailing dimensions to normalize over.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether there are a weight and a bias, both of shape `normalized_shape`.
    bias : bool
        Whether an affine layer has a bias.
    dtype : dtype
        Type of parameters and gradients.  The output has the input's.

    Raises
    ------
    ValueError
        On calling: if the input's trailing dimensions are others.

    Notes
    -----
    y = (x - mean) / sqrt(var + eps) * weight + bias, with the biased variance.

    Examples
    --------
    A recurrent use, with a context for every step:

    >>> import numpy as np
    >>> from fastbn.layers import LayerNorm
    >>> layer = LayerNorm(2)
    >>> steps = [layer.forward(np.array([[0.0, 2.0 * t]])) for t in (1, 2, 3)]
    >>> for y, context in reversed(steps):
    ...     dx = layer.backward(y, context)
    >>> layer.grads["weight"].round(3)
    array([3., 3.], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: SupportsIndex | Iterable[SupportsIndex],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.normalized_shape = _dimensions(normalized_shape)
        self.eps = eps
        self.elementwise_affine = bool(elementwise_affine)
        super().__init__(self.normalized_shape, elementwise_affine, bias, dtype)

    def _infer(self, x: ArrayLike) -> Array:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        y, mean, rstd = F.layer_norm_forward(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return y, Context(x, mean, rstd)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        return F.layer_norm_backward(dy, context.x, context.mean, context.rstd, self.weight)

    def _describe(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(_Layer):
    """Root-mean-square normalization over the trailing dimensions: layer norm without mean and bias.

    Parameters
    ----------
    normalized_shape : int or iterable of int
        Sizes of the trailing dimensions to normalize over.
    eps : float or None
        Added to the mean square; None takes the machine epsilon of the type computed in.
    elementwise_affine : bool
        Whether there is a weight, of shape `normalized_shape`.
    offset : float
        Added to the weight, which begins at 1 - offset; 1 for weights that are stored as Gemma's are.
    dtype : dtype
        Type of the weight and its gradient.  The output has the input's.

    Raises
    ------
    ValueError
        If there is an offset but no weight; on calling, if the input's trailing dimensions are others.

    Notes
    -----
    y = x / sqrt(mean(x^2) + eps) * (offset + weight).

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import RMSNorm
    >>> RMSNorm(2)(np.array([[1.0, 7.0]])).round(3)
    array([[0.2, 1.4]])
    """

    def __init__(
        self,
        normalized_shape: SupportsIndex | Iterable[SupportsIndex],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        offset: float = 0.0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.normalized_shape = _dimensions(normalized_shape)
        self.eps = eps
        self.elementwise_affine = bool(elementwise_affine)
        self.offset = _checks.real(offset, "offset")
        super().__init__(self.normalized_shape, elementwise_affine, False, dtype)
        if self.offset:
            if not elementwise_affine:
                raise ValueError(f"offset ({offset}) needs a weight (got elementwise_affine=False)")
            self.weight = 1.0 - self.offset

    def _scale(self) -> Array | None:
        if not self.offset or self.weight is None:
            return self.weight
        # 1 + weight in half precision would lose most of the weight
        return self.weight.astype(np.result_type(self.dtype, np.float32)) + np.float32(self.offset)

    def _infer(self, x: ArrayLike) -> Array:
        return F.rms_norm(x, self.normalized_shape, self._scale(), self.eps)

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        y, rstd = F.rms_norm_forward(x, self.normalized_shape, self._scale(), self.eps)
        return y, Context(x, None, rstd)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        dx, dweight = F.rms_norm_backward(dy, context.x, context.rstd, self._scale())
        return dx, dweight.astype(self.dtype, copy=False)

    def _describe(self) -> str:
        offset = f", offset={self.offset}" if self.offset else ""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}{offset}"


class _PerChannel(_Layer):
    """What norms of (N, C, ...) input share that have a number of channels and parameters of that length."""

    _ranks: ClassVar[tuple[int, ...]] = ()  # none: any

    def __init__(
        self, num_channels: SupportsIndex, eps: float, affine: bool, bias: bool, axis: SupportsIndex, dtype: DTypeLike
    ) -> None:
        self.num_channels = _positive("num_channels", num_channels)
        self.eps = eps
        self.axis = _index("axis", axis)
        super().__init__(self.num_channels, affine, bias, dtype)

    def _checked(self, x: ArrayLike) -> Array:
        x = np.asarray(x)
        if self._ranks:
            _check_rank(x, self._ranks)
        _check_channels(x, self.axis, "num_channels", self.num_channels)
        return x

    def _infer(self, x: ArrayLike) -> Array:
        return self.forward(x)[0]

    def _describe(self) -> str:
        return f"{self.num_channels}, eps={self.eps}"


class LayerNorm2d(_PerChannel):
    """Layer normalization of (N, C, H, W) input over its channels, with statistics per sample and position.

    Parameters
    ----------
    num_channels : int
        Number of channels, C.
    eps : float
        Added to the variance.
    affine : bool
        Whether there are a weight and a bias, both of shape (C,).
    bias : bool
        Whether an affine layer has a bias.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters and gradients.  The output has the input's.

    Raises
    ------
    ValueError
        On calling: if the input's rank or number of channels is another.

    Notes
    -----
    y = (x - mean) / sqrt(var + eps) * weight + bias, with the biased variance; see `channel_layer_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import LayerNorm2d
    >>> images = np.random.default_rng(0).normal(5, 3, (2, 96, 4, 4))
    >>> bool(np.allclose(LayerNorm2d(96)(images).mean(1), 0))
    True
    """

    _ranks = (4,)

    def __init__(
        self,
        num_channels: SupportsIndex,
        eps: float = 1e-6,
        affine: bool = True,
        *,
        bias: bool = True,
        axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(num_channels, eps, affine, bias, axis, dtype)

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        x = self._checked(x)
        y, mean, rstd = V.channel_layer_norm_forward(x, self.weight, self.bias, self.eps, axis=self.axis)
        return y, Context(x, mean, rstd)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        return V.channel_layer_norm_backward(dy, context.x, context.mean, context.rstd, self.weight, axis=self.axis)


class RMSNorm2d(_PerChannel):
    """RMS normalization of (N, C, H, W) input over its channels; in all else as `LayerNorm2d`, without a bias.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import RMSNorm2d
    >>> RMSNorm2d(2)(np.array([1.0, 7.0]).reshape(1, 2, 1, 1)).round(3).ravel()
    array([0.2, 1.4])
    """

    _ranks = (4,)

    def __init__(
        self,
        num_channels: SupportsIndex,
        eps: float = 1e-6,
        affine: bool = True,
        *,
        axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(num_channels, eps, affine, False, axis, dtype)

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        x = self._checked(x)
        y, rstd = V.channel_rms_norm_forward(x, self.weight, self.eps, axis=self.axis)
        return y, Context(x, rstd=rstd)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        return V.channel_rms_norm_backward(dy, context.x, context.rstd, self.weight, axis=self.axis)


class GlobalResponseNorm(_PerChannel):
    """Global response normalization of (N, C, ...) input; weight and bias begin at zero, where it does nothing.

    Parameters
    ----------
    num_channels : int
        Number of channels, C.
    eps : float
        Added to the average norm.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters and gradients.  The output has the input's.

    Raises
    ------
    ValueError
        On calling: if the input's number of channels is another.

    Notes
    -----
    y = x * norm / (avg(norm) + eps) * weight + bias + x; see `global_response_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import GlobalResponseNorm
    >>> layer = GlobalResponseNorm(2, eps=0.0)
    >>> layer.weight = 1
    >>> layer(np.array([[[3.0, 4.0], [0.0, 15.0]]]))
    array([[[ 4.5,  6. ],
            [ 0. , 37.5]]])
    """

    def __init__(
        self,
        num_channels: SupportsIndex,
        eps: float = 1e-6,
        *,
        axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(num_channels, eps, True, True, axis, dtype)
        self.weight = 0.0

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        x = self._checked(x)
        y, norm = V.global_response_norm_forward(x, self.weight, self.bias, self.eps, axis=self.axis)
        return y, Context(x, rstd=norm)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        return V.global_response_norm_backward(dy, context.x, context.rstd, self.weight, self.eps, axis=self.axis)


class FilterResponseNorm2d(_PerChannel):
    """Filter response normalization of (N, C, H, W) input, with a thresholded linear unit.

    Parameters
    ----------
    num_channels : int
        Number of channels, C.
    eps : float
        Added to the mean square.
    tlu : bool
        Whether there is a threshold, the parameter "tau" of shape (C,), which begins at zero as a ReLU.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.
    dtype : dtype
        Type of parameters and gradients.  The output has the input's.

    Raises
    ------
    ValueError
        On calling: if the input's rank or number of channels is another.

    Notes
    -----
    y = max(x / sqrt(mean(x^2) + eps) * weight + bias, tau); see `filter_response_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import FilterResponseNorm2d
    >>> FilterResponseNorm2d(1)(np.array([1.0, -1.0, 7.0, 7.0]).reshape(1, 1, 2, 2)).round(3).ravel()
    array([0.2, 0. , 1.4, 1.4])
    """

    _ranks = (4,)

    def __init__(
        self,
        num_channels: SupportsIndex,
        eps: float = 1e-6,
        tlu: bool = True,
        *,
        axis: SupportsIndex = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(num_channels, eps, True, True, axis, dtype)
        self.tlu = bool(tlu)
        if tlu:
            self.parameters["tau"] = np.zeros(self.num_channels, self.dtype)
            self.grads["tau"] = np.zeros(self.num_channels, self.dtype)

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        x = self._checked(x)
        y, rstd = V.filter_response_norm_forward(x, *self._affine(), self.eps, axis=self.axis)
        return y, Context(x, rstd=rstd)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        dx, dweight, dbias, dtau = V.filter_response_norm_backward(
            dy, context.x, context.rstd, *self._affine(), axis=self.axis
        )
        return (dx, dweight, dbias) if dtau is None else (dx, dweight, dbias, dtau)

    def _affine(self) -> tuple[Array | None, Array | None, Array | None]:
        return self.weight, self.bias, self.parameters.get("tau")

    def _describe(self) -> str:
        return f"{super()._describe()}, tlu={self.tlu}"


class LocalResponseNorm(_Layer):
    """Local response normalization of (N, C, ...) input, which has no parameters.

    Parameters
    ----------
    size : int
        How many channels are neighbours.
    alpha, beta, k : float
        See Notes.
    axis : int
        Axis of the channels: 1, or -1 for channels-last input.

    Notes
    -----
    y = x / (k + alpha / size * sum(x^2)) ** beta, with the sum over the neighbours; see `local_response_norm`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn.layers import LocalResponseNorm
    >>> LocalResponseNorm(3, alpha=3.0, beta=1.0, k=0.0)(np.array([[1.0, 2.0, 2.0]])).round(3)
    array([[0.2  , 0.222, 0.25 ]])
    """

    def __init__(
        self, size: SupportsIndex, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, axis: SupportsIndex = 1
    ) -> None:
        self.size = _positive("size", size)
        self.alpha = alpha
        self.beta = beta
        self.k = k
        self.axis = _index("axis", axis)
        super().__init__((), False, False, np.float32)

    def _infer(self, x: ArrayLike) -> Array:
        return V.local_response_norm(x, self.size, self.alpha, self.beta, self.k, axis=self.axis)

    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        return self._infer(x), Context(x)

    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        return (
            V.local_response_norm_backward(dy, context.x, self.size, self.alpha, self.beta, self.k, axis=self.axis),
        )

    def _describe(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
