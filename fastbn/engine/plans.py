"""Every call: plan, then run.

What decides about a call (the operation, its settings, and shape, dtype and memory of every operand) is looked up; the
plan found, or made and kept, runs on the operands.  All errors are raised while a plan is made, but for those of
overlap and of what only the elements tell.  A plan holds no operand, and nothing in it depends on a thread or a fork.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn.engine import arguments, entries
from fastbn.kernels import likeness
from fastbn.kernels.likeness import ALIKE, DIFFERENT

MOST = 2048  # plans that are kept

_MOST_OF_A_SHAPE = 16  # of one operation, which differ by dtypes, memory, and which operands there are

# By operation, settings, and the shape of the first operand:
_recent: dict[Any, tuple["Plan", ...]] = {}  # plans used since
_older: dict[Any, tuple["Plan", ...]] = {}  # these were put aside, of which what is used again comes back
_many = 0  # that are in the former

_alike: Any = None  # `likeness.alike`, compiled when the first plan is kept
_NONE = object(), None, None, False

_unusual: dict[Any, Any] = {}  # dtypes of the other byte order: of equal ones, the object that plans tell them by

_operations: list["Operation"] = []

elsewhere: list[dict[Any, Any]] = []  # what others keep of calls

_ndarray = np.ndarray


class Plan:
    """How to do all calls like one."""

    __slots__ = ("kinds", "noted", "own", "run")

    def __init__(self, run: Callable[..., Any], own: bool) -> None:
        self.run = run  # takes the operands
        self.own = own  # whether all of them own their memory, so that only one and the same overlaps another
        self.noted: Any = None  # what operands are compared to, see `likeness`,
        self.kinds: Any = None  # and the settings and dtypes of which that tells where they, or their types, lie


class Operation:
    """What a public function does."""

    __slots__ = ("check", "last", "make", "names", "same", "written")

    def __init__(
        self, names: str, check: Callable[..., Any], make: Callable[..., Any], same: int = 1, written: str = "out"
    ) -> None:
        self.names = tuple(names.split())  # of the operands: three and others, the last of which is "out"
        self.check = check  # (settings, all operands) -> operands as they are planned for, specification
        self.make = make  # (specification, all operands) -> what runs the plan: a function of three operands and others
        self.same = same  # "out" may be one of so many first operands
        self.written = tuple(k for k, name in enumerate(self.names) if name in written.split())
        self.last: Any = _NONE  # settings of the last call, and of its plan what is asked for in the next one
        _operations.append(self)

    def all(self, a: Any, b: Any, c: Any, others: tuple[Any, ...] | None) -> tuple[Any, ...]:
        return (a, b, c, *((None,) * (len(self.names) - 3) if others is None else others))


def call(
    operation: Operation, settings: Any, a: Any, b: Any, c: Any, others: Any = None, specification: Any = None
) -> Any:
    """Do the operation on three operands, the last two of which may be None, and others; None: all of these are.

    settings: of types that need no check.  specification: what `operation.check` made of both, where it was asked.
    """
    known, noted, run, own = operation.last
    try:
        like = settings == known and _alike(noted, settings, a, b, c, others)
    except ValueError:  # an array, which cannot be a setting, is not compared
        like = DIFFERENT
    if like == ALIKE:
        return run(a, b, c, others)
    if not like:
        plan = _find(operation, settings, a, b, c, others)
        if plan is None:
            return _first(operation, settings, a, b, c, others, specification)
        _, noted, run, own = operation.last = settings, plan.noted, plan.run, plan.own
        like = _alike(noted, settings, a, b, c, others)
    if like != ALIKE:
        check_apart(operation, operation.all(a, b, c, others), own)
    return run(a, b, c, others)


def _first(operation: Operation, settings: Any, a: Any, b: Any, c: Any, others: Any, specification: Any) -> Any:
    """A call of which there is no plan."""
    operands = operation.all(a, b, c, others)
    alike = _of_known_dtypes(operands)
    if alike is not operands:
        return _in_their_place(operation, settings, operands, alike, specification)
    if specification is None:
        checked, specification = operation.check(settings, operands)
        check_apart(operation, operands)
        out = checked[-1]
        if out is not None and type(out) is not _ndarray:  # a matrix, say, which would stay two-dimensional
            checked = *checked[:-1], np.asarray(out)
        if any(v is not u for v, u in zip(checked, operands, strict=True)):
            return _in_their_place(operation, settings, operands, checked, specification)
    own = all(v is None or v.flags.owndata for v in operands)
    plan = Plan(operation.make(specification, operands), own)
    check_apart(operation, operands, own)
    result = plan.run(a, b, c, others)
    if all(v is None or type(v) is _ndarray for v in operands):
        _keep(operation, settings, plan, a, b, c, others)  # once it has come to its end
    return result


def _of_known_dtypes(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands, or views of them where a dtype is another object than the equal one that plans tell it by.

    That of an array which was unpickled, or has the other byte order, is an object of its own.
    """
    views = {}
    for v in operands:
        if type(v) is _ndarray and (known := _known(v.dtype)) is not v.dtype:
            views[id(v)] = v.view(known)
    return tuple(views.get(id(v), v) for v in operands) if views else operands


