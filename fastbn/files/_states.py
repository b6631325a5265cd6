"""States: files that hold arrays by name and no graph, so that the names of a norm's arrays must tell what it is."""

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from fastbn.files._content import Found, Norm, Unknown
from fastbn.files._source import Entry


class Convention(NamedTuple):
    """What a system calls the arrays of a batch norm, and what it takes where the file does not tell."""

    system: str
    weight: str
    bias: str
    mean: str
    var: str
    counter: str = ""
    eps: float | None = 1e-5  # None: systems with these names differ
    momentum: float = 0.1
    axis: int = 1


TORCH = Convention("torch", "weight", "bias", "running_mean", "running_var", "num_batches_tracked")
GLUON = Convention("MXNet Gluon", "gamma", "beta", "running_mean", "running_var")
KERAS = Convention("Keras", "gamma", "beta", "moving_mean", "moving_variance", eps=1e-3, momentum=0.01, axis=-1)
MINDSPORE = Convention("MindSpore", "gamma", "beta", "moving_mean", "moving_variance")
EITHER = Convention("Keras or MindSpore", "gamma", "beta", "moving_mean", "moving_variance", eps=None)
CHAINER_NAMES = Convention("Chainer", "gamma", "beta", "avg_mean", "avg_var", "N", eps=2e-5)
PADDLE_NAMES = Convention("Paddle", "weight", "bias", "_mean", "_variance")
FLAX_NAMES = Convention("Flax", "scale", "bias", "mean", "var", momentum=0.01, axis=-1)

# Files of no system of their own are read by the names that only one system has, or whose systems agree.
PLAIN = (TORCH, CHAINER_NAMES, PADDLE_NAMES, EITHER, FLAX_NAMES)
CHAINER = (CHAINER_NAMES,)
PADDLE = (PADDLE_NAMES,)

_BARE = (("weight", "bias"), ("gamma", "beta"), ("scale", "bias"), ("scale", "offset"))
_WHY_BARE = "{} without running statistics: of a layer, group, RMS or another norm; tell which by kinds"


def split(name: str) -> tuple[str, str, str]:
    """The module's name, the separator and the array's own name."""
    at = max(name.rfind("."), name.rfind("/"))
    return (name[:at], name[at], name[at + 1 :]) if at >= 0 else ("", "", name)


def modules(entries: dict[str, Entry]) -> dict[tuple[str, str], dict[str, str]]:
    """For every module and its separator, its arrays' own names and the full ones."""
    result: dict[tuple[str, str], dict[str, str]] = {}
    for name in entries:
        module, separator, own = split(name)
        result.setdefault((module, separator), {})[own] = name
    return result


def find(entries: dict[str, Entry], conventions: Iterable[Convention]) -> Found:
    """The batch norms of a state, and what looks like another norm."""
    norms: dict[str, Norm] = {}
    unknown: dict[str, Unknown] = {}
    for (module, _), arrays in modules(entries).items():
        for convention in conventions:
            if convention.mean in arrays and convention.var in arrays:
                found = batch(arrays, entries, convention)
                if isinstance(found, Norm):
                    norms[module] = found
                else:
                    unknown[module] = found
                break
        else:
            if (looks := bare(module, arrays, entries)) is not None:
                unknown[module] = looks
    return norms, unknown


def batch(arrays: dict[str, str], entries: dict[str, Entry], convention: Convention) -> Norm | Unknown:
    """The batch norm that a module's arrays are."""
    shape = (prod(entries[arrays[convention.mean]].shape),)
    own = {
        "weight": convention.weight,
        "bias": convention.bias,
        "running_mean": convention.mean,
        "running_var": convention.var,
        "num_batches_tracked": convention.counter,
    }
    found = {role: arrays[key] for role, key in own.items() if key in arrays}
    wrong = [
        key for role, key in found.items() if role != "num_batches_tracked" and prod(entries[key].shape) != shape[0]
    ]
    if wrong or not shape[0]:
        why = f"{', '.join(wrong) or 'its statistics'} are not of the {shape[0]} channels of its mean"
        return Unknown(why, found, shape)
    return Norm("batch", found, shape, convention.eps, momentum=convention.momentum, axis=convention.axis)


def bare(module: str, arrays: dict[str, str], entries: dict[str, Entry]) -> Unknown | None:
    """A module whose arrays look like those of a norm without statistics: a weight of one axis, or a bias as large."""
    for weight, bias in _BARE:
        if weight not in arrays:
            continue
        shape = entries[arrays[weight]].shape
        both = bias in arrays and entries[arrays[bias]].shape == shape
        if 0 in shape or (bias in arrays and not both) or not (len(shape) == 1 or (both and shape)):
            continue
        found = {"weight": arrays[weight]} | ({"bias": arrays[bias]} if both else {})
        what = f"{weight} and {bias}" if both else f"a bare {weight} of one axis"
        return Unknown(_WHY_BARE.format(what), found, shape)
    return None
