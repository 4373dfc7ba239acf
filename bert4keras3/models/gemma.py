"""Gemma, Gemma2 and Gemma3: causal language models with rotary positions."""

from bert4keras3.backend import get_activation
from bert4keras3.layers import (
    Activation,
    CausalMask,
    Dense,
    Dropout,
    Gemma2Attention,
    GemmaFeedForward,
    MultiHeadAttention,
    RMSNormalization,
    ScaleOffset,
    SinusoidalPositionEmbedding,
    SoftCap,
)
from bert4keras3.models.bert import BERT, HEAD_OPTIONS, POSITION_OPTIONS
from bert4keras3.models.heads import CAUSAL_HEADS
from bert4keras3.models.masks import LM_Mask
from bert4keras3.models.registry import family
from bert4keras3.models.transformer import PRE, SANDWICH


@family("gemma", huggingface=("gemma",))
class Gemma(LM_Mask, BERT):
    """Gemma. LN --> Att --> Add --> LN --> FFN --> Add, causal.

    Args:
        with_lm: output token probabilities; True for softmax, or an activation,
            e.g. 'linear' for logits; False for hidden states.
        max_wavelength: base of the rotary frequencies.
        scaling_factor: positions are divided by it (linear scaling).
        use_EinsumDense: attention projections keep a heads axis in their kernels.
        use_bias: biases of the query, key and value projections.
        use_dense_bias: biases of the feed-forward layers.
        input_scale: multiply token vectors by sqrt(hidden_size).
        share_embedding: the output projection is the token table.
        rope_mode: 'keras' turns first half against second half, 'su' neighbours.
        flatten_o_dense: with use_EinsumDense, the output projection has no heads axis.
        rope_scaling: how frequencies are stretched, see `rotary_frequencies`.
        sliding_window: tokens a query sees back, itself among them; None for all.
        layer_types: `'sliding_attention'` or `'full_attention'` for each block; by
            default all are sliding where there is a window.
        max_position: tokens it was made for; nothing here depends on it.
        share_emebding: the documents' other name of share_embedding.
        query_scale, logit_soft_cap, qk_norm: see `MultiHeadAttention`.
        final_logit_soft_cap: bound of the output's logits, None for none.
        local_max_wavelength, local_rope_scaling: base and scaling of the rotary
            frequencies of the sliding blocks, where they are others.
        **kwargs: as `Transformer`; `num_attention_heads` counts key and value heads.

    Inputs: 'Input-Token', 'Input-Segment' (if segment_vocab_size), int `(batch, length)`.

    Outputs: `(batch, length, vocab)`, or `(batch, length, hidden)` without a head.

    Source: https://arxiv.org/abs/2403.08295
    """

    norms = PRE
    norm_epsilon = 1e-6
    norm_class = RMSNormalization
    has_conditional_norms = False
    lacks = (*HEAD_OPTIONS, *POSITION_OPTIONS, "custom_position_ids")
    heads = CAUSAL_HEADS
    feed_forward_class = GemmaFeedForward
    position_bias_kind = "rotary"
    # Names in Hugging Face files of a block's norms, in the order of `norms`.
    huggingface_norms = {
        "MultiHeadSelfAttention-Norm": "input_layernorm",
        "FeedForward-Norm": "post_attention_layernorm",
    }
    huggingface_prefix = "model."
    huggingface_ties = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(
        self,
        with_lm=True,
        max_wavelength=10000.0,
        scaling_factor=1.0,
        use_EinsumDense=True,
        use_bias=False,
        use_dense_bias=False,
        input_scale=True,
        share_embedding=True,
        rope_mode="keras",
        flatten_o_dense=False,
        rope_scaling=None,
        sliding_window=None,
        layer_types=None,
        max_position=None,
        segment_vocab_size=0,
        share_emebding=None,
        query_scale=None,
        logit_soft_cap=None,
        final_logit_soft_cap=None,
        qk_norm=None,
        local_max_wavelength=None,
        local_rope_scaling=None,
        **kwargs,
    ):
        super().__init__(max_position=max_position, segment_vocab_size=segment_vocab_size, **kwargs)
        self.with_lm = with_lm
        self.max_wavelength = max_wavelength
        self.scaling_factor = scaling_factor
        self.use_EinsumDense = use_EinsumDense
        self.flatten_o_dense = flatten_o_dense
        self.use_bias = bool(use_bias)
        self.use_dense_bias = use_dense_bias
        self.input_scale = input_scale
        self.share_embedding = share_embedding if share_emebding is None else share_emebding
        self.rope_mode = rope_mode
        self.rope_scaling = rope_scaling
        self.sliding_window = sliding_window
        self.query_scale = query_scale
        self.logit_soft_cap = logit_soft_cap
        self.final_logit_soft_cap = final_logit_soft_cap
        self.qk_norm = qk_norm
        self.local_max_wavelength = local_max_wavelength
        self.local_rope_scaling = local_rope_scaling
        self.layer_types = layer_types or ["sliding_attention"] * self.num_hidden_layers
        self._check_blocks()

    def _check_blocks(self):
        kinds = {"sliding_attention", "full_attention"}
        if len(self.layer_types) != self.num_hidden_layers or not kinds.issuperset(
            self.layer_types
        ):
            raise ValueError(
                f"layer_types: expected {self.num_hidden_layers} of {sorted(kinds)}, "
                f"got {self.layer_types}"
            )
        if self.rope_mode not in ("keras", "su"):
            raise ValueError(f"rope_mode: expected 'keras' or 'su', got {self.rope_mode!r}")

    position_limit = None

    @property
    def context_length(self):
        return self.max_position

    @property
    def tied_embeddings(self):
        return self.with_lm and self.share_embedding

    # ----------------------------------------------------------------- verbs

    def add_positions(self, x, positions=None):
        return x

    def finish_embeddings(self, x):
        if self.input_scale:
            scale = self.hidden_size**0.5
            x = self.apply(x, ScaleOffset, scale=scale, offset=False, name="Multiply")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Embedding-Dropout")
        return self.map_embeddings(x)

    def apply_main_layers(self, inputs, index):
        self.slides = self.layer_types[index] == "sliding_attention"
        return super().apply_main_layers(inputs, index)

    def _reset(self):
        super()._reset()
        self._masks, self._tables = {}, {}

    def _name(self, name):
        """The name of a block's mask or table: those of sliding blocks may be others."""
        both = self.slides and "full_attention" in self.layer_types
        return f"{name}-Sliding" if both else name

    def apply_final_layers(self, inputs):
        x = self.normalize(inputs, "Output-Norm")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Output-Dropout")
        if self.head:
            return self.apply_head(x)
        return self.predict_tokens(x) if self.with_lm else x

    def predict_tokens(self, x):
        """The output projection: the token table, or one of its own."""
        activation = get_activation("softmax" if self.with_lm is True else self.with_lm)
        if self.share_embedding:
            x = self.embed_tokens(x, mode="dense")
        else:
            x = self.apply(
                x,
                Dense,
                units=self.vocab_size,
                activation=None if self.final_logit_soft_cap else activation,
                use_bias=False,
                kernel_initializer=self.initializer,
                name="Decoder-Output-LM",
            )
        if self.final_logit_soft_cap:
            x = self.apply(x, SoftCap, cap=self.final_logit_soft_cap, name="Output-Soft-Cap")
        if self.share_embedding or self.final_logit_soft_cap:
            x = self.apply(x, Activation, activation=activation, name="Output-LM-Activation")
        return x

    # ----------------------------------------------------------------- blocks

    def compute_attention_bias(self, inputs=None):
        """The causal mask of the blocks with a window, and of those without; made once each."""
        window = self.sliding_window if self.slides else None
        if window not in self._masks:
            name = self._name("Attention-Mask") if window else "Attention-Mask"
            self._masks[window] = self.apply(self.inputs[0], CausalMask, window=window, name=name)
        return self._masks[window]

    def compute_position_bias(self, inputs=None):
        """The rotary table, of the sliding blocks and of the others; made once each."""
        local = self.slides and self.local_max_wavelength is not None
        if local not in self._tables:
            linear = {"rope_type": "linear", "factor": self.scaling_factor}
            scaling = self.local_rope_scaling if local else self.rope_scaling or linear
            name = "Embedding-Rotary-Position"
            self._tables[local] = self.apply(
                inputs,
                SinusoidalPositionEmbedding,
                output_dim=self.attention_key_size,
                merge_mode="zero",
                max_wavelength=self.local_max_wavelength if local else self.max_wavelength,
                scaling=scaling,
                name=self._name(name) if local else name,
            )
        return self._tables[local]

    def attention_options(self):
        return {
            **super().attention_options(),
            "query_scale": self.query_scale,
            "logit_soft_cap": self.logit_soft_cap,
            "qk_norm": self.qk_norm,
            "qk_norm_epsilon": self.norm_epsilon,
            "use_bias": self.use_bias,
            "use_EinsumDense": self.use_EinsumDense,
            "flatten_o_dense": self.flatten_o_dense or not self.use_EinsumDense,
            "normalization": "softmax-fp32",
            "rope_mode": "half" if self.rope_mode == "keras" else "su",
        }

    def feed_forward_options(self):
        return {**super().feed_forward_options(), "use_bias": self.use_dense_bias}

    # ---------------------------------------------------------------- weights

    @property
    def tables(self):
        """Names in Hugging Face files, as many as the layers have weights."""
        block = "model.layers.{i}."
        inner = block + "mlp.{gate,up,down}_proj.{" + ",".join(_parts(self.use_dense_bias)) + "}"
        norms = {
            f"Transformer-{{i}}-{norm}": f"{block}{name}.weight"
            for norm, name in self.huggingface_norms.items()
        }
        return {
            "hf": {
                "Embedding-Token": "model.embed_tokens.weight:vocab",
                "Transformer-{i}-MultiHeadSelfAttention": block + self._attention_row(),
                "Transformer-{i}-FeedForward": inner,
                **norms,
                "Output-Norm": "model.norm.weight",
                "Decoder-Output-LM": "lm_head.weight:vocab:T",
            }
        }

    def _attention_row(self):
        o_bias = self.use_bias if self.o_bias is None else self.o_bias
        if self.use_EinsumDense:
            parts = [f"{x}_proj.weight:T:heads:swap" for x in "qkv"]
            parts.append("o_proj.weight:T" if self.flatten_o_dense else "o_proj.weight:T:rows")
        else:
            parts = [f"{x}_proj.{part}" for x in "qkv" for part in _parts(self.use_bias)]
            parts += [f"o_proj.{part}" for part in _parts(o_bias)]
        parts += [f"{x}_norm.weight" for x in "qk"] if self.qk_norm else []
        return "self_attn.{" + ",".join(parts) + "}"


