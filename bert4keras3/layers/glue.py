"""Small layers that join, point at or bound tensors."""

from bert4keras3 import ops
from bert4keras3.layers.base import Configured, Direct, Layer, register_layer
from bert4keras3.ops import keras


@register_layer
class Add(Direct, Configured, keras.layers.Add):
    """Sum of tensors; a position is masked where any input with a mask masks it.

    Keras 3's `Add` drops the mask as soon as one input has none, so the sum of
    token and segment embeddings would forget the padding.

    Args:
        mask_from: index of the one input whose mask counts; None for all.
    """

    def __init__(self, mask_from=None, **kwargs):
        super().__init__(**kwargs)
        self.mask_from = mask_from

    def compute_mask(self, inputs, mask=None):
        if mask is None or self.mask_from is not None:
            return mask and mask[self.mask_from]
        merged = None
        for m in mask:
            if m is not None:
                merged = m if merged is None else ops.logical_and(merged, m)
        return merged


@register_layer
class Concatenate1D(Layer):
    """Concatenation along axis 1: `[(batch, n, d), (batch, m, d), ...]` -> `(batch, n+m+..., d)`.

    An input without a mask counts as unmasked where another input has one.
    """

    def call(self, inputs):
        return ops.concatenate(inputs, axis=1)

    def compute_mask(self, inputs, mask=None):
        if mask is None or all(m is None for m in mask):
            return None
        full = [
            ops.ones_like(x[..., 0], dtype="bool") if m is None else m
            for x, m in zip(inputs, mask, strict=True)
        ]
        return ops.concatenate(full, axis=1)

    def compute_output_shape(self, input_shape):
        lengths = [shape[1] for shape in input_shape]
        length = None if None in lengths else sum(lengths)
        return (input_shape[0][0], length, *input_shape[0][2:])


@register_layer
class ClearPadding(Layer):
    """Sets masked positions of `(batch, length, hidden)` to 0, for readers without the mask."""

    def call(self, inputs, mask=None):
        return inputs if mask is None else ops.where(mask[:, :, None], inputs, 0)

    def compute_output_shape(self, input_shape):
        return input_shape


@register_layer
class LastToken(Layer):
    """The vector of each row's last token: `(batch, length, hidden)` -> `(batch, hidden)`."""

    def call(self, inputs, mask=None):
        if mask is None:
            return inputs[:, -1]
        places = ops.arange(ops.shape(inputs)[1], dtype="int32")[None]
        last = ops.max(ops.where(mask, places, 0), axis=1)
        return ops.take_along_axis(inputs, last[:, None, None], axis=1)[:, 0]

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *input_shape[2:])


@register_layer
class FirstToken(Layer):
    """The vector of the first position: `(batch, length, hidden)` -> `(batch, hidden)`."""

    def call(self, inputs):
        return inputs[:, 0]

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *input_shape[2:])


@register_layer
class SoftCap(Layer):
    """x -> cap · tanh(x / cap), any shape.

    Args:
        cap: what no result exceeds.

    Source: https://arxiv.org/abs/2408.00118
    """

    def __init__(self, cap, **kwargs):
        super().__init__(**kwargs)
        self.cap = cap

    def call(self, inputs):
        return self.cap * ops.tanh(inputs / self.cap)

    def compute_output_shape(self, input_shape):
        return input_shape
