"""When a kernel lets go of Python's lock, and how its thread gets it back.

Numba lets go of it around every call.  A kernel of some microseconds is over before another thread has woken up to take
the lock: of several threads that call such kernels, each wakes the others for nothing, and together they do a third of
the work of one.  So a short kernel keeps the lock where nobody else is known to want it, as NumPy's short operations
do; lets go of it where one other thread does; and hands it on after as many calls as fill some hundred microseconds
where more do.  Those wait in a queue, and one at a time for Python's lock itself, beside whoever else does.

What other threads wait for the lock cannot be asked.  They are suspected for some calls after one of another thread
than the last; if none is seen meanwhile, the lock is left for long enough to wake up once.  Otherwise Python's own rule
holds, by which a thread that waits gets its turn after `sys.getswitchinterval()`, 5 ms.
"""

import ctypes
import os

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

SHORT = 1 << 18  # bytes of the largest array, below which a kernel is short
_SLICE = 6_000_000  # bytes of such arrays after which the lock is handed on; for a call of any size,
_CALL = 8192  # so many are added
_CROWD = 2  # threads that wait, from which on it is done so
_SUSPECTED = 8  # calls for which others may be about, the last of them with a pause,
_PAUSE = 50  # in which the lock is free for so many microseconds
_LONGEST = 20_000  # microseconds in the queue: a thread in front that Python's end has stopped holds up no other

_SYMBOL, _HAND_OVER = "fastbn_lock", "fastbn_hand_over"
# Who stands first in the queue has the lock QUEUE; NEVER is never free.
_QUEUE, _NEVER, _QUEUED, _WAITING, _LAST, _SUSPICION, _WORK = range(7)

# Where Python's end frees nothing, for threads that it has not stopped yet:
_new = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)(("PyMem_RawCalloc", ctypes.pythonapi))
_words = (ctypes.c_int64 * 7).from_address(_new(7, 8))

_allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
_acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(("PyThread_acquire_lock", ctypes.pythonapi))


def _begin():
    """Nobody waits yet; in a forked process the threads that did are gone."""
    _words[:] = _allocate(), _allocate(), 0, 0, 0, 0, 0
    _acquire(_words[_NEVER], 1)


_begin()
llvmlite.binding.add_symbol(_SYMBOL, ctypes.addressof(_words))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)


def waiting():
    """How many threads wait for the lock, and how many of them in the queue."""
    return _words[_WAITING], _words[_QUEUED]


_INT32, _INT64, _VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()
_POINTER = ir.IntType(8).as_pointer()
_KEPT = _INT64(0)  # instead of the state of a thread that let go


def let_go(builder, size):
    """Code that lets go of the lock, or keeps it; its value is for `take_back`.  size: bytes of the largest array."""
    return _call(builder, _INT64(-1), size)


def take_back(builder, state, size):
    """Code that takes the lock back, if it was let go."""
    _call(builder, state, size)


def _call(builder, state, size):
    """`hand_over` from a module of another function, in the way that Numba has its functions called."""
    result, error = cgutils.alloca_once(builder, _INT64), cgutils.alloca_once(builder, _POINTER)
    arguments = result.type, error.type, _INT64, _INT64
    function = _function(builder.module, _HAND_OVER, _INT32, arguments)
    builder.call(function, (result, error, state, size))
    return builder.load(result)


def hand_over(state, size):
    """What `let_go` does, for a state of -1, and `take_back`: compiled once, and called by its name in all kernels."""
    return _handed_over(state, size)


@intrinsic
def _handed_over(typing, state, size):
    def codegen(context, builder, sig, args):
        state, size = args
        goes = _function(builder.module, "let_go", _INT64, (_INT64,), _let_go)
        comes = _function(builder.module, "take_back", _INT64, (_INT64, _INT64), _take_back)
        result = cgutils.alloca_once(builder, _INT64)
        with builder.if_else(builder.icmp_signed("<", state, _INT64(0))) as (first, then):
            with first:
                builder.store(builder.call(goes, (size,)), result)
            with then:
                builder.store(builder.call(comes, (state, size)), result)
        return builder.load(result)

    return types.int64(types.int64, types.int64), codegen


