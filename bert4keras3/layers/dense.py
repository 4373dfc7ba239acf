"""Keras' `Dense` and `EinsumDense`: fast for bfloat16 on a CPU too, and with adapters."""

from bert4keras3 import ops
from bert4keras3.layers.adapters import Adaptable, EinsumForm
from bert4keras3.layers.base import Direct, register_layer
from bert4keras3.ops import keras


@register_layer
class Dense(Direct, Adaptable, keras.layers.Dense):
    """As `keras.layers.Dense`.

    Shapes: `(batch, ..., dim)` -> `(batch, ..., units)`.
    """

    def call(self, inputs, training=None):
        x = ops.project(inputs, ops.convert_to_tensor(self.kernel))
        x = self.adapt(x, inputs, training)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)


@register_layer
class EinsumDense(Direct, EinsumForm, Adaptable, keras.layers.EinsumDense):
    """As `keras.layers.EinsumDense`."""

    def call(self, inputs, training=None):
        x = ops.einsum(self.equation, inputs, ops.convert_to_tensor(self.kernel))
        x = self.adapt(x, inputs, training)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)
