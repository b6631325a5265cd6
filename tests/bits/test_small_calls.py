"""Calls that are remembered: the next gives the bits of the first, and a wrong one is refused as if none had been."""

import weakref
from itertools import product

import numba
import numpy as np
import pytest
import remembered
from cases import Case, assert_same_bits, misaligned, read_only
from internals import Driver, Entries, arguments, pace, runs

import fastbn

CASES = [  # by runs, and by columns where there are any
    Case("batch_norm", (2, 8, 16, 16)),
    Case("batch_norm", (16, 8, 1, 1)),
    Case("group_norm", (2, 8, 16, 16), 4),
    Case("group_norm", (2, 16, 16, 8), 4, axis=3),
    Case("instance_norm", (2, 8, 16, 16)),
    Case("instance_norm", (2, 16, 16, 8), axis=3),
    Case("layer_norm", (4, 48), 48),
    Case("layer_norm", (2, 3, 4, 12), (4, 12)),
    Case("rms_norm", (4, 48), 48),
]


def refuse(*args, **named):
    raise AssertionError("checked, and not remembered")


def call(case, way, dtype, *, out, affine, running):
    """All that one call returns or updates, from arguments that are made anew; out: None, "new" or "x"."""
    x, dy = case.data(dtype), case.upstream(dtype)
    named = case.parameters(arguments.COMPUTED_IN[x.dtype]) if affine else {}
    updated = {"running_mean": np.full(8, 0.5, np.float32), "running_var": np.full(8, 2.0)} if running else {}
    named |= updated
    if out is not None:
        named["out"] = x if out == "x" else np.empty_like(x)
    if way == "evaluate":
        results = (fastbn.batch_norm(x, **named, **case.keywords),)
    elif way == "normalize":
        results = (case.normalize(fastbn, x, **named),)
    elif way == "forward":
        y, statistics = case.forward(fastbn, x, **named)
        results = y, *statistics
    else:
        named.pop("bias", None)
        saved = np.random.default_rng(0).random((2, *case.statistics_shape))
        results = case.backward(fastbn, dy, x, [v.copy() for v in saved[case.op == "rms_norm" :]], **named)
    assert out is None or results[0] is named["out"]
    return *results, *updated.values()


def ways(case):
    """The functions, and whether they take running arrays."""
    yield from (("normalize", False), ("forward", False), ("backward", False))
    if case.op == "batch_norm":
        yield from (("evaluate", True), ("forward", True))
    if case.op in ("batch_norm", "instance_norm"):
        yield "normalize", True


@pytest.mark.full
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_next_call_gives_the_same_bits_without_checks(case, dtype, monkeypatch):
    for (way, running), out, affine in product(ways(case), (None, "new", "x"), (False, True)):
        remembered.forget()
        options = {"out": out, "affine": affine, "running": running}
        first = call(case, way, dtype, **options)
        with monkeypatch.context() as patched:
            patched.setattr(arguments, "out", refuse)
            second = call(case, way, dtype, **options)
        for a, b in zip(first, second, strict=True):
            assert_same_bits(a, b)


@pytest.mark.full
@pytest.mark.parametrize("nbytes", [0, 1 << 18])
def test_threads_change_no_bit_of_the_next_call(nbytes, monkeypatch):
    monkeypatch.setattr(pace, "SERIAL_BYTES", nbytes)
    for case in CASES[:2] + CASES[6:7]:
        options = {"out": None, "affine": True, "running": False}
        for way in ("normalize", "forward", "backward"):
            first, *others = (call(case, way, np.float32, **options) for _ in range(4))
            for other in others:
                for a, b in zip(first, other, strict=True):
                    assert_same_bits(a, b)


# Wrong calls ----------------------------------------------------------------------------------------------------------

SHAPE, CHANNELS, SIZE = (4, 8, 3), 8, 96


def right(function):
    """Arguments over two buffers, so that others may overlap them."""
    large, small = np.linspace(-1, 1, 4 * SIZE, dtype=np.float32), np.linspace(1, 2, 8 * CHANNELS, dtype=np.float32)
    x, out, dy = (large[i * SIZE :][:SIZE].reshape(SHAPE) for i in range(3))
    weight, bias, mean, var = (small[i * CHANNELS :][:CHANNELS] for i in range(4))
    if function.endswith("_backward"):
        return {"dy": dy, "x": x, "mean": mean.astype(float), "rstd": var.astype(float), "weight": weight, "out": out}
    named = {"x": x, "weight": weight, "bias": bias, "eps": 1e-5, "out": out}
    if function.startswith("batch_norm"):
        named |= {"running_mean": mean, "running_var": var, "momentum": 0.1}
    return named | ({"num_groups": 1} if function.startswith("group_norm") else {})


def owning(function):
    """The same in arrays that own their memory, so that only one and the same array overlaps another."""
    return {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in right(function).items()}


def shifted(a, by=1):
    """An array over the memory beside that of a, and most of a's."""
    return np.lib.stride_tricks.as_strided(a.reshape(-1)[by:], a.shape, a.strides)


