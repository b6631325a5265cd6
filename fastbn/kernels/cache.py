"""Compiled kernels on disk: never stale, and never the reason that a call fails.

Numba's own cache does not notice an edited callee, a changed option or a damaged file, and a disk that is full or
read-only fails the caller.  Here an entry's name is a digest of everything that shaped it, its content is checked
before it is used, whatever cannot be read counts as absent, and what cannot be written is told once.

The class underneath is private to Numba.  `attach` falls back to the public `cache=True` behaviour if it has moved.
"""

import hashlib
import os
import pickle
import warnings
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numba
from numba.core import config
from numba.core.errors import NumbaWarning

try:
    from numba.core.caching import CompileResultCacheImpl, FunctionCache
    from numba.core.runtime import rtsys

    _LOCATORS: Any = CompileResultCacheImpl._locator_classes
    _InTree: Any = _LOCATORS[1]
except (ImportError, AttributeError, IndexError):
    CompileResultCacheImpl = FunctionCache = _InTree = object
    _LOCATORS = ()


def attach(dispatcher):
    """Give a dispatcher its disk cache; without one it compiles anew in every process."""
    try:
        dispatcher._cache = _KernelCache(dispatcher.py_func)
    except Exception:  # of whatever kind: it is Numba's inside that has changed
        _attach_public(dispatcher)


def _attach_public(dispatcher):
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # no folder can be written to
        return


@cache
def _sources():
    """A digest of all kernel sources: a driver holds copies of what it calls."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _BesideTheSource(_InTree):
    """The last resort: a folder that cannot be written to may be full of kernels, as in an image."""

    @classmethod
    def from_function(cls, function, path):
        return cls(function, path)

    def ensure_cache_path(self):
        pass


class _Impl(CompileResultCacheImpl):
    _locator_classes = (*_LOCATORS, _BesideTheSource)


class _KernelCache(FunctionCache):
    _impl_class = _Impl

    def __init__(self, function):
        super().__init__(function)
        self._sources = _sources()  # now: an upgrade may replace them before anything is compiled
        source = function.__code__.co_filename
        filled = [Path(source).parent / "__pycache__"]
        if config.CACHE_DIR:
            filled.insert(0, Path(config.CACHE_DIR, self._impl.locator.get_suitable_cache_subpath(source)))
        self._cache_file = _Store(Path(self._cache_path), filled, self._impl.filename_base)

    def _index_key(self, sig, codegen):
        options = (config.BOUNDSCHECK, config.OPT, config.DEBUGINFO_DEFAULT)
        return (*super()._index_key(sig, codegen), numba.__version__, self._sources, options)

    def load_overload(self, sig, target_context):
        """As Numba does it, but without getting ready to compile, which takes ten times as long as all the rest."""
        try:
            rtsys.initialize(target_context)  # of which kernels ask for memory
            return self._load_overload(sig, target_context)
        except Exception:  # an entry that cannot be revived is compiled again, whatever is wrong with it
            return None

    def _save_overload(self, sig, data):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", NumbaWarning
                )  # code built with NUMBA_OPT=0 cannot be kept, and need not
                super()._save_overload(sig, data)
        except Exception as error:
            _tell(error)


class _Store:
    """A file an entry, beginning with the digest of the rest; written to one folder, read from some more."""

    def __init__(self, folder, more, prefix):
        self._folder, self._prefix = folder, prefix
        self._folders = dict.fromkeys((folder, *more))

    def _name(self, key):
        return f"{self._prefix}.{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.nbc"

    def load(self, key):
        for folder in self._folders:
            try:
                content = (folder / self._name(key)).read_bytes()
            except OSError:
                continue
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return pickle.loads(content[32:])
        return None

    def save(self, key, data):
        content = pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL)
        temporary = self._folder / f"{self._prefix}.{uuid4().hex}"  # not of tempfile: others must be able to read it
        try:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            os.replace(temporary, self._folder / self._name(key))
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def flush(self):
        for path in self._folder.glob(f"{self._prefix}.*.nbc"):
            path.unlink(missing_ok=True)


_told = False


def _tell(error):
    """Once a process: there may be as many errors as kernels."""
    global _told
    if _told:
        return
    _told = True
    warnings.warn(
        f"fastbn cannot keep its compiled kernels ({error}), so every process compiles them anew; "
        "set NUMBA_CACHE_DIR to a folder that can be written to",
        RuntimeWarning,
        stacklevel=2,
    )
