"""Scaling, shifting and normalising the last axis."""

from bert4keras3 import ops
from bert4keras3.backend.shapes import at_least_float32
from bert4keras3.layers.base import Layer, activation_function, register_layer
from bert4keras3.ops import keras


@register_layer
class ScaleOffset(Layer):
    """x · gamma + beta along the last axis, optionally steered by a condition vector.

    Args:
        scale: True for a trainable gamma, False or None for none, a number or
            vector for a constant one.
        offset: the same for beta.
        conditional: the input is `[x, condition]`; linear maps of the condition
            (initially zero) are added to gamma and beta.
        hidden_units: size of a hidden layer between condition and gamma, beta.
        hidden_activation: its activation.
        hidden_initializer: its kernel's initializer.

    Shapes: x `(batch, ..., dim)`, condition `(batch, size)` -> `(batch, ..., dim)`.

    Source: https://kexue.fm/archives/7124 (conditional layer normalization)
    """

    def __init__(
        self,
        scale=True,
        offset=True,
        conditional=False,
        hidden_units=None,
        hidden_activation="linear",
        hidden_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.scale = scale
        self.offset = offset
        self.conditional = conditional
        self.hidden_units = hidden_units
        self.hidden_activation = hidden_activation
        self.hidden_initializer = keras.initializers.get(hidden_initializer)

    def build(self, input_shape):
        dim = (input_shape[0] if self.conditional else input_shape)[-1]
        # File format: beta comes before gamma.
        if self.offset is True:
            self.beta = self.add_weight(shape=(dim,), initializer="zeros", name="beta")
        if self.scale is True:
            self.gamma = self.add_weight(shape=(dim,), initializer="ones", name="gamma")
        if self.conditional:
            self._build_condition(dim, tuple(input_shape[1]))
        self.built = True

    def _build_condition(self, dim, shape):
        if self.hidden_units is not None:
            self.hidden_dense = keras.layers.Dense(
                self.hidden_units,
                activation=activation_function(self.hidden_activation),
                use_bias=False,
                kernel_initializer=self.hidden_initializer,
                dtype=self.dtype_policy,
                name="hidden_dense",
            )
            self.hidden_dense.build(shape)
            shape = (*shape[:-1], self.hidden_units)
        for name, used in (("beta_dense", self._uses_offset), ("gamma_dense", self._uses_scale)):
            if used:
                dense = keras.layers.Dense(
                    dim,
                    use_bias=False,
                    kernel_initializer="zeros",
                    dtype=self.dtype_policy,
                    name=name,
                )
                dense.build(shape)
                setattr(self, name, dense)

    @property
    def _uses_scale(self):
        return self.scale is not False and self.scale is not None

    @property
    def _uses_offset(self):
        return self.offset is not False and self.offset is not None

    def call(self, inputs, mask=None):
        x, condition = inputs if self.conditional else (inputs, None)
        return self.affine(x, condition)

    def affine(self, x, condition=None):
        """Scale and shift x; gamma and beta are cast to its dtype."""
        if condition is not None:
            if self.hidden_units is not None:
                condition = self.hidden_dense(condition)
            for _ in range(len(x.shape) - len(condition.shape)):
                condition = ops.expand_dims(condition, 1)
        if self._uses_scale:
            gamma = self.gamma if self.scale is True else ops.convert_to_tensor(self.scale)
            gamma = ops.cast(gamma, x.dtype)
            if condition is not None:
                gamma = gamma + ops.cast(self.gamma_dense(condition), x.dtype)
            x = x * gamma
        if self._uses_offset:
            beta = self.beta if self.offset is True else ops.convert_to_tensor(self.offset)
            beta = ops.cast(beta, x.dtype)
            if condition is not None:
                beta = beta + ops.cast(self.beta_dense(condition), x.dtype)
            x = x + beta
        return x

    def compute_mask(self, inputs, mask=None):
        return mask[0] if self.conditional and mask is not None else mask

    def compute_output_shape(self, input_shape):
        return input_shape[0] if self.conditional else input_shape


@register_layer
class LayerNormalization(ScaleOffset):
    """Layer normalization over the last axis, in float32 at least.

    Args:
        zero_mean: subtract the mean.
        unit_variance: divide by sqrt(mean(x²) + epsilon) (of x after the mean is
            subtracted, where it is). Without the mean this is the RMS norm.
        epsilon: Keras' `epsilon()` (1e-7) by default.
        scale, offset, conditional, hidden_units, hidden_activation,
        hidden_initializer: as in `ScaleOffset`.

    Shapes: as in `ScaleOffset`.

    Source: https://arxiv.org/abs/1607.06450; conditional: https://kexue.fm/archives/7124
    """

    def __init__(self, zero_mean=True, unit_variance=True, epsilon=None, **kwargs):
        super().__init__(**kwargs)
        self.zero_mean = zero_mean
        self.unit_variance = unit_variance
        self.epsilon = keras.config.epsilon() if epsilon is None else epsilon

    def call(self, inputs, mask=None):
        x, condition = inputs if self.conditional else (inputs, None)
        dtype = x.dtype
        x = at_least_float32(x)
        if self.zero_mean:
            x = x - ops.mean(x, axis=-1, keepdims=True)
        if self.unit_variance:
            variance = ops.mean(ops.square(x), axis=-1, keepdims=True)
            x = x * ops.rsqrt(variance + self.epsilon)
        return ops.cast(self.affine(x, condition), dtype)


class _RootMeanSquareNorm(Layer):
    """Base of the RMS norms with one weight `scale`: x / sqrt(mean(x²) + epsilon), in float32.

    Args:
        epsilon: 1e-6 by default.

    Shapes: `(batch, ..., dim)` -> the same.
    """

    scale_initializer = "ones"

    def __init__(self, epsilon=None, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = 1e-6 if epsilon is None else epsilon

    def build(self, input_shape):
        self.scale = self.add_weight(
            shape=(input_shape[-1],), initializer=self.scale_initializer, name="scale"
        )
        self.built = True

    def call(self, inputs):
        x = ops.cast(inputs, "float32")
        x = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + self.epsilon)
        return self.affine(x)

    def compute_output_shape(self, input_shape):
        return input_shape


@register_layer
class RMSNormalization(_RootMeanSquareNorm):
    """Gemma's RMS norm: the normalised x, in float32, times (1 + scale).

    Args:
        epsilon: 1e-6 by default.

    Shapes: `(batch, ..., dim)` -> the same.

    Source: https://arxiv.org/abs/1910.07467, https://arxiv.org/abs/2403.08295
    """

    scale_initializer = "zeros"

    def affine(self, x):
        """x · (1 + scale), then cast."""
        return ops.cast(x * (1 + ops.cast(self.scale, "float32")), self.compute_dtype)


@register_layer
class LlamaLayerNorm(_RootMeanSquareNorm):
    """Llama's RMS norm: the normalised x, cast, times scale.

    Args:
        epsilon: 1e-6 by default.

    Shapes: `(batch, ..., dim)` -> the same.

    Source: https://arxiv.org/abs/1910.07467, https://arxiv.org/abs/2302.13971
    """

    def affine(self, x):
        """x, cast, · scale."""
        return ops.cast(x, self.compute_dtype) * ops.cast(self.scale, self.compute_dtype)


@register_layer
class GroupNorm(Layer):
    """Layer normalization within each head, then a scale and an offset a feature, in float32.

    Args:
        hidden_size: size of the input, a multiple of head_size.
        head_size: size of a group.
        epsilon: 64e-5 by default.
        inner_weights: the inner layer normalization has a scale and an offset of its own.

    Shapes: `(batch, ..., hidden_size)` -> the same.

    Raises:
        ValueError: head_size does not divide hidden_size.

    Source: https://arxiv.org/abs/1803.08494, as in RWKV (https://arxiv.org/abs/2404.05892)
    """

    def __init__(self, hidden_size, head_size, epsilon=64e-5, inner_weights=True, **kwargs):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.head_size = head_size
        self.epsilon = epsilon
        self.inner_weights = inner_weights
        if hidden_size % head_size:
            raise ValueError(
                f"layer {self.name!r}: hidden_size={hidden_size} is no multiple of "
                f"head_size={head_size}"
            )

    def build(self, input_shape):
        shape = (self.hidden_size // self.head_size, self.head_size)
        self.scale = self.add_weight(shape=shape, initializer="ones", name="scale")
        self.offset = self.add_weight(shape=shape, initializer="zeros", name="offset")
        # File format: the attribute's name.
        self.group_ln = keras.layers.LayerNormalization(
            epsilon=self.epsilon,
            center=self.inner_weights,
            scale=self.inner_weights,
            dtype="float32",
        )
        self.group_ln.build((*input_shape[:-1], *shape))
        self.built = True

    def call(self, inputs):
        shape = (*ops.shape(inputs)[:-1], *self.scale.shape)
        x = self.group_ln(ops.reshape(ops.cast(inputs, "float32"), shape))
        x = x * ops.cast(self.scale, "float32") + ops.cast(self.offset, "float32")
        return ops.cast(ops.reshape(x, ops.shape(inputs)), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape
