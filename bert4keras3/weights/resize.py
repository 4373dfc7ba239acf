"""Resizing trained weights to another shape (autoresize_weights)."""

import numpy as np


def orthogonally_resize(a, new_shape, window=2):
    """Resize a matrix so that orthogonal rows or columns stay about orthogonal.

    An axis grows by repeating blocks of `window` entries and shrinks by cropping;
    the result keeps the Frobenius norm.

    Args:
        a: an array.
        new_shape: the target shape.
        window: size of the repeated blocks.

    Raises:
        ValueError: an axis that grows is no multiple of the window.
    """
    old = np.asarray(a)
    new = old
    for axis, (before, after) in enumerate(zip(old.shape, new_shape, strict=True)):
        if after > before:
            if before % window:
                raise ValueError(f"cannot grow axis {axis} of {before}: no multiple of {window}")
            blocks = np.split(new, before // window, axis=axis)
            copies = -(-after // before)
            new = np.concatenate([b for b in blocks for _ in range(copies)], axis=axis)
        new = np.take(new, np.arange(after), axis=axis)
    norm = np.linalg.norm(new)
    return new * (np.linalg.norm(old) / norm) if norm else new


def resize_weight(value, shape, scale=1.0):
    """`orthogonally_resize`, then scaled."""
    return (orthogonally_resize(value, shape) * scale).astype(value.dtype)
