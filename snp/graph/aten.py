"""Which ATen operators are alike to units?  Tables of names for the rules."""

from __future__ import annotations

__all__ = ["POOLING", "SHAPE", "UNARY"]

UNARY = """
    alias clone contiguous detach dropout feature_dropout alpha_dropout to _to_copy type_as lift_fresh_copy
    relu relu6 gelu silu hardswish hardsigmoid sigmoid tanh hardtanh clamp clamp_min clamp_max leaky_relu
    elu selu celu mish softplus exp log sqrt rsqrt neg abs square reciprocal log_sigmoid softsign erf sin cos
"""
SHAPE = """
    view reshape _unsafe_view permute transpose t flatten unflatten expand unsqueeze squeeze cat stack split
    split_with_sizes chunk unbind select slice narrow roll repeat tile flip movedim swapaxes pixel_shuffle
    channel_shuffle pixel_unshuffle repeat_interleave concat rot90 broadcast_to view_as reshape_as expand_as
"""
POOLING = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    upsample_nearest1d upsample_nearest2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d
"""
