"""The Keras in use and the documented tensor helpers, on every backend."""

from bert4keras3 import ops
from bert4keras3.backend.activations import (
    gelu_erf,
    gelu_tanh,
    get_activation,
    leaky_relu,
    root_mean_square,
    set_gelu,
    swish,
)
from bert4keras3.backend.compilation import enable_compilation_cache, follow_environment
from bert4keras3.backend.graph import search_layer
from bert4keras3.backend.initializers import DepthScaled
from bert4keras3.backend.losses import (
    msparse_multilabel_categorical_crossentropy,
    multilabel_categorical_crossentropy,
    sparse_multilabel_categorical_crossentropy,
)
from bert4keras3.backend.masking import (
    attention_normalize,
    get_sequence_masking,
    sequence_masking,
)
from bert4keras3.backend.positions import (
    Sinusoidal,
    apply_rotary_halves,
    apply_rotary_position_embeddings,
    rope_type,
    rotary_frequencies,
    rotate_halves,
    sinusoidal_embeddings,
)
from bert4keras3.backend.schedules import piecewise_linear
from bert4keras3.backend.shapes import (
    align,
    batch_gather,
    divide_no_nan,
    divisible_temporal_padding,
    dtype,
    flatten,
    int_shape,
    reshape,
)
from bert4keras3.ops import keras, seam, where

K = keras.backend
backlib = keras.backend.backend()
is_tf_keras = seam.is_tf_keras
follow_environment()


def get_available_gpus():
    """The names of the visible GPUs, as Keras lists them."""
    return list_devices("gpu")


def list_devices(kind):
    """The names of the visible devices of a kind, `'gpu'` or `'tpu'`."""
    if backlib == "torch":  # which Keras does not ask
        import torch

        count = torch.cuda.device_count() if kind == "gpu" else 0
        return [f"cuda:{i}" for i in range(count)]
    try:
        return list(keras.distribution.list_devices(kind))
    except RuntimeError:  # JAX's way to say that there is none
        return []
