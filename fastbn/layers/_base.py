"""State and contexts, which all layers have, and what batch and instance norm share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbn._quiet import quiet, quietly
from fastbn._running import commit, commit_pairs
from fastbn.engine import arguments
from fastbn.functional import Activation
from fastbn.layers._state import IncompatibleKeys, accept
from fastbn.variants._arguments import whole_number

Array = NDArray[Any]


@dataclass(slots=True, eq=False, repr=False)
class Context:
    """What a forward leaves for its backward: its inputs themselves, not copies, and the statistics that were used."""

    x: Any
    mean: Any = None  # an array, or None for norms that do not centre
    rstd: Any = None  # an array, or None for local response norm
    training: bool = True  # False: the statistics were constants, no gradient flows through them
    correction: tuple[Array, Array] | None = None  # r and d of batch renormalization
    extras: dict[str, Any] = field(default_factory=dict)  # activation, residual and where, as far as there are
    kind: str = ""  # of the layer


def checked_eps(value: Any) -> Any:
    """The number itself, as calls take it, which is refused when the layer is made and not when it is first called."""
    arguments.eps(value)
    return value


def check_rank(x: Array, ranks: tuple[int, ...]) -> None:
    if x.ndim not in ranks:
        raise ValueError(f"expected {' or '.join(f'{rank}D' for rank in ranks)} input (got {x.ndim}D input)")


def check_channels(x: Array, axis: int, name: str, channels: int) -> None:
    try:
        size = x.shape[axis]
    except (IndexError, TypeError):
        size = x.shape[arguments.axis(axis, x)]  # which says what is wrong
    if size != channels:
        raise ValueError(
            f"expected input's size at axis={axis} to match {name} ({channels}), but got: {size} "
            f"(input shape {x.shape})"
        )


class Layer(ABC):
    """What all layers are: parameters with their gradients, a mode, and contexts between forward and backward.

    It is an abstract base, for ``isinstance`` and annotations; the classes of `fastbn.layers` are what can be made.

    Attributes
    ----------
    parameters : dict of str to ndarray
        The arrays "weight", "bias" and "tau" that the layer has, as far as they are not frozen.
    grads : dict of str to ndarray
        Their gradients, under the same keys, to which each backward adds.
    training : bool
        The mode, set by `train` and `eval`.
    dtype : dtype
        Type of parameters, gradients and running statistics.
    activation : str, tuple or None
        Applied to y in the same pass; see the module `fastbn.functional`.

    Examples
    --------
    >>> from fastbn.layers import GroupNorm, Layer, LayerNorm
    >>> network = [LayerNorm(4), GroupNorm(2, 4)]
    >>> all(isinstance(layer, Layer) for layer in network)
    True
    >>> sum(value.size for layer in network for value in layer.parameters.values())
    16
    """

    _buffers: ClassVar[tuple[str, ...]] = ()
    _kind: ClassVar[str] = ""  # what contexts are told apart by

    def __init__(
        self,
        shape: int | tuple[int, ...],
        weight: bool,
        bias: bool,
        dtype: DTypeLike,
        activation: Activation = None,
    ) -> None:
        arguments.activation(activation)
        has_bias = arguments.flag(bias, "bias")
        self.activation = activation
        self.dtype = arguments.parameter_dtype(dtype)
        self.training = True
        self.parameters: dict[str, Array] = {}
        if weight:
            self.parameters["weight"] = np.full(shape, self._initial("weight"), self.dtype)
        if weight and has_bias:
            self.parameters["bias"] = np.full(shape, self._initial("bias"), self.dtype)
        self.grads: dict[str, Array] = {}
        for name, value in self.parameters.items():
            self.grads[name] = np.zeros(value.shape, self.dtype)  # zeros_like would touch all of it
        self._constants: dict[str, Array] = {}  # parameters that have been frozen
        self._context: Context | None = None

    @property
    def weight(self) -> Array | None:
        """The array ``parameters["weight"]``, or None; assigning writes into the array."""
        return self.parameters.get("weight", self._constants.get("weight"))

    @weight.setter
    def weight(self, value: ArrayLike) -> None:
        self._assign("weight", value)

    @property
    def bias(self) -> Array | None:
        """The array ``parameters["bias"]``, or None; assigning writes into the array."""
        return self.parameters.get("bias", self._constants.get("bias"))

    @bias.setter
    def bias(self, value: ArrayLike) -> None:
        self._assign("bias", value)

    def _assign(self, name: str, value: ArrayLike) -> None:
        target = (self.parameters | self._constants).get(name)
        if target is None:
            raise AttributeError(f"{self} has no {name} to assign to")
        given = arguments.ndarray(value, name)
        if given.dtype.kind not in "biuf" and given.dtype.name != "bfloat16":
            raise TypeError(f"{name} has dtype {given.dtype}; expected numbers")
        try:
            with quiet():
                target[...] = given
        except ValueError:
            expected = f"expected {target.shape}, or what broadcasts to it"
            raise ValueError(f"{name} has shape {given.shape}; {expected}") from None

    def _extras(self, **given: ArrayLike | None) -> dict[str, Any]:
        """What a call asks for beside the normalization, by the names of the functions' arguments."""
        return {"activation": self.activation, **given}

    def __call__(self, x: ArrayLike, **extras: ArrayLike | None) -> Array:
        """Normalize `x`, with the keywords of `forward`.

        In training mode, keep what `backward` needs in place of what the last call kept.
        """
        if not self.training:
            return self._infer(x, **extras) if extras else self._infer(x)  # an empty ** takes 50 ns
        y, self._context = self.forward(x, **extras)
        return y

    @abstractmethod
    def _infer(self, x: ArrayLike) -> Array:
        """The output in evaluation mode, and nothing else; takes the keywords of `forward`."""

    @abstractmethod
    def forward(self, x: ArrayLike) -> tuple[Array, Context]:
        """Normalize `x` and hand the context to the caller; the layer keeps nothing.

        This is the way to apply a layer several times before its backward, or to differentiate in evaluation mode.

        Parameters
        ----------
        x : array_like
            Input, as for calling the layer.
        residual : array_like, shape and dtype of x, optional
            Added before the activation.  Batch and group norm take it.
        where : array_like of bool, optional
            Which elements count; see the module `fastbn.functional`.  Batch, instance, group, layer and RMS norm take
            it.

        Returns
        -------
        y : ndarray
            Output, of x's shape and dtype.
        context : Context
            To be passed to `backward`, as often as wanted.  It holds `x`, `residual` and `where` themselves, not
            copies: leave them as they are until the backward is done.
        """

    @abstractmethod
    def _gradients(self, dy: ArrayLike, context: Context) -> tuple[Array, ...]:
        """dx, dweight and, where the operation has a bias, dbias; last, where there is a residual, dresidual."""

    def backward(self, dy: ArrayLike, context: Context | None = None) -> Array | Any:
        """Gradient of the input, or of input and residual; the gradients of the parameters are added to `grads`.

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
            Gradient of the input, of its shape.  If the forward was given a residual, the pair (dx, dresidual).

        Raises
        ------
        ValueError
            If there is no context, or one of another kind of layer, or `dy` does not have the output's shape.
        TypeError
            If `context` is not a context.

        Notes
        -----
        The parameters enter as they are now: update them after the backward, not between forward and backward.
        """
        used = self._context if context is None else context
        if used is None:
            raise ValueError(self._without_context())
        if not isinstance(used, Context):
            raise TypeError(f"context is of type {type(used).__name__}; expected what layer.forward(x) returned")
        if used.kind and used.kind != self._kind:
            raise ValueError(f"context is of {used.kind}; expected what forward(x) of this layer returned: {self}")
        dx, *gradients = self._gradients(dy, used)
        result = dx if used.extras.get("residual") is None else (dx, gradients.pop())
        self._accumulate(dict(zip(("weight", "bias", "tau"), gradients, strict=False)))
        if context is None:
            self._context = None
        return result

    @quietly
    def _accumulate(self, gradients: dict[str, Array]) -> None:
        """Add to `grads`, to all of them or, where an exception comes, to none."""
        sums = {name: self.grads[name] + gradients[name] for name in gradients if name in self.grads}
        commit([self.grads[name] for name in sums], [v.astype(self.grads[name].dtype) for name, v in sums.items()])

    def _without_context(self) -> str:
        """What to say of a backward that has nothing to go back over."""
        explicit = "keep the context of y, context = layer.forward(x) and call layer.backward(dy, context)"
        if not self.training:
            return (
                f"no context: the layer is in evaluation mode, where layer(x) keeps none; call layer.train() before, "
                f"or {explicit}"
            )
        return (
            "no context is left: only that of the last layer(x) in training mode is kept, until one backward has used "
            f"it or eval() has let go of it; for several calls before their backwards, {explicit} for each"
        )

    def reset_parameters(self) -> None:
        """Set parameters, and running statistics if the layer keeps any, to what they were when it was made, in place.

        Gradients stay as they are.
        """
        parameters = self.parameters | self._constants
        commit(parameters.values(), [self._initial(name) for name in parameters])

    def _initial(self, name: str) -> float:
        """Where a parameter begins."""
        return 1.0 if name == "weight" else 0.0

    def zero_grad(self) -> None:
        """Set the gradients to zero, in place."""
        commit(self.grads.values(), repeat(0))

    def train(self, mode: bool = True) -> Self:
        """Set training mode, or evaluation mode with False; returns the layer.

        Evaluation mode lets go of the kept context.
        """
        self.training = arguments.flag(mode, "mode")
        if not self.training:
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

    def load_state_dict(
        self, state: Mapping[str, ArrayLike], strict: bool = True, *, prefix: str = ""
    ) -> IncompatibleKeys:
        """Copy `state` into the layer's arrays, in place.

        Parameters
        ----------
        state : mapping of str to array_like
            As returned by `state_dict`, of this layer or of torch's, as arrays or tensors.
        strict : bool
            Whether keys must agree.  Shapes must agree in any case.
        prefix : str
            What the layer's keys begin with in the state of a whole network, as "bn1." in "bn1.weight".  Keys that
            begin otherwise are passed over; those that begin so are what must agree.

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
            If `state` is not a mapping, or holds a masked array or a tensor that requires a gradient.

        Notes
        -----
        num_batches_tracked is taken as torch takes it: an integer or a float, of which fractions are cut off, of shape
        () or (1,).  It may be missing, and then stays as it is, from states of torch's version 1 of batch norm and from
        those that tell no version, as all mappings do that torch did not make itself.

        A bfloat16 layer also takes the bits of its state as ``numpy.savez`` writes them, of dtype ``|V2``.

        Examples
        --------
        >>> import numpy as np
        >>> import fastbn
        >>> network = {"conv.weight": np.ones((2, 3)), "norm.weight": np.array([2.0, 3.0]), "norm.bias": np.zeros(2)}
        >>> layer = fastbn.LayerNorm(2)
        >>> layer.load_state_dict(network, prefix="norm.")
        IncompatibleKeys(missing_keys=[], unexpected_keys=[])
        >>> layer.weight
        array([2., 3.], dtype=float32)
        """
        own = self._state()
        accepted = accept(own, state, prefix, arguments.flag(strict, "strict"), self)
        commit([own[name] for name in accepted.values], accepted.values.values())
        return accepted.keys

    def __getstate__(self) -> dict[str, Any]:
        # a saved or copied layer is a model: not a step of its training, and nobody watches it
        kept = {name: value for name, value in vars(self).items() if name not in ("forward", "_gradients")}
        return kept | {"_context": None}

    @abstractmethod
    def _describe(self) -> str:
        """The arguments as torch's repr writes them."""

    def __repr__(self) -> str:
        axis = getattr(self, "axis", 1)
        parts = (
            f", axis={axis}" if axis != 1 else "",
            f", dtype={self.dtype}" if self.dtype != np.float32 else "",
            f", activation={self.activation!r}" if self.activation is not None else "",
        )
        return f"{type(self).__name__}({self._describe()}{''.join(parts)})"


