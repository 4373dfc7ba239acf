"""Where a token is: absolute, sinusoidal, rotary and relative position embeddings.

Every layer here is a function of positions. Without `positions` a call is about
positions 0 … length-1; a decoding step passes its own, one row of them a batch row.
"""

import numpy as np

from bert4keras3 import ops
from bert4keras3.backend import rope_type, rotate_halves, sinusoidal_embeddings
from bert4keras3.layers.base import Layer, register_layer
from bert4keras3.ops import keras


class MergedPositions(Layer):
    """Base of the absolute positions: finds the positions and merges with the input.

    Args:
        merge_mode: `'add'`; `'mul'` (x · (1 + p)); `'zero'` (the positions only,
            with a batch axis of 1 unless ids are given); else concatenation.
        custom_position_ids: the input is `[x, position ids]`.
    """

    def __init__(self, output_dim, merge_mode="add", custom_position_ids=False, **kwargs):
        super().__init__(**kwargs)
        self.output_dim = output_dim
        self.merge_mode = merge_mode
        self.custom_position_ids = custom_position_ids

    def merge(self, x, embeddings):
        """Merge `(batch or 1, length, output_dim)` position embeddings into x."""
        embeddings = ops.cast(embeddings, self.compute_dtype)
        if self.merge_mode == "zero":
            return embeddings
        if self.merge_mode == "add":
            return x + embeddings
        if self.merge_mode == "mul":
            return x * (embeddings + 1)
        embeddings = ops.broadcast_to(embeddings, (*ops.shape(x)[:2], self.output_dim))
        return ops.concatenate([x, embeddings], axis=-1)

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def compute_output_shape(self, input_shape):
        several = isinstance(input_shape[0], (list, tuple))
        shape = tuple(input_shape[0] if several else input_shape)
        if self.merge_mode == "zero":
            return (shape[0] if several else 1, shape[1], self.output_dim)
        if self.merge_mode in ("add", "mul"):
            return shape
        return (*shape[:2], shape[2] + self.output_dim)

    def compute_output_spec(self, inputs, **kwargs):
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), inputs)
        return keras.KerasTensor(self.compute_output_shape(shapes), dtype=self.compute_dtype)


def _split_ids(inputs, positions):
    """x and its position ids: from the input list, the decoding step, or neither (None)."""
    x, ids = inputs if isinstance(inputs, (list, tuple)) else (inputs, positions)
    return x, ids if ids is None else ops.cast(ids, "int32")


