"""What the layers of RWKV share: the token before, and a memory that can be trained."""

import numpy as np

from bert4keras3 import ops
from bert4keras3.layers.adapters import is_low_rank
from bert4keras3.layers.base import Layer, activation_function, register_layer
from bert4keras3.layers.dense import Dense
from bert4keras3.layers.norms import GroupNorm
from bert4keras3.layers.quantized import float_order
from bert4keras3.ops import keras


def time_shift(x, last_x=None, mask=None):
    """The input before each one, minus itself.

    Args:
        x: `(batch, length, hidden)`.
        last_x: what was before the first token, `(batch or 1, 1, hidden)`; None for zeros.
        mask: bool `(batch, length)`, False for padding, which is nobody's predecessor.

    Returns:
        `(batch, length, hidden)`.
    """
    known = x if mask is None else ops.where(mask[..., None], x, ops.zeros_like(x))
    first = ops.zeros_like(x[:, :1])
    if last_x is not None:
        first = first + ops.cast(last_x, x.dtype)
    if x.shape[1] == 1:
        return first - x
    before = ops.concatenate([first, known[:, :-1]], axis=1)
    if mask is not None and last_x is not None:
        tokens = ops.cast(mask, "int32")
        before = ops.where((ops.cumsum(tokens, axis=1) == tokens)[..., None], first, before)
    return before - x


@register_layer
class TimeShift(Layer):
    """The input before each one, minus itself.

    Call arguments:
        inputs: `(batch, length, hidden)`.
        cache_x: takes the place of what was before the first, `(batch or 1, 1, hidden)`;
            None for zeros.

    Returns:
        `(batch, length, hidden)`.

    Source: https://arxiv.org/abs/2305.13048
    """

    def __init__(self, name="time_shift", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, inputs, cache_x=None, mask=None):
        return time_shift(inputs, cache_x, mask)

    def compute_output_shape(self, input_shape, cache_x_shape=None):
        return input_shape


@register_layer
class DecomposerDense(Layer):
    """A dense layer of low rank: activation(x · a) · b, as LoRA has it.

    Args:
        hidden_size: size of the output.
        decomposer_size: the rank.
        use_bias: bias of the output.
        kernel_initializer: of both matrices; a pair for each its own.
        bias_initializer: of the bias.
        activation: between the matrices.

    Shapes: `(batch, ..., dim)` -> `(batch, ..., hidden_size)`.

    Source: https://arxiv.org/abs/2404.05892
    """

    def __init__(
        self,
        hidden_size,
        decomposer_size,
        use_bias=False,
        name="decomposed_dense",
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        activation="tanh",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.hidden_size = hidden_size
        self.decomposer_size = decomposer_size
        self.use_bias = use_bias
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self.activation = activation

    def build(self, input_shape):
        pair = self.kernel_initializer
        first, second = pair if isinstance(pair, (list, tuple)) else (pair, pair)
        self.add_layer(
            "dense_a",
            Dense,
            input_shape,
            units=self.decomposer_size,
            use_bias=False,
            activation=activation_function(self.activation),
            kernel_initializer=first,
        )
        self.add_layer(
            "dense_b",
            Dense,
            (*input_shape[:-1], self.decomposer_size),
            units=self.hidden_size,
            use_bias=self.use_bias,
            kernel_initializer=second,
            bias_initializer=self.bias_initializer,
        )
        self.built = True

    def call(self, inputs):
        return self.dense_b(self.dense_a(inputs))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.hidden_size)


