"""Whether a call is like an earlier one is found out by compiled code, which reads objects where they lie in memory."""

import hashlib
import pickle

import numba
import numpy as np
import pytest
import remembered
from cases import misaligned, read_only
from internals import entries, lent, likeness
from processes import python

import fastbn

SHAPE = 3, 4


def array(shape=SHAPE, dtype=np.float32):
    return np.ones(shape, dtype)


OTHERS = {
    "None": lambda a: None,
    "another length": lambda a: array((3, 5)),
    "another first length": lambda a: array((4, 4)),
    "more axes": lambda a: a[None],
    "fewer axes": lambda a: a[0],
    "no axis": lambda a: np.array(1, np.float32),
    "another dtype of the same size": lambda a: a.astype(np.int32),
    "another dtype": lambda a: a.astype(np.float64),
    "the other byte order": lambda a: a.astype(">f4"),
    "read-only": read_only,
    "misaligned": misaligned,
    "another order": np.asfortranarray,
    "steps": lambda a: np.repeat(a, 2, axis=-1)[:, ::2],
    "a view": lambda a: a[:],
    "a subclass": lambda a: a.view(np.recarray),
    "masked": np.ma.masked_array,
    "a list": lambda a: a.tolist(),
    "a number": lambda a: 1.0,
    "a type": lambda a: np.float32,
}


def comparisons(noted):
    compiled = entries.comparing(noted)
    return {compiled, likeness.alike_in_python}


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("kind", OTHERS)
def test_every_difference_is_noticed_wherever_it_is(kind, place):
    right = [array(), array((4, 2)), None, array(), None, array((2, 2))]
    noted = likeness.noted((), *right[:3], tuple(right[3:]), [2], True)
    again = [None if v is None else v.copy() for v in right]
    other = again.copy()
    other[place] = OTHERS[kind](array() if right[place] is None else right[place])
    if right[place] is None and kind == "None":
        other[place] = array()
    for alike in comparisons(noted):
        assert alike(noted, (), *again[:3], tuple(again[3:])) == likeness.ALIKE
        assert alike(noted, (), *other[:3], tuple(other[3:])) == likeness.DIFFERENT
        assert alike(noted, (), *again[:3], tuple(again[3:5])) == likeness.DIFFERENT
        assert alike(noted, (), *again[:3], (*again[3:], None)) == likeness.DIFFERENT
        assert alike(noted, (), *again[:3], None) == likeness.DIFFERENT


def test_strides_matter_where_they_do_not_follow_from_the_shape():
    wide = np.ones((6, 8), np.float32)
    noted = likeness.noted((), wide[::2, ::2], None, None, None, [], True)
    for alike in comparisons(noted):
        assert alike(noted, (), wide[1::2, 1::2], None, None, None) == likeness.ALIKE
        for other in (wide[:3, ::2], wide[::2, :4], wide[:3, :4], array()):
            assert alike(noted, (), other, None, None, None) == likeness.DIFFERENT
        assert alike(noted, (), wide[::2, ::2], None, None, (None,)) == likeness.DIFFERENT


def test_what_is_written_to_and_given_twice_is_told():
    x, y, out = array(), array(), array()
    for own, expected in ((True, likeness.ALIKE), (False, likeness.PERHAPS_OVERLAPPING)):
        noted = likeness.noted((), x, y, None, (x, None, out), [2], own)
        for alike in comparisons(noted):
            assert alike(noted, (), x, y, None, (y, None, out)) == expected
            for twice in (
                (out, y, None, (x, None, out)),
                (x, out, None, (x, None, out)),
                (x, y, None, (out, None, out)),
            ):
                assert alike(noted, (), *twice) == likeness.PERHAPS_OVERLAPPING


def test_settings_are_alike_if_their_types_are():
    x = array()
    settings = 2, 0.5, ("leaky_relu", 0.25, 1), None
    noted = likeness.noted(settings, x, None, None, None, [], True)
    others = (
        (2, np.float32(0.5), settings[2], None),
        (2.0, *settings[1:]),
        (2, 0.5, ("leaky_relu", 0.25, True), None),
        (2, 0.5, ("leaky_relu", np.float16(0.25), 1), None),
        (2, 0.5, (np.str_("leaky_relu"), 0.25, 1), None),
    )
    for alike in comparisons(noted):
        assert alike(noted, (1 + 1, 1 / 2, ("leaky_relu", 1 / 4, 1), None), x, None, None, None) == likeness.ALIKE
        for other in others:
            assert other == settings
            assert alike(noted, other, x, None, None, None) == likeness.DIFFERENT


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_objects_lie_where_compiled_code_looks():
    """If this fails, Numba's inside or Python's objects have changed: calls are as right as before, but slower."""
    assert lent.KNOWN


