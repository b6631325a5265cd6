"""Every call: plan, then run.

What decides about a call (the operation, its settings, and shape, dtype and memory of every operand) is looked up; the
plan found, or made and kept, runs on the operands.  All errors are raised while a plan is made, but for those of
overlap and of what only the elements tell.  A plan holds no operand, and nothing in it depends on a thread or a fork.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

MOST = 2048  # plans that are kept

_recent: dict[Any, "Plan"] = {}  # those used since
_older: dict[Any, "Plan"] = {}  # these were put aside, of which what is used again comes back

_NONE = None, None

_operations: list["Operation"] = []

elsewhere: list[dict[Any, Any]] = []  # what others keep of calls

_ndarray = np.ndarray


class Plan:
    """How to do all calls like one."""

    __slots__ = ("own", "run")

    def __init__(self, run: Callable[..., Any], own: bool) -> None:
        self.run = run  # takes the operands
        self.own = own  # whether all of them own their memory, so that only one and the same overlaps another


class Operation:
    """What a public function does."""

    __slots__ = ("check", "last", "make", "most", "names", "same", "updates", "written")

    def __init__(self, names: str, check: Callable[..., Any], make: Callable[..., Any], same: int = 1) -> None:
        self.names = tuple(names.split())  # of the operands: three and others, the last of which is "out"
        self.check = check  # (settings, all operands) -> operands as they are planned for, specification
        self.make = make  # (specification, all operands) -> what runs the plan: a function of three operands and others
        self.same = same  # "out" may be one of so many first operands
        self.most = len(self.names) - 3  # others
        self.updates = "running_mean" in self.names
        self.written = tuple(k for k, name in enumerate(self.names) if name in ("running_mean", "running_var", "out"))
        self.last: Any = _NONE  # key and plan of the last call: to compare keys takes a third of looking one up
        _operations.append(self)

    def all(self, a: Any, b: Any, c: Any, others: tuple[Any, ...] | None) -> tuple[Any, ...]:
        """All operands, with None for those that were left out at the end."""
        given = (a, b, c) if others is None else (a, b, c, *others)
        return given + (None,) * (len(self.names) - len(given))


def call(
    operation: Operation, settings: Any, a: Any, b: Any, c: Any, others: Any = None, specification: Any = None
) -> Any:
    """Do the operation on three operands, the last two of which may be None, and others, left out where they are None.

    settings: of types that need no check.  specification: what `operation.check` made of both, where it was asked.
    """
    if type(a) is not _ndarray or not (b is None or type(b) is _ndarray) or not (c is None or type(c) is _ndarray):
        return _first(operation, settings, operation.all(a, b, c, others), None, specification)
    contiguous = flags = a.flags.num
    key: Any
    key_b: Any = None
    key_c: Any = None
    key_others: Any = None
    if b is not None:
        contiguous &= (of_b := b.flags.num)
        key_b = b.shape, b.dtype, of_b
    if c is not None:
        contiguous &= (of_c := c.flags.num)
        key_c = c.shape, c.dtype, of_c
    if others is not None:
        u, v = others[0], others[1]
        if len(others) == 2 and type(u) is _ndarray and type(v) is _ndarray:
            of_u, of_v = u.flags.num, v.flags.num
            contiguous &= of_u & of_v
            key_others = u.shape, u.dtype, of_u, v.shape, v.dtype, of_v
        else:
            of_others: list[Any] = []
            for v in others:
                if v is None:
                    of_others.append(None)
                elif type(v) is _ndarray:
                    of_v = v.flags.num
                    contiguous &= of_v
                    of_others += v.shape, v.dtype, of_v
                else:
                    return _first(operation, settings, operation.all(a, b, c, others), None, specification)
            key_others = tuple(of_others)
    key = settings, a.shape, a.dtype, flags, key_b, key_c, key_others
    if not contiguous & 1:
        key = *key, *(None if v is None else v.strides for v in operation.all(a, b, c, others))
    last, plan = operation.last
    try:
        if key != last:
            plan = _find(operation, key)
    except ValueError:  # an array, which cannot be a setting, is not compared
        key = plan = None
    if plan is None:
        return _first(operation, settings, operation.all(a, b, c, others), key, specification)
    written = others is not None and (operation.updates or (len(others) == operation.most and others[-1] is not None))
    if written and (not plan.own or _repeated(operation, a, b, c, others)):
        check_apart(operation, operation.all(a, b, c, others), plan.own)
    return plan.run(a, b, c, others)


def _first(operation: Operation, settings: Any, operands: tuple[Any, ...], key: Any, specification: Any) -> Any:
    """A call of which there is no plan; key: None where an operand is no ordinary array."""
    if specification is None:
        checked, specification = operation.check(settings, operands)
        check_apart(operation, operands)
        out = checked[-1]
        if out is not None and type(out) is not _ndarray:  # a matrix, say, which would stay two-dimensional
            checked = *checked[:-1], np.asarray(out)
        if any(a is not b for a, b in zip(checked, operands, strict=True)):
            a, b, c, *others = checked
            result = call(operation, settings, a, b, c, tuple(others), specification)
            return result if checked[-1] is out else _in_place_of(checked[-1], out, result)
    own = all(a is None or a.flags.owndata for a in operands)
    plan = Plan(operation.make(specification, operands), own)
    check_apart(operation, operands, own)
    result = plan.run(*operands[:3], operands[3:])
    if key is not None:  # kept once it has come to its end
        _keep(operation, key, plan)
    return result


def _in_place_of(plain: Any, out: Any, result: Any) -> Any:
    """What a call returned, with the caller's own array for the plain one over its memory."""
    if isinstance(result, tuple):
        return tuple(out if v is plain else v for v in result)
    return out if result is plain else result


