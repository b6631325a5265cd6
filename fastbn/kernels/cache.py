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
from uuid import uuid4

import llvmlite.binding
import numba
from numba.core import config
from numba.core.errors import NumbaWarning

from fastbn.kernels import folders, lent, libraries, sources

try:
    from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache
    from numba.core.runtime import _nrt_python, rtsys
except ImportError:
    CompileResultCacheImpl = FunctionCache = NullCache = object


def attach(dispatcher, prepare=None):
    """Give a dispatcher its disk cache; without one it compiles anew in every process.

    prepare: what is to be done before anything is loaded.
    """
    try:
        dispatcher._cache = _NoCache() if sources.digest() is None else _KernelCache(dispatcher.py_func, prepare)
    except Exception:  # of whatever kind: it is Numba's inside that has changed
        if prepare:
            prepare()
        _attach_public(dispatcher)


def _attach_public(dispatcher):
    """Numba's own cache, in a folder of this release alone."""
    kept = None if sources.digest() is None else folders.ours().kept
    if kept is None:
        return
    before, config.CACHE_DIR = config.CACHE_DIR, str(kept / sources.digest()[:16])
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # Numba finds no file of this name
        return
    finally:
        config.CACHE_DIR = before


class _Locator:
    """Numba asks one for every function where to keep it; here that is settled once (`folders`)."""

    def __init__(self, function, path):
        self._py_file, self._line = path, function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function, path):
        return cls(function, path)

    def ensure_cache_path(self):
        """Again, when something is kept: meanwhile the folder may have gone."""
        kept = folders.ours().kept
        if kept:
            folders.make(kept)

    def get_cache_path(self):
        kept, read, _ = folders.ours()
        path = kept or next(iter(read), None)
        return path and str(path)

    def get_source_stamp(self):
        return sources.digest()

    def get_disambiguator(self):
        return str(self._line)


class _Impl(CompileResultCacheImpl):
    _locator_classes = (_Locator,)

    def rebuild(self, target_context, payload):
        return super().rebuild(libraries.reviving(target_context, payload[0]), payload)


class _KernelCache(FunctionCache):
    _impl_class = _Impl

    def __init__(self, function, prepare):
        super().__init__(function)
        self._prepare = prepare
        self._sources = sources.digest()  # now: an upgrade may replace them before anything is compiled
        chosen_by_numba = not isinstance(self._impl.locator, _Locator)  # as NUMBA_CACHE_LOCATOR_CLASSES can ask
        self._folders = folders.only(Path(self._cache_path)) if chosen_by_numba else folders.ours()
        self._cache_file = _Store(self._folders, self._impl.filename_base)

    def _index_key(self, sig, codegen):
        options = (config.BOUNDSCHECK, config.OPT, config.DEBUGINFO_DEFAULT, lent.KNOWN)
        return (*super()._index_key(sig, codegen), numba.__version__, self._sources, options)

    def load_overload(self, sig, target_context):
        """As Numba does it, but without getting ready to compile, which takes ten times as long as all the rest."""
        if self._folders.refused:
            _tell_refused(self._folders.refused[0])
        try:
            _name_runtime(target_context)
            if self._prepare:
                self._prepare()
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
            _tell_not_kept(error)
        libraries.let_go(data.library)


@cache
def _name_runtime(target_context):
    """Give kernels from the cache the addresses of what they ask for memory by.

    Numba does so where it compiles its own part of this, for which LLVM's compiler gets ready: 15 ms and 30 MB that a
    process without anything to compile need not spend.  Where there is something, Numba still does it all.
    """
    if config.NRT_STATS or hasattr(_nrt_python, "memsys_set_atomic_inc_dec"):  # which compiled code has to be told to
        rtsys.initialize(target_context)
        return
    for name, address in _nrt_python.c_helpers.items():
        llvmlite.binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


class _NoCache(NullCache):
    """For modules that show neither sources nor code: of which release a kernel is could not be told."""

    def save_overload(self, sig, data):
        libraries.let_go(data.library)
        _tell(
            "unknown",
            "fastbn cannot keep its compiled kernels, so every process compiles them anew: its modules were loaded "
            "in a way that shows neither their sources nor their byte code, which tell one release from another",
        )


class _Store:
    """A file an entry, beginning with the digest of the rest; written to one folder, read from some more."""

    def __init__(self, where, prefix):
        self._where, self._prefix = where, prefix

    def _name(self, key):
        return f"{self._prefix}.{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.nbc"

    def load(self, key):
        for folder in self._where.read:
            content = _read(folder / self._name(key))
            if content and hashlib.sha256(content[32:]).digest() == content[:32]:
                return pickle.loads(content[32:])
        return None

    def save(self, key, data):
        folder = self._where.kept
        if folder is None:
            raise OSError("there is no folder that it may write to")
        content = pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL)
        temporary = folder / f"{self._prefix}.{uuid4().hex}"
        try:
            _write(temporary, hashlib.sha256(content).digest() + content)
            os.replace(temporary, folder / self._name(key))
        except BaseException:  # Ctrl-C, too
            temporary.unlink(missing_ok=True)
            raise

    def flush(self):
        for path in self._where.kept.glob(f"{self._prefix}.*.nbc") if self._where.kept else ():
            path.unlink(missing_ok=True)


def _read(path):
    """What the file holds; None if there is none, or if it may be another user's."""
    try:
        with path.open("rb") as file:
            doubt = folders.doubt_of_file(path, os.fstat(file.fileno()))
            content = None if doubt else file.read()
    except OSError:
        return None
    if doubt:
        _tell_refused(doubt)
    return content


def _write(path, content):
    """Others must be able to read it, and not to write to it, whatever the process's umask."""
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o644)) as file:
        file.write(content)


_told: set[str] = set()


def _tell_not_kept(error):
    place = f"NUMBA_CACHE_DIR is {config.CACHE_DIR}; it has to be" if config.CACHE_DIR else "set NUMBA_CACHE_DIR to"
    _tell(
        "not kept",
        f"fastbn cannot keep its compiled kernels ({error}), so every process compiles them anew; "
        f"{place} a folder that can be written to",
    )


def _tell_refused(doubt):
    _tell(
        "refused",
        f"fastbn does not run the compiled kernels in {doubt}; take that permission away, or set NUMBA_CACHE_DIR to a "
        "folder of your own",
    )


def _tell(kind, sentence):
    """Once a process: there may be as many reasons as kernels."""
    if kind in _told:
        return
    _told.add(kind)
    warnings.warn(sentence, RuntimeWarning, stacklevel=3)
