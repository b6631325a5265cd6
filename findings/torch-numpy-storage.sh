#!/usr/bin/env bash
# torch 2.13.0: to look at a tensor as a NumPy array, as `numpy()` gives it, changes the tensor for good: its storage can
# never be resized again, not even once the array is gone.  Sharded training frees parameters so, between their uses.
# `torch.utils.dlpack.to_dlpack` and `data_ptr()` of the same tensor change nothing.
# Expected: as long as no array is left, nothing is changed; or a word of it in the documentation of `numpy()`.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install torch==2.13.0 numpy==2.4.6
expect 'data_ptr: freed; DLPack: freed; numpy: RuntimeError' <<'PY'
import torch


def through_dlpack(tensor):
    torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(tensor))


told = []
for name, look in ("data_ptr", torch.Tensor.data_ptr), ("DLPack", through_dlpack), ("numpy", torch.Tensor.numpy):
    tensor = torch.ones(10)
    look(tensor)  # what it returns is gone at once
    try:
        tensor.untyped_storage().resize_(0)
        told.append(f"{name}: freed")
    except RuntimeError as error:
        assert "not resizable" in str(error)
        told.append(f"{name}: RuntimeError")
print("; ".join(told))
PY
