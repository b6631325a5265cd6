"""fastbn: batch, layer, group, instance and RMS normalization for NumPy arrays on CPUs, forward and backward.

What to use for what
--------------------
normalize an array
    `batch_norm`, `layer_norm`, `group_norm`, `instance_norm`, `rms_norm`
train a network
    the layers `BatchNorm1d` (to `3d`), `LayerNorm`, `GroupNorm`, `InstanceNorm1d` (to `3d`), `RMSNorm`: they hold
    weights, running statistics and gradients under PyTorch's names; or `batch_norm_forward`, which also returns the
    statistics, and `batch_norm_backward`, which takes them (and so on, for each operation)
in one pass with its neighbours
    ``activation=``, ``residual=``, ``where=``; `add_layer_norm`, `add_rms_norm`
gradients of gradients
    `batch_norm_double_backward` and so on
run a trained network faster
    `fold`: batch norm into the weights next to it
statistics of data
    `Moments`, `dataset_statistics`, `population_statistics`
variants
    `channel_layer_norm`, `channel_rms_norm`, `ghost_batch_norm_forward`, `batch_renorm_forward`,
    `weight_standardization`, `global_response_norm`, `local_response_norm`, `filter_response_norm`
other packages
    `fastbn.torch`, `fastbn.keras`, `fastbn.thinc`, `fastbn.onnx`, `fastbn.sklearn`, `fastbn.dask`, `fastbn.xarray`,
    `fastbn.mpi`; trained weights from files: `fastbn.files`; layers in training: `fastbn.monitor`; claims put to the
    test: `fastbn.study`.  These submodules are loaded when they are first used
threads, memory, compiled kernels
    `set_num_threads`, `num_threads`, `set_memory_pool`, `warmup`, `show_config`; the command ``fastbn``
the definitions, in plain NumPy float64
    `fastbn.reference`

Examples
--------
>>> import numpy as np
>>> import fastbn
>>> x = np.array([[0.0, 1.0, 2.0, 3.0], [4.0, 4.0, 4.0, 4.0]])
>>> fastbn.layer_norm(x, 4).round(3)
array([[-1.342, -0.447,  0.447,  1.342],
       [ 0.   ,  0.   ,  0.   ,  0.   ]])
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from fastbn import _compiled
from fastbn._config import show_config
from fastbn._warmup import warmup
from fastbn.double_backward import (
    batch_norm_double_backward,
    group_norm_double_backward,
    instance_norm_double_backward,
    layer_norm_double_backward,
    rms_norm_double_backward,
)
from fastbn.engine.memory import get_memory_pool, set_memory_pool
from fastbn.engine.threads import get_num_threads, num_threads, set_num_threads
from fastbn.folding import fold
from fastbn.functional import (
    add_layer_norm,
    add_layer_norm_backward,
    add_layer_norm_forward,
    add_rms_norm,
    add_rms_norm_backward,
    add_rms_norm_forward,
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    group_norm,
    group_norm_backward,
    group_norm_forward,
    instance_norm,
    instance_norm_backward,
    instance_norm_forward,
    layer_norm,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm,
    rms_norm_backward,
    rms_norm_forward,
)
from fastbn.layers import (
    BatchNorm,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    FilterResponseNorm2d,
    GlobalResponseNorm,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    LayerNorm2d,
    LocalResponseNorm,
    RMSNorm,
    RMSNorm2d,
    SyncBatchNorm1d,
    SyncBatchNorm2d,
    SyncBatchNorm3d,
)
from fastbn.moments import Moments, dataset_statistics, population_statistics
from fastbn.preprocessing import denormalize, normalize
from fastbn.variants import (
    batch_renorm_backward,
    batch_renorm_forward,
    channel_layer_norm,
    channel_layer_norm_backward,
    channel_layer_norm_forward,
    channel_rms_norm,
    channel_rms_norm_backward,
    channel_rms_norm_forward,
    filter_response_norm,
    filter_response_norm_backward,
    filter_response_norm_forward,
    ghost_batch_norm_backward,
    ghost_batch_norm_forward,
    global_response_norm,
    global_response_norm_backward,
    global_response_norm_forward,
    local_response_norm,
    local_response_norm_backward,
    weight_standardization,
    weight_standardization_backward,
    weight_standardization_forward,
)

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
    "LayerNorm",
    "LayerNorm2d",
    "LocalResponseNorm",
    "Moments",
    "RMSNorm",
    "RMSNorm2d",
    "SyncBatchNorm1d",
    "SyncBatchNorm2d",
    "SyncBatchNorm3d",
    "add_layer_norm",
    "add_layer_norm_backward",
    "add_layer_norm_forward",
    "add_rms_norm",
    "add_rms_norm_backward",
    "add_rms_norm_forward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_double_backward",
    "batch_norm_forward",
    "batch_renorm_backward",
    "batch_renorm_forward",
    "channel_layer_norm",
    "channel_layer_norm_backward",
    "channel_layer_norm_forward",
    "channel_rms_norm",
    "channel_rms_norm_backward",
    "channel_rms_norm_forward",
    "dataset_statistics",
    "denormalize",
    "filter_response_norm",
    "filter_response_norm_backward",
    "filter_response_norm_forward",
    "fold",
    "get_memory_pool",
    "get_num_threads",
    "ghost_batch_norm_backward",
    "ghost_batch_norm_forward",
    "global_response_norm",
    "global_response_norm_backward",
    "global_response_norm_forward",
    "group_norm",
    "group_norm_backward",
    "group_norm_double_backward",
    "group_norm_forward",
    "instance_norm",
    "instance_norm_backward",
    "instance_norm_double_backward",
    "instance_norm_forward",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_double_backward",
    "layer_norm_forward",
    "local_response_norm",
    "local_response_norm_backward",
    "normalize",
    "num_threads",
    "population_statistics",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_double_backward",
    "rms_norm_forward",
    "set_memory_pool",
    "set_num_threads",
    "show_config",
    "warmup",
    "weight_standardization",
    "weight_standardization_backward",
    "weight_standardization_forward",
]

__version__ = "0.2.0"

_compiled.register(
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    group_norm,
    group_norm_backward,
    group_norm_forward,
    instance_norm,
    instance_norm_backward,
    instance_norm_forward,
    layer_norm,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm,
    rms_norm_backward,
    rms_norm_forward,
)

# Submodules that are loaded when they are first asked for: importing fastbn stays quick, and what belongs to another
# package asks for that package only where it is used.
_DOORS = (
    "dask",
    "files",
    "keras",
    "monitor",
    "mpi",
    "onnx",
    "sklearn",
    "study",
    "thinc",
    "torch",
    "xarray",
    "reference",
)  # fmt: skip

if TYPE_CHECKING:
    from fastbn import dask as dask
    from fastbn import files as files
    from fastbn import keras as keras
    from fastbn import monitor as monitor
    from fastbn import mpi as mpi
    from fastbn import onnx as onnx
    from fastbn import reference as reference
    from fastbn import sklearn as sklearn
    from fastbn import study as study
    from fastbn import thinc as thinc
    from fastbn import torch as torch
    from fastbn import xarray as xarray


def __dir__() -> list[str]:
    return sorted((*__all__, *_DOORS, "__version__"))


if not TYPE_CHECKING:  # to a type checker any name would be an attribute

    def __getattr__(name: str) -> ModuleType:
        if name in _DOORS:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
