#!/usr/bin/env bash
# autograd 1.9.1, numpy 2.4.6.  NumPy's var and std take the degrees of freedom as ddof or, as the array API standard has it, as correction.
# autograd passes both on to NumPy, so that the value is right, but its gradient knows only ddof: under correction=1 it is that of the
# biased variance.  The same gradient, or an error, was expected of either word.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install autograd==1.9.1 numpy==2.4.6
expect 'var: ddof=1 4.0, gradient [-2.0, 0.0, 2.0]; correction=1 4.0, gradient [-1.33, 0.0, 1.33]
std: ddof=1 2.0, gradient [-0.5, 0.0, 0.5]; correction=1 2.0, gradient [-0.33, 0.0, 0.33]' <<'PY'
import autograd
import autograd.numpy as np

x = np.array([1.0, 3.0, 5.0])
for function in (np.var, np.std):
    told = []
    for word in ("ddof", "correction"):
        gradient = autograd.grad(lambda x: function(x, **{word: 1}))(x)
        told.append(f"{word}=1 {function(x, **{word: 1})}, gradient {gradient.round(2).tolist()}")
    print(f"{function.__name__}: {'; '.join(told)}")
PY