class ChannelNorm(Layer):
    """What batch and instance norm share: a number of features, an axis, and running statistics on request."""

    _buffers = ("running_mean", "running_var", "num_batches_tracked")
    _ranks: ClassVar[tuple[int, ...]]
    _tracks = True  # until told otherwise

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        *,
        axis: int,
        **options: Any,
    ) -> None:
        """options: what `Layer` takes beside shape and weight."""
        self.num_features = whole_number(num_features, "num_features")
        self.eps = checked_eps(eps)
        if momentum is not None:
            arguments.real(momentum, "momentum")
        self.momentum = momentum
        self.affine = arguments.flag(affine, "affine")
        self.axis = arguments.integer(axis, "axis")
        tracks = arguments.flag(track_running_stats, "track_running_stats")
        super().__init__(self.num_features, self.affine, **options)
        self.running_mean = np.zeros(self.num_features, self.dtype) if tracks else None
        self.running_var = np.ones(self.num_features, self.dtype) if tracks else None
        self.num_batches_tracked = np.array(0, np.int64) if tracks else None

    @property
    def track_running_stats(self) -> bool:
        """Whether training updates the layer's running statistics.

        Set to False on a layer that has them, it keeps them as they are, in `state_dict` too.  Training normalizes by
        the statistics of the batch as before; evaluation by the running ones in batch norm, by those of each sample in
        instance norm.
        """
        return self._tracks and self.running_mean is not None

    @track_running_stats.setter
    def track_running_stats(self, value: bool) -> None:
        tracks = arguments.flag(value, "track_running_stats")
        if tracks and self.running_mean is None:
            raise ValueError(
                f"{self} has no running statistics to track; expected a layer made with track_running_stats=True"
            )
        self._check_options(tracks)
        self._tracks = tracks

    def _check_options(self, tracks: bool) -> None:
        """Options that need running statistics are refused without them."""

    def _tracked(self) -> tuple[Array | None, Array | None]:
        """The running statistics that training updates."""
        return (self.running_mean, self.running_var) if self._tracks else (None, None)

    def reset_running_stats(self) -> None:
        """Set running_mean to 0, running_var to 1 and num_batches_tracked to 0, in place, if the layer tracks them."""
        if not self._tracks:
            return
        initial = [(getattr(self, name), value) for name, value in zip(self._buffers, (0, 1, 0), strict=True)]
        commit_pairs(pair for pair in initial if pair[0] is not None)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.reset_running_stats()

    def _by_running(self, x: Array) -> bool:
        """Whether running statistics, if there are any, normalize x."""
        return not self.training

    def _uses_running(self, x: Array) -> bool:
        return self.running_mean is not None and self.running_var is not None and self._by_running(x)

    @quietly
    def _running_context(self, x: Array, extras: dict[str, Any]) -> Context:
        """A snapshot of the running statistics that have normalized x: all has been checked."""
        rstd = 1 / np.sqrt(np.array(self.running_var, np.float64) + float(self.eps))
        mean = np.array(self.running_mean, np.float64)
        return Context(x, mean, rstd, training=False, extras=extras, kind=self._kind)

    def _describe(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )
