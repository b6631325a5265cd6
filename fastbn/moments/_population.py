"""Exact statistics for the batch norms of a trained network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

from fastbn._quiet import cast
from fastbn._running import commit
from fastbn.engine import arguments
from fastbn.layers import BatchNorm
from fastbn.moments._class import Moments
from fastbn.moments._progress import tracked


def population_statistics(
    layers: Iterable[BatchNorm],
    batches: Iterable[Any],
    forward: Callable[[Any], object],
    *,
    ddof: float = 0,
    progress: bool = True,
) -> list[Moments]:
    """Set running statistics to the exact statistics of what the layers are given ("precise batch norm").

    Parameters
    ----------
    layers : iterable of BatchNorm (1d, 2d and 3d among them)
        The layers to set, with running statistics.
    batches : iterable
        What the network is run on; large batches are better, see Notes.
    forward : callable
        ``forward(batch)`` runs the network, calling each layer at least once.
    ddof : float
        As for `Moments.var`; 1 for the unbiased variance.
    progress : bool
        Whether to draw a bar, if Rich is installed and standard error is a terminal.

    Returns
    -------
    list of Moments
        Of all inputs of each layer; of layers such as `SyncBatchNorm2d`, of those on all ranks.

    Raises
    ------
    TypeError
        If one of `layers` is not a batch norm layer.
    ValueError
        If a layer has no running statistics, is named twice, or was not called in training mode with at least one
        element.

    Notes
    -----
    The batches are run in training mode: each layer normalizes by the statistics of the batch, so that the input of the
    next one is what it was trained on [1]_.  Then running_mean and running_var become the mean and the variance of all
    elements that the layer was given, as if they had been one batch.  Moving averages, by contrast, favour the last
    batches, and those of the batches' variances miss how the batches' means differ.

    While the network runs, the layers' own attribute ``forward`` is replaced by one that looks at the input first.
    Afterwards, or if anything was raised, mode, context and num_batches_tracked are as they were; running_mean and
    running_var too, if anything was raised.

    References
    ----------
    .. [1] Y. Wu and J. Johnson, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> x = np.random.default_rng(0).normal(5.0, 2.0, (1000, 3))
    >>> layer = fastbn.BatchNorm1d(3)
    >>> (moments,) = fastbn.population_statistics([layer], np.split(x, 10), layer)
    >>> bool(np.allclose(layer.running_mean, x.mean(0))), bool(np.allclose(layer.running_var, x.var(0)))
    (True, True)
    """
    layers = _with_statistics(layers)
    arguments.real(ddof, "ddof")
    with _observed(layers) as observed:
        for batch in tracked(batches, "population statistics", progress):
            forward(batch)
        observed = [layer._joined(moments) for layer, moments in zip(layers, observed, strict=True)]
        for i, moments in enumerate(observed):
            if not moments.count.any():
                raise ValueError(
                    f"layers[{i}], {layers[i]}, saw no input; expected batches, and a forward that calls every layer "
                    "in training mode"
                )
    targets = [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var)]
    values = [value for moments in observed for value in (moments.mean, moments.var(ddof))]
    commit(targets, [cast(value, target.dtype) for value, target in zip(values, targets, strict=True)])
    return observed


def _with_statistics(layers: Iterable[Any]) -> list[Any]:
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers is of type {type(layers).__name__}; expected batch norm layers, as in [layer]")
    layers = list(layers)
    for i, layer in enumerate(layers):
        if not isinstance(layer, BatchNorm):
            raise TypeError(f"layers[{i}] is of type {type(layer).__name__}; expected a batch norm layer")
        if not layer.track_running_stats:
            raise ValueError(f"layers[{i}], {layer}, has no running statistics to set")
        if any(layer is before for before in layers[:i]):
            raise ValueError(f"layers[{i}], {layer}, is named twice")
    return layers


@contextmanager
def _observed(layers: list[Any]) -> Iterator[list[Moments]]:
    """Training mode, with the moments of every layer's inputs; all state is put back at the end."""
    before = [dict(vars(layer)) for layer in layers]
    arrays = [array for layer in layers for array in layer._state().values()]
    saved = [array.copy() for array in arrays]
    observed = [Moments(layer.axis) for layer in layers]

    def put_back() -> None:
        deque(map(setattr, layers, repeat("__dict__"), map(dict, before)), maxlen=0)  # in C: nothing comes between
        commit(arrays, saved)

    try:
        try:
            for layer, moments in zip(layers, observed, strict=True):
                layer.forward = _observing(layer.forward, moments)
                layer.training = True
            yield observed
        finally:
            put_back()
    finally:  # again, since an exception of a signal may have come between the lines above
        put_back()


def _observing(forward: Callable[..., Any], moments: Moments) -> Callable[..., Any]:
    def observe(x: Any, *args: Any, **kwargs: Any) -> Any:
        result = forward(x, *args, **kwargs)
        moments.update(x, kwargs.get("where"))
        return result

    return observe
