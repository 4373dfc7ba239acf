"""Softmax attention by a backend's fused kernel, which never holds the scores."""

import warnings

from bert4keras3 import ops
from bert4keras3._environment import is_switched_on
from bert4keras3.ops import keras

_said = set()


def is_flash_wanted(argument=None):
    """Whether flash attention is asked for: by an argument, else by the variable FLASH_ATTN.

    Raises:
        ValueError: it is, on TensorFlow, which has no such kernel.
    """
    wanted = is_switched_on("FLASH_ATTN") if argument is None else bool(argument)
    if wanted and keras.backend.backend() == "tensorflow":
        raise ValueError(
            "flash attention (flash_attention=True or FLASH_ATTN=1): TensorFlow has no such "
            "kernel; choose KERAS_BACKEND=jax or torch, or leave it off"
        )
    return wanted


def say_once(reason):
    """Warn, the first time a reason comes up, that attention goes the usual way."""
    if reason not in _said:
        _said.add(reason)
        warnings.warn(
            f"flash attention cannot be used: {reason}; attention is computed the usual way, "
            "with the same result",
            stacklevel=2,
        )


def flash_attention(query, key, value, mask, bias, scale, is_causal, training):
    """Attention by the fused kernel.

    Args:
        query: `(batch, n, query heads, size)`.
        key, value: `(batch, m, heads, size)`; heads divide the query heads.
        mask: bool, True for keys to be seen, broadcastable to
            `(batch, query heads, n, m)`; None for all. Queries that see nothing get 0.
        bias: float, added to the scaled scores, broadcastable likewise; or None.
        scale: what the products are multiplied with.
        is_causal: without a mask: queries see no later keys.
        training: whether a gradient is taken.

    Returns:
        `(batch, n, query heads, size)`; None, and the reason said once, where no kernel
        can compute it here.

    Source: https://arxiv.org/abs/2205.14135, by `keras.ops.dot_product_attention`
    """
    shape = (1, 1, query.shape[1], key.shape[1])
    on_torch = keras.backend.backend() == "torch"
    is_masked = mask is not None or bias is not None
    reason = None if on_torch else _jax_obstacle(shape, is_masked, training)
    if reason is not None:
        say_once(reason)
        return None
    full = None if mask is None else ops.logical_and(mask, ops.ones(shape, dtype="bool"))
    if bias is not None:
        bias = ops.cast(bias, query.dtype) + ops.zeros(shape, dtype=query.dtype)
        # The kernels take one of them.
        bias = bias if full is None else ops.where(full, bias, ops.lowest(query.dtype))
    try:
        output = ops.dot_product_attention(
            query,
            key,
            value,
            bias=bias,
            mask=full if bias is None else None,
            scale=scale,
            is_causal=is_causal and full is None,
            # torch chooses: its flash kernel has no masks, its other fused kernels have.
            flash_attention=None if on_torch else True,
        )
    except (ImportError, NotImplementedError, RuntimeError, ValueError) as error:
        say_once(str(error).strip().splitlines()[0])
        return None
    if mask is None:
        return output
    seen = ops.transpose(ops.any(full, axis=-1), (0, 2, 1))[..., None]
    return ops.where(seen, output, ops.zeros_like(output))


def _jax_obstacle(shape, is_masked, training):
    """What JAX's kernels cannot do and Keras does not check."""
    import jax

    platform = jax.default_backend()
    if platform == "cpu":
        return "JAX has a kernel for GPUs and TPUs, and this is a CPU"
    if platform == "tpu" and is_masked:
        return "on TPUs the kernel takes one mask for all rows"
    if training and is_masked and (shape[2] % 2 or shape[3] % 2):
        return f"in training the kernel takes masks of even lengths, not {shape[2]} and {shape[3]}"
    return None
