"""What steers a model's layer norms while it generates."""

import numpy as np

from bert4keras3.ops import keras


def read_conditions(transformer, conditions, count):
    """An array `(count, ...)` for each of the model's `condition_inputs`.

    Args:
        transformer: the model.
        conditions: what is fed to the only one, or a list of what is fed to each; for all
            prompts alike, or for each prompt.
        count: number of prompts.

    Raises:
        ValueError: none where the model needs them, some where it takes none, or of another
            shape or kind.
    """
    inputs, name = transformer.condition_inputs, type(transformer).__name__
    if not inputs:
        if conditions is not None:
            raise ValueError(f"conditions: {name} was built without layer_norm_cond")
        return []
    names = [tensor.name for tensor in inputs]
    if conditions is None:
        raise ValueError(f"conditions: the layer norms of {name} depend on {names}")
    given = [conditions] if len(inputs) == 1 else list(conditions)
    if len(given) != len(inputs):
        raise ValueError(f"conditions: expected {len(inputs)}, for {names}, got {len(given)}")
    return [_rows(tensor, x, count) for tensor, x in zip(inputs, given, strict=True)]


def _rows(tensor, values, count):
    values, shape = np.asarray(values), tuple(tensor.shape[1:])
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    given = values.shape
    if shape == (1,) and values.ndim < 2:
        values = values.reshape(-1, 1)  # a number a prompt
    elif fits(given, shape):
        values = values[None]
    if not fits(values.shape[1:], shape) or len(values) not in (1, count):
        raise ValueError(
            f"conditions, {tensor.name!r}: expected {shape} for all {count} prompts, or "
            f"{(count, *shape)}, got {given}"
        )
    if not np.can_cast(values.dtype, dtype, "same_kind"):
        raise ValueError(f"conditions, {tensor.name!r}: expected {dtype}, got {values.dtype}")
    return np.broadcast_to(values, (count, *values.shape[1:])).astype(dtype)


def fits(found, shape):
    """Whether an array's shape is the one expected, in which None is any number."""
    return len(found) == len(shape) and all(
        m in (None, n) for n, m in zip(found, shape, strict=True)
    )
