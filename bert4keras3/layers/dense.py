"""Keras' `Dense` and `EinsumDense`: fast for bfloat16 on a CPU too, with adapters or few bits."""

from bert4keras3 import ops
from bert4keras3.layers.adapters import Adaptable, EinsumForm
from bert4keras3.layers.base import Direct, register_layer
from bert4keras3.layers.quantized import Quantizable
from bert4keras3.ops import keras


@register_layer
class Dense(Direct, Quantizable, Adaptable, keras.layers.Dense):
    """As `keras.layers.Dense`.

    Shapes: `(batch, ..., dim)` -> `(batch, ..., units)`.
    """

    def call(self, inputs, training=None):
        if self.quantized is None:
            x = ops.project(inputs, ops.convert_to_tensor(self.kernel))
        else:
            x = self.multiply(inputs, training)
        x = self.adapt(x, inputs, training)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)


@register_layer
class EinsumDense(Direct, EinsumForm, Quantizable, Adaptable, keras.layers.EinsumDense):
    """As `keras.layers.EinsumDense`."""

    def call(self, inputs, training=None):
        if self.quantized is None:
            x = ops.einsum(self.equation, inputs, ops.convert_to_tensor(self.kernel))
        else:
            x = self.multiply(inputs, training)
        x = self.adapt(x, inputs, training)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)
