"""NumPy's functions whose bits differ between processors decide no bit of any result."""

import ast
import inspect
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from internals import power

import fastbn

ROOT = Path(fastbn.__file__).parent
DIFFER = {"einsum", "matmul", "dot", "vdot", "inner", "tensordot", "vecdot", "power", "float_power", "pow"}
DIFFER |= {f"{name}{end}" for name in ("exp", "log") for end in ("", "2", "m1", "1p", "10")} | {"logaddexp"}
DIFFER |= {"sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "arctan2", "cbrt", "hypot"}
FREE = {"cli", "reference.py"}  # a command line and the definitions, which promise no bits
PROGRAM = Path(__file__).with_name("results_of_all.py")


def sources():
    """The modules whose results have promised bits: all that `import fastbn` loads."""
    names = [n for n, m in sys.modules.items() if n.startswith("fastbn.") and getattr(m, "__file__", None)]
    files = {Path(sys.modules[name].__file__) for name in names}
    return sorted(f for f in files if f.relative_to(ROOT).parts[0] not in FREE)


def whole_number(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def of_numpy(node):
    """The name of a function of NumPy's, where a node is one."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy"):
        return node.attr
    return None


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_module_calls_them(file):
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if of_numpy(node) in DIFFER:
            found.append((node.lineno, f"np.{node.attr}"))
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            found.append((node.lineno, "@"))
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Pow):
            found.append((node.lineno, "**="))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and not whole_number(node.left):
            found.append((node.lineno, "**"))  # a number's power is Python's
    assert found == []


def test_every_source_is_inspected():
    assert len(sources()) > 20
    assert Path(inspect.getfile(fastbn.Moments)) in sources()


def dispatched():
    """The sets of instructions that NumPy was built for beyond what every machine has, and this one has."""
    try:
        from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
    except ImportError:  # before NumPy 2
        from numpy.core._multiarray_umath import __cpu_dispatch__, __cpu_features__
    return [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]


def digests(off=()):
    environment = dict(os.environ, PYTHONPATH=str(ROOT.parent), NPY_DISABLE_CPU_FEATURES=" ".join(off))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", PROGRAM], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.full
def test_the_same_bits_without_numpys_wide_paths():
    as_it_is = digests()
    assert len(as_it_is) > 50
    off = dispatched()  # none: this machine has only what every machine has, and its results are those of the others
    without = digests(off)
    assert {name for name in as_it_is if as_it_is[name] != without.get(name)} == set()


@pytest.mark.parametrize("exponent", [0.0, 0.25, 0.5, 0.75, 1.0, 2.5, 4.0, -0.75, 0.3, -0.6, 1.7, 5.0, 40.0])
@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0, 300.0])
def test_powers(exponent, spread):
    """Against NumPy's extended precision where it has one, else double."""
    wide = np.longdouble
    base = np.random.default_rng(0).uniform(-spread, spread, 5000)
    base = np.exp(base)
    with np.errstate(all="ignore"):
        expected, value = base.astype(wide) ** wide(exponent), power(base, exponent)
    known = (expected < 1e300) & (expected > 1e-300)
    roots = abs(exponent) <= 4 and exponent * 4 == int(exponent * 4)
    ulps = (2 if abs(exponent) <= 1 else 3) if roots else 2 + 2 * abs(exponent * np.log(base))[known]
    error = abs(value[known] - expected[known]) / expected[known]
    assert (error <= ulps * 2.0**-52).all()
    single = power(base.astype(np.float32), exponent) if spread < 2 else None
    if single is not None:
        expected = base.astype(np.float32).astype(wide) ** wide(exponent)
        known = (expected < 3e38) & (expected > 1.2e-38)
        assert (abs(single[known] - expected[known]) <= (3 if roots else 1) * 2.0**-23 * expected[known]).all()


@pytest.mark.parametrize("exponent", [0.75, 0.3, 1.0, -0.75, -0.3])
def test_powers_at_the_ends(exponent):
    base = np.array([0.0, 1.0, np.inf, 5e-324, 1.7e308])
    with np.errstate(all="ignore"):
        ends = [0.0 if exponent > 0 else np.inf, 1.0, np.inf if exponent > 0 else 0.0]
        expected = [*ends, 5e-324**exponent, 1.7e308**exponent]
        np.testing.assert_allclose(power(base, exponent), expected, rtol=1e-13)
        assert np.isnan(power(np.array([np.nan]), exponent)).all()
        if exponent != 1:
            assert np.isnan(power(np.array([-1.0]), exponent)).all()
    assert Fraction(float(power(np.array([2.0]), 3.0)[0])) == 8


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_local_response_norm_has_the_error_that_is_told(dtype, beta):
    x = np.random.default_rng(1).normal(0, 3, (4, 9, 5)).astype(dtype)
    y = fastbn.local_response_norm(x, 5, 2.0, beta, 1.5)
    wide = x.astype(np.longdouble)
    total = np.zeros_like(wide)
    for c in range(9):
        total[:, c] = (wide[:, max(0, c - 2) : c + 3] ** 2).sum(1)
    expected = wide / (1.5 + 2.0 / 5 * total) ** np.longdouble(beta)
    bound = {"float16": 2.0**-11 + 2.0**-19, "float32": 8 * 2.0**-23, "float64": 12 * 2.0**-52}[dtype]
    tiny = 2.0**-25 if dtype == "float16" else 0
    assert (abs(y - expected) <= bound * abs(expected) + tiny).all()
