"""The operations on arrays: each as y alone, as `_forward` with its statistics, and as `_backward`.

What holds for all of them:

Arrays
    x is anything that NumPy reads as an array of float16, bfloat16 (of ml_dtypes), float32 or float64: strided,
    read-only, memory-mapped, misaligned, of either byte order, but not masked.  Weights and statistics may have any
    float dtype.
    The result is an ndarray of x's shape and dtype.  Channels first and channels last are read where they lie, and the
    result lies in memory in the same order.
Accuracy
    Sums are taken in float64, of a few float32 terms each where that is as good: in forward about an element of the
    group (RMS norm: about 0), so that a large mean costs no digits and a constant group becomes exactly its bias [1]_.
    y and dx are computed in float32 for float16, bfloat16 and float32 x, in float64 for float64 x, and rounded once to
    x's dtype.  dweight and dbias have the dtype of weight; without a weight, the one computed in.  mean and rstd are
    float64.
Bits
    No result depends in any bit on the number of threads or on the processor; only NaN may be another NaN.
activation
    A function that is applied to y in the same pass over memory: "relu", "leaky_relu" (or, with its slope,
    ("leaky_relu", 0.01)), "sigmoid", "silu", "gelu" or "gelu_tanh", the common approximation of gelu.  Nothing is kept
    for backward, which computes it again, from x and the arguments of the forward, bias and residual among them.
residual
    Has the shape and dtype of x and is added to y before the activation.  Its gradient is the last that backward
    returns.
where
    A mask: bool, of a shape that broadcasts to that of x.  Where it is false, elements count in no statistic and in no
    gradient, and y and dx are 0.  Statistics of a group without any element are NaN.
y
    Backward can start from y, with None for x, so that x need not be kept.  Then weight must have no zeros, and the
    activation, if any, must be "leaky_relu"; in half precision this costs one more rounding.
out
    The array that the result is written to, which is returned.  It has x's shape and dtype and any memory order; it may
    be x itself, in backward also dy, but must not overlap an argument otherwise.
Errors
    They are raised before anything is written.
Units
    mean has the unit of x, eps its square, rstd its inverse; so (x - mean) * rstd has none, and y has that of weight
    and bias.

References
----------
.. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for Computing the Sample Variance: Analysis and
   Recommendations", The American Statistician 37(3), 1983, pp. 242-247.
"""

from fastbn.norms.add import (
    add_layer_norm,
    add_layer_norm_backward,
    add_layer_norm_forward,
    add_rms_norm,
    add_rms_norm_backward,
    add_rms_norm_forward,
)
from fastbn.norms.batch import batch_norm, batch_norm_backward, batch_norm_forward
from fastbn.norms.group import group_norm, group_norm_backward, group_norm_forward
from fastbn.norms.instance import instance_norm, instance_norm_backward, instance_norm_forward
from fastbn.norms.shared import Activation as Activation
from fastbn.norms.shared import ActivationName as ActivationName
from fastbn.norms.shared import Array as Array
from fastbn.norms.shared import Statistics as Statistics
from fastbn.norms.trailing import (
    layer_norm,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm,
    rms_norm_backward,
    rms_norm_forward,
)

__all__ = [
    "add_layer_norm",
    "add_layer_norm_backward",
    "add_layer_norm_forward",
    "add_rms_norm",
    "add_rms_norm_backward",
    "add_rms_norm_forward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_forward",
    "group_norm",
    "group_norm_backward",
    "group_norm_forward",
    "instance_norm",
    "instance_norm_backward",
    "instance_norm_forward",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_forward",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_forward",
]