def _find(operation: Operation, key: tuple[Any, ...]) -> Plan | None:
    """The plan of an earlier call than the last one of its operation."""
    try:
        found = _recent.get((operation, *key))
        if found is None:
            found = _older.pop((operation, *key), None)
            if found is None:
                return None
            _keep(operation, key, found)
        operation.last = key, found
        return found
    except TypeError:  # something that cannot be a setting
        return None


def _keep(operation: Operation, key: tuple[Any, ...], plan: Plan) -> None:
    global _recent, _older
    try:
        if len(_recent) >= MOST // 2:
            _recent, _older = {}, _recent
        _recent[(operation, *key)] = plan
    except TypeError:
        return
    operation.last = key, plan


def _repeated(operation: Operation, a: Any, b: Any, c: Any, others: tuple[Any, ...]) -> bool:
    """Whether an operand that is written to is there twice, as out may be."""
    for k in operation.written:
        if k - 3 < len(others):
            v, times = others[k - 3], (others[k - 3] is a) + (others[k - 3] is b) + (others[k - 3] is c)
            for u in others:
                if u is v:
                    times += 1
            if times > 1 and v is not None:
                return True
    return False


def check_apart(operation: Operation, operands: tuple[Any, ...], own: bool = False) -> None:
    """Raise where an operand that is written to overlaps another; own: whether all own their memory."""
    out = len(operands) - 1
    for k in operation.written:
        a = operands[k]
        if not isinstance(a, _ndarray):
            continue
        for i, b in enumerate(operands):
            if i == k or b is None or (i == out and k != out) or (i < operation.same and k == out and _same(a, b)):
                continue
            if (a is b and a.size) or (not own and _overlap(a, b)):
                raise ValueError(f"{operation.names[k]} overlaps another argument; expected memory of its own")


def _overlap(a: Any, b: Any) -> bool:
    return isinstance(b, _ndarray) and bool(np.may_share_memory(a, b)) and bool(np.shares_memory(a, b))


def _same(a: Any, b: Any) -> bool:
    """Whether both are the same elements."""
    if a is b or not isinstance(b, _ndarray):
        return a is b
    first, second = (v.__array_interface__["data"][0] for v in (a, b))
    return bool(a.shape == b.shape and a.strides == b.strides and first == second)


def count() -> int:
    """How many plans are kept."""
    return len(_recent) + len(_older)


def clear() -> None:
    """Keep none."""
    for kept in (_recent, _older, *elsewhere):
        kept.clear()
    for operation in _operations:
        operation.last = _NONE
