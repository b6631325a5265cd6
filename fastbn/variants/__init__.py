"""Variants of the normalizations, composed of the operations of `fastbn.functional`.

What is said there about arrays, accuracy, bits, `out` and errors holds here too.  Axis 0 of x counts the samples.
Where copies are needed, they are of a few samples at a time.
"""

from fastbn.variants.ghost import ghost_batch_norm_backward, ghost_batch_norm_forward
from fastbn.variants.ghost import ghost_batch_norm_with_running as ghost_batch_norm_with_running
from fastbn.variants.local import local_response_norm, local_response_norm_backward
from fastbn.variants.over_channels import (
    channel_layer_norm,
    channel_layer_norm_backward,
    channel_layer_norm_forward,
    channel_rms_norm,
    channel_rms_norm_backward,
    channel_rms_norm_forward,
)
from fastbn.variants.renorm import batch_renorm_backward, batch_renorm_forward
from fastbn.variants.renorm import batch_renorm_with_running as batch_renorm_with_running
from fastbn.variants.response import (
    filter_response_norm,
    filter_response_norm_backward,
    filter_response_norm_forward,
    global_response_norm,
    global_response_norm_backward,
    global_response_norm_forward,
)
from fastbn.variants.weights import (
    weight_standardization,
    weight_standardization_backward,
    weight_standardization_forward,
)

__all__ = [
    "batch_renorm_backward",
    "batch_renorm_forward",
    "channel_layer_norm",
    "channel_layer_norm_backward",
    "channel_layer_norm_forward",
    "channel_rms_norm",
    "channel_rms_norm_backward",
    "channel_rms_norm_forward",
    "filter_response_norm",
    "filter_response_norm_backward",
    "filter_response_norm_forward",
    "ghost_batch_norm_backward",
    "ghost_batch_norm_forward",
    "global_response_norm",
    "global_response_norm_backward",
    "global_response_norm_forward",
    "local_response_norm",
    "local_response_norm_backward",
    "weight_standardization",
    "weight_standardization_backward",
    "weight_standardization_forward",
]
