"""An open file of trained weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from fastbn.engine import arguments
from fastbn.files._content import Content, Norm, Unknown, filled, layer_of, values_of
from fastbn.files._detect import FORMATS, open_file
from fastbn.files._folded import ask_for_pairs, fold_state
from fastbn.files._source import Array, Arrays, Source, dtype_of, path_of
from fastbn.layers import Layer

Kinds = Mapping[str, Callable[[tuple[int, ...]], Layer]]
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and DistributedDataParallel, and of torch.compile


def read(path: str | os.PathLike[str], *, format: str | None = None, max_bytes: int | None = None) -> File:
    """Open a file of trained weights, of any system's; only its header is read.

    Parameters
    ----------
    path : path-like
        The file, or the folder of an orbax checkpoint.
    format : str, optional
        What the file is expected to be: "chainer", "darknet", "flax", "gguf", "keras", "keras_h5", "keras_weights",
        "mindspore", "mxnet", "npz", "onnx", "openvino", "orbax", "paddle", "pickle", "safetensors" or "torch".  By
        default its content tells; its name is not asked.
    max_bytes : int, optional
        The most bytes that compressed or expanded arrays may take in memory, each and all together; one that is read
        again counts once.

    Returns
    -------
    File
        A context manager; its arrays are read when they are asked for.

    Raises
    ------
    ValueError
        If the file is damaged or of no known format; the text names the file and the place.
    ImportError
        If the format's reader is not installed; the text names the command.
    OSError
        If the file cannot be opened.

    Notes
    -----
    Nothing that a file holds is executed, and no name in it opens a file outside its folder.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> import fastbn.files
    >>> path = os.path.join(tempfile.mkdtemp(), "state.safetensors")
    >>> norm = {"bn.running_mean": np.ones(2), "bn.running_var": np.full(2, 3.0)}
    >>> fastbn.files.write(path, norm)
    >>> with fastbn.files.read(path) as file:
    ...     layers = file.layers(eps=1.0)
    >>> layers["bn"](np.array([[1.0, 5.0]]))
    array([[0., 2.]])
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format is {format!r}; expected one of {', '.join(FORMATS)}")
    if max_bytes is not None and arguments.integer(max_bytes, "max_bytes") < 0:
        raise ValueError(f"max_bytes is {max_bytes}; expected at least 0")
    return File(*open_file(path_of(path), format, max_bytes))


