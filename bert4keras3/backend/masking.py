"""Masks on sequences and the normalization of attention scores."""

import numpy as np

from bert4keras3 import ops
from bert4keras3.backend.shapes import align, dtype


def sequence_masking(x, mask=None, value=0, axis=None, bias=None, return_mask=False):
    """Replace masked positions of a tensor by a value.

    Args:
        x: `(batch, ..., length, ...)`.
        mask: `(batch, length)`, True or nonzero where x is kept.
        value: what masked entries become: a number, `'inf'` or `'-inf'`.
        axis: the axis or axes the mask's length lies on, 1 by default.
        bias: broadcastable to x; a bool bias is a further mask, a float one is
            added to x before masking.
        return_mask: also return the combined mask, broadcastable to x.

    Returns:
        x masked, or `(x, mask)`; the mask is None where there was nothing to mask.
    """
    full = _combined_mask(x, mask, axis, bias)
    if bias is not None and dtype(bias) != "bool":
        x = x + ops.cast(bias, x.dtype)
    if full is not None:
        x = ops.where(full, x, ops.cast(float(value), x.dtype))
    return (x, full) if return_mask else x


def get_sequence_masking(x, mask=None, value=0, axis=None, bias=None, return_mask=False):
    """The combined mask `sequence_masking` would use, int32; the bias counts as a mask."""
    bias = None if bias is None else ops.cast(bias, "bool")
    full = _combined_mask(x, mask, axis, bias)
    return None if full is None else ops.cast(full, "int32")


def _combined_mask(x, mask, axis, bias):
    ndim = len(x.shape)
    axes = axis if isinstance(axis, (list, tuple)) else [1 if axis is None else axis]
    masks = []
    if mask is not None:
        mask = mask if dtype(mask) == "bool" else ops.cast(mask, "bool")
        masks = [align(mask, [0, a % ndim], ndim) for a in axes]
    if bias is not None and dtype(bias) == "bool":
        masks.append(bias)
    full = None
    for m in masks:
        full = m if full is None else ops.logical_and(full, m)
    return full


def attention_normalize(a, mask=None, axis=-1, method="softmax", bias=None):
    """Turn attention scores into weights.

    Args:
        a: scores, the keys on `axis`.
        mask: `(batch, keys)`, True for keys that may be seen.
        axis: the axis of the keys.
        method: `'softmax'`; `'softmax-fp32'` (the same in float32);
            `'softmax_plus'` (scores grow with the number of visible keys,
            https://kexue.fm/archives/9019); `'squared_relu'` (relu² over their
            number, https://arxiv.org/abs/2202.10447).
        bias: broadcastable to a; bool masks, float is added.

    Returns:
        Weights of the shape and dtype of `a`; keys not to be seen get exactly
        0, and a row that sees nothing is all zeros.

    Raises:
        ValueError: an unknown method.
    """
    result_dtype = dtype(a)
    if method == "softmax-fp32":
        a = ops.cast(a, "float32")
    a, visible = sequence_masking(a, mask, ops.lowest(dtype(a)), axis, bias, return_mask=True)
    if method in ("softmax", "softmax-fp32"):
        a = ops.softmax(a, axis=axis)
    elif method == "squared_relu":
        a = ops.square(ops.relu(a)) / ops.maximum(_count(a, visible, axis), 1)
    elif method == "softmax_plus":
        scale = ops.log(ops.maximum(_count(a, visible, axis), 16.0)) / float(np.log(512))
        a = ops.softmax(a * scale, axis=axis)
    else:
        raise ValueError(
            f"unknown attention normalization {method!r}: expected 'softmax', "
            "'softmax-fp32', 'softmax_plus' or 'squared_relu'"
        )
    if visible is not None:
        a = ops.where(visible, a, ops.cast(0, a.dtype))
    return ops.cast(a, result_dtype)


def _count(a, visible, axis):
    """How many keys each query sees, ready to divide or scale `a`."""
    if visible is None:
        return ops.cast(ops.shape(a)[axis], a.dtype)
    return ops.sum(ops.cast(visible, a.dtype), axis=axis, keepdims=True)
