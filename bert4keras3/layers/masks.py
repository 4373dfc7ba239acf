"""Attention masks that compare the marks of keys and queries, never shapes."""

from bert4keras3 import ops
from bert4keras3.layers.base import Layer, register_layer
from bert4keras3.ops import keras, seam


@register_layer
class CausalMask(Layer):
    """A query sees the keys at its own and earlier positions.

    Args:
        window: it sees only the last `window` of them (itself among them); None
            for all.

    Call arguments:
        inputs: any `(batch, length, ...)`, for its length.
        positions: positions of the queries `(batch, n)`, in a decoding step.
        slots: number of keys then, at positions 0 … slots-1.

    Returns:
        bool `(length, length)` as [query, key]; `(batch, n, slots)` in a step.
    """

    def __init__(self, window=None, **kwargs):
        super().__init__(**kwargs)
        self.window = window

    def call(self, inputs, positions=None, slots=None):
        if positions is None:
            query = key = ops.arange(ops.shape(inputs)[1], dtype="int32")
        else:
            query, key = ops.cast(positions, "int32"), ops.arange(slots, dtype="int32")
        behind = query[..., None] - key
        seen = behind >= 0
        return seen if self.window is None else ops.logical_and(seen, behind < self.window)

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_spec(self, inputs, positions=None, slots=None):
        return keras.KerasTensor((inputs.shape[1], inputs.shape[1]), dtype="bool")


def is_causal(mask):
    """Whether a tensor of a model's graph is the mask of a `CausalMask` without a window."""
    layer = seam.producer(mask)
    return isinstance(layer, CausalMask) and layer.window is None


@register_layer
class SegmentMask(Layer):
    """A query sees the keys whose mark is not above its own (UniLM).

    Args:
        cumulative: marks are cumulated segment ids: segment 0 sees itself both
            ways, each token of segment 1 everything before it; else marks are
            the segment ids as they are (blocks that see themselves and earlier
            blocks).

    Call arguments:
        inputs: segment ids `(batch, length)`.
        state: `{"marks": (batch, slots)}`, the marks so far, in a decoding step.
        positions: the slots of `inputs` then, `(batch, n)`.

    Returns:
        bool `(batch, length, length)` as [query, key]; with a state the mask
        `(batch, n, slots)` and the new state.

    Source: https://arxiv.org/abs/1905.03197, https://kexue.fm/archives/6933
    """

    def __init__(self, cumulative=True, **kwargs):
        super().__init__(**kwargs)
        self.cumulative = cumulative

    def call(self, inputs, state=None, positions=None):
        segments = ops.cast(inputs, "int32")
        if state is None:
            marks = ops.cumsum(segments, axis=1) if self.cumulative else segments
            return marks[:, None, :] <= marks[:, :, None]
        marks = self._continue(segments, state["marks"], positions)
        known = ops.write_rows(state["marks"], marks, positions)
        return known[:, None, :] <= marks[:, :, None], {"marks": known}

    def _continue(self, segments, known, positions):
        """Marks of the new tokens: the mark before the first of them, plus their segments."""
        if not self.cumulative:
            return segments
        start = positions[:, :1]
        before = ops.take_along_axis(known, ops.maximum(start - 1, 0), axis=1)
        return ops.where(start > 0, before, 0) + ops.cumsum(segments, axis=1)

    def initial_state(self, batch, slots):
        """Marks of an empty cache."""
        return {"marks": ops.zeros((batch, slots), dtype="int32")}

    def grow_state(self, state, slots):
        """The state with room for `slots` tokens."""
        more = slots - state["marks"].shape[1]
        return {"marks": ops.pad(state["marks"], ((0, 0), (0, more)))}

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_spec(self, inputs, state=None, positions=None):
        batch, length = inputs.shape
        return keras.KerasTensor((batch, length, length), dtype="bool")


@register_layer
class AttentionBias(Layer):
    """The sum of attention biases: a bool one hides, float ones add.

    Call arguments:
        inputs: biases, each `(n, m)`, `(batch, n, m)` or `(batch, heads, n, m)`.

    Returns:
        One float bias, the most axes of the inputs.
    """

    def call(self, inputs):
        total = 0.0
        for bias in inputs:
            if keras.backend.standardize_dtype(bias.dtype) == "bool":
                bias = ops.where(bias, 0.0, ops.lowest(self.compute_dtype))
            if len(bias.shape) == 3:
                bias = ops.expand_dims(bias, 1)
            total = total + ops.cast(bias, self.compute_dtype)
        return total

    def compute_mask(self, inputs, mask=None):
        return None
