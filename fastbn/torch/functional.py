"""The normalizations of torch.nn.functional on fastbn's kernels, with the activation and the residual sum behind them.

What holds for all of them:

Tensors
    float32, float64, bfloat16 and float16 on the CPU, of any strides.  The result has the strides that torch would give
    it; a large one lives in memory that is used again: see `fastbn.set_memory_pool`.  For all others (other devices,
    function transforms such as vmap, unsuitable arguments) the call goes to torch's own operations, which compute it or
    refuse it in their words.
activation
    "relu", "leaky_relu" (or, with its slope, ("leaky_relu", 0.01)), "sigmoid", "silu", "gelu" or "gelu_tanh", in the
    same pass over memory.  Backward computes it again instead of keeping it.
residual
    A tensor of the shape and dtype of the input that is added before the activation.
Accuracy and bits
    As `fastbn.functional` says: statistics about an element of the group, in float64; the same bits for any number of
    threads.
Derivatives
    Backward by fastbn's kernels; gradients of gradients by torch's operations, float32 in float64.  No forward mode.
"""

from fastbn.torch._channels import batch_norm, group_norm, instance_norm
from fastbn.torch._rows import layer_norm, rms_norm

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]
