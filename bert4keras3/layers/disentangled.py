"""DeBERTa's layers: attention in which content and relative position are kept apart."""

import numpy as np

from bert4keras3 import ops
from bert4keras3.backend import attention_normalize, flatten
from bert4keras3.layers.base import Layer, activation_function, fresh, register_layer
from bert4keras3.layers.dense import Dense, EinsumDense
from bert4keras3.layers.memory import Remembering, empty_memory, filled_slots, remember
from bert4keras3.ops import keras

LayerNormalization = keras.layers.LayerNormalization  # its weights: gamma, then beta


@register_layer
class DebertaRelativeEmbedding(Layer):
    """The normalised table of relative positions, shared by all blocks.

    Args:
        hidden_dim: size of a vector.
        bucket_size: buckets on either side: the table has twice as many rows.
        layer_norm_epsilon: epsilon of its norm.
        kernel_initializer: the table's initializer.

    Call: any tensor -> `(2 * bucket_size, hidden_dim)`.
    """

    def __init__(
        self,
        hidden_dim,
        bucket_size,
        layer_norm_epsilon=1e-5,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.bucket_size = bucket_size
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        shape = (2 * self.bucket_size, self.hidden_dim)
        self.rel_embedding = self.add_weight(
            shape=shape, initializer=self.kernel_initializer, name="rel_embedding"
        )
        self.add_layer("layer_norm", LayerNormalization, shape, epsilon=self.layer_norm_epsilon)
        self.built = True

    def call(self, inputs):
        return self.layer_norm(ops.cast(self.rel_embedding, self.compute_dtype))

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_spec(self, inputs):
        shape = (2 * self.bucket_size, self.hidden_dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


@register_layer
class DisentangledSelfAttention(Remembering, Layer):
    """Self-attention whose scores are content-content, content-position and position-content.

    Positions use the projections of the content.

    Args:
        num_heads: number of heads.
        hidden_dim: size of input and output.
        max_position_embeddings: distance at which the last bucket is reached.
        bucket_size: buckets on either side: half of them are single distances, the
            rest widen logarithmically.
        dropout: dropout rate of attention weights and of the position table.
        kernel_initializer: initializer of all kernels.

    Source: https://arxiv.org/abs/2006.03654, https://arxiv.org/abs/2111.09543
    """

    def __init__(
        self,
        num_heads,
        hidden_dim,
        max_position_embeddings=512,
        bucket_size=256,
        dropout=0.1,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        # Keras would cast the caches; the projections cast what they are given.
        super().__init__(autocast=False, **kwargs)
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.max_position_embeddings = max_position_embeddings
        self.bucket_size = bucket_size
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        if hidden_dim % num_heads:
            raise ValueError(
                f"layer {self.name!r}: hidden_dim={hidden_dim} is no multiple of "
                f"num_heads={num_heads}"
            )
        if bucket_size < 2:
            raise ValueError(
                f"layer {self.name!r}: bucket_size: expected 2 or more, got {bucket_size}"
            )
        self.head_size = hidden_dim // num_heads

    def build(self, input_shape):
        shape = tuple(input_shape[0])
        self._bucket_table = self._buckets()
        # File format: the attributes' names.
        for name in ("query", "key", "value"):
            options = {"output_shape": (None, self.num_heads, self.head_size), "bias_axes": "nh"}
            self._add(f"_{name}_dense", EinsumDense, shape, equation="btd,dnh->btnh", **options)
        self._add("_output_dense", Dense, shape, units=self.hidden_dim)
        if self.dropout:
            self.weights_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)
            self.table_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)
        self.built = True

    def _add(self, *arguments, **options):
        self.add_layer(*arguments, kernel_initializer=fresh(self.kernel_initializer), **options)

    def call(
        self,
        inputs,
        mask=None,
        a_bias=None,
        state=None,
        positions=None,
        lengths=None,
        training=None,
    ):
        """Attend.

        Args:
            inputs: list of x `(batch, n, hidden_dim)`, the relative table
                `(2 * bucket_size, hidden_dim)` and, if asked for, the attention bias
                (bool hides, float adds; `(n, m)`, `(batch, n, m)` or 4-D).
            mask: masks of the inputs; that of x hides keys.
            a_bias: an attention bias is among the inputs.
            state: `{"k", "v"}` of `(batch, heads, slots, size)`: keys and values so far.
            positions: int `(batch, n)`, in a decoding step.
            lengths: int `(batch,)`, slots that hold tokens after this step.

        Returns:
            `(batch, n, hidden_dim)`; with a state a tuple of it and the new state.
        """
        x, table, *rest = inputs
        if len(rest) != bool(a_bias):
            raise ValueError(
                f"layer {self.name!r}: expected {2 + bool(a_bias)} inputs, got {len(inputs)}"
            )
        visible = mask[0] if isinstance(mask, (list, tuple)) else mask
        query = _heads_first(self._query_dense(x))
        key, value = self._key_dense(x), self._value_dense(x)
        if state is None:
            key, value = _heads_first(key), _heads_first(value)
            at = ops.arange(ops.shape(x)[1], dtype="int32")
            distance = at[None, :, None] - at
        else:
            state = remember(state, key, value, positions)
            key, value = state["k"], state["v"]
            visible = filled_slots(state["k"], lengths)
            slots = ops.arange(ops.shape(key)[2], dtype="int32")
            distance = ops.cast(positions, "int32")[:, :, None] - slots
        scores = self._scores(query, key, table, distance, training)
        bias = rest[0] if rest else None
        if bias is not None and len(bias.shape) == 3:
            bias = ops.expand_dims(bias, 1)
        weights = attention_normalize(scores, visible, -1, "softmax-fp32", bias)
        if self.dropout:
            weights = self.weights_dropout(weights, training=training)
        attended = _heads_first(ops.matmul(weights, value))
        output = self._output_dense(flatten(ops.cast(attended, self.compute_dtype), 2))
        return output if state is None else (output, state)

    def _scores(self, query, key, table, distance, training):
        """Scaled scores `(batch, heads, n, m)`; distance is `(batch or 1, n, m)`."""
        table = ops.cast(table, self.compute_dtype)[None]
        if self.dropout:
            table = self.table_dropout(table, training=training)
        position_query, position_key = (
            _swap(ops.cast(_heads_first(project(table)), key.dtype))
            for project in (self._query_dense, self._key_dense)
        )
        query = ops.cast(query, key.dtype)
        rows = self._rows(distance)[:, None]
        scores = ops.matmul(query, _swap(key))
        scores = scores + _gather(ops.matmul(query, position_key), rows)
        toward = _gather(ops.matmul(key, position_query), _swap(rows))
        return (scores + _swap(toward)) / (3 * self.head_size) ** 0.5

    def _rows(self, distance):
        """The table's row for a distance (query position - key position)."""
        buckets = self._bucket_table
        size = ops.minimum(ops.abs(distance), len(buckets) - 1)
        bucket = ops.sign(distance) * ops.take(ops.convert_to_tensor(buckets), size)
        return ops.clip(bucket + self.bucket_size, 0, 2 * self.bucket_size - 1)

    def _buckets(self):
        """The bucket of every distance up to where the last one is reached, int32."""
        middle, limit = self.bucket_size // 2, self.max_position_embeddings
        count = 2 * max(limit, self.bucket_size)
        while True:
            distances = np.arange(count).astype("float32")
            with np.errstate(divide="ignore", invalid="ignore"):
                steps = np.log(distances / middle) / np.log(np.float32((limit - 1) / middle))
                far = np.ceil(steps * (middle - 1)) + middle
            buckets = np.where(distances <= middle, distances, far).astype("int32")
            grows = middle > 1 and limit - 1 > middle
            if buckets[-1] >= self.bucket_size or not grows:
                return buckets
            count *= 2

    def initial_state(self, batch, slots):
        """Empty keys and values: `{"k", "v"}` of `(batch, heads, slots, size)`."""
        sizes = (self.head_size, self.head_size)
        return empty_memory(batch, self.num_heads, slots, *sizes, self.compute_dtype)

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def compute_output_spec(self, inputs, **kwargs):
        return keras.KerasTensor(inputs[0].shape, dtype=self.compute_dtype)


@register_layer
class MaskedLMHead(Layer):
    """DeBERTa's masked-language-model head, around the tied output projection.

    Args:
        vocab_size: number of tokens.
        embedding_size: size of the token vectors.
        intermediate_activation: activation of its layer.
        layer_norm_epsilon: epsilon of its norm.
        kernel_initializer: initializer of its kernel.

    Call arguments:
        inputs: hidden states `(batch, length, hidden)`; with mode 'bias' logits
            `(batch, length, vocab_size)`.
        mode: `'transform'`, what comes before the projection: Dense and norm; or
            `'bias'`, what comes after it.
    """

    def __init__(
        self,
        vocab_size,
        embedding_size,
        intermediate_activation="gelu",
        layer_norm_epsilon=1e-5,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.intermediate_activation = intermediate_activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        # File format: the attributes' names.
        self.output_bias = self.add_weight(
            shape=(self.vocab_size,), initializer="zeros", name="output_bias"
        )
        self.add_layer(
            "_intermediate_dense",
            Dense,
            input_shape,
            units=self.embedding_size,
            activation=activation_function(self.intermediate_activation),
            kernel_initializer=fresh(self.kernel_initializer),
        )
        shape = (*input_shape[:-1], self.embedding_size)
        options = {"epsilon": self.layer_norm_epsilon}
        self.add_layer("_intermediate_layer_norm", LayerNormalization, shape, **options)
        self.built = True

    def call(self, inputs, mode="transform"):
        if mode == "bias":
            return inputs + ops.cast(self.output_bias, inputs.dtype)
        return self._intermediate_layer_norm(self._intermediate_dense(inputs))

    def compute_output_spec(self, inputs, mode="transform"):
        last = self.vocab_size if mode == "bias" else self.embedding_size
        return keras.KerasTensor((*inputs.shape[:-1], last), dtype=self.compute_dtype)


def _heads_first(x):
    return ops.transpose(x, (0, 2, 1, 3))


def _swap(x):
    return ops.swapaxes(x, -1, -2)


def _gather(scores, rows):
    """Of `(batch, heads, n, rows)` the entries `(batch or 1, 1, n, m)` along the last axis."""
    shape = (*ops.shape(scores)[:3], ops.shape(rows)[-1])
    return ops.take_along_axis(scores, ops.broadcast_to(rows, shape), axis=-1)
