"""What the modules for other packages share: their import on use, and the words where the package is missing."""

from importlib import import_module
from typing import Any


def need(package: str, extra: str) -> Any:
    """The other package, imported now; an ImportError that says how to get it where it is missing."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != package.partition(".")[0]:
            raise  # it is there, and lacks something else
        raise ImportError(
            f'fastbn.{extra} needs the package {package.partition(".")[0]}: pip install "fastbn[{extra}]"', name=package
        ) from None
