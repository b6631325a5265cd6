"""A digest of all kernel modules, however they are installed: files, byte code, a zip, a frozen application."""

import hashlib
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import CodeType


@cache
def digest():
    """What tells one release's kernels from another's, of all modules: a driver holds copies of what it calls.

    None where the modules show neither their sources nor their code.
    """
    here = Path(__file__)
    if here.suffix == ".py" and here.is_file():
        return _joined((path.stem, path.read_bytes()) for path in sorted(here.parent.glob("*.py")))
    try:
        return _through_loaders()
    except Exception:  # of whatever kind: loaders are anyone's code
        return None


def _through_loaders():
    specs = [find_spec(name) for name in _names()]
    if not specs:
        return None
    texts = [spec.loader.get_source(spec.name) for spec in specs]
    if None not in texts:
        return _joined((spec.name, text.encode()) for spec, text in zip(specs, texts, strict=True))
    return _joined((spec.name, of_code(spec.loader.get_code(spec.name))) for spec in specs)


def _names():
    """The kernel modules in a fixed order; none where there are more than their finder tells."""
    import pkgutil  # not in the ordinary case, for it takes time

    names = {__package__} | {f"{__package__}.{m.name}" for m in pkgutil.iter_modules(sys.modules[__package__].__path__)}
    loaded = {name for name in sys.modules if name.startswith(f"{__package__}.")}
    return sorted(names) if loaded <= names else []


def _joined(modules):
    whole = hashlib.sha256()
    for name, content in modules:
        whole.update(f"{name} {len(content)} ".encode())
        whole.update(content)
    return whole.hexdigest()


def of_code(code):
    """Bytes that stand for what a code object does: the same wherever it was compiled, and in every process."""
    numbers = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    constants = tuple(_of_constant(value) for value in code.co_consts)
    return repr((numbers, names, code.co_code, code.co_exceptiontable, constants)).encode()


def _of_constant(value):
    if isinstance(value, CodeType):
        return of_code(value)
    if isinstance(value, tuple):
        return tuple(map(_of_constant, value))
    if isinstance(value, frozenset):  # which has another order in every process
        return sorted(repr(_of_constant(member)) for member in value)
    return type(value).__name__, repr(value)