ARRAYS = {
    "a list": lambda a: a.tolist(),
    "a subclass": lambda a: a.view(np.recarray),
    "masked": np.ma.masked_array,
    "of the other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "misaligned": misaligned,
    "read-only": read_only,
    "of integers": lambda a: a.astype(np.int32),
    "of bool": lambda a: a > 0,
    "of another float type": lambda a: a.astype(np.float16),
    "in another order": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "shorter": lambda a: a[..., 1:].copy(),
    "none": lambda a: None,
    "overlapping itself": lambda a: np.broadcast_to(a[..., :1], a.shape),
}
NUMBERS = {
    "eps": (0.0, -0.0, True, 1, 1.0, np.float64(1e-5), -1.0, float("nan"), "1e-5", None, [1e-5]),
    "momentum": (True, 1, float("inf"), "0.1", None, np.zeros(1)),
    "axis": (1, True, 1.0, -2, 0, 7, "1", None, [1], np.int64(1)),
    "num_groups": (True, 1.0, 3, "1", [1], None),
    "training": (True, 1, 0, [], "yes"),
}
ODD = {
    f"{name} {how}": lambda named, name=name, change=change: {name: change(named[name])}
    for name in ("x", "dy", "weight", "bias", "mean", "rstd", "running_mean", "running_var", "out")
    for how, change in ARRAYS.items()
} | {f"{name} {v!r}": lambda named, name=name, v=v: {name: v} for name, values in NUMBERS.items() for v in values}
SHIFTED = {
    f"{name} over {other}": lambda named, name=name, other=other: {name: shifted(named[other])}
    for name, other in (("out", "x"), ("out", "dy"), ("running_var", "running_mean"), ("running_mean", "weight"))
}
ODD |= {
    "out is weight's memory": lambda named: {"weight": named["out"].reshape(-1)[:CHANNELS]},
    "weight is running": lambda named: {"weight": named["running_mean"]},
    "one running array twice": lambda named: {"running_var": named["running_mean"]},
    "out is rstd's memory": lambda named: {"rstd": named["out"].reshape(-1)[: 2 * CHANNELS].view(np.float64)},
    "out is x": lambda named: {"out": named["x"]},
    "out is dy": lambda named: {"out": named["dy"]},
    "out and x are dy": lambda named: {"out": named["dy"], "x": named["dy"]},
    "one value a channel": lambda named: {"x": named["x"][:1, :, :1].copy(), "out": None},
}


def outcome(function, named):
    """What a call returns and leaves behind, or the error, and all arrays as they are then."""
    with np.errstate(all="ignore"):
        try:
            result = getattr(fastbn, function)(**named)
        except (TypeError, ValueError) as error:
            result = type(error).__name__, str(error)
    results = result if isinstance(result, tuple) else (result,)
    values = [*results, *(v for v in named.values() if isinstance(v, np.ndarray))]
    return [(v.dtype, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in values]


@pytest.mark.full
@pytest.mark.parametrize("named_for", [right, owning])
@pytest.mark.parametrize("function", ["batch_norm", "batch_norm_forward", "group_norm", "batch_norm_backward"])
def test_an_odd_call_after_an_ordinary_one_goes_as_without_it(function, named_for):
    refused = 0
    for change in (ODD if named_for is owning else ODD | SHIFTED).values():
        for training in (False, True) if function == "batch_norm" else (None,):
            extra = {} if training is None else {"training": training}

            def odd(change=change, extra=extra):
                named = named_for(function) | extra
                return named | change(named)

            try:
                odd()
            except KeyError:  # not an argument of this function
                continue
            remembered.forget()
            expected = outcome(function, odd())
            assert outcome(function, odd()) == expected
            remembered.forget()
            outcome(function, named_for(function) | extra)
            assert remembered.number() == 1
            assert outcome(function, odd()) == expected
            refused += isinstance(expected[0], str)
    assert refused > 20


@pytest.mark.parametrize("own", [True, False])
def test_no_weight_is_written_over(own):
    x, weight, bias, out = (np.linspace(1, 2, 16, dtype=np.float32) + k for k in range(4))
    if not own:
        x, weight, bias, out = (v[:] for v in (x, weight, bias, out))
    fastbn.layer_norm(x, 16, weight, bias, out=out)
    for taken in (weight, bias):
        with pytest.raises(ValueError, match="out overlaps"):
            fastbn.layer_norm(x, 16, weight, bias, out=taken)
    with pytest.raises(ValueError, match="out overlaps"):
        fastbn.layer_norm(x, 16, x, bias, out=x)


def test_a_layer_norm_of_another_kind_is_not_taken_for_the_first():
    x = np.linspace(0, 1, 64, dtype=np.float32).reshape(4, 1, 16)
    fastbn.layer_norm(x, (1, 16))
    for wrong in ((True, 16.0), (1.0, 16), "16", (2, 16)):
        with pytest.raises((TypeError, ValueError), match="normalized_shape"):
            fastbn.layer_norm(x, wrong)
    _, rstd = fastbn.rms_norm_forward(x, 16)
    fastbn.rms_norm_backward(x, x, rstd)
    with pytest.raises(ValueError, match="mean is None"):
        fastbn.layer_norm_backward(x, x, None, rstd)


def test_as_many_calls_are_remembered_as_there_is_room_for(monkeypatch):
    remembered.at_most(4, monkeypatch)
    for n in range(2, 20):
        fastbn.layer_norm(np.ones((1, n), np.float32), n)
        assert 1 <= remembered.number() <= 4


@pytest.mark.full
@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (32, 8, 40, 40)], ids=["small", "large"])
@pytest.mark.parametrize("axis", [1, 3])
def test_a_remembered_call_keeps_no_array(shape, axis):
    x, dy = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    arrays = x.copy(), dy.copy()
    references = [weakref.ref(a) for a in arrays]
    for _ in range(2):
        _, mean, rstd = fastbn.batch_norm_forward(arrays[0], axis=axis)
        fastbn.batch_norm(arrays[0], mean, rstd, axis=axis)
        fastbn.batch_norm_backward(arrays[1], arrays[0], mean, rstd, axis=axis)
    del arrays
    assert remembered.number()
    assert [reference() for reference in references] == [None, None]


