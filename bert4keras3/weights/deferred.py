"""Weights that wait for a checkpoint instead of being drawn at random first.

Drawing 100 million numbers takes seconds and touches memory that the checkpoint's
tensors then take a second time.
"""

import numpy as np

from bert4keras3 import ops
from bert4keras3.layers.base import fresh
from bert4keras3.ops import keras, seam
from bert4keras3.weights.sources import empty_array

INITIALIZERS = ("kernel_initializer", "embeddings_initializer")


@keras.saving.register_keras_serializable("bert4keras3")
class Deferred(keras.initializers.Initializer):
    """Leaves a weight unset, marked by an infinity in front, until `finish` or a load sets it.

    Args:
        initializer: draws the weight where no load has set it.
    """

    def __init__(self, initializer):
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        dtype = keras.backend.standardize_dtype(dtype)
        if keras.distribution.distribution() is not None:
            # Keras lays out what is computed; an array of ours it would copy whole.
            return ops.full(shape, np.inf, dtype=dtype)
        value = empty_array(shape, np.dtype(dtype), zeros=True)
        value.flat[:1] = np.inf
        return ops.adopt(value)  # on JAX memory that nobody has touched

    def clone(self):
        return Deferred(fresh(self.initializer))

    def scaled(self, gain):
        """The same with a gain, where the initializer has one."""
        own = self.initializer
        return Deferred(own.scaled(gain) if hasattr(own, "scaled") else fresh(own))

    def get_config(self):
        return {"initializer": keras.saving.serialize_keras_object(self.initializer)}

    @classmethod
    def from_config(cls, config):
        """The initializer itself: a copy of the layer elsewhere waits for nothing."""
        return keras.saving.deserialize_keras_object(config["initializer"])


def defer(arguments):
    """Constructor arguments of a layer, with its random initializers deferred."""
    return {
        name: Deferred(keras.initializers.get(value)) if name in INITIALIZERS else value
        for name, value in arguments.items()
    }


def finish(layer, filled=()):
    """Draw the deferred weights of a layer that nothing has set.

    Args:
        layer: a layer made with `defer`red arguments, or any other.
        filled: ids of variables that are known to be set.
    """
    for part in layer._flatten_layers():
        found = [getattr(part, name, None) for name in INITIALIZERS]
        deferred = next((value for value in found if isinstance(value, Deferred)), None)
        if deferred is not None:
            own = seam.own_variables(part)
            _draw([variable for variable in own if id(variable) not in filled], deferred)


def _draw(variables, deferred):
    for variable in variables:
        corner = ops.convert_to_tensor(variable)[(0,) * len(variable.shape)]
        if not np.isfinite(np.float32(ops.convert_to_numpy(corner))):
            initializer = fresh(deferred.initializer)
            variable.assign(initializer(variable.shape, dtype=variable.dtype))
