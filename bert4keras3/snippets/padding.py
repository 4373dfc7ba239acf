"""Sequences of different lengths become one array."""

import numpy as np


def sequence_padding(
    inputs, length=None, value=0, seq_dims=1, mode="post", show_tqdm=False, truncate="post"
):
    """Pad (or cut) sequences to one shape.

    Args:
        inputs: sequences: lists or arrays, alike but for their first `seq_dims` axes.
        length: the target length, or a list with one an axis; the longest by default.
        value: what is filled in.
        seq_dims: number of axes that are padded.
        mode: `'post'` pads on the right, `'pre'` on the left.
        show_tqdm: show a progress bar.
        truncate: what is too long keeps its beginning with `'post'` and its end with `'pre'`,
            whatever the mode.

    Returns:
        An array `(len(inputs), length, ...)`.

    Raises:
        ValueError: an unknown mode, or a wrong number of lengths.
    """
    for name, side in (("mode", mode), ("truncate", truncate)):
        if side not in ("post", "pre"):
            raise ValueError(f"sequence_padding: {name}: expected 'post' or 'pre', got {side!r}")
    arrays = [np.asarray(x) for x in inputs]
    lengths = _lengths(arrays, length, seq_dims)
    if not arrays:
        return np.zeros((0, *lengths))
    rest = arrays[0].shape[seq_dims:]
    dtype = np.result_type(*{a.dtype for a in arrays if a.size} or {arrays[0].dtype})
    padded = np.full((len(arrays), *lengths, *rest), value, dtype=dtype)
    for row, array in zip(padded, _progress(arrays, show_tqdm), strict=True):
        sizes = [min(n, m) for n, m in zip(array.shape, lengths, strict=False)]
        row[_part(sizes, lengths, mode)] = array[_part(sizes, array.shape, truncate)]
    return padded


def _part(sizes, shape, side):
    """So much of each axis, at its beginning ('post': the rest comes after it) or its end."""
    if side == "post":
        return tuple(slice(0, size) for size in sizes)
    return tuple(slice(n - size, n) for size, n in zip(sizes, shape, strict=False))


def _lengths(arrays, length, seq_dims):
    if length is None:
        shapes = [array.shape[:seq_dims] for array in arrays]
        return [max(sizes) for sizes in zip(*shapes, strict=True)] or [0] * seq_dims
    lengths = list(length) if hasattr(length, "__len__") else [length]
    if len(lengths) == 1:
        lengths = lengths * seq_dims
    if len(lengths) != seq_dims:
        raise ValueError(f"sequence_padding: {seq_dims} axes to pad, but lengths {lengths}")
    return lengths


def _progress(items, show):
    if not show:
        return items
    from tqdm import tqdm

    return tqdm(items, desc="padding")
