#!/usr/bin/env bash
# numba 0.68.1, numpy 2.4.6.  A compiled function that says nothing of error_model or fastmath takes them from whoever
# calls it first, and keeps them: 1 / 0 raises or is infinite, and (1 + 1e16) - 1e16 is 0 or 1, by the order of calls.
# One would expect a function's options to be its own, whoever calls it.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install numba==0.68.1 numpy==2.4.6
expect 'by itself first: ZeroDivisionError, 0.0; after the caller: inf, 1.0' <<'PY'
import numba


def divide(caller_first):
    @numba.njit
    def callee(x):
        return 1.0 / x

    caller = numba.njit(error_model="numpy")(lambda x: callee(x))
    try:
        return [f(0.0) for f in ((caller, callee) if caller_first else (callee,))][-1]
    except ZeroDivisionError as error:
        return type(error).__name__


def absorb(caller_first):
    @numba.njit
    def callee(x):
        return (x + 1e16) - 1e16

    caller = numba.njit(fastmath=True)(lambda x: callee(x))
    return [f(1.0) for f in ((caller, callee) if caller_first else (callee,))][-1]


print(f"by itself first: {divide(False)}, {absorb(False)}; after the caller: {divide(True)}, {absorb(True)}")
PY