def provide(build):
    """Give kernels the address of `hand_over`, once built: without it, loading one of them would end the process."""
    build.compile((types.int64, types.int64))
    [built] = build.overloads.values()
    address = built.library.get_pointer_to_function(built.fndesc.llvm_func_name)
    llvmlite.binding.add_symbol(_HAND_OVER, address)


def _function(module, name, result, arguments, body=None):
    """A function of this module, or one of Python's."""
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(result, arguments), name)
    if body:
        function.linkage = "internal"
        function.attributes.add("noinline")
        body(_Builder(function.append_basic_block()), *function.args)
    return function


class _Builder(ir.IRBuilder):
    """With the words above, and Python's functions."""

    def place(self, word):
        shared = self.module.globals.get(_SYMBOL) or ir.GlobalVariable(
            self.module, ir.ArrayType(_INT64, len(_words)), _SYMBOL
        )
        return self.gep(shared, (_INT32(0), _INT32(word)), inbounds=True)

    def word(self, word):
        return self.load_atomic(self.place(word), "monotonic", 8)

    def put(self, value, word):
        self.store_atomic(value, self.place(word), "monotonic", 8)

    def lock(self, word):
        return self.inttoptr(self.word(word), _POINTER)

    def is_nothing(self, value):
        return self.icmp_unsigned("==", value, value.type(0))

    def add_to(self, word, number):
        """What it was before."""
        return self.atomic_rmw("add", self.place(word), _INT64(number), "seq_cst")

    def wait(self, word, microseconds):
        """For a lock; 1 if it could be taken in that time."""
        return self.python("PyThread_acquire_lock_timed", _INT32, self.lock(word), _INT64(microseconds), _INT32(0))

    def python(self, name, result, *arguments):
        function = _function(self.module, name, result, [v.type for v in arguments])
        return self.call(function, arguments)


def _let_go(b, size):
    me = b.ptrtoint(b.python("PyThreadState_Get", _POINTER), _INT64)
    with b.if_then(b.icmp_unsigned("!=", me, b.word(_LAST))):
        b.put(me, _LAST)
        b.put(_INT64(_SUSPECTED), _SUSPICION)
        b.put(_INT64(0), _WORK)
    with b.if_then(b.icmp_signed("<", size, _INT64(SHORT))):
        waiting, suspicion = b.word(_WAITING), b.word(_SUSPICION)
        with b.if_then(b.is_nothing(b.or_(waiting, suspicion))):
            b.ret(_KEPT)
        with b.if_else(b.icmp_signed("<", waiting, _INT64(_CROWD))) as (few, crowd):
            with few, b.if_then(b.icmp_signed(">", suspicion, _INT64(1))):
                b.put(b.sub(suspicion, _INT64(1)), _SUSPICION)
            with crowd:
                work = b.add(b.word(_WORK), b.add(size, _INT64(_CALL)))
                b.put(work, _WORK)
                with b.if_then(b.icmp_signed("<", work, _INT64(_SLICE))):
                    b.ret(_KEPT)
    b.put(_INT64(0), _WORK)
    b.ret(b.ptrtoint(b.python("PyEval_SaveThread", _POINTER), _INT64))


def _take_back(b, state, size):
    with b.if_then(b.is_nothing(state)):
        b.ret(_KEPT)
    waiting = b.add_to(_WAITING, 1)
    with b.if_then(b.is_nothing(waiting)), b.if_then(b.icmp_signed("==", b.word(_SUSPICION), _INT64(1))):
        b.put(_INT64(0), _SUSPICION)
        b.wait(_NEVER, _PAUSE)
    joins = b.and_(b.icmp_signed("<", size, _INT64(SHORT)), b.icmp_signed(">=", waiting, _INT64(_CROWD)))
    first = cgutils.alloca_once_value(b, _INT32(0))
    with b.if_then(joins):
        with b.if_then(b.is_nothing(b.add_to(_QUEUED, 1))):  # whoever waits does so for Python's lock already
            b.wait(_NEVER, _PAUSE)
        b.store(b.wait(_QUEUE, _LONGEST), first)
    b.python("PyEval_RestoreThread", _VOID, b.inttoptr(state, _POINTER))
    with b.if_then(joins):
        with b.if_then(b.icmp_signed("!=", b.load(first), _INT32(0))):
            b.python("PyThread_release_lock", _VOID, b.lock(_QUEUE))
        b.add_to(_QUEUED, -1)
    b.add_to(_WAITING, -1)
    b.ret(_KEPT)