class RecurrentLayer(Layer):
    """Base of layers that remember the last input, and perhaps more: no slot for each token.

    Attributes:
        is_tuning: whether `enable_state_tuning` was called.
    """

    is_tuning = False

    def __init__(self, **kwargs):
        # A state stays float32 in a model of another dtype.
        super().__init__(autocast=False, **kwargs)

    @property
    def tuned(self):
        """`{name of a part of the state: its trained weight (1, ...)}`."""
        weights = {name: getattr(self, f"tuned_{name}", None) for name in self.state_shapes()}
        return {name: weight for name, weight in weights.items() if weight is not None}

    def state_shapes(self):
        """`{name of a part of the state: (its shape without the batch, dtype)}`."""
        return {"last_x": ((1, self.hidden_size), self.compute_dtype)}

    def initial_state(self, batch, slots=None):
        """The state before the first token: what has been tuned, else zeros."""
        state = {}
        for name, (shape, dtype) in self.state_shapes().items():
            shape = (batch, *shape)
            tuned = self.tuned.get(name)
            state[name] = (
                ops.zeros(shape, dtype=dtype)
                if tuned is None
                else ops.broadcast_to(ops.cast(ops.convert_to_tensor(tuned), dtype), shape)
            )
        return state

    def enable_state_tuning(self, time_shift_tuning=False):
        """Train the state before the first token, and nothing else of this layer.

        Args:
            time_shift_tuning: also what was before the first token.

        Raises:
            ValueError: it has been enabled.
        """
        if self.is_tuning:
            raise ValueError(f"layer {self.name!r}: state tuning is enabled already")
        freeze(self)
        self.is_tuning = True
        self._tracker.unlock()
        # File format: the order, after the layer's own weights.
        for name, (shape, _) in self.state_shapes().items():
            if name != "last_x" or time_shift_tuning:
                weight = self.add_weight(
                    shape=(1, *shape), initializer="zeros", dtype="float32", name=f"tuned_{name}"
                )
                setattr(self, f"tuned_{name}", weight)
        self._tracker.lock()

    def enable_state_tunig(self, time_shitf_tuning=False):
        """The documents' spelling of `enable_state_tuning`."""
        self.enable_state_tuning(time_shitf_tuning)

    @property
    def checkpoint_weights(self):
        """The weights that checkpoints have: those of the state are files of their own."""
        tuned = {id(weight) for weight in self.tuned.values()}
        return [weight for weight in float_order(self) if id(weight) not in tuned]

    def real_tokens(self, x, positions, lengths):
        """bool `(batch, n)`: of the tokens of a step those that count; they come first."""
        places = ops.arange(ops.shape(x)[1], dtype="int32")[None]
        return places < (lengths - positions[:, 0])[:, None]

    def last_input(self, x, last_x, positions, lengths):
        """Each row's last token of a step that counts, or what was before: `(batch, 1, hidden)`."""
        count = (lengths - positions[:, 0])[:, None, None]
        if x.shape[1] > 1:
            x = ops.take_along_axis(x, ops.maximum(count - 1, 0), axis=1)
        return ops.where(count > 0, ops.cast(x, last_x.dtype), last_x)


class MatrixMemory(RecurrentLayer):
    """Base of layers that remember a matrix a head, and the last input.

    Args:
        hidden_size: size of input and output.
        head_size: size of a head.
        layer_index, num_layers: which of how many blocks, for the initial weights.
        kernel_initializer: of the matrices, RWKV's by default.

    Raises:
        ValueError: head_size does not divide hidden_size.
    """

    def __init__(
        self,
        hidden_size,
        head_size,
        layer_index=0,
        num_layers=1,
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if hidden_size % head_size:
            raise ValueError(
                f"layer {self.name!r}: hidden_size={hidden_size} is no multiple of "
                f"head_size={head_size}"
            )
        self.hidden_size = hidden_size
        self.head_size = head_size
        self.layer_index = layer_index
        self.num_layers = num_layers
        self.kernel_initializer = keras.initializers.get(kernel_initializer or ScaledOrthogonal())

    @property
    def heads(self):
        """Number of heads."""
        return self.hidden_size // self.head_size

    def state_shapes(self):
        matrices = (self.heads, self.head_size, self.head_size)
        return {"wkv": (matrices, "float32"), **super().state_shapes()}

    def add_projection(self, name, input_shape, gain):
        """Make and build a matrix of the hidden size, as `add_layer`."""
        self.add_layer(
            name,
            Dense,
            input_shape,
            units=self.hidden_size,
            use_bias=False,
            kernel_initializer=scaled(self.kernel_initializer, gain),
        )

    def add_group_norm(self, input_shape, **options):
        """Make and build the norm within heads, of a scale that grows with the depth."""
        sizes = {"hidden_size": self.hidden_size, "head_size": self.head_size}
        self.add_layer("group_norm", GroupNorm, input_shape, **sizes, **options)
        level = ((1 + self.layer_index) / self.num_layers) ** 0.7
        self.group_norm.scale.assign(np.full((self.heads, self.head_size), level, "float32"))


def first_shape(shape):
    """The first of several shapes, or the only one."""
    return shape[0] if isinstance(shape[0], (list, tuple)) else shape


def freeze(layer):
    """Train no weight of a layer but the matrices of LoRA."""
    for variable in layer.variables:
        if not is_low_rank(variable):
            variable.trainable = False


@keras.saving.register_keras_serializable("bert4keras3")
class Orthogonal(keras.initializers.Orthogonal):
    """Keras', computed in float32: torch has no QR decomposition in bfloat16."""

    def __call__(self, shape, dtype=None):
        return ops.cast(super().__call__(shape, "float32"), dtype or keras.config.floatx())


@keras.saving.register_keras_serializable("bert4keras3")
class ScaledOrthogonal(Orthogonal):
    """RWKV's initializer of matrices: orthogonal times a gain, more for wide ones; 0 for zeros."""

    def __call__(self, shape, dtype=None):
        if not self.gain:
            return ops.zeros(shape, dtype=dtype)
        return super().__call__(shape, dtype) * max(1.0, shape[-1] / shape[-2]) ** 0.5

    def scaled(self, gain):
        """Another one, with another gain."""
        return ScaledOrthogonal(gain=gain)


def scaled(initializer, gain):
    """An initializer with a gain; one that knows none stays what it is."""
    return initializer.scaled(gain) if hasattr(initializer, "scaled") else initializer


def constant(values):
    """An initializer of given values."""
    return lambda shape, dtype=None: ops.cast(ops.reshape(ops.array(values), shape), dtype)
