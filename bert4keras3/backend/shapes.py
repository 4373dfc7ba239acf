"""Shapes, dtypes, axes and gathering."""

import numpy as np

from bert4keras3 import ops
from bert4keras3.ops import keras


def int_shape(x):
    """The static shape of a tensor as a numpy object array, None where unknown."""
    return np.array(x.shape, dtype=object)


def dtype(x):
    """The dtype of a tensor as a string, e.g. `'float32'`."""
    return keras.backend.standardize_dtype(x.dtype)


def at_least_float32(x):
    """A tensor in float32, or as it is in float64: long sums do not fit into fewer bits."""
    x = ops.convert_to_tensor(x)
    return x if dtype(x) == "float64" else ops.cast(x, "float32")


def align(tensor, axes, ndim=None):
    """Expand dimensions so that axis i of the tensor becomes axis `axes[i]`.

    Args:
        tensor: a tensor with `len(axes)` axes.
        axes: the new place of each axis, ascending; negative where `ndim` is given.
        ndim: number of axes of the result, `max(axes) + 1` by default.

    Raises:
        ValueError: axes that do not fit the tensor or are not ascending.
    """
    if len(axes) != len(tensor.shape):
        raise ValueError(f"align: {len(axes)} axes for a tensor of {len(tensor.shape)} axes")
    ndim = ndim or max(axes) + 1
    axes = [a % ndim for a in axes]
    if sorted(set(axes)) != axes:
        raise ValueError(f"align: axes must ascend, got {axes}")
    missing = [i for i in range(ndim) if i not in axes]
    for axis in missing:
        tensor = ops.expand_dims(tensor, axis)
    return tensor


def reshape(tensor, *args):
    """Reshape, whole or axis by axis.

    Args:
        tensor: any tensor.
        *args: one new shape; or pairs `shape, axis`, each replacing one axis by
            a shape (which may hold one -1).
    """
    if len(args) == 1:
        return ops.reshape(tensor, args[0])
    sizes = list(ops.shape(tensor))
    pairs = {axis % len(sizes): shape for shape, axis in zip(args[::2], args[1::2], strict=True)}
    shape = []
    for axis, size in enumerate(sizes):
        new = list(pairs.get(axis, [size]))
        if -1 in new and axis in pairs:
            known = int(np.prod([n for n in new if n != -1], dtype=int))
            new[new.index(-1)] = size // known if size is not None else -1
        shape.extend(new)
    return ops.reshape(tensor, shape)


def flatten(tensor, start=None, end=None):
    """Merge the axes from `start` to `end` (exclusive) into one.

    Args:
        tensor: any tensor.
        start: first axis merged, 0 by default.
        end: axis after the last one merged, the number of axes by default.
    """
    start, end, _ = slice(start, end).indices(len(tensor.shape))
    sizes = list(ops.shape(tensor))
    if end <= start:
        return tensor
    merged = sizes[start:end]
    size = -1 if any(not isinstance(s, int) for s in merged) else int(np.prod(merged, dtype=int))
    return ops.reshape(tensor, [*sizes[:start], size, *sizes[end:]])


def divisible_temporal_padding(x, n):
    """Pad axis 1 with zeros on the right, to a length that n divides.

    Args:
        x: `(batch, length, ...)`.
        n: a positive integer.
    """
    length = ops.shape(x)[1]
    return ops.pad(x, [[0, 0], [0, -length % n], *[[0, 0]] * (len(x.shape) - 2)])


def batch_gather(params, indices):
    """Gather along the last axis of `indices`, batch by batch.

    Args:
        params: `(batch..., n, ...)`.
        indices: int `(batch..., k)`.

    Returns:
        `(batch..., k, ...)`.
    """
    axis = len(indices.shape) - 1
    indices = ops.cast(indices, "int32")
    for size in params.shape[axis + 1 :]:
        indices = ops.repeat(indices[..., None], size, axis=-1)
    return ops.take_along_axis(params, indices, axis=axis)


def divide_no_nan(x1, x2):
    """x1 / x2 with 0 where that is not a number."""
    x1, x2 = ops.convert_to_tensor(x1), ops.convert_to_tensor(x2)
    zero = x2 == 0
    both = ops.logical_and(zero, x1 == 0)
    safe = ops.where(both, ops.ones_like(x2), x2)
    return ops.where(both, ops.zeros_like(x1 / safe), x1 / safe)
