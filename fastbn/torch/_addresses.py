"""Arrays over the memory of tensors, for the time of a call.

Where a tensor has been made an array by `Tensor.numpy`, torch refuses to resize its storage ever after, as those do who
free and refill parameters in between (FullyShardedDataParallel, say); and in a program, where caches are cold, that way
takes several times as long.  So arrays are made of the address alone.  They do not keep the tensor: nobody keeps one of
them beyond the call, while which the caller has the tensor.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["freed", "over"]

# All memory there is, but for its first byte: NumPy takes a buffer at 0 for none.
_FIRST = 1
_MEMORY: Any = (ctypes.c_char * (2**63 - 1 - _FIRST)).from_address(_FIRST)
_array = np.ndarray


def over(tensor: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The elements of a tensor in the order in which they lie in memory, without gaps between them, as a flat array.

    dtype: NumPy's of the tensor's, or one of as many bytes, for the bits.
    """
    place = tensor.data_ptr()
    if place == 0:
        raise freed()
    return _array(tensor.numel(), dtype, _MEMORY, place - _FIRST)


def freed() -> RuntimeError:
    """What is said of a tensor that lies nowhere, as one whose storage was resized to nothing."""
    return RuntimeError("a tensor of a norm has elements, but its storage has no memory; resize and fill the storage")
