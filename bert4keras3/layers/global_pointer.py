"""Scores for all spans of a text, from the tokens they begin and end with."""

from bert4keras3 import ops
from bert4keras3.backend import apply_rotary_position_embeddings, sinusoidal_embeddings
from bert4keras3.layers.base import Layer, fresh, register_layer
from bert4keras3.layers.dense import Dense
from bert4keras3.ops import keras


@register_layer
class GlobalPointer(Layer):
    """Scores spans: head h gives the span from token i to token j the score at [h, i, j].

    Args:
        heads: number of kinds of spans.
        head_size: size of the vectors of a token as a beginning and as an end.
        RoPE: turn them by their positions, so that scores know how long a span is.
        use_bias: whether the Denses have biases.
        tril_mask: spans that end before they begin are scored -inf.
        kernel_initializer: initializer of all kernels.

    Shapes: `(batch, length, dim)` -> `(batch, heads, length, length)`; spans that begin or
    end at a masked token are scored -inf.

    Source: https://kexue.fm/archives/8373
    """

    def __init__(
        self,
        heads,
        head_size,
        RoPE=True,
        use_bias=True,
        tril_mask=True,
        kernel_initializer="lecun_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if RoPE and head_size % 2:
            raise ValueError(
                f"layer {self.name!r}: head_size: RoPE needs an even number, got {head_size}"
            )
        self.heads = heads
        self.head_size = head_size
        self.RoPE = RoPE
        self.use_bias = use_bias
        self.tril_mask = tril_mask
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        # File format: the attribute's name.
        self.add_dense("dense", 2 * self.heads * self.head_size, input_shape)
        self.built = True

    def add_dense(self, name, units, input_shape):
        """Make a Dense; the name of its attribute is file format."""
        self.add_layer(
            name,
            Dense,
            input_shape,
            units=units,
            use_bias=self.use_bias,
            kernel_initializer=fresh(self.kernel_initializer),
        )

    def call(self, inputs, mask=None):
        x = self.dense(inputs)
        x = ops.reshape(x, (*ops.shape(inputs)[:2], self.heads, 2 * self.head_size))
        begins, ends = self._turned(x[..., : self.head_size], x[..., self.head_size :])
        scores = ops.einsum("bmhd,bnhd->bhmn", begins, ends) / self.head_size**0.5
        return self.hide(scores, mask)

    def _turned(self, *vectors):
        if not self.RoPE:
            return vectors
        positions = ops.arange(ops.shape(vectors[0])[1], dtype="int32")[None]
        return apply_rotary_position_embeddings(
            sinusoidal_embeddings(positions, self.head_size), *vectors
        )

    def hide(self, scores, mask):
        """-inf for spans that are none."""
        steps = ops.arange(ops.shape(scores)[-1], dtype="int32")
        hidden = ops.cast(float("-inf"), scores.dtype)
        if mask is not None:
            mask = ops.cast(mask, "bool")[:, None]
            spans = ops.logical_and(mask[..., :, None], mask[..., None, :])
            scores = ops.where(spans, scores, hidden)
        if self.tril_mask:
            scores = ops.where(steps[:, None] <= steps[None, :], scores, hidden)
        return scores

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.heads, input_shape[1], input_shape[1])


@register_layer
class EfficientGlobalPointer(GlobalPointer):
    """As `GlobalPointer`; heads share the vectors and differ in two numbers a token.

    The score is that of a span of whichever kind, plus what its beginning and its end
    say about the kind: far fewer weights where there are many kinds.

    Args:
        heads, head_size, RoPE, use_bias, tril_mask, kernel_initializer: see `GlobalPointer`.

    Shapes: `(batch, length, dim)` -> `(batch, heads, length, length)`.

    Source: https://kexue.fm/archives/8877
    """

    def build(self, input_shape):
        # File format: the attributes' names.
        self.add_dense("p_dense", 2 * self.head_size, input_shape)
        self.add_dense("q_dense", 2 * self.heads, (*input_shape[:-1], 2 * self.head_size))
        self.built = True

    def call(self, inputs, mask=None):
        x = self.p_dense(inputs)
        begins, ends = self._turned(x[..., ::2], x[..., 1::2])
        scores = ops.einsum("bmd,bnd->bmn", begins, ends) / self.head_size**0.5
        kinds = ops.transpose(self.q_dense(x), (0, 2, 1)) / 2
        scores = scores[:, None] + kinds[:, ::2, None, :] + kinds[:, 1::2, :, None]
        return self.hide(scores, mask)
