"""Multi-head attention, plain and with a memory of keys and values."""

from bert4keras3 import ops
from bert4keras3.backend import (
    apply_rotary_halves,
    apply_rotary_position_embeddings,
    attention_normalize,
    dtype,
    flatten,
    rotate_halves,
)
from bert4keras3.layers.base import Layer, fresh, register_layer
from bert4keras3.layers.dense import Dense, EinsumDense
from bert4keras3.layers.flash import flash_attention, is_flash_wanted, say_once
from bert4keras3.layers.memory import Remembering, empty_memory, filled_slots, remember
from bert4keras3.layers.norms import LlamaLayerNorm, RMSNormalization
from bert4keras3.ops import keras

QK_NORMS = {"llama": LlamaLayerNorm, "gemma": RMSNormalization}
POSITION_BIASES = (None, "rotary", "typical_relative", "t5_relative")


@register_layer
class MultiHeadAttention(Remembering, Layer):
    """Multi-head attention over an input list in the classic order.

    Args:
        heads: number of key and value heads.
        head_size: size of a value head.
        out_dim: output size, heads times head_size by default.
        key_size: size of a query or key head, head_size by default.
        use_bias: biases of the query, key and value projections.
        normalization: see `backend.attention_normalize`.
        attention_scale: divide scores by sqrt(key_size).
        attention_dropout: dropout rate of the attention weights.
        return_attention_scores: also return the scaled scores before
            normalization, `(batch, query heads, n, m)`.
        kernel_initializer: initializer of all kernels.
        o_bias: bias of the output projection, as use_bias by default.
        query_head: number of query heads, a multiple of heads (grouped-query
            attention, https://arxiv.org/abs/2305.13245); heads by default.
        use_EinsumDense: projections keep a heads axis in their kernels
            `(heads, hidden, size)`, without biases, as Gemma's files do.
        rope_mode: rotary positions turn neighbouring features by a given table
            ('su'), the first half of them against the second by a given table
            ('half'), or so by the layer's own ('keras').
        max_wavelength, scaling_factor: of the 'keras' rotary positions.
        flatten_o_dense: with use_EinsumDense, project the output by a plain
            Dense instead of one kernel `(heads, size, hidden)`.
        GQA_mode: 'llama', 'gemma' or False; both ways share key head i among
            query heads i·g … i·g+g-1 and give the same numbers.
        query_scale: what scores are multiplied with, 1 / sqrt(key_size) by default.
        logit_soft_cap: scores s become c · tanh(s / c) (https://arxiv.org/abs/2408.00118).
        qk_norm: a norm of each query and key head before the rotation: 'llama'
            (`LlamaLayerNorm`), 'gemma' (`RMSNormalization`) or None.
        qk_norm_epsilon: its epsilon.
        is_cross: keys and values come from another text. What it remembers while decoding is
            that text, projected once by `project_memory`.
        flash_attention: attend by a fused kernel where there is one for the case at hand
            (JAX and torch on a GPU); None for what the environment variable FLASH_ATTN says.

    Raises:
        ValueError: query heads that heads do not divide, an unknown option, flash attention
            on TensorFlow, or a call whose inputs do not match its arguments.

    Source: https://arxiv.org/abs/1706.03762
    """

    def __init__(
        self,
        heads,
        head_size,
        out_dim=None,
        key_size=None,
        use_bias=True,
        normalization="softmax",
        attention_scale=True,
        attention_dropout=None,
        return_attention_scores=False,
        kernel_initializer="glorot_uniform",
        o_bias=None,
        query_head=None,
        use_EinsumDense=False,
        rope_mode="su",
        max_wavelength=10000.0,
        scaling_factor=1.0,
        flatten_o_dense=True,
        GQA_mode="llama",
        query_scale=None,
        logit_soft_cap=None,
        qk_norm=None,
        qk_norm_epsilon=1e-6,
        is_cross=False,
        flash_attention=None,
        **kwargs,
    ):
        # Keras would cast the caches; the projections cast what they are given.
        super().__init__(autocast=False, **kwargs)
        self.heads = heads
        self.head_size = head_size
        self.out_dim = out_dim or heads * head_size
        self.key_size = key_size or head_size
        self.use_bias = use_bias
        self.normalization = normalization
        self.attention_scale = attention_scale
        self.attention_dropout = attention_dropout
        self.return_attention_scores = return_attention_scores
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.o_bias = use_bias if o_bias is None else o_bias
        self.query_head = query_head or heads
        self.use_EinsumDense = use_EinsumDense
        self.rope_mode = rope_mode
        self.max_wavelength = max_wavelength
        self.scaling_factor = scaling_factor
        self.flatten_o_dense = flatten_o_dense
        self.GQA_mode = GQA_mode
        self.query_scale = query_scale
        self.logit_soft_cap = logit_soft_cap
        self.qk_norm = qk_norm
        self.qk_norm_epsilon = qk_norm_epsilon
        self.is_cross = is_cross
        self.flash_attention = flash_attention
        self.tries_flash = is_flash_wanted(flash_attention)
        self._check()

    def _check(self):
        if self.query_head % self.heads:
            raise ValueError(
                f"layer {self.name!r}: query_head={self.query_head} is no multiple of "
                f"heads={self.heads}"
            )
        choices = {
            "rope_mode": ("su", "half", "keras"),
            "GQA_mode": ("llama", "gemma", False, None),
            "qk_norm": (None, *QK_NORMS),
            "normalization": ("softmax", "softmax-fp32", "softmax_plus", "squared_relu"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"layer {self.name!r}: {name}: expected one of {allowed}, "
                    f"got {getattr(self, name)!r}"
                )

    # ------------------------------------------------------------ projections

    def build(self, input_shape):
        query, key, value = (tuple(shape) for shape in input_shape[:3])
        sizes = (
            ("q", "query", query, self.query_head, self.key_size),
            ("k", "key", key, self.heads, self.key_size),
            ("v", "value", value, self.heads, self.head_size),
        )
        for short, long, shape, heads, size in sizes:
            if self.use_EinsumDense:
                options = {"equation": "btd,ndh->btnh", "output_shape": (None, heads, size)}
                self._add(f"{long}_dense", EinsumDense, shape, **options)
            else:
                options = {"units": heads * size, "use_bias": self.use_bias}
                self._add(f"{short}_dense", Dense, shape, **options)
        if self.use_EinsumDense and not self.flatten_o_dense:
            options = {"equation": "btnh,nhd->btd", "output_shape": (None, self.out_dim)}
            split = (*query[:-1], self.query_head, self.head_size)
            self._add("output_dense", EinsumDense, split, **options)
        else:
            joined = (*query[:-1], self.query_head * self.head_size)
            self._add("o_dense", Dense, joined, units=self.out_dim, use_bias=self.o_bias)
        if self.qk_norm:
            for name, _, shape, heads, size in sizes[:2]:
                split, norm = (*shape[:-1], heads, size), QK_NORMS[self.qk_norm]
                self.add_layer(f"{name}_norm", norm, split, epsilon=self.qk_norm_epsilon)
        if self.attention_dropout:
            self.dropout = keras.layers.Dropout(self.attention_dropout, dtype=self.dtype_policy)
        self.built = True

    def _add(self, *arguments, **options):
        self.add_layer(*arguments, kernel_initializer=fresh(self.kernel_initializer), **options)

    def _project_query(self, query):
        """Queries `(batch, n, query_head, key_size)`."""
        if self.use_EinsumDense:
            query = self.query_dense(query)
        else:
            query = _split_heads(self.q_dense(query), self.query_head, self.key_size)
        return self.q_norm(query) if self.qk_norm else query

    def _project_memory(self, key, value):
        """Keys and values `(batch, m, heads, size)`."""
        if self.use_EinsumDense:
            key, value = self.key_dense(key), self.value_dense(value)
        else:
            key = _split_heads(self.k_dense(key), self.heads, self.key_size)
            value = _split_heads(self.v_dense(value), self.heads, self.head_size)
        return (self.k_norm(key) if self.qk_norm else key), value

    def _project_output(self, x):
        if self.use_EinsumDense and not self.flatten_o_dense:
            return self.output_dense(x)
        return self.o_dense(flatten(x, 2))

    # ------------------------------------------------------------------- call

    def call(
        self,
        inputs,
        mask=None,
        a_bias=None,
        p_bias=None,
        use_cache=False,
        cache_update_index=None,
        is_cache_update_index=None,
        state=None,
        positions=None,
        lengths=None,
        is_causal=False,
        training=None,
    ):
        """Attend.

        Args:
            inputs: list of query, key, value, `(batch, n|m|m, dim)`; then, each
                only if asked for: the attention bias (`a_bias`), the rotary
                table or, with rope_mode 'keras', any tensor
                (`p_bias='rotary'`), the stacked cache and its index
                (`use_cache`, `cache_update_index`), the relative bias
                (`p_bias='typical_relative'`: `([batch,] n, m, key_size)`,
                `'t5_relative'`: `([batch,] n, m, query heads)`).
            mask: masks of the inputs; the third, `(batch, m)`, hides values.
            a_bias: an attention bias is among the inputs: bool hides, float
                adds; `(n, m)`, `(batch, n, m)` or broadcastable 4-D.
            p_bias: kind of the position bias, if any.
            use_cache: a cache `(batch, 2, slots, heads, size)` is among the
                inputs, keys at 0 and values at 1; also returned.
            cache_update_index: the slot the new keys start at follows the cache
                in the inputs; without it the cache is attended as it is.
                `is_cache_update_index` is another name for it.
            state: `{"k", "v"}` of `(batch, heads, slots, size)`: keys and values
                so far. New ones are written at `positions`.
            positions: int `(batch, n)`, in a decoding step.
            lengths: int `(batch,)`, slots that hold tokens after this step; without a
                state, keys that are no padding.
            is_causal: the attention bias hides later keys and does nothing else, which
                flash attention can make use of.

        Returns:
            `(batch, n, out_dim)`; with return_attention_scores a list of it and
            the scores; with a state or cache a tuple of that and the new one.
        """
        indexed = bool(cache_update_index or is_cache_update_index)
        parts = self._take_inputs(inputs, a_bias, p_bias, use_cache, indexed)
        if use_cache:
            state, positions = self._unstack(parts)
        query = self._project_query(parts["qkv"][0])
        if state is not None and self.is_cross:
            key, value, visible = state["k"], state["v"], state["visible"]
        else:
            key, value = self._project_memory(*parts["qkv"][1:])
            query, key = self._rotate(query, key, parts, positions)
            writes = positions is not None and (indexed or not use_cache)
            key, value, state = _heads_first(key, value, state, positions if writes else None)
            visible = mask[2] if mask is not None and len(mask) > 2 and state is None else None
            if lengths is not None:
                visible = filled_slots(key, lengths)
        parts["is_causal"] = is_causal
        output, scores = self._attend(query, key, value, visible, parts, training)
        output = self._project_output(output)
        result = [output, scores] if self.return_attention_scores else output
        if use_cache:
            stacked = ops.stack([state["k"], state["v"]], axis=1)
            return result, ops.transpose(stacked, (0, 1, 3, 2, 4))
        return result if state is None else (result, state)

    def _take_inputs(self, inputs, a_bias, p_bias, use_cache, indexed):
        """Name the entries of the input list."""
        if p_bias not in POSITION_BIASES:
            raise ValueError(
                f"layer {self.name!r}: p_bias: expected one of {POSITION_BIASES}, got {p_bias!r}"
            )
        relative = p_bias in ("typical_relative", "t5_relative")
        names = ["attention_bias"] * bool(a_bias) + ["rotary"] * (p_bias == "rotary")
        names += ["cache"] * bool(use_cache) + ["index"] * (use_cache and indexed)
        names += [p_bias] * relative
        extra = list(inputs[3:])
        if len(inputs) < 3 or len(extra) != len(names):
            raise ValueError(
                f"layer {self.name!r}: expected {3 + len(names)} inputs "
                f"(query, key, value{''.join(', ' + n for n in names)}), got {len(inputs)}"
            )
        return {"qkv": inputs[:3], "p_bias": p_bias} | dict(zip(names, extra, strict=True))

    def _unstack(self, parts):
        """State and positions of a stacked cache among the inputs."""
        cache = ops.cast(parts["cache"], self.compute_dtype)
        cache = ops.transpose(cache, (0, 1, 3, 2, 4))
        state = {"k": cache[:, 0], "v": cache[:, 1]}
        if "index" not in parts:
            return state, None
        batch, n = ops.shape(parts["qkv"][0])[:2]
        index = ops.reshape(ops.cast(parts["index"], "int32"), (-1, 1))
        positions = index + ops.arange(n, dtype="int32")[None]
        return state, ops.broadcast_to(positions, (batch, n))

    def _rotate(self, query, key, parts, positions):
        if parts["p_bias"] != "rotary":
            return query, key
        if self.rope_mode == "su":
            return apply_rotary_position_embeddings(parts["rotary"], query, key)
        if self.rope_mode == "half":
            return [apply_rotary_halves(parts["rotary"], x) for x in (query, key)]
        settings = (self.max_wavelength, self.scaling_factor)
        if positions is None:
            both = [ops.arange(ops.shape(x)[1], dtype="int32")[None] for x in (query, key)]
        else:
            both = [positions, positions]
        return [rotate_halves(x, p, *settings) for x, p in zip((query, key), both, strict=True)]

    def _attend(self, query, key, value, visible, parts, training):
        """Weighted values `(batch, n, query_head, head_size)` and the scores.

        Keys and values are `(batch, heads, m, size)`.
        """
        query = ops.cast(query, key.dtype)
        if self.tries_flash and query.shape[1] != 1:
            output = self._flash(query, key, value, visible, parts, training)
            if output is not None:
                return ops.cast(output, self.compute_dtype), None
        groups = self.query_head // self.heads
        n, m = ops.shape(query)[1], ops.shape(key)[2]
        # Query heads of one key head are folded into the length: one product for all of them.
        q = ops.reshape(query, (-1, n, self.heads, groups, self.key_size))
        q = ops.reshape(
            ops.transpose(q, (0, 2, 3, 1, 4)), (-1, self.heads, groups * n, self.key_size)
        )
        k = ops.transpose(key, (0, 1, 3, 2))
        scores = ops.reshape(ops.matmul(q, k), (-1, self.query_head, n, m))
        scores = self._scale(self._add_relative(scores, query, parts))
        bias = _with_heads(parts.get("attention_bias"))
        weights = attention_normalize(scores, visible, -1, self.normalization, bias)
        if self.attention_dropout:
            weights = self.dropout(weights, training=training)
        folded = ops.reshape(weights, (-1, self.heads, groups * n, m))
        output = ops.matmul(folded, value)
        output = ops.reshape(output, (-1, self.query_head, n, self.head_size))
        output = ops.transpose(output, (0, 2, 1, 3))
        if parts["p_bias"] == "typical_relative":
            equation = _relative_equation("bhjk,{}jkd->bjhd", parts["typical_relative"])
            output = output + ops.einsum(equation, weights, parts["typical_relative"])
        return ops.cast(output, self.compute_dtype), ops.cast(scores, self.compute_dtype)

    def _add_relative(self, scores, query, parts):
        """Relative position terms; they are scaled together with the scores."""
        if parts["p_bias"] == "typical_relative":
            equation = _relative_equation("bjhd,{}jkd->bhjk", parts["typical_relative"])
            return scores + ops.einsum(equation, query, parts["typical_relative"])
        if parts["p_bias"] == "t5_relative":
            return scores + _t5_bias(parts["t5_relative"])
        return scores

    def _scale(self, scores):
        if self.query_scale is not None:
            scores = scores * self.query_scale
        elif self.attention_scale:
            scores = scores / self.key_size**0.5
        cap = self.logit_soft_cap
        return cap * ops.tanh(scores / cap) if cap else scores

    # ------------------------------------------------------------------ flash

    def _flash(self, query, key, value, visible, parts, training):
        """Weighted values by a fused kernel; None where none can compute them."""
        obstacle = self._flash_obstacle(parts, training)
        if obstacle:
            say_once(obstacle)
            return None
        scale = self.query_scale
        if scale is None:
            scale = self.key_size**-0.5 if self.attention_scale else 1.0
        mask = None if visible is None else ops.cast(visible, "bool")[:, None, None]
        bias, added = _with_heads(parts.get("attention_bias")), None
        if bias is not None and dtype(bias) != "bool":
            added = bias
        elif bias is not None and not (parts["is_causal"] and mask is None):
            bias = bias if len(bias.shape) == 4 else bias[None, None]
            mask = bias if mask is None else ops.logical_and(mask, bias)
        if parts["p_bias"] == "t5_relative":
            relative = _t5_bias(parts["t5_relative"]) * scale
            added = relative if added is None else added + relative
        key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (key, value))
        causal = parts["is_causal"]
        return flash_attention(query, key, value, mask, added, scale, causal, training)

    def _flash_obstacle(self, parts, training):
        """Why this layer's attention is no matter for a fused kernel; None where it is."""
        obstacles = {
            "the attention scores are returned": self.return_attention_scores,
            f"attention is normalised by {self.normalization!r}": (
                self.normalization not in ("softmax", "softmax-fp32")
            ),
            "scores are capped (logit_soft_cap)": self.logit_soft_cap,
            "relative positions are part of keys and values": (
                parts["p_bias"] == "typical_relative"
            ),
            "attention weights are dropped out in training": self.attention_dropout and training,
        }
        return next((reason for reason, stands in obstacles.items() if stands), None)

    # ------------------------------------------------------------------ state

    def initial_state(self, batch, slots):
        """Empty keys and values: `{"k", "v"}` of `(batch, heads, slots, size)`.

        What cross attention remembers depends on the other text: `project_memory`.
        """
        if self.is_cross:
            return {}
        sizes = (self.key_size, self.head_size)
        return empty_memory(batch, self.heads, slots, *sizes, self.compute_dtype)

    def project_memory(self, memory, visible):
        """The state of cross attention: the keys and values of the other text.

        Args:
            memory: `(batch, m, dim)`.
            visible: bool `(batch, m)`, False for padding.
        """
        dtype = ops.cache_dtype(self.compute_dtype)
        key, value = (ops.cast(x, dtype) for x in self._project_memory(memory, memory))
        key, value, _ = _heads_first(key, value)
        return {"k": key, "v": value, "visible": visible}

    def grow_state(self, state, slots):
        """The state with room for `slots` tokens; the other text stays as it is."""
        return state if self.is_cross else super().grow_state(state, slots)

    # ------------------------------------------------------------------ specs

    def compute_mask(self, inputs, mask=None):
        mask = mask[0] if mask is not None else None
        return [mask, None] if self.return_attention_scores else mask

    def compute_output_spec(
        self,
        inputs,
        mask=None,
        a_bias=None,
        p_bias=None,
        use_cache=False,
        cache_update_index=None,
        is_cache_update_index=None,
        **kwargs,
    ):
        indexed = bool(cache_update_index or is_cache_update_index)
        parts = self._take_inputs(inputs, a_bias, p_bias, use_cache, indexed)
        query, key, _ = (x.shape for x in parts["qkv"])
        slots = parts["cache"].shape[2] if use_cache else key[1]
        dtype = self.compute_dtype
        result = keras.KerasTensor((*query[:2], self.out_dim), dtype=dtype)
        if self.return_attention_scores:
            shape = (query[0], self.query_head, query[1], slots)
            result = [result, keras.KerasTensor(shape, dtype=dtype)]
        return (result, keras.KerasTensor(parts["cache"].shape, dtype)) if use_cache else result


