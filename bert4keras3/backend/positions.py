"""Sinusoidal and rotary positions."""

import numpy as np

from bert4keras3 import ops
from bert4keras3.backend.shapes import align, flatten
from bert4keras3.ops import keras


def sinusoidal_embeddings(pos, dim, base=10000, scaling=None, length=None):
    """Sinusoidal embedding of positions: sin, cos, sin, cos, …

    Args:
        pos: positions, any shape, any number dtype.
        dim: size of the embedding, even.
        base: frequency i is base^(-2i/dim).
        scaling: see `rotary_frequencies`.
        length: tokens of the text, broadcastable to pos; where the scaling depends on it.

    Returns:
        `(*pos.shape, dim)`, float32 (Keras' floatx where that is wider).

    Raises:
        ValueError: an odd dimension, or an unknown scaling.

    Source: "Attention Is All You Need", https://kexue.fm/archives/8231
    """
    if dim % 2:
        raise ValueError(f"sinusoidal embeddings need an even dimension, got {dim}")
    wide = "float64" if keras.config.floatx() == "float64" else "float32"
    frequencies = ops.convert_to_tensor(rotary_frequencies(dim, base, scaling), dtype=wide)
    if rope_type(scaling) == "dynamic" and length is not None:
        frequencies = frequencies * _stretch(ops.cast(length, wide), dim, scaling)
    angles = ops.cast(pos, wide)[..., None] * frequencies
    embeddings = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1) * magnitude(scaling)
    return flatten(embeddings, -2)


def _stretch(length, dim, scaling):
    """What a text's length does to the frequencies, `(*length.shape, dim / 2)`."""
    known = scaling["original_max_position_embeddings"]
    factor = scaling["factor"]
    growth = factor * ops.maximum(length, known) / known - (factor - 1)
    exponents = -np.arange(0, dim, 2) / (dim - 2)
    return growth[..., None] ** ops.convert_to_tensor(exponents, dtype=length.dtype)


def rope_type(scaling):
    """The kind of a scaling, `'default'` for none."""
    return (scaling or {}).get("rope_type", (scaling or {}).get("type", "default"))


def magnitude(scaling):
    """What YaRN multiplies sines and cosines with: attention gets sharper."""
    if rope_type(scaling) != "yarn":
        return 1.0
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]

    def gain(scale):
        return 1.0 if scaling["factor"] <= 1 else 0.1 * scale * np.log(scaling["factor"]) + 1.0

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return float(gain(scaling["mscale"]) / gain(scaling["mscale_all_dim"]))
    return float(gain(1.0))


def rotary_frequencies(dim, base=10000.0, scaling=None):
    """Angle between neighbouring positions, of each pair of features.

    Args:
        dim: number of features, even.
        base: frequency i is base^(-2i/dim).
        scaling: how a model stretches them beyond the length it was first trained
            on, as in `rope_scaling` of Hugging Face: `{"rope_type": "linear",
            "factor": …}` divides all; `"llama3"` divides the slow ones, with
            low_freq_factor, high_freq_factor, original_max_position_embeddings;
            `"yarn"` likewise, with beta_fast, beta_slow and others; `"dynamic"`
            depends on the length of the batch, and keys in a cache stay as they were
            turned, both as in transformers.

    Returns:
        numpy float64 `(dim / 2,)`.

    Raises:
        ValueError: an unknown rope_type, or a missing key.

    Source: https://arxiv.org/abs/2306.15595 (linear), Llama 3.1's release (llama3),
        https://arxiv.org/abs/2309.00071 (yarn, dynamic)
    """
    frequencies = np.power(float(base), -np.arange(0, dim, 2) / dim)
    kind = rope_type(scaling)
    if kind not in ROPE_SCALINGS:
        raise ValueError(f"rope_type: expected one of {list(ROPE_SCALINGS)}, found {kind!r}")
    missing = [key for key in ROPE_SCALINGS[kind] if key not in (scaling or {})]
    if missing:
        raise ValueError(f"rope_scaling of rope_type {kind!r} needs the keys {missing}")
    if kind in ("default", "dynamic"):
        return frequencies
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind == "yarn":
        kept = 1 - _ramp(dim, base, scaling)
        return frequencies * (kept + (1 - kept) / scaling["factor"])
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return frequencies * (kept + (1 - kept) / scaling["factor"])


def _ramp(dim, base, scaling):
    """YaRN: from 0 for the pairs that turn often within the known length to 1 for the slow ones."""
    known = scaling["original_max_position_embeddings"]
    turns = (scaling.get("beta_fast") or 32, scaling.get("beta_slow") or 1)
    low, high = (dim * np.log(known / (n * 2 * np.pi)) / (2 * np.log(base)) for n in turns)
    if scaling.get("truncate", True):
        low, high = np.floor(low), np.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    return np.clip((np.arange(dim // 2) - low) / (high - low or 0.001), 0, 1)


# rope_type: the keys it needs
ROPE_SCALINGS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


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
    scaling = {"rope_type": "linear", "factor": scaling_factor}
    return apply_rotary_halves(
        sinusoidal_embeddings(positions, x.shape[-1], max_wavelength, scaling), x
    )


def apply_rotary_halves(sinusoidal, x):
    """As `apply_rotary_position_embeddings`, but feature i is paired with feature i + dim/2.

    Args:
        sinusoidal: `(batch or 1, length, dim)`, from `sinusoidal_embeddings`.
        x: `(batch, length, ..., dim)`.

    Source: the form of Llama's files and of transformers
    """
    half = x.shape[-1] // 2
    sinusoidal = ops.cast(align(sinusoidal, [0, 1, -1], len(x.shape)), x.dtype)
    sin, cos = sinusoidal[..., 0::2], sinusoidal[..., 1::2]
    first, second = x[..., :half], x[..., half:]
    return ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
