#!/usr/bin/env bash
# torch 2.13.0.  A forward hook of all modules that is given keyword arguments is removed by its handle and is not called
# any more.  But torch goes on holding that there is one: every call of a compiled module takes the way with hooks, and
# warns.  One would expect a removed hook to leave nothing; one without keyword arguments does.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torch==2.13.0 numpy==2.4.6
expect 'without keyword arguments: calls 1, warnings 0
with keyword arguments: calls 1, warnings 1' <<'PY'
import warnings

import torch
from torch.nn.modules.module import register_module_forward_hook

for named in (False, True):
    called = []
    handle = register_module_forward_hook(lambda *seen: called.append(seen), with_kwargs=named)
    torch.nn.Identity()(torch.ones(2))
    handle.remove()
    compiled = torch.compile(torch.nn.Identity(), backend="eager")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        compiled(torch.ones(2))
    about_hooks = [w for w in told if "global hooks" in str(w.message)]
    print(f"{'with' if named else 'without'} keyword arguments: calls {len(called)}, warnings {len(about_hooks)}")
PY
