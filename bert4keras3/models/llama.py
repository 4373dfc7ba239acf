"""Gemma and Llama: causal language models with norms before each block and rotary positions."""

from bert4keras3.backend import get_activation
from bert4keras3.layers import (
    Activation,
    CausalMask,
    Dense,
    Dropout,
    GemmaFeedForward,
    LLamaFeedForward,
    LlamaLayerNorm,
    RMSNormalization,
    ScaleOffset,
    SinusoidalPositionEmbedding,
)
from bert4keras3.models.bert import BERT, HEAD_OPTIONS, POSITION_OPTIONS
from bert4keras3.models.heads import CAUSAL_HEADS
from bert4keras3.models.masks import LM_Mask
from bert4keras3.models.registry import family
from bert4keras3.models.transformer import PRE


@family("gemma")
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
    tables = {}
    huggingface_prefix = ""
    huggingface_ties = {}

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
        sliding = self.layer_types[index] == "sliding_attention"
        self.attention_bias = self.causal_mask(self.sliding_window if sliding else None)
        return super().apply_main_layers(inputs, index)

    def causal_mask(self, window):
        """The mask of the blocks with this window; made once a forward."""
        if window not in self._masks:
            several = window and "full_attention" in self.layer_types
            name = "Attention-Mask-Sliding" if several else "Attention-Mask"
            self._masks[window] = self.apply(self.inputs[0], CausalMask, window=window, name=name)
        return self._masks[window]

    def _reset(self):
        super()._reset()
        self._masks = {}

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
            return self.apply(x, Activation, activation=activation, name="Output-LM-Activation")
        return self.apply(
            x,
            Dense,
            units=self.vocab_size,
            activation=activation,
            use_bias=False,
            kernel_initializer=self.initializer,
            name="Decoder-Output-LM",
        )

    # ----------------------------------------------------------------- blocks

    def compute_position_bias(self, inputs=None):
        """The rotary table, of every block."""
        if self.position_bias is None:
            linear = {"rope_type": "linear", "factor": self.scaling_factor}
            self.position_bias = self.apply(
                inputs,
                SinusoidalPositionEmbedding,
                output_dim=self.attention_key_size,
                merge_mode="zero",
                max_wavelength=self.max_wavelength,
                scaling=self.rope_scaling or linear,
                name="Embedding-Rotary-Position",
            )
        return self.position_bias

    def attention_options(self):
        return {
            **super().attention_options(),
            "use_bias": self.use_bias,
            "use_EinsumDense": self.use_EinsumDense,
            "flatten_o_dense": self.flatten_o_dense or not self.use_EinsumDense,
            "normalization": "softmax-fp32",
            "rope_mode": "half" if self.rope_mode == "keras" else "su",
        }

    def feed_forward_options(self):
        return {**super().feed_forward_options(), "use_bias": self.use_dense_bias}


@family("llama", "qwen", "yi", huggingface=("llama", "qwen2"))
class Llama(Gemma):
    """Llama, and Qwen and Yi as its configurations. LN --> Att --> Add --> LN --> FFN --> Add

    Qwen has `use_bias=True, o_bias=False`; its small models and others share the
    token table (`share_embedding=True`).

    Args:
        input_scale, use_EinsumDense, share_embedding, **kwargs: as `Gemma`, with
            other defaults.

    Inputs, outputs: as `Gemma`.

    Source: https://arxiv.org/abs/2302.13971, https://arxiv.org/abs/2407.10671
    """

    norm_class = LlamaLayerNorm
    feed_forward_class = LLamaFeedForward
    huggingface_prefix = "model."
    huggingface_ties = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, input_scale=False, use_EinsumDense=False, share_embedding=False, **kwargs):
        super().__init__(
            input_scale=input_scale,
            use_EinsumDense=use_EinsumDense,
            share_embedding=share_embedding,
            **kwargs,
        )

    @property
    def tables(self):
        """Names in Hugging Face files, as many as the layers have weights."""
        o_bias = self.use_bias if self.o_bias is None else self.o_bias
        parts = [f"{x}_proj.{part}" for x in "qkv" for part in _parts(self.use_bias)]
        parts += [f"o_proj.{part}" for part in _parts(o_bias)]
        block = "model.layers.{i}."
        return {
            "hf": {
                "Embedding-Token": "model.embed_tokens.weight:vocab",
                "Transformer-{i}-MultiHeadSelfAttention-Norm": block + "input_layernorm.weight",
                "Transformer-{i}-MultiHeadSelfAttention": block
                + "self_attn.{"
                + ",".join(parts)
                + "}",
                "Transformer-{i}-FeedForward-Norm": block + "post_attention_layernorm.weight",
                "Transformer-{i}-FeedForward": block
                + "mlp.{gate,up,down}_proj.{"
                + ",".join(_parts(self.use_dense_bias))
                + "}",
                "Output-Norm": "model.norm.weight",
                "Decoder-Output-LM": "lm_head.weight:vocab:T",
            }
        }


def _parts(bias):
    """The tensors of a linear layer."""
    return ["weight:T", "bias"] if bias else ["weight:T"]