@register_layer
class PositionEmbedding(MergedPositions):
    """Trained absolute position embeddings, as BERT's.

    Args:
        input_dim: number of positions in the table.
        output_dim: size of a position's vector.
        merge_mode: see `MergedPositions`.
        hierarchical: True (0.4) or a number in (0, 1): positions up to
            input_dim² are composed of two table rows.
        embeddings_initializer: the table's initializer.
        custom_position_ids: the input is `[x, ids]`, ids `(batch, length)`.
        offset: row of the table that position 0 uses (RoBERTa: 2).
        skip_padding: positions count unmasked tokens only (RoBERTa).

    Shapes: `(batch, length, dim)` -> `(batch, length, dim)`.

    Raises:
        ValueError: a sequence longer than the table.

    Source: https://arxiv.org/abs/1810.04805; hierarchical: https://kexue.fm/archives/7947
    """

    def __init__(
        self,
        input_dim,
        output_dim,
        merge_mode="add",
        hierarchical=None,
        embeddings_initializer="zeros",
        custom_position_ids=False,
        offset=0,
        skip_padding=False,
        **kwargs,
    ):
        super().__init__(output_dim, merge_mode, custom_position_ids, **kwargs)
        hierarchical = bool(hierarchical) if hierarchical in (None, 0, 1) else hierarchical
        if not isinstance(hierarchical, bool) and not 0 < hierarchical < 1:
            raise ValueError(
                f"layer {self.name!r}: hierarchical: expected True or a number between 0 and 1, "
                f"got {hierarchical!r}"
            )
        self.input_dim = input_dim
        self.hierarchical = hierarchical
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.offset = offset
        self.skip_padding = skip_padding

    def build(self, input_shape):
        several = isinstance(input_shape[0], (list, tuple))
        self._check_length((input_shape[0] if several else input_shape)[1])
        self.embeddings = self.add_weight(
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
            name="embeddings",
        )
        self.built = True

    def call(self, inputs, mask=None, positions=None):
        x, ids = _split_ids(inputs, positions)
        self._check_length(x.shape[1])
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        if ids is None and self.skip_padding and mask is not None:
            # Padding gets the row before the first position's, as in RoBERTa.
            keep = ops.cast(mask, "int32")
            ids = ops.maximum(ops.cumsum(keep, axis=1) * keep - 1, -self.offset)
        if ids is None:
            return self.merge(x, self._first_rows(ops.shape(x)[1])[None])
        return self.merge(x, self._rows(ids))

    def _check_length(self, length):
        limit = self.input_dim**2 if self.hierarchical else self.input_dim - self.offset
        if length is not None and length > limit:
            raise ValueError(
                f"layer {self.name!r}: a sequence of {length} tokens, but the position table "
                f"ends at {limit}; shorten the input or set hierarchical_position=True"
            )

    def _first_rows(self, length):
        if self.hierarchical:
            return self._rows(ops.arange(length, dtype="int32"))
        return self.embeddings[self.offset : self.offset + length]

    def _rows(self, ids):
        if not self.hierarchical:
            return ops.lookup(self.embeddings, ids + self.offset)
        alpha = 0.4 if self.hierarchical is True else self.hierarchical
        base = (self.embeddings - alpha * self.embeddings[:1]) / (1 - alpha)
        high = ops.lookup(base, ids // self.input_dim)
        low = ops.lookup(base, ids % self.input_dim)
        return alpha * high + (1 - alpha) * low


@register_layer
class SinusoidalPositionEmbedding(MergedPositions):
    """Fixed sinusoidal position embeddings.

    Args:
        output_dim: size of a position's vector, even.
        merge_mode, custom_position_ids: see `MergedPositions`.
        max_wavelength: base of the frequencies.
        scaling: how the frequencies are stretched, see `rotary_frequencies`.

    Shapes: `(batch, length, dim)` -> `(batch, length, dim)`; with
    `merge_mode='zero'` -> `(1 or batch, length, output_dim)`, as RoPE wants it.

    Source: https://arxiv.org/abs/1706.03762, https://kexue.fm/archives/8231
    """

    def __init__(
        self,
        output_dim,
        merge_mode="add",
        custom_position_ids=False,
        max_wavelength=10000.0,
        scaling=None,
        **kwargs,
    ):
        super().__init__(output_dim, merge_mode, custom_position_ids, **kwargs)
        if output_dim % 2:
            raise ValueError(
                f"layer {self.name!r}: output_dim: expected an even one, got {output_dim}"
            )
        self.max_wavelength = max_wavelength
        self.scaling = scaling

    def call(self, inputs, positions=None, lengths=None):
        x, ids = _split_ids(inputs, positions)
        if ids is None:
            ids = ops.arange(ops.shape(x)[1], dtype="int32")[None]
        length = None
        if rope_type(self.scaling) == "dynamic":
            # A prefill's positions may go beyond the text.
            length = ops.max(ids, axis=-1) + 1 if lengths is None else lengths
            length = length[:, None]
        settings = (self.max_wavelength, self.scaling, length)
        return self.merge(x, sinusoidal_embeddings(ids, self.output_dim, *settings))


@register_layer
class RotaryEmbedding(Layer):
    """Rotary embedding that turns the first half of the features against the second.

    Args:
        max_wavelength: base of the frequencies.
        scaling_factor: positions are divided by it (linear scaling).
        sequence_axis, feature_axis: the axes of positions and features.

    Call arguments:
        inputs: any shape with these two axes.
        start_index: position of the first token, 0 by default.

    Source: https://arxiv.org/abs/2104.09864
    """

    def __init__(
        self, max_wavelength=10000, scaling_factor=1.0, sequence_axis=1, feature_axis=-1, **kwargs
    ):
        super().__init__(**kwargs)
        self.max_wavelength = max_wavelength
        self.scaling_factor = scaling_factor
        self.sequence_axis = sequence_axis
        self.feature_axis = feature_axis

    def call(self, inputs, start_index=None):
        ndim = len(inputs.shape)
        sequence, feature = self.sequence_axis % ndim, self.feature_axis % ndim
        others = [a for a in range(ndim) if a not in (sequence, feature)]
        order = [*others, sequence, feature]
        x = ops.transpose(inputs, order)
        length = ops.shape(x)[-2]
        positions = ops.arange(length, dtype="int32") + (0 if start_index is None else start_index)
        flat = ops.reshape(x, (-1, length, x.shape[-1]))
        flat = rotate_halves(flat, positions[None], self.max_wavelength, self.scaling_factor)
        turned = ops.reshape(flat, ops.shape(x))
        return ops.transpose(turned, [int(i) for i in np.argsort(order)])

    def compute_output_shape(self, input_shape):
        return input_shape


@register_layer
class RelativePositionEmbedding(Layer):
    """A vector for each clipped distance between query and key.

    Args:
        input_dim: table rows, 2m + 1: distances are clipped to [-m, m].
        output_dim: size of a vector.
        embeddings_initializer: the table's initializer.

    Call arguments:
        inputs: `[queries, keys]`, `(batch, n, ...)` and `(batch, m, ...)`.
        positions: positions of the queries `(batch, n)`, in a decoding step.
        slots: number of keys then, at positions 0 … slots-1.

    Returns:
        `(n, m, output_dim)`; with `positions` `(batch, n, slots, output_dim)`.

    Source: https://arxiv.org/abs/1803.02155
    """

    def __init__(self, input_dim, output_dim, embeddings_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, input_shape):
        self.embeddings = self.add_weight(
            shape=(self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
            name="embeddings",
        )
        self.built = True

    def call(self, inputs, positions=None, slots=None):
        if positions is None:
            return self._of_all_pairs(*(ops.shape(x)[1] for x in inputs))
        slots = ops.arange(slots, dtype="int32")
        return self._vectors(slots - ops.cast(positions, "int32")[..., None])

    def _vectors(self, distance):
        rows = ops.lookup(self.embeddings, self.rows_of(distance))
        return ops.cast(rows, self.compute_dtype)

    def _of_all_pairs(self, n, m):
        """`(n, m, output_dim)`: every row is the vectors of all distances, one further to the left.

        So each distance is looked up once. Of a lookup of all pairs JAX on a GPU would add the
        gradients of a table's row one after another, n * m of them for a few rows.
        """
        vectors = self._vectors(ops.arange(1 - n, m + 1, dtype="int32"))
        width = n + m - 1  # one less than there are: rows of it start one vector earlier each
        repeated = ops.broadcast_to(vectors, (n, width + 1, self.output_dim))
        repeated = ops.reshape(repeated, (n * (width + 1), self.output_dim))[: n * width]
        return ops.reshape(repeated, (n, width, self.output_dim))[:, n - 1 :]

    def rows_of(self, distance):
        """The table row of a signed distance (key position - query position)."""
        farthest = (self.input_dim - 1) // 2
        return ops.clip(distance, -farthest, farthest) + farthest

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0][1], input_shape[1][1], self.output_dim)


