"""Position-wise feed-forward layers."""

from bert4keras3 import ops
from bert4keras3.backend import gelu_tanh
from bert4keras3.layers.base import Layer, activation_function, fresh, register_layer
from bert4keras3.layers.dense import Dense
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
            self.add_dense(f"i{i}_dense", self.units, input_shape, activation)
        self.add_dense("o_dense", input_shape[-1], (*input_shape[:-1], self.units))
        self.built = True

    def _activations(self):
        several = isinstance(self.activation, (list, tuple))
        return self.activation if several else [self.activation]

    def add_dense(self, name, units, input_shape, activation=None):
        """Make a Dense; the name of its attribute is file format."""
        self.add_layer(
            name,
            Dense,
            input_shape,
            units=units,
            activation=activation_function(activation),
            use_bias=self.use_bias,
            kernel_initializer=fresh(self.kernel_initializer),
        )

    def call(self, inputs):
        x = self.i0_dense(inputs)
        for i in range(1, len(self._activations())):
            x = x * getattr(self, f"i{i}_dense")(inputs)
        return self.o_dense(x)

    def compute_output_shape(self, input_shape):
        return input_shape


@register_layer
class GemmaFeedForward(FeedForward):
    """gelu(Dense(x)) · Dense(x) -> Dense, with the tanh form of gelu.

    Args:
        units: inner size.
        activation: accepted and ignored.
        use_bias: whether the Denses have biases.
        kernel_initializer: initializer of all kernels.

    Shapes: `(batch, ..., dim)` -> the same.

    Source: https://arxiv.org/abs/2403.08295
    """

    def _activations(self):
        return [gelu_tanh, None]


@register_layer
class LLamaFeedForward(FeedForward):
    """activation(gate(x)) · intermediate(x) -> Dense, the activation in float32.

    Args:
        units: inner size.
        activation: activation of the gate; of a list the first one.
        use_bias: whether the Denses have biases.
        kernel_initializer: initializer of all kernels.

    Shapes: `(batch, ..., dim)` -> the same.

    Source: https://arxiv.org/abs/2002.05202, https://arxiv.org/abs/2302.13971
    """

    def build(self, input_shape):
        # File format: the attributes' names.
        self.add_dense("_feedforward_gate_dense", self.units, input_shape)
        self.add_dense("_feedforward_intermediate_dense", self.units, input_shape)
        inner = (*input_shape[:-1], self.units)
        self.add_dense("_feedforward_output_dense", input_shape[-1], inner)
        self.built = True

    def call(self, inputs):
        gate = ops.cast(self._feedforward_gate_dense(inputs), "float32")
        gate = activation_function(self._activations()[0])(gate)
        x = ops.cast(gate, self.compute_dtype) * self._feedforward_intermediate_dense(inputs)
        return self._feedforward_output_dense(x)
