"""The gated attention unit: attention of one head and a gated feed-forward layer in one."""

from bert4keras3 import ops
from bert4keras3.backend import apply_rotary_position_embeddings, attention_normalize
from bert4keras3.layers.base import Layer, activation_function, fresh, register_layer
from bert4keras3.layers.dense import Dense
from bert4keras3.layers.memory import Remembering, empty_memory, filled_slots, remember
from bert4keras3.layers.norms import ScaleOffset
from bert4keras3.ops import keras


@register_layer
class GatedAttentionUnit(Remembering, Layer):
    """O = Dense(U · (A V)), with U, V and one head of queries and keys made of the input.

    Args:
        units: inner size, of U and V.
        key_size: size of queries and keys.
        activation: activation of the projections.
        use_bias: biases of the projections.
        normalization: see `backend.attention_normalize`.
        self_attention: everything is projected from one input at once, queries and
            keys are the same projection, scaled differently; else the inputs are
            queries, keys and values, each with a projection of its own.
        attention_scale: divide scores by sqrt(key_size).
        attention_dropout: dropout rate of the attention weights.
        kernel_initializer: initializer of all kernels.
        factorization: without self_attention, values have the size of keys, and a
            further layer brings A V to `units`; neither has an activation or bias.

    Source: https://arxiv.org/abs/2202.10447, https://kexue.fm/archives/8934
    """

    def __init__(
        self,
        units,
        key_size,
        activation="swish",
        use_bias=True,
        normalization="squared_relu",
        self_attention=True,
        attention_scale=True,
        attention_dropout=None,
        kernel_initializer="glorot_uniform",
        factorization=False,
        **kwargs,
    ):
        # Keras would cast the caches; the projections cast what they are given.
        super().__init__(autocast=False, **kwargs)
        self.units = units
        self.key_size = key_size
        self.activation = activation
        self.use_bias = use_bias
        self.normalization = normalization
        self.self_attention = self_attention
        self.attention_scale = attention_scale
        self.attention_dropout = attention_dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.factorization = factorization

    def build(self, input_shape):
        several = isinstance(input_shape[0], (list, tuple))
        query, key, value = self._sources(input_shape if several else [input_shape])
        # File format: the attributes' names.
        if self.self_attention:
            self._add_dense("i_dense", 2 * self.units + self.key_size, query)
            for name in ("q_scaleoffset", "k_scaleoffset"):
                shape = (*query[:-1], self.key_size)
                self.add_layer(name, ScaleOffset, shape, offset=self.use_bias)
        else:
            self._add_dense("u_dense", self.units, query)
            self._add_dense("q_dense", self.key_size, query)
            self._add_dense("k_dense", self.key_size, key)
            if self.factorization:
                self._add_dense("v_dense", self.key_size, value, None, use_bias=False)
                inner = (*query[:-1], self.key_size)
                self._add_dense("vW_dense", self.units, inner, None, use_bias=False)
            else:
                self._add_dense("v_dense", self.units, value)
        self._add_dense("o_dense", query[-1], (*query[:-1], self.units), None)
        if self.attention_dropout:
            self.dropout = keras.layers.Dropout(self.attention_dropout, dtype=self.dtype_policy)
        self.built = True

    def _add_dense(self, name, units, input_shape, activation="own", use_bias=None):
        self.add_layer(
            name,
            Dense,
            input_shape,
            units=units,
            activation=activation_function(self.activation if activation == "own" else activation),
            use_bias=self.use_bias if use_bias is None else use_bias,
            kernel_initializer=fresh(self.kernel_initializer),
        )

    def _sources(self, inputs):
        """Of the inputs (or their shapes, or masks) those of query, key and value."""
        return [inputs[0]] * 3 if self.self_attention else list(inputs[:3])

    def call(
        self,
        inputs,
        mask=None,
        a_bias=None,
        p_bias=None,
        state=None,
        positions=None,
        lengths=None,
        training=None,
    ):
        """Attend.

        Args:
            inputs: x `(batch, n, dim)`, or a list of it (without self_attention of
                query, key, value) and then, each only if asked for: the attention
                bias (`a_bias`: bool hides, float adds; `(n, m)` or `(batch, n, m)`)
                and the rotary table (`p_bias='rotary'`).
            mask: masks of the inputs; that of the values hides them.
            a_bias: an attention bias is among the inputs.
            p_bias: None or 'rotary'.
            state: `{"k", "v"}` of `(batch, 1, slots, size)`: keys and values so far.
            positions: int `(batch, n)`, in a decoding step.
            lengths: int `(batch,)`, slots that hold tokens after this step.

        Returns:
            `(batch, n, dim)`; with a state a tuple of it and the new state.

        Raises:
            ValueError: inputs that do not match the arguments.
        """
        inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        bias, rotary = self._take_extras(inputs, a_bias, p_bias)
        gate, query, key, value = self._project(*self._sources(inputs))
        if rotary is not None:
            query, key = apply_rotary_position_embeddings(rotary, query, key)
        visible = self._visible(mask)
        if state is not None:
            state = remember(state, key[:, :, None], value[:, :, None], positions)
            key, value = state["k"][:, 0], state["v"][:, 0]
            visible = filled_slots(state["k"], lengths)
        scores = ops.matmul(ops.cast(query, key.dtype), ops.transpose(key, (0, 2, 1)))
        if self.attention_scale:
            scores = scores / self.key_size**0.5
        weights = attention_normalize(scores, visible, -1, self.normalization, bias)
        if self.attention_dropout:
            weights = self.dropout(weights, training=training)
        attended = ops.cast(ops.matmul(weights, value), self.compute_dtype)
        if self.factorization and not self.self_attention:
            attended = self.vW_dense(attended)
        output = self.o_dense(gate * attended)
        return output if state is None else (output, state)

    def _take_extras(self, inputs, a_bias, p_bias):
        """Attention bias and rotary table among the inputs, None where not asked for."""
        if p_bias not in (None, "rotary"):
            raise ValueError(
                f"layer {self.name!r}: p_bias: expected None or 'rotary', got {p_bias!r}"
            )
        own = 1 if self.self_attention else 3
        expected = own + bool(a_bias) + (p_bias == "rotary")
        if len(inputs) != expected:
            raise ValueError(
                f"layer {self.name!r}: expected {expected} inputs ({own} to attend, a_bias="
                f"{bool(a_bias)}, p_bias={p_bias!r}), got {len(inputs)}"
            )
        bias = inputs[own] if a_bias else None
        return bias, inputs[-1] if p_bias else None

    def _project(self, query, key, value):
        """U, queries, keys and values."""
        if not self.self_attention:
            gate = self.u_dense(query)
            return gate, self.q_dense(query), self.k_dense(key), self.v_dense(value)
        joined = self.i_dense(query)
        gate, value, shared = ops.split(joined, [self.units, 2 * self.units], axis=-1)
        return gate, self.q_scaleoffset(shared), self.k_scaleoffset(shared), value

    def _visible(self, mask):
        if not isinstance(mask, (list, tuple)):
            return mask
        return self._sources(mask)[2]

    def initial_state(self, batch, slots):
        """Empty keys and values: `{"k", "v"}` of `(batch, 1, slots, size)`."""
        low = self.factorization and not self.self_attention
        sizes = (self.key_size, self.key_size if low else self.units)
        return empty_memory(batch, 1, slots, *sizes, self.compute_dtype)

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def compute_output_spec(self, inputs, **kwargs):
        x = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)
