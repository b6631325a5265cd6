"""Checkpoints of orbax, read with tensorstore; written by tests/support/files/write_jax.py."""

from pathlib import Path

import numpy as np
import pytest
import tensorstore  # noqa: F401

from fastbn import files

DATA = Path(__file__).parents[2] / "values" / "files" / "data"


@pytest.mark.parametrize(("name", "norm"), [("orbax", "stem"), ("orbax_nnx", "bn")])
def test_orbax(name, norm):
    seen = np.load(DATA / "orbax.outputs.npz")
    with files.read(DATA / name) as file:
        assert file.format == "orbax"
        layers = file.layers()
        np.testing.assert_allclose(layers[norm](seen["x"]), seen[norm], atol=1e-6)
        for key, value in file.state(layers).items():
            np.testing.assert_array_equal(value, file.arrays[key])
