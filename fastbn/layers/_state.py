"""What a layer takes of a state: keys, shapes and types as torch loads them, all checked before anything is written."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn._quiet import quiet
from fastbn.engine import arguments

Array = NDArray[Any]

_COUNTER = "num_batches_tracked"
_COUNTED_SINCE = 2  # torch's batch and instance norm write the counter since this version of theirs


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict(state, strict=False)`` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Accepted(NamedTuple):
    """New values by the layer's names, in its arrays' shapes and dtypes, and the keys that did not agree."""

    values: dict[str, Array]
    keys: IncompatibleKeys


def accept(own: dict[str, Array], state: Any, prefix: Any, strict: bool, layer: Any) -> Accepted:
    """What of `state` goes into the arrays `own` of the layer; a ValueError names all that does not fit."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state is of type {type(state).__name__}; expected a mapping from names to arrays")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix is {prefix!r}; expected a string, such as 'bn1.'")
    given = {name: prefix + name for name in own if prefix + name in state}
    keys = IncompatibleKeys(
        [prefix + name for name in own if name not in given and not _may_lack(name, state, prefix, layer)],
        [str(key) for key in state if str(key).startswith(prefix) and key not in given.values()],
    )
    problems = []
    if strict and keys.missing_keys:
        problems.append(f"missing keys: {', '.join(keys.missing_keys)}")
    if strict and keys.unexpected_keys:
        problems.append(f"unexpected keys: {', '.join(keys.unexpected_keys)}")
    values = {}
    with quiet():  # a number that leaves the type's range shows in the layer
        for name, key in given.items():
            try:
                values[name] = _converted(arguments.ndarray(state[key], key), key, own[name])
            except ValueError as error:
                problems.append(str(error))
    if problems:
        raise ValueError("\n  ".join([f"cannot load the state into {layer}:", *problems]))
    return Accepted(values, keys)


def _may_lack(name: str, state: Any, prefix: str, layer: Any) -> bool:
    """Whether a state need not have this key: the counter, from a version of torch that had none, or an unknown one."""
    if name != _COUNTER or not layer.track_running_stats:
        return False
    metadata = getattr(state, "_metadata", None) or {}  # torch's state_dict() tells each module's version
    version = metadata.get(prefix[:-1], {}).get("version")
    return version is None or version < _COUNTED_SINCE


def _converted(value: Array, key: str, like: Array) -> Array:
    """The value in the shape and dtype of the array that it goes into."""
    if like.ndim == 0 and value.shape == (1,):  # torch 0.3 had no arrays without axes
        value = value.reshape(())
    if value.shape != like.shape:
        raise ValueError(f"size mismatch for {key}: {value.shape} in the state, {like.shape} in the layer")
    if value.dtype.str == "|V2" and value.dtype.names is None and like.dtype.name == "bfloat16":
        value = value.view(like.dtype)  # what numpy.savez makes of bfloat16: its bits
    if value.dtype.kind not in "biuf" and value.dtype.name != "bfloat16":
        bits = (
            ", bits that may be bfloat16: expected value.view(ml_dtypes.bfloat16)" if value.dtype.str == "|V2" else ""
        )
        raise ValueError(f"dtype of {key}: {value.dtype} in the state, {like.dtype} in the layer{bits}")
    if like.dtype.kind == "i" and value.dtype.kind not in "biu":
        return _counted(value, key)
    return np.array(value, like.dtype, order="C")


def _counted(value: Array, key: str) -> Array:
    """A counter of batches that was kept as a float, as in averaged models; torch cuts fractions off."""
    number = float(value)
    if not -(2.0**63) <= number < 2.0**63:
        raise ValueError(f"{key} is {number} in the state; expected a count of batches")
    return np.array(int(number), np.int64)
