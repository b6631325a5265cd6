"""PyTorch on a CPU: torch.nn's norms on fastbn's kernels.

`convert`, `revert` and `report` take models.  `batch_norm`, `layer_norm`, `group_norm`, `instance_norm` and `rms_norm`
are called like those of torch.nn.functional; `BatchNorm1d` to 3d, `LayerNorm`, `GroupNorm`, `InstanceNorm1d` to 3d and
`RMSNorm` derive from those of torch.nn; `SyncBatchNorm` and `convert_sync_batchnorm` work across processes.  Since such
classes cannot exist before torch is imported, `dir` and `help` show these names from then on.

Examples
--------
>>> import torch, fastbn.torch
>>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
>>> model = fastbn.torch.convert(model)
>>> model(torch.zeros(2, 3, 8, 8)).shape
torch.Size([2, 8, 6, 6])
"""

import sys
from typing import Any

_HOMES = {
    "batch_norm": "functional",
    "layer_norm": "functional",
    "group_norm": "functional",
    "instance_norm": "functional",
    "rms_norm": "functional",
    "BatchNorm1d": "layers",
    "BatchNorm2d": "layers",
    "BatchNorm3d": "layers",
    "LayerNorm": "layers",
    "GroupNorm": "layers",
    "InstanceNorm1d": "layers",
    "InstanceNorm2d": "layers",
    "InstanceNorm3d": "layers",
    "RMSNorm": "layers",
    "SyncBatchNorm": "sync",
    "convert_sync_batchnorm": "sync",
    "convert": "conversion",
    "revert": "conversion",
    "report": "reporting",
}

_TRIED = ("2.13",)  # versions of torch that the tests run with

__all__ = list(_HOMES)


def __dir__() -> list[str]:
    """help and inspect take every name that is shown, and looking must not import torch."""
    return sorted({*globals(), *(_HOMES if sys.modules.get("torch") else ())})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastbn.torch' has no attribute {name!r}")
    from importlib import import_module

    _require_torch()
    value = getattr(import_module(f"fastbn.torch.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def _require_torch() -> None:
    """torch is there; one sentence if its version was not tried."""
    try:
        import torch
    except ModuleNotFoundError:
        raise ImportError('fastbn.torch needs PyTorch, which is not installed; pip install "fastbn[torch]"') from None
    version = torch.__version__
    if not version.startswith(tuple(f"{tried}." for tried in _TRIED)):
        import warnings

        warnings.warn(
            f"torch is {version}, with which fastbn.torch was not tried; expected {' or '.join(_TRIED)}, "
            "and whatever differs from torch's own results is a fault worth reporting",
            stacklevel=3,
        )
