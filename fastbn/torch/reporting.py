"""What became of a model's norms."""

import re
from typing import Any

from torch import nn

from fastbn.torch import conversion, layers, sync
from fastbn.torch._folding import folding_of
from fastbn.torch._subclasses import least_of

__all__ = ["report"]

_TWICE = "gradients of gradients: by torch's operations, float32 in float64"
_WHY = "for their error grows with mean / standard deviation and fastbn's does not"
_OF_TORCH = f"torch's own kernels: at no size, {_WHY}"
_OF_TORCH_BELOW = f"torch's own kernels: below the sizes that rows name, and else at no size, {_WHY}"
_OTHERS = (
    "norms left as they are: where one computes what a class of torch.nn does, put that class in its place and convert "
    "again, as docs/torch.md shows"
)
_LEFT = "left as it is: "
_FROM = "on fastbn from "
_NAMES = re.compile(r"Norm(\dd?)?$|(Batch|Layer|Group|Instance|RMS)_?Norm", re.IGNORECASE)


def report(model: nn.Module) -> str:
    """Say what became of every norm of a model, a row each.

    Parameters
    ----------
    model : torch.nn.Module
        What `convert` returned, or any module.

    Returns
    -------
    text : str
        Name, class, and what it was fused with, or why it was not converted.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU())
    >>> print(fastbn.torch.report(fastbn.torch.convert(model)))  # doctest: +ELLIPSIS
    name  class        norm
    1     BatchNorm1d  on fastbn, fused with relu
    ...
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is of type {type(model).__name__}; expected a torch.nn.Module")
    rows = [("name", "class", "norm")]
    convolutions: dict[Any, str] = {}
    for name, module in model.named_modules():
        folding = folding_of(module)
        if folding is not None and all("weight" in m._parameters for m in (module, folding.norm)):  # not computed ones
            convolutions[folding.norm] = name
    for name, module in model.named_modules():
        state = _state(module, convolutions.get(module))
        if state is not None:
            rows.append((name or "(the model)", type(module).__name__, state))
    if len(rows) == 1:
        return f"{type(model).__name__} has no norms"
    widths = [max(len(row[k]) for row in rows) for k in range(2)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows]
    others = [_OTHERS] if any(row[2].startswith(_LEFT) for row in rows) else []
    of_torch = _OF_TORCH_BELOW if any(row[2].startswith(_FROM) for row in rows) else _OF_TORCH
    return "\n".join((*lines, "", *others, _TWICE, of_torch))


def _state(module: Any, convolution: str | None) -> str | None:
    """What one module became; None if it is no norm.  convolution: the one that it is folded into."""
    if isinstance(module, sync.SyncBatchNorm):
        return "on fastbn, over all processes"
    if isinstance(module, layers.Fusable):
        if module.own_forward:
            least = least_of(module)
            size = f"{_FROM}{least:,} elements on" if least else "on fastbn"
            return f"{size}, called by the forward of {type(module).__name__}"
        reason = module.__dict__.get("_unfused")
        folded = "" if convolution is None else f"; in evaluation folded into {convolution}"
        if module._behind is not None:
            return f"on fastbn, fused with {module._behind.text}{folded}"
        return "on fastbn" + (f"; {reason}" if reason else "") + folded
    if conversion.on_fastbn(conversion.own_class(module)) is not None:
        return "torch's own: not converted, or skipped"
    if isinstance(module, nn.SyncBatchNorm):
        return "torch's own: see fastbn.torch.convert_sync_batchnorm"
    name = type(module).__name__
    bases = [b.__name__ for b in type(module).__mro__ if b in conversion.NORMS]
    if bases:
        return f"{_LEFT}{name} is a subclass of {bases[0]} that computes by itself"
    if _NAMES.search(name) and not module._modules and not type(module).__module__.startswith("torch.nn."):
        whose = f" of {type(module).__module__}" if hasattr(nn, name) else ""  # torch.nn has one of that name, too
        return f"{_LEFT}{name}{whose} is no class of torch.nn"
    return None
