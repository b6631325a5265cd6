"""The operations as Numba sees them in a user's own compiled functions.

`register` only leaves word with Numba, which asks when it meets one of the functions for the first time; what answers
is imported then.  Numba cannot bind keyword-only arguments, so here they are ordinary ones.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from numba.extending import overload

# Said here, for otherwise they would be those of the caller, and kernels would be compiled, and kept, with them.
OPTIONS = {"error_model": "numpy", "nogil": True, "fastmath": False, "forceinline": False}
INLINED = OPTIONS | {"forceinline": True}  # what kernels are called from: their callers' arrays need not be handed over


def register(*functions: Callable[..., Any]) -> None:
    """Let compiled code call these functions of fastbn."""
    for function in functions:
        overload(function, jit_options=INLINED, prefer_literal=True)(_typed(function))


def _typed(function: Callable[..., Any]) -> Callable[..., Any]:
    """What Numba gives the types of arguments, and which returns what is compiled for them."""
    module, name = function.__module__.rpartition(".")[2], function.__name__

    def typed(*args: Any, **named: Any) -> Any:
        return getattr(import_module(f"{__name__}.{module}"), name)(*args, **named)

    typed.__name__ = typed.__qualname__ = name  # which errors show
    ordinary = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = inspect.signature(function).parameters.values()
    typed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(p.name, ordinary, default=p.default) for p in parameters]
    )
    return typed
