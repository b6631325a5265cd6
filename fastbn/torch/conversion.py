"""Models onto fastbn's kernels and back: norms change their class and nothing else."""

import copy
import warnings
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from fastbn.torch import layers, sync
from fastbn.torch._folded import drop
from fastbn.torch._folding import fold_into, unfold
from fastbn.torch._pending import Behind
from fastbn.torch._subclasses import subclass_of, subclassed
from fastbn.torch._tracing import Before, Untraced, standing_behind
from fastbn.torch.layers import CLASSES

__all__ = ["convert", "revert"]

Model = TypeVar("Model", bound=nn.Module)
Skip = Collection[str] | Callable[[str, nn.Module], bool] | None

_TORCH_CLASSES: dict[type, type] = {own: theirs for theirs, own in CLASSES.items()}
_TORCH_CLASSES[sync.SyncBatchNorm] = nn.SyncBatchNorm
NORMS = (*CLASSES, nn.SyncBatchNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def convert(model: Model, *, fuse: bool = True, inplace: bool = False, skip: Skip = None) -> Model:
    """Put the norms of a model on fastbn's kernels.

    Parameters
    ----------
    model : torch.nn.Module
        Any module, a norm itself included.
    fuse : bool
        Whether a norm takes over the residual sum and the activation after it, where nobody can see what lies between.
    inplace : bool
        Whether to change the model itself instead of a deep copy.
    skip : collection of str, or callable, optional
        Norms to leave as they are: their names in ``model.named_modules()``, or a function of name and module.

    Returns
    -------
    model : torch.nn.Module
        Of the same class, with the same module paths, parameters, buffers, `state_dict` keys and hooks.

    Raises
    ------
    TypeError
        If `model` is no torch.nn.Module, or `skip` neither names nor a callable.
    ValueError
        If `skip` has a name that no module of the model has.

    Warns
    -----
    UserWarning
        If the model has no norm that could be converted.

    Notes
    -----
    BatchNorm1d to 3d, LayerNorm, GroupNorm, InstanceNorm1d to 3d and RMSNorm of torch.nn are converted, and subclasses
    of other libraries.  A subclass with a forward of its own goes on running it; the forward of its parent class and,
    from half a million elements on, the norms of torch.nn.functional that it calls are then fastbn's.  One that calls
    none of them is left as it is, and `report` says so.

    What follows a norm is found with torch.fx, one module at a time.  The norm then returns a tensor that is not
    computed yet, and the sum and the activation that follow are computed with it in one pass; any other operation on
    the tensor gets the norm's own result.  Hooks on the norm or the activation, added at any time, suspend this for as
    long as they are there, and calls from other places go without it.

    In evaluation, where no gradient is recorded, a float32 batch norm that is the only one to take a convolution's
    result is folded into it, in the same manner: the convolution then computes the norm, the sum and the activation,
    too.  The folded weight is kept until a parameter or statistic changes, or `train` is called.

    See Also
    --------
    revert, report

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU())
    >>> converted = fastbn.torch.convert(model)
    >>> type(converted[1]).__module__, list(converted.state_dict()) == list(model.state_dict())
    ('fastbn.torch.layers', True)
    """
    skipped = _skipping(model, skip)
    if not inplace:
        model = copy.deepcopy(model)
    left = {m for name, m in model.named_modules(remove_duplicate=False) if skipped(name, m)}  # by any of its names
    count = 0
    for module in model.modules():
        if module in left:
            continue
        _move(module, on_fastbn)
        count += _on_torch(own_class(module)) is not None
    if not count:
        warnings.warn(
            f"{type(model).__name__} has no norm that could be converted; it is returned as it is, and "
            "fastbn.torch.report(model) says why",
            stacklevel=2,
        )
        return model
    fuse_all(model, fuse, left)
    return model


def own_class(module: nn.Module) -> type:
    """The class of a module; of one with parametrizations, for which torch makes a class, the one below."""
    cls = type(module)
    return cls.__base__ if parametrize.is_parametrized(module) and cls.__base__ is not None else cls


def on_fastbn(cls: type) -> type | None:
    """The counterpart of a norm's class here, if there is one."""
    return CLASSES.get(cls) or subclass_of(cls)


def _on_torch(cls: type) -> type | None:
    """The class that a norm had before it was converted; None if it is of no class from here."""
    return _TORCH_CLASSES.get(cls) or subclassed(cls)


def _move(module: nn.Module, counterpart: Callable[[type], type | None]) -> bool:
    """Give a module its class's counterpart, if there is one; and say so."""
    cls, own = type(module), own_class(module)
    other = counterpart(own)
    if other is None:
        return False
    if own is cls:
        module.__class__ = other
    else:
        names = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
        module.__class__ = type(cls.__name__, (other,), names)
    return True


def _skipping(model: Any, skip: Any) -> Callable[[str, nn.Module], bool]:
    """The argument as a function of name and module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is of type {type(model).__name__}; expected a torch.nn.Module")
    if skip is None:
        return lambda name, module: False
    if callable(skip):
        return skip
    if isinstance(skip, str) or not isinstance(skip, Collection) or not all(isinstance(n, str) for n in skip):
        raise TypeError(f"skip is {skip!r}; expected names of modules, or a function of name and module")
    unknown = set(skip).difference(name for name, _ in model.named_modules(remove_duplicate=False))
    if unknown:
        raise ValueError(f"skip has {', '.join(map(repr, sorted(unknown)))}; expected names of the model's modules")
    return lambda name, module: name in skip


def fuse_all(model: nn.Module, fuse: bool, left: Collection[nn.Module]) -> None:
    """Tell every norm what stands behind it, or that nothing does; and convolutions of the norms behind them."""
    places: dict[nn.Module, list[Behind | str]] = {}
    before: dict[nn.Module, list[Before]] = {}
    for parent in model.modules():
        norms: dict[str, nn.Module] = {
            path: module
            for path, module in parent.named_modules(remove_duplicate=False)
            if path and isinstance(module, layers.Fusable) and not module.own_forward and module not in left
        }
        if norms and fuse:
            behind, convolutions = standing_behind(parent, norms)
            for path, found in behind.items():
                places.setdefault(norms[path], []).append(found)
            for place in convolutions:
                before.setdefault(norms[place.norm], []).append(place)
    _fold_all(model, places, before)
    for module in model.modules():
        if isinstance(module, layers.Fusable) and module.own_forward:
            module.__dict__["_fuses"] = fuse
        elif isinstance(module, layers.Fusable):
            only = _only(places.get(module, []), "no forward that was traced calls it" if fuse else "fuse is False")
            module.__dict__["_behind"] = only if isinstance(only, Behind) else None
            module.__dict__["_unfused"] = None if isinstance(only, Behind) else only


def _fold_all(
    model: nn.Module, places: dict[nn.Module, list[Behind | str]], before: dict[nn.Module, list[Before]]
) -> None:
    """Fold, in evaluation, the norms that one forward calls behind one convolution; end what was folded before."""
    for module in model.modules():
        unfold(module)
    for norm, found in before.items():
        calls = [place for place in places[norm] if not isinstance(place, Untraced)]
        if len(found) == 1 and len(calls) == 1:
            fold_into(*found[0])


def _only(places: list[Behind | str], nowhere: str) -> Behind | str:
    """What stands behind a norm that is called from one place; else the reason why it is not fused."""
    seen = [place for place in places if not isinstance(place, Untraced)]
    if not seen:
        return places[-1] if places else nowhere  # the last is the nearest to the norm
    return seen[0] if len(seen) == 1 else "several modules call it"


def revert(model: Model, *, inplace: bool = False) -> Model:
    """Put the norms of a model back on torch's own classes.

    Parameters
    ----------
    model : torch.nn.Module
        What `convert` or `convert_sync_batchnorm` returned, or any module.
    inplace : bool
        Whether to change the model itself instead of a deep copy.

    Returns
    -------
    model : torch.nn.Module
        With a `state_dict` equal to the bit.

    Examples
    --------
    >>> import torch, fastbn.torch
    >>> model = fastbn.torch.convert(torch.nn.Sequential(torch.nn.LayerNorm(4)))
    >>> type(fastbn.torch.revert(model)[0])
    <class 'torch.nn.modules.normalization.LayerNorm'>
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is of type {type(model).__name__}; expected a torch.nn.Module")
    if not inplace:
        model = copy.deepcopy(model)
    for module in model.modules():
        unfold(module)
        if _move(module, _on_torch):
            drop(module)
            for name in ("_behind", "_unfused", "_fuses"):
                module.__dict__.pop(name, None)
    return model