def _parts(bias):
    """The tensors of a linear layer."""
    return ["weight:T", "bias"] if bias else ["weight:T"]


@family("gemma2", huggingface=("gemma2",))
class Gemma2(Gemma):
    """Gemma2. LN --> Att --> LN --> Add --> LN --> FFN --> LN --> Add, causal.

    Args:
        logit_soft_cap: bound of the attention scores, None for none.
        use_sliding_window_attention: every other block, the first among them, sees
            `sliding_window_size` tokens only.
        sliding_window_size: itself and so many less one before it.
        use_post_attention_norm, use_post_ffw_norm: a norm after attention, after the
            feed-forward layer.
        query_head_dim_normalize: scores are divided by the root of the head size;
            else of hidden_size / query heads.
        **kwargs: as `Gemma`.

    Inputs, outputs: as `Gemma`.

    Source: https://arxiv.org/abs/2408.00118
    """

    attention_class = Gemma2Attention
    huggingface_norms = {
        "MultiHeadSelfAttention-Norm": "input_layernorm",
        "MultiHeadSelfAttention-Norm-post": "post_attention_layernorm",
        "FeedForward-Norm": "pre_feedforward_layernorm",
        "FeedForward-Norm-post": "post_feedforward_layernorm",
    }
    window_pattern = 2  # every so many blocks one sees everything

    def __init__(
        self,
        use_sliding_window_attention=False,
        sliding_window_size=4096,
        use_post_ffw_norm=False,
        use_post_attention_norm=False,
        query_head_dim_normalize=True,
        sliding_window=None,
        layer_types=None,
        query_scale=None,
        **kwargs,
    ):
        window = sliding_window
        if window is None and use_sliding_window_attention:
            window = sliding_window_size
        blocks, pattern = range(kwargs["num_hidden_layers"]), self.window_pattern
        kinds = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in blocks]
        super().__init__(sliding_window=window, layer_types=layer_types or kinds, **kwargs)
        self.use_post_attention_norm = use_post_attention_norm
        self.use_post_ffw_norm = use_post_ffw_norm
        self.norms = SANDWICH if use_post_attention_norm else PRE
        self.feed_forward_norms = SANDWICH if use_post_ffw_norm else PRE
        size = self.hidden_size // (self.query_head or self.num_attention_heads)
        size = self.attention_key_size if query_head_dim_normalize else size
        self.query_scale = size**-0.5 if query_scale is None else query_scale


