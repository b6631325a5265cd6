"""Keras: .keras, .weights.h5 and the legacy .h5; the config is read as JSON, and nothing is made of it."""

import re
from math import prod
from typing import Any

from fastbn.files._content import Content, Found, Norm, Unknown
from fastbn.files._hdf5 import Tree
from fastbn.files._hdf5_headers import Region
from fastbn.files._keras_config import Config
from fastbn.files._safetensors import as_json
from fastbn.files._source import Source
from fastbn.files._zip import Archive

_BY_GROUP = {
    "batch_normalization": "BatchNormalization",
    "layer_normalization": "LayerNormalization",
    "group_normalization": "GroupNormalization",
    "rms_normalization": "RMSNormalization",
}
_LONGEST_CONFIG = 1 << 26
EPS = {"rms": 1e-6}


def read_zip(source: Source, archive: Archive) -> Content:
    member = "model.weights.h5"
    if archive.members["config.json"].file_size > _LONGEST_CONFIG:
        source.bad("config.json is longer than any config")
    config = Config(as_json(source, archive.read("config.json"), "config.json"))
    if archive.is_stored(member):
        region = Region(source, archive.place(member), archive.members[member].file_size)
    else:
        data = archive.read(member)
        region = Region(source, 0, len(data), data)
    return _content("keras", Tree(region), config)


def read_hdf5(source: Source) -> Content:
    tree = Tree(Region(source, 0, source.size))
    if (told := tree.text("model_config")) is not None:
        config = as_json(source, told.encode("utf-8", "surrogateescape"), "model_config")
        return _content("keras_h5", tree, Config(config))
    legacy = any(name.rsplit("/", 1)[-1].split(":")[0] in _LEGACY_NAMES for name in tree.entries)
    return _content("keras_h5" if legacy else "keras_weights", tree, None)


_LEGACY_NAMES = ("gamma", "beta", "moving_mean", "moving_variance", "kernel", "bias", "scale")


def _content(format: str, tree: Tree, config: Config | None) -> Content:
    parts = _Parts(format, tree, config)
    return Content(
        format,
        tree.entries,
        parts.find,
        layout=parts.layout,
        bias_of=_bias_of,
        pairs=None if config is None else parts.pairs,
    )


def _bias_of(weight: str) -> str:
    if weight.endswith("/vars/0"):
        return weight.removesuffix("0") + "1"
    return re.sub(r"(depthwise_)?kernel(:0)?$", r"bias\2", weight)


