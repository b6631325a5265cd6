"""Real data that ship with packages: scikit-learn's, and the words of Python's own documentation."""

import re
from typing import Any

import numpy as np

from fastbn._doors import need
from fastbn.study._network import Array, Data

LEAST = 64  # training samples, in a test's small share


def _load(name: str, **options: Any) -> Any:
    need("sklearn", "study")
    from sklearn import datasets

    return getattr(datasets, name)(**options)


def _split(x: Array, y: Array, tests: int, share: float, most: int | None = None) -> Data:
    """The samples in an order that is always the same; `most`: of the training samples, only so many."""
    order = np.random.default_rng(0).permutation(len(y))
    test, train = order[:tests], order[tests:][:most]
    train = train[: max(LEAST, round(share * len(train)))]
    return Data(x[train].astype(np.float32), y[train], x[test].astype(np.float32), y[test])


def standardized(data: Data) -> Data:
    """Each feature less its mean, over its standard deviation, both of the training samples."""
    mean, std = data.train_x.mean(0), data.train_x.std(0)
    return data._replace(train_x=(data.train_x - mean) / std, test_x=(data.test_x - mean) / std)


def digits(share: float = 1.0, most: int | None = None) -> Data:
    """Handwritten digits (N, 8, 8, 1), standardized as a whole; 360 of the 1,797 are for tests."""
    data = _load("load_digits")
    split = _split(data.images[..., None], data.target, 360, share, most)
    mean, std = split.train_x.mean(), split.train_x.std()
    return split._replace(train_x=(split.train_x - mean) / std, test_x=(split.test_x - mean) / std)


def breast_cancer(share: float = 1.0) -> Data:
    """30 measures of 569 tumours, and whether they are benign; 169 are for tests."""
    data = _load("load_breast_cancer")
    return _split(data.data, data.target, 169, share)


def diabetes(share: float = 1.0) -> Data:
    """Age, sex, blood values of 442 patients as they were measured, and the disease's progress, standardized."""
    data = _load("load_diabetes", scaled=False)
    split = _split(data.data, data.target[:, None], 122, share)
    mean, std = split.train_y.mean(), split.train_y.std()
    train_y, test_y = (((y - mean) / std).astype(np.float32) for y in (split.train_y, split.test_y))
    return split._replace(train_y=train_y, test_y=test_y)


def words(share: float = 1.0) -> tuple[list[str], list[str]]:
    """Words of 3 to 12 letters from Python's own documentation: 2,000 to learn from, 500 to test with."""
    from pydoc_data.topics import topics

    found = sorted(set(re.findall(r"\b[a-z]{3,12}\b", " ".join(topics.values()).lower())))
    order = np.random.default_rng(0).permutation(len(found))
    chosen = [found[i] for i in order]
    return chosen[500 : 500 + max(LEAST, round(share * 2000))], chosen[:500]


def portion(epochs: int, share: float) -> int:
    """How many epochs, or steps, to train: all, or a test's small share."""
    return max(1, round(share * epochs))