def _heads_first(key, value, state=None, positions=None):
    """Keys and values `(batch, heads, m, size)`, of the state where there is one, and the state."""
    if state is None:
        return ops.transpose(key, (0, 2, 1, 3)), ops.transpose(value, (0, 2, 1, 3)), None
    if positions is not None:
        state = remember(state, key, value, positions)
    return state["k"], state["v"], state


def _split_heads(x, heads, size):
    return ops.reshape(x, (-1, ops.shape(x)[1], heads, size))


def _with_heads(bias):
    """An attention bias with an axis of heads, where it has one of rows."""
    return bias if bias is None or len(bias.shape) != 3 else ops.expand_dims(bias, 1)


def _t5_bias(bias):
    """T5's relative bias `([batch,] n, m, heads)` as `(batch or 1, heads, n, m)`."""
    if len(bias.shape) == 3:
        return ops.transpose(bias, (2, 0, 1))[None]
    return ops.transpose(bias, (0, 3, 1, 2))


def _relative_equation(equation, table):
    """The einsum equation for a table shared by all rows, or with a batch axis."""
    return equation.format("b" if len(table.shape) == 4 else "")


@register_layer
class Gemma2Attention(MultiHeadAttention):
    """`MultiHeadAttention` under the name that Gemma2's `.weights.h5` files have for it."""