class Build:
    """One build of a driver: compiled for types, for which it has an entry."""

    def __init__(self):
        self.types = []

    def compile(self, types):
        self.types.append(types)
        return lambda *args: calls.append(args)

    def __call__(self, x, w, extras):
        raise AssertionError("called itself, where there is an entry")


calls = []


def test_each_build_is_compiled_once_for_types_that_any_array_of_a_kind_has():
    serial, parallel = Build(), Build()
    kernel = Entries(Driver(serial, parallel))
    for a in (np.ones(3, np.float16), read_only(np.ones(4, np.float16))):
        for way in (False, True, True):
            kernel(way, (a, None, (a, 1.0)))
    integers = numba.types.Array(numba.uint16, 1, "C")
    expected = integers, numba.none, numba.types.Tuple((integers, numba.float64))
    assert serial.types == parallel.types == [expected]
    assert len(calls) == 6
    calls.clear()


def test_plain_python_gets_the_bits_of_half_precision():
    taken = []
    kernel = Entries(Driver(lambda x, mask, w, extras: taken.extend((x, mask, w, extras)), None))
    kernel(False, (np.ones(3, np.float16), np.ones(3, bool), None, (np.ones(3), 2)))
    assert [getattr(v, "dtype", None) for v in taken] == [np.uint16, np.uint8, None, None]


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_what_numba_compiled_has_an_entry():
    """Where Numba keeps it has moved if this fails: calls then are as right as before, but slower."""
    x, y, plan, statistics = np.ones(4), np.empty(4), np.array([1, 1, 1, 4, 4, 1, 0, 0]), np.zeros(1)
    args = plan, x, y, None, None, None, statistics, statistics, None
    kernel = Entries(runs.scale)
    kernel(False, args)
    assert kernel[False] is runs.scale.serial.overloads[tuple(numba.typeof(a) for a in args)].entry_point


# Fused calls and arrays of other kinds --------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.parametrize(
    "change",
    [
        lambda a: read_only(a),
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        lambda a: np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1),
        lambda a: a[::-1].copy()[::-1],
    ],
    ids=["read-only", "strided", "channels last", "backwards"],
)
@pytest.mark.parametrize("extras", [{}, {"activation": "relu"}, {"residual": True, "activation": "gelu"}], ids=str)
def test_calls_of_every_kind_have_a_plan(change, extras, monkeypatch):
    rng = np.random.default_rng(0)
    x, dy, residual = (change(rng.standard_normal((3, 6, 4, 5)).astype(np.float32)) for _ in range(3))
    named = extras | ({"residual": residual} if "residual" in extras else {})
    running = np.zeros(6), np.ones(6)

    def everything():
        y, mean, rstd = fastbn.group_norm_forward(x, 3, **named)
        found = [y, mean, rstd, *fastbn.group_norm_backward(dy, x, mean, rstd, **named)]
        return [*found, fastbn.batch_norm(x, *running, **named), fastbn.batch_norm(x, training=True, **named)]

    first = everything()
    with monkeypatch.context() as patched:
        patched.setattr(arguments, "array", refuse)
        second = everything()
    for a, b in zip(first, second, strict=True):
        assert_same_bits(a, b)
        assert a.strides == b.strides


def test_a_masked_call_has_a_plan_and_its_mask_is_looked_at(monkeypatch):
    x, where = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32), np.ones((4, 3), bool)
    first = fastbn.batch_norm(x, training=True, where=where)
    monkeypatch.setattr(arguments, "array", refuse)
    assert_same_bits(fastbn.batch_norm(x, training=True, where=where), first)
    with pytest.raises(ValueError, match="where leaves 1 of the values of channel 1"):
        fastbn.batch_norm(x, training=True, where=where & (np.arange(4)[:, None] < [[4, 1, 4]]))


def test_plans_are_counted():
    fastbn.layer_norm(np.ones((2, 5)), 5)
    assert remembered.number() == 1
