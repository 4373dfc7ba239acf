"""Position-wise feed-forward layers."""

from bert4keras3.layers.base import Layer, activation_function, fresh, register_layer
from bert4keras3.ops import keras


@register_layer
class FeedForward(Layer):
    """Dense(activation) -> Dense; with several activations, a product of several Denses.

    Args:
        units: inner size.
        activation: an activation (name or callable), or a list of them: the
            products of `Dense_i(activation_i)` feed the output layer (a gated
            unit, e.g. `['gelu', 'linear']`).
        use_bias: whether the Denses have biases.
        kernel_initializer: initializer of all kernels.

    Shapes: `(batch, ..., dim)` -> the same.

    Source: https://arxiv.org/abs/1706.03762; gated: https://arxiv.org/abs/2002.05202
    """

    def __init__(
        self,
        units,
        activation="relu",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = units
        self.activation = activation
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        for i, activation in enumerate(self._activations()):
            self._add_dense(f"i{i}_dense", self.units, input_shape, activation)
        self._add_dense("o_dense", input_shape[-1], (*input_shape[:-1], self.units))
        self.built = True

    def _activations(self):
        several = isinstance(self.activation, (list, tuple))
        return self.activation if several else [self.activation]

    def _add_dense(self, name, units, input_shape, activation=None):
        dense = keras.layers.Dense(
            units,
            activation=activation_function(activation),
            use_bias=self.use_bias,
            kernel_initializer=fresh(self.kernel_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build(input_shape)
        setattr(self, name, dense)  # File format: the attribute's name.

    def call(self, inputs):
        x = self.i0_dense(inputs)
        for i in range(1, len(self._activations())):
            x = x * getattr(self, f"i{i}_dense")(inputs)
        return self.o_dense(x)

    def compute_output_shape(self, input_shape):
        return input_shape