class File:
    """An open file of trained weights, as `read` returns it; a context manager.

    Attributes
    ----------
    format : str
        The file's format, see `read`.
    arrays : mapping of str to ndarray
        The arrays by the names of the file, with its dtypes.  Each is read anew whenever it is asked for.
    unknown : mapping of str to str
        What looks like a normalization whose kind the file does not tell, and why.
    """

    def __init__(self, source: Source | None, content: Content) -> None:
        self._source, self._content = source, content
        self._found: tuple[dict[str, Norm], dict[str, Unknown]] | None = None
        self.format = content.format
        self.arrays = Arrays(content.entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; arrays that have been read stay."""
        for close in self._content.closers:
            close()

    def __repr__(self) -> str:
        place = "" if self._source is None else f"{self._source.path.name!r}, "
        return f"<File {place}format={self.format!r}, {len(self.arrays)} arrays>"

    @property
    def unknown(self) -> dict[str, str]:
        """What looks like a normalization whose kind the file does not tell, and why."""
        norms, unknown = self._norms()
        return {name: looks.why for name, looks in unknown.items()} | {
            name: _WHY_EPS for name, norm in norms.items() if norm.eps is None and norm.kind != "rms"
        }

    def _norms(self) -> tuple[dict[str, Norm], dict[str, Unknown]]:
        if self._found is None:
            norms, unknown = self._content.find()
            if self.format == "torch":
                norms, unknown = _unwrapped(self._content, norms, unknown)
            self._found = norms, unknown
        return self._found

    def layers(
        self, *, axis: int | None = None, eps: float | None = None, kinds: Kinds | None = None
    ) -> dict[str, Layer]:
        """Every normalization of the file as a layer in evaluation mode.

        Parameters
        ----------
        axis : int, optional
            The axis of the channels, 1 or -1; by default the one of the system that wrote the file.
        eps : float, optional
            For the norms whose eps the file does not hold; by default that of the system that wrote it.
        kinds : mapping of str to callable, optional
            For the norms of `unknown`, by name or by a pattern such as ``"*.norm?"``: what makes the layer from the
            shape of the weight, as ``fastbn.LayerNorm`` or ``lambda shape: fastbn.GroupNorm(32, *shape)``.  A name goes
            before a pattern, and both before what the file tells.

        Returns
        -------
        dict of str to Layer
            By name, as the file has it, without the prefixes that all of its norms have in common where these are
            dicts of a checkpoint, or of DataParallel and the like.

        Raises
        ------
        ValueError
            If a running variance is negative, an array does not fit the layer, or a key of `kinds` is no norm's name.

        Notes
        -----
        A batch norm comes as `fastbn.BatchNorm`, which takes inputs of any rank.  The layers hold the smallest dtype
        that loses nothing: float32 for bfloat16 weights with float32 statistics.
        """
        _check(axis, eps)
        norms, unknown = self._norms()
        chosen = _chosen(kinds, [*norms, *unknown])
        result: dict[str, Layer] = {}
        for name, norm in norms.items():
            told = norm
            if axis is not None or (eps is not None and norm.eps_assumed):
                told = replace(
                    norm,
                    axis=norm.axis if axis is None else axis,
                    eps=eps if eps is not None and norm.eps_assumed else norm.eps,
                )
            if name in chosen:
                result[name] = _made(chosen[name], norm.shape, name, values_of(norm, self.arrays, name))
            elif told.eps is not None or told.kind == "rms":
                result[name] = layer_of(told, values_of(told, self.arrays, name), name)
        for name, looks in unknown.items():
            if name in chosen:
                values = {role: self.arrays[key] for role, key in looks.arrays.items()}
                result[name] = _made(chosen[name], looks.shape, name, values)
        return result

    def state(self, layers: Mapping[str, Layer]) -> dict[str, Array]:
        """The arrays of layers under the file's own names, in its shapes and dtypes.

        Parameters
        ----------
        layers : mapping of str to Layer
            As `layers` returned them, whatever they have learnt since.

        Returns
        -------
        dict of str to ndarray
            The arrays of these layers alone; ``{**file.arrays, **file.state(layers)}`` is the whole state.

        Raises
        ------
        ValueError
            If a layer is none of the file's, or has learnt something that the file has no array for.
        """
        norms, unknown = self._norms()
        result: dict[str, Array] = {}
        if not isinstance(layers, Mapping):
            raise TypeError(f"layers is of type {type(layers).__name__}; expected a mapping from names to layers")
        for name, layer in layers.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{name!r}] is of type {type(layer).__name__}; expected a layer of fastbn")
            if name not in norms and name not in unknown:
                raise ValueError(
                    f"{name!r} is no norm of the file; expected one of {', '.join([*norms, *unknown][:20])}"
                )
            place = norms[name] if name in norms else unknown[name]
            result |= _back(name, place, layer.state_dict(), self._content)
        return result

    def fold(self, pairs: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Array]:
        """The file's arrays with its batch norms folded into the weights beside them.

        Parameters
        ----------
        pairs : mapping of str to mapping, optional
            By the name of the norm: ``dict(weight=name, bias=name, transposed=False, groups=1, before=False)``, as far
            as it is not the default; see `fastbn.fold`.  Without a bias, the one that stands beside the weight in the
            file is taken, and added if there is none.  ONNX, Keras and Darknet files tell the pairs themselves.

        Returns
        -------
        dict of str to ndarray
            The remaining names as they are, those of the folded norms dropped.

        Raises
        ------
        ValueError
            If the file tells no graph and there are no pairs, or they do not fit; the text lists norms and weights of
            the same width.
        """
        if pairs is not None and not isinstance(pairs, Mapping):
            raise TypeError(f"pairs is of type {type(pairs).__name__}; expected {{norm: dict(weight=name)}}")
        norms, _ = self._norms()
        if pairs is None and self._content.graph is not None:
            folded: dict[str, Array] = self._content.graph.folded_arrays()
            return folded
        if pairs is None and self._content.pairs is not None:
            pairs = self._content.pairs()
        if pairs is None:
            raise ask_for_pairs(norms, {name: self.arrays.shape(name) for name in self.arrays})
        layers = {
            name: layer_of(norms[name], values_of(norms[name], self.arrays, name), name)
            for name in pairs
            if name in norms and norms[name].eps is not None
        }
        if missing := [name for name in pairs if name in norms and name not in layers]:
            raise ValueError(f"{', '.join(missing)}: {_WHY_EPS} to layers, and fold each by fastbn.fold")
        return fold_state(self._content, self.arrays, pairs, layers, norms)


_WHY_EPS = "its eps is not in the file, and the systems with these names differ (Keras 1e-3, MindSpore 1e-5): pass eps"


def _check(axis: int | None, eps: float | None) -> None:
    if axis is not None and arguments.integer(axis, "axis") not in (1, -1):
        raise ValueError(f"axis is {axis}; expected 1 or -1")
    if eps is not None and not (isinstance(eps, int | float | np.integer | np.floating) and 0 <= eps < np.inf):
        raise ValueError(f"eps is {eps!r}; expected a number of at least 0")


def _chosen(kinds: Kinds | None, names: list[str]) -> dict[str, Callable[[tuple[int, ...]], Layer]]:
    result: dict[str, Callable[[tuple[int, ...]], Layer]] = {}
    if kinds is not None and not isinstance(kinds, Mapping):
        raise TypeError(f"kinds is of type {type(kinds).__name__}; expected {{name or pattern: what makes the layer}}")
    for key, make in (kinds or {}).items():
        if not isinstance(key, str):
            raise TypeError(f"kinds has the key {key!r}; expected names of norms, or patterns, as text")
        if not callable(make):
            raise TypeError(f"kinds[{key!r}] is of type {type(make).__name__}; expected what makes a layer of a shape")
        matching = [key] if key in names else [name for name in names if fnmatchcase(name, key)]
        if not matching:
            raise ValueError(f"kinds has {key!r}, which no norm is called; expected one of {', '.join(names[:20])}")
        for name in matching:
            if name == key or name not in result:
                result[name] = make
    return result


def _made(
    make: Callable[[tuple[int, ...]], Layer], shape: tuple[int, ...], name: str, values: dict[str, Array]
) -> Layer:
    try:
        layer = make(shape)
    except Exception as error:
        error.add_note(f"while kinds made the layer {name} of a weight of shape {shape}")
        raise
    if not isinstance(layer, Layer):
        raise TypeError(f"kinds made an object of type {type(layer).__name__} for {name}; expected a layer of fastbn")
    return filled(layer, values, name)


def _back(name: str, place: Norm | Unknown, state: Mapping[str, ArrayLike], content: Content) -> dict[str, Array]:
    """A layer's arrays as the file has them."""
    result: dict[str, Array] = {}
    fixed = isinstance(place, Norm) and place.fixed_weight
    for role, given in state.items():
        value, key = np.asarray(given), place.arrays.get(role)
        if key is None or (fixed and role == "weight"):
            usual = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.get(role)
            if usual is not None and (value != usual).any():
                raise ValueError(f"the {role} of {name} is not {usual} any more, and the file has no array for it")
            continue
        entry = content.entries[key]
        count = int(np.prod(entry.shape, dtype=object))
        if value.size != count:  # one a group or one in all is one a channel in the layer
            whole = count > 0 and value.size == prod(place.shape) and value.size % count == 0
            by_group = value.reshape(count, -1) if whole else None
            if by_group is None or (by_group != by_group[:, :1]).any():
                raise ValueError(f"the {role} of {name} has {value.size} values; expected {count}, as the file has")
            value = by_group[:, 0]
        dtype = dtype_of(entry.dtype)
        result[key] = value.reshape(entry.shape).astype(dtype)
    return result


def _unwrapped(
    content: Content, norms: dict[str, Norm], unknown: dict[str, Unknown]
) -> tuple[dict[str, Norm], dict[str, Unknown]]:
    """Names without the dicts of a checkpoint and the wrappers of a model, as far as all of them have these."""
    everything: dict[str, Norm | Unknown] = {**norms, **unknown}
    containers = {content.entries[key].container for looks in everything.values() for key in looks.arrays.values()}
    shared = _shared(containers)
    prefix = "".join(f"{part}." for part in shared)
    while wrapper := next((w for w in _WRAPPERS if everything and _all_begin(everything, prefix + w)), None):
        prefix += wrapper
    if not _all_begin(everything, prefix):
        return norms, unknown
    cut = len(prefix)
    return {name[cut:]: norm for name, norm in norms.items()}, {name[cut:]: looks for name, looks in unknown.items()}


def _shared(containers: Iterable[tuple[str, ...]]) -> list[str]:
    """What the paths of containers begin with, all of them."""
    result: list[str] = []
    for parts in zip(*containers, strict=False):
        if len(set(parts)) > 1:
            break
        result.append(parts[0])
    return result


def _all_begin(names: Mapping[str, Any], prefix: str) -> bool:
    return all(name.startswith(prefix) and name != prefix for name in names)