class _Parts:
    """The layers of a file: their arrays in order, by the layer's name."""

    def __init__(self, format: str, tree: Tree, config: Config | None) -> None:
        self.config, self.entries = config, tree.entries
        self.by_names = format == "keras_h5"
        groups: dict[str, dict[str, str]] = {}
        for name in tree.entries:
            group, _, own = name.rpartition("/")
            groups.setdefault(group, {})[own.split(":")[0]] = name
        self.groups: dict[str, tuple[str, dict[str, str]]] = {}  # by the layer's name: its group, and its arrays
        names = {group: self._name(group, tree) for group in groups}
        for group, arrays in groups.items():
            once = list(names.values()).count(names[group]) == 1
            self.groups[names[group] if once else group.removesuffix("/vars")] = group, arrays

    def _name(self, group: str, tree: Tree) -> str:
        if self.by_names:
            return group.rsplit("/", 1)[-1]
        return tree.names.get(group) or group.removesuffix("/vars").rsplit("/", 1)[-1]

    def _kind_of(self, name: str, group: str) -> tuple[str, dict[str, Any] | None]:
        """The class of a layer and its config, if the file has one."""
        told = None if self.config is None else self.config.layer(name)
        if told is not None:
            return told
        own = re.sub(r"_\d+$", "", group.removesuffix("/vars").rsplit("/", 1)[-1])
        return _BY_GROUP.get(own, "") if not self.by_names else "", None

    def find(self) -> Found:
        norms: dict[str, Norm] = {}
        unknown: dict[str, Unknown] = {}
        for name, (group, arrays) in self.groups.items():
            kind, config = self._kind_of(name, group)
            made = self._norm(kind, config, arrays)
            if isinstance(made, Norm):
                norms[name] = made
            elif made is not None:
                unknown[name] = made
        return norms, unknown

    def _norm(self, kind: str, config: dict[str, Any] | None, arrays: dict[str, str]) -> Norm | Unknown | None:
        short = {"BatchNormalization": "batch", "SyncBatchNormalization": "batch", "BatchNormalizationV1": "batch"}.get(
            kind
        )
        short = short or {"LayerNormalization": "layer", "GroupNormalization": "group", "RMSNormalization": "rms"}.get(
            kind
        )
        roles = self._roles(short, config, arrays)
        first = self.entries[next(iter(roles.values()), "")].shape if roles else ()
        if short is None and self.by_names and "running_var" in roles:
            short = "batch"  # no other layer has arrays of these names
        if short is None:
            return self._bare(roles, first) if config is None or kind == "" else None
        if not roles or any(self.entries[key].shape != first for key in roles.values()):
            why = f"a {kind} of {len(arrays)} arrays; with scale or center alone, only a config tells which"
            return Unknown(why, {}, ())
        told = config or {}
        if short == "layer" and told.get("rms_scaling"):
            why = (
                "rms_scaling: x times the root of 1 / variance, not centred, which is no RMS norm and none of fastbn's"
            )
            return Unknown(why, roles, first)
        if short == "group" and config is None:
            return Unknown("the number of groups is not in the file; tell by kinds", roles, first)
        eps = told.get("epsilon")
        if not isinstance(eps, int | float):
            eps = None
        axis = told.get("axis", -1)
        axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
        if short in ("layer", "rms"):
            return self._trailing(short, told, roles, first, eps)
        if not isinstance(axis, int):
            return Unknown(f"statistics over all axes but {axis}; expected one axis of channels", roles, first)
        momentum, groups = told.get("momentum", 0.99), told.get("groups", 1)
        decay = float(momentum) if isinstance(momentum, int | float) else 0.99
        count = prod(first) if groups == -1 else groups if isinstance(groups, int) else 0
        if short == "group" and (count < 1 or prod(first) % count):
            return Unknown(f"{count} groups of {prod(first)} channels", roles, first)
        rank = told.get("__rank__")
        axis = -1 if rank is not None and axis == rank - 1 else axis
        return Norm(
            short,
            roles,
            (prod(first),),
            1e-3 if eps is None else eps,
            eps is None,
            round(1 - decay, 7),
            axis,
            groups=count,
        )

    def _trailing(
        self, short: str, told: dict[str, Any], roles: dict[str, str], shape: tuple[int, ...], eps: float | None
    ) -> Norm | Unknown:
        axis = told.get("axis", -1)
        axes = [axis] if isinstance(axis, int) else axis
        rank = told.get("__rank__")
        last = [n - rank if rank is not None and isinstance(n, int) and n >= 0 else n for n in axes or []]
        if last != list(range(-len(shape), 0)):
            return Unknown(f"it normalizes the axes {axes}; expected the last ones", roles, shape)
        return Norm(short, roles, shape, EPS.get(short, 1e-3) if eps is None else eps, eps is None)

    def _roles(self, kind: str | None, config: dict[str, Any] | None, arrays: dict[str, str]) -> dict[str, str]:
        """What each array is: by its name, or by its place and what the config says is there."""
        if self.by_names:
            names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
            found = {role: arrays[own] for role, own in names.items() if own in arrays}
            return found | ({"weight": arrays["scale"]} if "scale" in arrays else {})
        there = [arrays[key] for key in sorted((k for k in arrays if k.isdecimal()), key=int)]
        statistics = ["running_mean", "running_var"] if kind == "batch" or (kind is None and len(there) >= 4) else []
        if config is not None and kind is not None:
            affine = [r for r, o in (("weight", "scale"), ("bias", "center")) if config.get(o, True) is not False]
            affine = ["weight"] if kind == "rms" or config.get("rms_scaling") else affine
        elif len(there) in (4, 7) and statistics:
            affine = ["weight", "bias"]
        elif len(there) == 2 and statistics:
            affine = []
        elif kind == "rms" or (kind is None and len(there) == 1):
            affine = ["weight"]
        elif len(there) == 2:
            affine = ["weight", "bias"]
        else:
            return {}
        roles = affine + statistics
        return dict(zip(roles, there, strict=False)) if len(there) >= len(roles) else {}

    def _bare(self, roles: dict[str, str], shape: tuple[int, ...]) -> Unknown | None:
        """A layer of an unknown class whose arrays look like those of a norm."""
        same = bool(roles) and all(self.entries[key].shape == shape for key in roles.values())
        if not same or not shape or len(shape) != 1 or 0 in shape:
            return None
        return Unknown("arrays of one axis in a layer whose class the file does not tell; tell by kinds", roles, shape)

    def layout(self, key: str) -> str:
        group = key.rpartition("/")[0]
        for name, (other, _) in self.groups.items():
            if other == group and "Depthwise" in self._kind_of(name, group)[0]:
                return "depthwise"
        return "depthwise" if "depthwise" in key else "last"

    def pairs(self) -> dict[str, dict[str, Any]]:
        """The batch norms that stand alone behind, or before, a convolution or dense layer that can take them over."""
        assert self.config is not None
        result = {}
        norms, _ = self.find()
        for name, norm in norms.items():
            beside = self.config.linear_beside(name) if norm.kind == "batch" else None
            if beside is None or beside[0] not in self.groups:
                continue
            arrays = self.groups[beside[0]][1]
            key = arrays.get("kernel", arrays.get("depthwise_kernel", arrays.get("0")))
            if key is not None:
                result[name] = {"weight": key, **beside[1]}
        return result
