"""fastbn.thinc: the layer in thinc's own tests, and beside thinc's layer."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import thinc.api
from thinc.api import Relu, chain, with_array
from thinc.types import Ragged

import fastbn
from fastbn import reference

X = np.random.default_rng(0).standard_normal((30, 24), dtype=np.float32)

# thinc's tests of all layers, with fastbn's in the registry under the name of thinc's.
RUN = """
import sys
import pytest
from fastbn.thinc import LayerNorm
from thinc.config import registry

registry.layers("LayerNorm.v1", func=LayerNorm)
assert registry.layers.get("LayerNorm.v1") is LayerNorm
choice = ["-k", "LayerNorm or layernorm or layer_norm", "-W", "ignore"]
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *choice, "--pyargs", "thinc.tests.layers.test_layers_api"]))
"""


def initialized(make):
    return make().initialize(X=X)


def test_the_signature_is_thincs():
    ours, theirs = (inspect.signature(layer) for layer in (fastbn.thinc.LayerNorm, thinc.api.LayerNorm))
    assert list(ours.parameters) == list(theirs.parameters)
    assert [p.default for p in ours.parameters.values()] == [p.default for p in theirs.parameters.values()]


def test_thincs_own_tests(tmp_path):
    done = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_as_thincs_layer():
    ours, theirs = initialized(fastbn.thinc.LayerNorm), initialized(thinc.api.LayerNorm)
    for model in (ours, theirs):
        model.set_param("G", np.linspace(0.5, 2, 24, dtype=np.float32))
        model.set_param("b", np.linspace(-1, 1, 24, dtype=np.float32))
    (y, back), (expected, expected_back) = ours(X, True), theirs(X, True)
    np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)
    dy = np.random.default_rng(1).standard_normal(X.shape, dtype=np.float32)
    np.testing.assert_allclose(back(dy), expected_back(dy), rtol=0, atol=5e-6)
    for name in ("G", "b"):
        np.testing.assert_allclose(ours.get_grad(name), theirs.get_grad(name), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.predict(X), y)


def test_gradients_add_up_and_evaluation_has_a_way_back():
    model = initialized(fastbn.thinc.LayerNorm)
    _, back = model(X, True)
    _, back_of_evaluation = model(X, False)
    np.testing.assert_array_equal(back(X), back_of_evaluation(X))
    once = initialized(fastbn.thinc.LayerNorm)
    once(X, True)[1](X)
    np.testing.assert_allclose(model.get_grad("G"), 2 * once.get_grad("G"), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_a_gradient_may_have_the_dtype_of_the_targets(dtype):
    """As in thinc: a loss against targets of NumPy's own dtypes is of float64."""
    ours, theirs = initialized(fastbn.thinc.LayerNorm), initialized(thinc.api.LayerNorm)
    dy = np.random.default_rng(1).integers(-3, 4, X.shape).astype(dtype)
    np.testing.assert_allclose(ours(X, True)[1](dy), theirs(X, True)[1](dy), rtol=0, atol=2e-5)
    np.testing.assert_allclose(ours.get_grad("G"), theirs.get_grad("G"), rtol=1e-5, atol=1e-4)


def test_a_file_in_memory_is_an_array(tmp_path):
    mapped = np.memmap(tmp_path / "rows", np.float32, "w+", shape=X.shape)
    mapped[:] = X
    model = initialized(fastbn.thinc.LayerNorm)
    y, back = model(mapped, True)
    np.testing.assert_array_equal(y, model.predict(X))
    np.testing.assert_array_equal(back(mapped), model(X, True)[1](X))


def test_bytes_are_read_by_either():
    ours, theirs = initialized(fastbn.thinc.LayerNorm), initialized(thinc.api.LayerNorm)
    ours.set_param("G", np.full(24, 3.0, np.float32))
    theirs.from_bytes(ours.to_bytes())
    np.testing.assert_array_equal(theirs.get_param("G"), ours.get_param("G"))
    initialized(fastbn.thinc.LayerNorm).from_bytes(theirs.to_bytes())


def test_within_chain_and_with_array():
    model = chain(Relu(24), fastbn.thinc.LayerNorm())
    model.initialize(X=X)
    assert model.predict(X).shape == X.shape
    ragged = Ragged(X, np.array([10, 20], np.int32))
    wrapped = with_array(fastbn.thinc.LayerNorm()).initialize(X=ragged)
    y, back = wrapped(ragged, True)
    np.testing.assert_array_equal(y.lengths, ragged.lengths)
    assert back(y).data.shape == X.shape


def test_width_from_the_output_or_in_advance():
    assert fastbn.thinc.LayerNorm().initialize(Y=X).get_dim("nI") == 24
    assert fastbn.thinc.LayerNorm(24).initialize().get_param("b").shape == (24,)


def test_a_large_mean_costs_no_digits():
    x = (X + 1e4).astype(np.float32)
    expected = reference.layer_norm(x, 24, eps=1e-8)
    np.testing.assert_allclose(initialized(fastbn.thinc.LayerNorm).predict(x), expected, rtol=0, atol=1e-6)


def test_other_arrays_are_refused():
    model = initialized(fastbn.thinc.LayerNorm)
    with pytest.raises(TypeError, match=r"X is of type list; expected a NumPy array"):
        model([[1.0] * 24], False)
