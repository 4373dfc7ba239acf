"""Sinusoidal and rotary positions."""

import numpy as np

from bert4keras3 import ops
from bert4keras3.backend.shapes import align, flatten
from bert4keras3.ops import keras


def sinusoidal_embeddings(pos, dim, base=10000):
    """Sinusoidal embedding of positions: sin, cos, sin, cos, …

    Args:
        pos: positions, any shape, any number dtype.
        dim: size of the embedding, even.
        base: frequency i is base^(-2i/dim).

    Returns:
        `(*pos.shape, dim)`, float32 (Keras' floatx where that is wider).

    Raises:
        ValueError: an odd dimension.

    Source: "Attention Is All You Need", https://kexue.fm/archives/8231
    """
    if dim % 2:
        raise ValueError(f"sinusoidal embeddings need an even dimension, got {dim}")
    wide = "float64" if keras.config.floatx() == "float64" else "float32"
    frequencies = np.power(float(base), -np.arange(0, dim, 2) / dim)
    angles = ops.cast(pos, wide)[..., None] * ops.convert_to_tensor(frequencies, dtype=wide)
    embeddings = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)
    return flatten(embeddings, -2)


@keras.saving.register_keras_serializable("bert4keras3")
class Sinusoidal(keras.initializers.Initializer):
    """Fills a `(positions, dim)` table with sinusoidal embeddings."""

    def __call__(self, shape, dtype=None):
        table = sinusoidal_embeddings(ops.arange(shape[0]), shape[1])
        return ops.cast(table, dtype or keras.config.floatx())


def apply_rotary_position_embeddings(sinusoidal, *tensors):
    """Rotate neighbouring pairs of features by their position's angle (RoPE).

    Args:
        sinusoidal: `(batch or 1, length, dim)`, from `sinusoidal_embeddings`.
        *tensors: each `(batch, length, ..., dim)`.

    Returns:
        The rotated tensor, or a list of them.

    Raises:
        ValueError: no tensor is given.

    Source: https://arxiv.org/abs/2104.09864, https://kexue.fm/archives/8265
    """
    if not tensors:
        raise ValueError("apply_rotary_position_embeddings needs at least one tensor")
    ndim = len(tensors[0].shape)
    sinusoidal = align(sinusoidal, [0, 1, -1], ndim)
    sin = ops.repeat(sinusoidal[..., 0::2], 2, axis=-1)
    cos = ops.repeat(sinusoidal[..., 1::2], 2, axis=-1)
    rotated = [_rotate_pairs(x, sin, cos) for x in tensors]
    return rotated if len(rotated) > 1 else rotated[0]


def _rotate_pairs(x, sin, cos):
    turned = flatten(ops.stack([-x[..., 1::2], x[..., 0::2]], axis=-1), -2)
    rotated = x * ops.cast(cos, x.dtype) + turned * ops.cast(sin, x.dtype)
    return rotated


def rotate_halves(x, positions, max_wavelength=10000.0, scaling_factor=1.0):
    """Rotary embedding of the first half of the features against the second half.

    Args:
        x: `(batch, length, ..., dim)`.
        positions: `(batch or 1, length)`.
        max_wavelength: base of the frequencies.
        scaling_factor: positions are divided by it (linear scaling).
    """
    half = x.shape[-1] // 2
    frequencies = np.power(float(max_wavelength), -np.arange(half) / half)
    angles = ops.cast(positions, "float32")[..., None] / scaling_factor
    angles = angles * ops.convert_to_tensor(frequencies, dtype="float32")
    angles = align(angles, [0, 1, -1], len(x.shape))
    sin, cos = ops.cast(ops.sin(angles), x.dtype), ops.cast(ops.cos(angles), x.dtype)
    first, second = x[..., :half], x[..., half:]
    return ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
