"""What the libraries that are measured have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from fastbn.cli.bench._problem import Array, Problem

Calls = dict[str, Callable[[], Any]]


class Contender(ABC):
    """One library; `calls` and what they return are used inside `context`."""

    name: ClassVar[str]
    title: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()

    def __init__(self, threads: int) -> None:
        """Import the library and have it use that many threads."""
        self.threads = threads

    @classmethod
    def missing(cls) -> list[str]:
        return [module for module in cls.modules if find_spec(module) is None]

    def context(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @abstractmethod
    def calls(self, p: Problem) -> Calls:
        """Forms and calls; none where the library has no such operation."""

    def expected(self, p: Problem) -> tuple[Array, ...]:
        """What every call must return, or more."""
        return p.expected

    def read(self, output: Any, p: Problem) -> Array:
        """An output as a NumPy array, its channels where the cell has them."""
        return np.asarray(output)