@register_layer
class RelativePositionEmbeddingT5(RelativePositionEmbedding):
    """T5's relative positions: distances in buckets that widen logarithmically.

    Args:
        input_dim: number of buckets.
        output_dim: number of heads.
        max_distance: distances from here on share the last bucket.
        bidirectional: half of the buckets serve keys after the query.
        embeddings_initializer: the table's initializer.

    Call and shapes: as `RelativePositionEmbedding`.

    Source: https://arxiv.org/abs/1910.10683
    """

    def __init__(
        self,
        input_dim,
        output_dim,
        max_distance=128,
        bidirectional=True,
        embeddings_initializer="zeros",
        **kwargs,
    ):
        super().__init__(input_dim, output_dim, embeddings_initializer, **kwargs)
        self.max_distance = max_distance
        self.bidirectional = bidirectional

    def rows_of(self, distance):
        buckets, first = self.input_dim, 0
        behind = -distance
        if self.bidirectional:
            buckets //= 2
            first = ops.where(behind < 0, buckets, 0)
            behind = ops.abs(behind)
        else:
            behind = ops.maximum(behind, 0)
        exact = buckets // 2
        # The logarithmic part is a step function: its edges, so that no rounding decides.
        edges = self._edges(exact, buckets)
        far = exact + sum(ops.cast(behind >= edge, "int32") for edge in edges)
        return first + ops.where(behind < exact, behind, far)

    def _edges(self, exact, buckets):
        """Smallest distance of each bucket after the first logarithmic one."""
        distances = np.arange(exact, max(self.max_distance, exact) + 1).astype("float32")
        steps = np.log(distances / exact) / np.log(self.max_distance / exact).astype("float32")
        bucket = np.minimum((steps * (buckets - exact)).astype("int32"), buckets - exact - 1)
        return [int(distances[bucket >= k][0]) for k in range(1, bucket.max() + 1)]
