"""Layers whose inner values are computed again for the gradient, instead of kept."""

import contextlib

from keras.src.backend import AutocastScope
from keras.src.backend.common import global_state

from bert4keras3 import ops
from bert4keras3.ops import keras


def recomputed(layer, call):
    """A layer's call that keeps only its inputs for the gradient.

    `keras.remat` alone is not enough where a layer has dropout: on TensorFlow and torch the
    second computation would drop out otherwise than the first, and JAX refuses it. Here all
    that the call reads is an input of what is computed twice.

    Args:
        layer: the layer.
        call: its `call`.

    Returns:
        A function of the same arguments.
    """

    def function(*args, **kwargs):
        if not ops.is_differentiated():
            return call(*args, **kwargs)
        leaves = keras.tree.flatten((args, kwargs))
        places = [i for i, x in enumerate(leaves) if _is_float_tensor(x)]
        weights = [v for v in layer.variables if "float" in v.dtype]
        context = global_state.get_global_attribute("current_call_ctx")
        counters = [(v, v.value * 1) for v in ops.seed_states(layer)]

        def pure(*tensors):
            given = list(leaves)
            for place, tensor in zip(places, tensors[len(weights) :], strict=True):
                given[place] = tensor
            again_args, again_kwargs = keras.tree.pack_sequence_as((args, kwargs), given)
            values = zip(weights, tensors, strict=False)
            # The second computation may be within no scope of Keras.
            dtype = layer.compute_dtype if layer.autocast else None
            with keras.StatelessScope([*counters, *values]), AutocastScope(dtype):
                with _call_context(context):
                    return call(*again_args, **again_kwargs)

        with AutocastScope(None):
            tensors = [v.value for v in weights]
        result = keras.remat(pure)(*tensors, *(leaves[i] for i in places))
        for variable, before in counters:  # as the seed generators of Keras count
            variable.assign(before + ops.convert_to_tensor([0, 1], dtype=variable.dtype))
        return result

    return function


@contextlib.contextmanager
def _call_context(context):
    """Within it layers know what the call around them does: whether it is one of training."""
    before = global_state.get_global_attribute("current_call_ctx")
    global_state.set_global_attribute("current_call_ctx", context)
    try:
        yield
    finally:
        global_state.set_global_attribute("current_call_ctx", before)


def _is_float_tensor(x):
    return ops.is_tensor(x) and keras.backend.is_float_dtype(x.dtype)