RESULTS = """
import hashlib, sys
import numpy as np
if {changed}:
    from numba.core import callwrapper
    before = callwrapper._ArgManager.add_arg
    callwrapper._ArgManager.add_arg = lambda self, value, kind: before(self, value, kind)
import fastbn
from fastbn.kernels import lent
assert lent.KNOWN == (not {changed})

rng, found = np.random.default_rng(0), hashlib.sha256()
x, w = rng.standard_normal((3, 48), np.float32), np.linspace(1, 2, 48, dtype=np.float32)
planes, v = rng.standard_normal((4, 16, 5, 6)).astype(np.float16), np.linspace(1, 2, 16, dtype=np.float32)
for _ in range(3):
    y, mean, rstd = fastbn.layer_norm_forward(x, 48, w, w, out=x.copy())
    running = np.zeros(16, np.float32), np.ones(16, np.float32)
    of_batch = fastbn.batch_norm(planes, *running, v, v, True), *running, fastbn.batch_norm(planes, *running, v, v)
    for a in (y, mean, rstd, *fastbn.layer_norm_backward(x, x, mean, rstd, w), *of_batch):
        found.update(np.ascontiguousarray(a).tobytes())
print(found.hexdigest())
"""


@pytest.mark.full
@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_arrays_that_numba_takes_in_its_own_way_give_the_same_bits(tmp_path):
    (own, _), (borrowed, _) = (python(RESULTS.format(changed=changed)) for changed in (True, False))
    assert own == borrowed
    assert len(own.strip()) == hashlib.sha256().digest_size * 2


@pytest.mark.parametrize("order", ["=", ">"])
def test_dtypes_that_are_equal_are_alike(order):
    """That of an array which was unpickled, or was given a byte order, is an object of its own."""
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(f"{order}f4")
    dtypes = [x.dtype.newbyteorder(order) for _ in range(3)]
    if order == "=":
        dtypes.append(pickle.loads(pickle.dumps(x)).dtype)
    assert all(dtype is not x.dtype for dtype in dtypes)

    expected = fastbn.layer_norm(x, 6)
    kept = remembered.number()
    for dtype in dtypes:
        same, out = x.view(dtype), np.empty(x.shape, np.dtype(np.float32).newbyteorder("="))
        assert fastbn.layer_norm(same, 6).tobytes() == expected.tobytes()
        assert fastbn.layer_norm(same, 6, out=out) is out
        assert out.tobytes() == expected.tobytes()
    assert remembered.number() <= kept + 2


def test_settings_that_are_equal_give_the_same_bits_in_any_order():
    """-0.0 is equal to 0.0, so the one that a process met first would be taken for both."""
    program = """
        import numpy as np, fastbn

        for slope in SLOPES:
            y = fastbn.layer_norm(np.array([[-1, 0, 1]], np.float32), 3, activation=("leaky_relu", slope))
            print(np.signbit(y[0, 0]))
    """
    told = {python(f"SLOPES = {slopes}", program, NUMBA_DISABLE_JIT="1") for slopes in ((0.0, -0.0), (-0.0, 0.0))}
    assert told == {("True\nTrue\n", "")}


X = np.random.default_rng(0).standard_normal((2, 4, 3)) / 100  # so small that eps counts
ROW = X.reshape(-1, 12)
CALLS = {
    "batch norm": lambda c: fastbn.batch_norm(X, None, None, eps=c, training=True),
    "batch norm, evaluation": lambda c: fastbn.batch_norm(X, np.zeros(4), np.ones(4), eps=c),
    "batch norm, its momentum": lambda c: fastbn.batch_norm(X, *RUNNING, training=True, momentum=c),
    "layer norm": lambda c: fastbn.layer_norm(ROW, 12, eps=c),
    "layer norm, its slope": lambda c: fastbn.layer_norm(ROW, 12, activation=("leaky_relu", c)),
    "layer norm of a sum": lambda c: fastbn.add_layer_norm(ROW, ROW, 12, eps=c),
    "group norm": lambda c: fastbn.group_norm(X, 2, eps=c),
    "instance norm": lambda c: fastbn.instance_norm(X, eps=c),
    "RMS norm": lambda c: fastbn.rms_norm(ROW, 12, eps=c),
}
RUNNING = np.empty((2, 4))


def digest(call, number):
    RUNNING[:] = [[0], [1]]
    results = CALLS[call](number)
    results = results if isinstance(results, tuple) else (results,)
    return [np.asarray(a).tobytes() for a in (*results, RUNNING)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("call", CALLS)
def test_numbers_that_numpy_calls_equal_are_told_apart(call, dtype):
    """np.float32(0.1) == 0.1 in NumPy, though the former is larger by 1.5e-9: who came first would decide for both."""
    numbers = dtype(0.1), 0.1, np.float64(0.1)
    alone = []
    for number in numbers:
        remembered.forget()
        alone.append(digest(call, number))
    assert alone[0] != alone[1] == alone[2]
    for first, second in ((0, 1), (1, 0), (2, 0), (0, 2)):
        remembered.forget()
        for k in (first, second, second, first):
            assert digest(call, numbers[k]) == alone[k]
