"""Layers: torch.nn's normalizations for NumPy arrays, with a backward.

A layer holds state and calls :mod:`fastbn.functional`, where all arithmetic is.  Every layer is a `Layer` and has

- ``parameters`` and ``grads``, dicts with the keys "weight" and "bias" (and "tau"), as far as they exist and are not
  frozen.  An optimiser updates the parameters in place; ``layer.backward(dy)`` adds to the gradients,
  ``layer.zero_grad()`` clears them.
- ``training``, the mode, set by ``train()`` and ``eval()``.
- a context between forward and backward: in training mode ``layer(x)`` keeps that of its last call until
  ``layer.backward(dy)`` has used it; ``y, context = layer.forward(x)`` hands it out instead, for
  ``layer.backward(dy, context)``.  A context holds `x` itself, not a copy.  In evaluation mode ``layer(x)`` keeps
  nothing, so threads may share a layer.

Of the batch, instance, group, layer and RMS normalizations, each has

- ``activation``, a keyword of the constructor: the function that is applied to y in the same pass over memory, and
  differentiated in backward; see :mod:`fastbn.functional`.
- ``where``, a keyword of the call, ``layer(x, where=mask)`` or ``layer.forward(x, where=mask)``: which elements count.
- ``residual``, for batch and group norm, likewise: ``layer(x, residual=r)`` is activation(norm(x) + r), and its
  backward returns a pair, as in ``dx, dr = layer.backward(dy)``.
"""

from fastbn.layers._base import Layer
from fastbn.layers._batch import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d
from fastbn.layers._group import GroupNorm
from fastbn.layers._instance import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from fastbn.layers._sync import SyncBatchNorm1d, SyncBatchNorm2d, SyncBatchNorm3d
from fastbn.layers._trailing import LayerNorm, RMSNorm
from fastbn.layers._variants import FilterResponseNorm2d, GlobalResponseNorm, LayerNorm2d, LocalResponseNorm, RMSNorm2d

__all__ = [
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "FilterResponseNorm2d",
    "GlobalResponseNorm",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "Layer",
    "LayerNorm",
    "LayerNorm2d",
    "LocalResponseNorm",
    "RMSNorm",
    "RMSNorm2d",
    "SyncBatchNorm1d",
    "SyncBatchNorm2d",
    "SyncBatchNorm3d",
]
