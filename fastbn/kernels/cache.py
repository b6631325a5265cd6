"""Compiled kernels on disk: never stale, and never the reason that a call fails.

Numba's own cache does not notice an edited callee, a changed option or a damaged file, and a disk that is full or
read-only fails the caller.  Here an entry's name is a digest of everything that shaped it, its content is checked
before it is used, whatever cannot be read counts as absent, and what cannot be written is told once.

The class underneath is private to Numba.  `attach` falls back to the public `cache=True` behaviour if it has moved.
"""

import hashlib
import os
import pickle
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numba
from numba.core import config
from numba.core.errors import NumbaWarning

try:
    from numba.core.caching import FunctionCache
except ImportError:
    FunctionCache = object


def attach(dispatcher):
    """Give a dispatcher its disk cache; without one it compiles anew in every process."""
    try:
        dispatcher._cache = _KernelCache(dispatcher.py_func)
    except RuntimeError:  # no folder can be written to
        return
    except (AttributeError, TypeError):
        dispatcher.enable_caching()


@cache
def _sources():
    """A digest of all kernel sources: a driver holds copies of what it calls."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _KernelCache(FunctionCache):
    def __init__(self, function):
        super().__init__(function)
        self._cache_file = _Store(Path(self._cache_path), self._impl.filename_base)

    def _index_key(self, sig, codegen):
        options = (config.BOUNDSCHECK, config.OPT, config.DEBUGINFO_DEFAULT)
        return (*super()._index_key(sig, codegen), numba.__version__, _sources(), options)

    def _load_overload(self, sig, target_context):
        try:
            return super()._load_overload(sig, target_context)
        except Exception:  # an entry that cannot be revived is compiled again, whatever is wrong with it
            return None

    def _save_overload(self, sig, data):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", NumbaWarning
                )  # code built with NUMBA_OPT=0 cannot be kept, and need not
                super()._save_overload(sig, data)
        except OSError as error:
            _tell(error)


class _Store:
    """A file an entry, beginning with the digest of the rest."""

    def __init__(self, folder, prefix):
        self._folder, self._prefix = folder, prefix

    def _path(self, key):
        return self._folder / f"{self._prefix}.{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.nbc"

    def load(self, key):
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        return pickle.loads(content[32:]) if hashlib.sha256(content[32:]).digest() == content[:32] else None

    def save(self, key, data):
        content = pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL)
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=self._prefix)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(temporary, self._path(key))
        except OSError:
            os.unlink(temporary)
            raise

    def flush(self):
        for path in self._folder.glob(f"{self._prefix}.*.nbc"):
            path.unlink(missing_ok=True)


@cache
def _tell(error):  # once an error
    warnings.warn(
        f"fastbn cannot keep its compiled kernels ({error}), so every process compiles them anew; "
        "set NUMBA_CACHE_DIR to a folder that can be written to",
        RuntimeWarning,
        stacklevel=2,
    )
