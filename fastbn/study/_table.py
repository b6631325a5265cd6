"""The studies by their names."""

from importlib import import_module

from fastbn.study._study import Study

NAMES = (
    "learning-rates",
    "initialization",
    "depth",
    "order",
    "dropout",
    "batch-size",
    "sequences",
    "gan",
    "inference",
    "covariate-shift",
    "inputs",
)


def find(name: str) -> Study:
    """A study, whose module is imported now."""
    if name not in NAMES:
        raise ValueError(f"there is no study {name!r}; expected one of {', '.join(NAMES)}")
    study: Study = import_module(f"fastbn.study._{name.replace('-', '_')}").STUDY
    return study
