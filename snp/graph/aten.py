"""Which ATen operators are alike to units?  Tables of names for the rules; element-wise ones carry a tag of PyTorch."""

from __future__ import annotations

__all__ = ["ALIKE", "ALONG", "FILLED", "PER_CHANNEL", "REDUCING", "SHAPE"]

# One value per element of the first argument, whatever the others are; without the tag of element-wise operators.
ALIKE = """
    alias clone contiguous detach dropout feature_dropout alpha_dropout to _to_copy type_as lift_fresh_copy
    softsign log_sigmoid hardswish rrelu real imag resolve_conj resolve_neg
    zeros_like ones_like full_like empty_like fill zero copy
"""
# The same value at every index: made anew in the size that is left.
FILLED = "zeros ones full empty new_zeros new_ones new_full new_empty"
SHAPE = """
    view reshape _unsafe_view permute transpose t flatten unflatten expand unsqueeze squeeze cat stack split
    split_with_sizes chunk unbind select slice narrow roll repeat tile flip movedim swapaxes pixel_shuffle
    channel_shuffle pixel_unshuffle repeat_interleave concat concatenate rot90 broadcast_to view_as reshape_as
    expand_as unfold hstack vstack dstack moveaxis swapdims broadcast_tensors numpy_T mT fliplr flipud
"""
PER_CHANNEL = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_unpool2d max_unpool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa
"""
# Operator -> position of the dimensions along which it makes one value of many.
REDUCING = {
    **dict.fromkeys(
        """mean sum amax amin var std max min logsumexp var_mean std_mean prod any all median nanmedian nansum nanmean
        argmax argmin count_nonzero mode aminmax""".split(),
        1,
    ),
    **dict.fromkeys(("linalg_vector_norm", "norm", "kthvalue"), 2),
}
# Operator -> position of the dimensions along which it mixes values, keeping their number or not.
ALONG = {
    **dict.fromkeys(
        """softmax log_softmax _softmax _log_softmax cumsum cumprod cummax cummin logcumsumexp sort argsort
        fft_fftshift fft_ifftshift""".split(),
        1,
    ),
    **dict.fromkeys(
        """topk fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2
        fft_fftn fft_ifftn fft_rfftn fft_irfftn""".split(),
        2,
    ),
}