@family("gemma3", huggingface=("gemma3_text",))
class Gemma3(Gemma2):
    """Gemma3's text model. LN --> Att --> LN --> Add --> LN --> FFN --> LN --> Add, causal.

    Args:
        use_sliding_window_attention, use_post_attention_norm, use_post_ffw_norm,
        qk_norm, max_wavelength, local_max_wavelength: as `Gemma2` and `Gemma`, with
            other defaults; five of six blocks slide.
        **kwargs: as `Gemma2`.

    Inputs, outputs: as `Gemma`.

    Source: https://arxiv.org/abs/2503.19786
    """

    attention_class = MultiHeadAttention
    window_pattern = 6

    def __init__(
        self,
        use_sliding_window_attention=True,
        use_post_ffw_norm=True,
        use_post_attention_norm=True,
        qk_norm="gemma",
        max_wavelength=1e6,
        local_max_wavelength=1e4,
        use_EinsumDense=False,
        **kwargs,
    ):
        super().__init__(
            use_sliding_window_attention=use_sliding_window_attention,
            use_post_ffw_norm=use_post_ffw_norm,
            use_post_attention_norm=use_post_attention_norm,
            qk_norm=qk_norm,
            max_wavelength=max_wavelength,
            local_max_wavelength=local_max_wavelength,
            use_EinsumDense=use_EinsumDense,
            **kwargs,
        )