def _known(dtype: Any) -> Any:
    usual = np.dtype(dtype.type)
    return usual if usual == dtype else _unusual.get(dtype, dtype)


def _in_their_place(
    operation: Operation, settings: Any, operands: tuple[Any, ...], others: tuple[Any, ...], specification: Any
) -> Any:
    """The call on others than the caller's operands, whose own "out" is returned for one over its memory."""
    a, b, c, *rest = others
    result = call(operation, settings, a, b, c, tuple(rest), specification)
    out, plain = operands[-1], others[-1]
    if plain is not out and isinstance(result, tuple):
        return tuple(out if v is plain else v for v in result)
    return out if result is plain else result


def _find(operation: Operation, settings: Any, a: Any, b: Any, c: Any, others: Any) -> Plan | None:
    """The plan of an earlier call than the last one of its operation."""
    global _many
    if type(a) is not _ndarray:
        return None
    place = operation, settings, a.shape
    try:
        plans = _recent.get(place)
        if plans is None:
            plans = _older.pop(place, None)
            if plans is None:
                return None
            _recent[place] = plans
            _many += len(plans)
    except TypeError:  # something that cannot be a setting
        return None
    for plan in plans:
        if _alike(plan.noted, settings, a, b, c, others):
            return plan
    return None


def _keep(operation: Operation, settings: Any, plan: Plan, a: Any, b: Any, c: Any, others: Any) -> None:
    global _alike, _recent, _older, _many
    operands = operation.all(a, b, c, others)
    written = [k - 3 for k in operation.written if operands[k] is not None]
    dtypes = [v.dtype for v in operands if v is not None]
    plan.noted = likeness.noted(settings, a, b, c, others, written, plan.own)
    plan.kinds = settings, dtypes
    for dtype in dtypes:
        if not dtype.isnative:
            _unusual.setdefault(dtype, dtype)
    if _alike is None:
        _alike = entries.comparing(plan.noted)
    if _many >= MOST // 2:
        _recent, _older, _many = {}, _recent, 0
    place = operation, settings, a.shape
    try:
        _recent[place] = plan, *_recent.get(place, ())[: _MOST_OF_A_SHAPE - 1]
    except TypeError:
        return
    _many += 1
    operation.last = settings, plan.noted, plan.run, plan.own


def check_apart(operation: Operation, operands: tuple[Any, ...], own: bool = False) -> None:
    """Raise where an operand that is written to overlaps another; own: whether all own their memory."""
    out = len(operands) - 1
    for k in operation.written:
        a = operands[k]
        if not isinstance(a, _ndarray):
            continue
        for i, b in enumerate(operands):
            if i == k or b is None or (i == out and k != out):
                continue
            if i < operation.same and k == out and arguments.same_memory(a, b):
                continue
            if (a is b and a.size) or (not own and arguments.overlap(a, b)):
                written, other = operation.names[k], operation.names[i]
                raise ValueError(f"{written} overlaps {other}; expected memory of its own")


def count() -> int:
    """How many plans are kept."""
    return sum(map(len, (*_recent.values(), *_older.values())))


def clear() -> None:
    """Keep none."""
    global _many
    _many = 0
    for kept in (_recent, _older, *elsewhere):
        kept.clear()
    for operation in _operations:
        operation.last = _NONE
