"""Matrices of 8 or 4 bits: made of float ones, and multiplied with.

A matrix `(outputs, inputs)` is kept as whole numbers and float32 scales `(outputs, groups)`: an
entry is its number times the scale of its group, a run of entries of one row. Rows are filled up
with zeros to whole groups.

- 8 bits: int8 `(outputs, columns)`, -127 … 127; usually a row is one group.
- 4 bits: uint8 `(outputs, columns / 2)`, numbers -8 … 7 plus 8, two a byte: the low half of a byte
  belongs to the first half of its group, the high half to the second.

These are Q8_0 and Q4_0 of llama.cpp with other groups. This module knows how backends multiply
with them: in float, the numbers become float within the product.
"""

import math
from functools import cache

import numpy as np

from bert4keras3 import ops
from bert4keras3.ops import keras

DTYPES = {8: "int8", 4: "uint8"}
GROUP_SIZES = {8: None, 4: 32}  # by default; None for whole rows

# Entries that `encode` has as floats at a time.
ENTRIES_AT_ONCE = 2**22
# Entries that a product on a CPU has as floats at a time: they stay in its caches.
ENTRIES_OF_A_BLOCK = 2**19


# ---------------------------------------------------------------------------- numpy


def shapes(outputs, inputs, bits, group_size=None):
    """The shapes of the whole numbers and of the scales of a matrix."""
    size = _size(inputs, bits, group_size)
    groups = -(-inputs // size)
    return (outputs, groups * size * bits // 8), (outputs, groups)


def encode(matrix, bits, group_size=None):
    """A float matrix as whole numbers and scales.

    Args:
        matrix: a numpy array `(outputs, inputs)`.
        bits: 8 or 4.
        group_size: entries of a row that share a scale; None for the whole row.

    Returns:
        int8 or uint8, and float32; of the `shapes`.

    Raises:
        ValueError: an entry is no finite number.
    """
    outputs, inputs = matrix.shape
    size = _size(inputs, bits, group_size)
    of_values, of_scale = shapes(outputs, inputs, bits, group_size)
    values, scale = np.empty(of_values, DTYPES[bits]), np.empty(of_scale, "float32")
    rows = max(1, ENTRIES_AT_ONCE // inputs)
    for start in range(0, outputs, rows):
        part = slice(start, start + rows)
        values[part], scale[part] = _encode_rows(np.float32(matrix[part]), bits, size)
    return values, scale


def _encode_rows(matrix, bits, size):
    rows, inputs = matrix.shape
    matrix = np.pad(matrix, ((0, 0), (0, -inputs % size)))
    groups = matrix.reshape(rows, -1, size)
    scale = _scales(groups, bits)
    if not np.isfinite(scale).all():
        raise ValueError("expected finite weights, found infinity or NaN")
    scale = np.where(np.abs(scale) < np.finfo("float32").tiny, 1, scale)
    numbers = np.rint(groups / scale[..., None])
    if bits == 8:
        return numbers.astype("int8").reshape(rows, -1), scale
    numbers = (np.clip(numbers, -8, 7) + 8).astype("uint8")
    low, high = numbers[..., : size // 2], numbers[..., size // 2 :]
    return (low | high << 4).reshape(rows, -1), scale


def _scales(groups, bits):
    """What the largest entry of each group is divided by: 127, or -8, the far end of 4 bits."""
    places = np.abs(groups).argmax(axis=-1)[..., None]
    largest = np.take_along_axis(groups, places, axis=-1)[..., 0]
    return (np.abs(largest) / 127 if bits == 8 else largest / -8).astype("float32")


def _size(inputs, bits, group_size):
    """Entries of a group: those of a whole row at most, and of 4 bits an even number."""
    size = min(group_size or inputs, inputs)
    return size + size % 2 if bits == 4 else size


# -------------------------------------------------------------------------- tensors


def floats(values, scale, inputs, dtype="float32"):
    """The matrix as floats.

    Args:
        values: int8 or uint8 `(..., columns or columns / 2)`, any rows of a matrix.
        scale: float32 `(..., groups)`, their scales.
        inputs: number of entries of a row, without what fills it up.
        dtype: of the result.

    Returns:
        `(..., inputs)`.
    """
    lead, groups = tuple(ops.shape(scale)[:-1]), scale.shape[-1]
    size = values.shape[-1] // groups
    numbers = ops.reshape(values, (*lead, groups, size))
    if _is_packed(values):
        # As int32: the backends shift it, and turn it to floats fast.
        numbers = ops.cast(numbers, "int32")
        halves = [ops.bitwise_and(numbers, 15), ops.right_shift(numbers, 4)]
        numbers = ops.concatenate(halves, axis=-1) - 8
        size *= 2
    matrix = ops.cast(numbers, dtype) * ops.cast(scale[..., None], dtype)
    return ops.reshape(matrix, (*lead, groups * size))[..., :inputs]


def product(x, values, scale):
    """x times the transposed matrix.

    Args:
        x: float `(batch, ..., inputs)`.
        values, scale: of a matrix `(outputs, inputs)`.

    Returns:
        `(batch, ..., outputs)`, of the dtype of x.
    """
    if ops.is_jax_on("cpu"):
        return _product_by_blocks(x, values, scale)
    if scale.shape[-1] > 1 or _is_packed(values):
        return ops.matmul(x, ops.transpose(floats(values, scale, x.shape[-1], x.dtype)))
    numbers = ops.cast(values, x.dtype)
    return ops.matmul(x, ops.transpose(numbers)) * ops.cast(scale[:, 0], x.dtype)


def _product_by_blocks(x, values, scale):
    """`product` for XLA on a CPU, which would write a float copy of the whole matrix first.

    A block of rows becomes float in the processor's cache and is multiplied there.
    """
    rows = ops.cast(ops.reshape(x, (-1, x.shape[-1])), "float32")
    columns = values.shape[-1] * (2 if _is_packed(values) else 1)
    if columns > rows.shape[-1]:
        rows = ops.pad(rows, ((0, 0), (0, columns - rows.shape[-1])))
    size = 2 ** max(round(math.log2(ENTRIES_OF_A_BLOCK / columns)), 2)
    outputs = values.shape[0]
    if size >= outputs:
        result = _block_product(rows, values, scale)
    else:
        result = _blockwise()(rows, values, scale, size)
    return ops.reshape(ops.cast(result, x.dtype), (*x.shape[:-1], outputs))


@cache
def _blockwise():
    """The loop over blocks of `size` rows; a function of JAX made once, which compiles once."""
    import jax

    def blockwise(rows, values, scale, size):
        whole, rest = divmod(values.shape[0], size)

        def block(start, size=size):
            part = [jax.lax.dynamic_slice_in_dim(x, start, size) for x in (values, scale)]
            return _block_product(rows, *part)

        blocks = jax.lax.map(block, size * jax.numpy.arange(whole))
        found = blocks.transpose(1, 0, 2).reshape(len(rows), whole * size)
        if not rest:
            return found
        return jax.numpy.concatenate([found, block(whole * size, rest)], axis=1)

    # For gradients the floats are made again, not kept.
    return jax.jit(jax.checkpoint(blockwise, static_argnums=3), static_argnums=3)


def _block_product(rows, values, scale):
    """`product` of a few rows of a matrix, with nothing between that XLA would write down."""
    import jax

    contract = (((1,), (1,)), ((), ()))
    count, (outputs, groups) = len(rows), scale.shape
    size = values.shape[-1] // groups
    if not _is_packed(values):
        if groups == 1:
            return jax.lax.dot_general(rows, ops.cast(values, "float32"), contract) * scale[:, 0]
        matrix = floats(values, scale, groups * size)
        return jax.lax.dot_general(rows, matrix, contract)
    # The halves of the groups in two products: nothing need be put together.
    halves = ops.reshape(rows, (count, groups, 2, size))
    numbers = ops.cast(ops.reshape(values, (outputs, groups, size)), "int32")
    total = 0
    for half, own in enumerate((ops.bitwise_and(numbers, 15), ops.right_shift(numbers, 4))):
        matrix = ops.cast(own - 8, "float32") * scale[..., None]
        matrix = ops.reshape(matrix, (outputs, groups * size))
        part = ops.reshape(halves[:, :, half], (count, groups * size))
        total = total + jax.lax.dot_general(part, matrix, contract)
    return total


def _is_packed(values):
    """Whether these are numbers of 4 bits, two a byte."""
    return keras.backend.standardize_dtype(values.dtype) == "uint8"
