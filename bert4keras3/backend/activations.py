"""Activation functions by name."""

from bert4keras3 import ops
from bert4keras3.ops import keras

register = keras.saving.register_keras_serializable("bert4keras3")
_gelu = "erf"


@register
def gelu_erf(x):
    """GELU by the error function: x Φ(x) (https://arxiv.org/abs/1606.08415)."""
    return ops.gelu(x, approximate=False)


@register
def gelu_tanh(x):
    """GELU by its tanh approximation, as in the original GPT and BERT sources."""
    return ops.gelu(x, approximate=True)


def set_gelu(version):
    """Choose what the activation name `'gelu'` means in layers built from now on.

    Args:
        version: `'erf'` (the default) or `'tanh'`.

    Raises:
        ValueError: any other version.
    """
    global _gelu
    version = version.lower()
    if version not in ("erf", "tanh"):
        raise ValueError(f"gelu version: expected 'erf' or 'tanh', got {version!r}")
    _gelu = version


@register
def swish(x):
    """x · sigmoid(x) (https://arxiv.org/abs/1710.05941)."""
    return ops.silu(x)


@register
def leaky_relu(x, alpha=0.2):
    """max(x, alpha · x)."""
    return ops.leaky_relu(x, negative_slope=alpha)


@register
def root_mean_square(x, axis=None, keepdims=False):
    """Root mean square: a length that does not grow with the dimension.

    Args:
        x: a float tensor.
        axis: axis or axes to reduce, all by default.
        keepdims: keep reduced axes with size 1.
    """
    return ops.sqrt(ops.mean(ops.square(x), axis=axis, keepdims=keepdims))


_ACTIVATIONS = {
    "gelu_erf": gelu_erf,
    "gelu_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "silu": swish,
    "swish": swish,
    "root_mean_square": root_mean_square,
    "leaky_relu": leaky_relu,
}


def get_activation(identifier):
    """An activation function by name, as `keras.activations.get` and more.

    `'gelu'` is the erf form (`set_gelu` changes it); `'gelu_erf'`, `'gelu_tanh'`,
    `'gelu_new'` and `'gelu_pytorch_tanh'` name one form.

    Args:
        identifier: a name, a callable, a serialised activation or None (linear).

    Raises:
        ValueError: an unknown name.
    """
    if identifier == "gelu":
        return gelu_tanh if _gelu == "tanh" else gelu_erf
    if isinstance(identifier, str) and identifier in _ACTIVATIONS:
        return _ACTIVATIONS[identifier]
    try:
        return keras.activations.get(identifier)
    except ValueError:
        raise ValueError(
            f"unknown activation {identifier!r}: expected a callable, a name of "
            f"keras.activations, 'gelu' or one of {sorted(_ACTIVATIONS)}"
        ) from None
