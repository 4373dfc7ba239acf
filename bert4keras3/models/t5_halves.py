"""The halves of T5, mT5 and UMT5: encoder and decoder."""

from bert4keras3 import ops
from bert4keras3.backend import get_activation
from bert4keras3.layers import (
    Activation,
    Add,
    ClearPadding,
    Dense,
    Dropout,
    Embedding,
    Input,
    Masking,
    RelativePositionEmbeddingT5,
    ScaleOffset,
    SinusoidalPositionEmbedding,
)
from bert4keras3.models.bert import BERT, HEAD_OPTIONS, POSITION_OPTIONS
from bert4keras3.models.decoding import CONDITION, as_list
from bert4keras3.models.masks import LM_Mask
from bert4keras3.models.registry import family
from bert4keras3.models.t5_weights import T5Files
from bert4keras3.models.transformer import PRE

VERSIONS = ("t5.1.0", "t5.1.1", "mt5.1.1")
CONTEXT = "Input-Context"


class T5_Base(T5Files, BERT):
    """What encoder and decoder share: norms without mean and bias before each layer, no biases.

    Args:
        version: 't5.1.0', 't5.1.1' or 'mt5.1.1'. The last two have an output projection of
            their own, and other names in TensorFlow checkpoints.
        share_embedding: the output projection is the token table; None for what the version
            says.
        share_position_bias: one table of relative positions for all blocks of a side; False
            gives each block its own (UMT5).
        position_buckets, max_distance: see `RelativePositionEmbeddingT5`.
        max_position: tokens it was made for; nothing here depends on it.
        **kwargs: as `Transformer`.

    Source: https://arxiv.org/abs/1910.10683, https://arxiv.org/abs/2010.11934 (mT5),
    https://arxiv.org/abs/2304.09151 (UMT5)
    """

    side = None
    norms = PRE
    norm_epsilon = 1e-6
    norm_options = {"zero_mean": False, "offset": False}
    position_bias_kind = "t5_relative"
    bidirectional = True
    position_limit = None
    applications = ("encoder",)
    heads = {}
    lacks = (
        *HEAD_OPTIONS,
        *POSITION_OPTIONS,
        "custom_position_ids",
        "segment_vocab_size",
        "shared_segment_embeddings",
    )

    def __init__(
        self,
        version="t5.1.0",
        share_embedding=None,
        share_position_bias=True,
        position_buckets=32,
        max_distance=128,
        max_position=None,
        segment_vocab_size=0,
        **kwargs,
    ):
        if version not in VERSIONS:
            raise ValueError(f"version: expected one of {VERSIONS}, got {version!r}")
        super().__init__(max_position=max_position, segment_vocab_size=segment_vocab_size, **kwargs)
        self.version = version
        self.share_embedding = version == "t5.1.0" if share_embedding is None else share_embedding
        self.share_position_bias = share_position_bias
        self.position_buckets = position_buckets
        self.max_distance = max_distance

    @property
    def decoder_start_id(self):
        """The id that a decoder's text begins with."""
        return next(i for i in (self.start_token_id, self.pad_token_id, 0) if i is not None)

    def finish_embeddings(self, x):
        x = self.apply(x, Dropout, rate=self.dropout_rate, name=f"{self.side}-Embedding-Dropout")
        return self.resize(x, self.hidden_size, f"{self.side}-Embedding-Mapping")

    def resize(self, x, size, name):
        """x, or where it is of another size its projection to that."""
        if self.embedding_size == self.hidden_size:
            return x
        return self.apply(
            x,
            Dense,
            units=size,
            use_bias=False,
            kernel_initializer=self.initializer,
            name=name,
        )

    def block_name(self, index):
        return f"{self.side}-Transformer-{index}"

    def start_block(self, inputs, index):
        """Make what all of a block's attention layers add; the order of nodes is file format."""
        self.index = index
        if not self.share_position_bias:
            self.position_bias = None
        self.compute_position_bias(inputs)

    def compute_position_bias(self, inputs=None):
        if self.position_bias is None:
            if self.position_bias_kind == "rotary":
                self.position_bias = self.apply(
                    inputs,
                    SinusoidalPositionEmbedding,
                    output_dim=self.attention_key_size,
                    merge_mode="zero",
                    name="Embedding-Rotary-Position",
                )
            else:
                self.position_bias = self.relative_positions([inputs, inputs])
        return self.position_bias

    def relative_positions(self, inputs, **arguments):
        """The relative bias `([batch,] n, m, heads)` of `[queries, keys]`."""
        place = "Embedding" if self.share_position_bias else f"Transformer-{self.index}"
        return self.apply(
            inputs,
            RelativePositionEmbeddingT5,
            arguments,
            input_dim=self.position_buckets,
            output_dim=self.query_head or self.num_attention_heads,
            max_distance=self.max_distance,
            bidirectional=self.bidirectional,
            embeddings_initializer=self.initializer,
            name=f"{self.side}-{place}-Relative-Position",
        )

    def attention_options(self):
        return {**super().attention_options(), "use_bias": False, "attention_scale": False}

    def feed_forward_options(self):
        return {**super().feed_forward_options(), "use_bias": False}


@family("mt5.1.1_encoder", version="mt5.1.1")
@family("t5.1.1_encoder", version="t5.1.1")
@family("t5.1.0_encoder", version="t5.1.0")
@family("t5_encoder")
class T5_Encoder(T5_Base):
    """T5's encoder. LN --> Att --> Add --> LN --> FFN --> Add

    Args:
        segment_size: number of segments; 0 for none.
        **kwargs: as `T5_Base`.

    Inputs: 'Encoder-Input-Token', 'Segment-Input-Token' (if segment_size), int `(batch, length)`.

    Outputs: `(batch, length, hidden)`, 0 where the tokens are padding.
    """

    side = "Encoder"

    def __init__(self, segment_size=0, **kwargs):
        super().__init__(**kwargs)
        self.segment_size = segment_size

    def get_inputs(self):
        names = ["Encoder-Input-Token"] + ["Segment-Input-Token"] * bool(self.segment_size)
        return [
            self.apply(layer=Input, shape=(self.sequence_length,), dtype="int32", name=name)
            for name in names
        ]

    def set_outputs(self, outputs):
        # The decoder of a whole T5 takes the tensor before, which its graph has always taken.
        self.context = outputs
        super().set_outputs(self.apply(outputs, ClearPadding, name="Encoder-Output-Mask"))

    def apply_embeddings(self, inputs):
        tokens, *segments = as_list(inputs)
        x = self.embed_tokens(tokens)
        if segments:
            segments = self.apply(
                segments[0],
                Embedding,
                input_dim=self.segment_size,
                output_dim=self.embedding_size,
                embeddings_initializer="zeros",
                name="Embedding-Segment",
            )
            x = self.apply([x, segments], Add, mask_from=0, name="Embedding-Token-Segment")
        return self.finish_embeddings(x)

    def apply_main_layers(self, inputs, index):
        self.start_block(inputs, index)
        return super().apply_main_layers(inputs, index)

    def apply_final_layers(self, inputs):
        x = self.normalize(inputs, "Encoder-Output-Norm")
        return self.apply(x, Dropout, rate=self.dropout_rate, name="Encoder-Output-Dropout")


@family("mt5.1.1_decoder", version="mt5.1.1")
@family("t5.1.1_decoder", version="t5.1.1")
@family("t5.1.0_decoder", version="t5.1.0")
@family("t5_decoder")
class T5_Decoder(LM_Mask, T5_Base):
    """T5's decoder. LN --> Att --> Add --> LN --> Cross-Att --> Add --> LN --> FFN --> Add

    Args:
        with_lm: output token probabilities; True for softmax, or an activation,
            e.g. 'linear' for logits; False for hidden states.
        cross_position_bias: relative positions in cross attention, too.
        logit_scale: divide the last hidden states by sqrt(hidden_size).
        decoder_sequence_length: a fixed length of the decoder's tokens, any by default.
        **kwargs: as `T5_Base`.

    Inputs: 'Input-Context', float `(batch, m, hidden)`, whose vectors of zeros are padding, as
    the encoder gives them; 'Decoder-Input-Token', int `(batch, length)`.

    Outputs: `(batch, length, vocab)`, or `(batch, length, hidden)` without with_lm.

    Raises:
        TypeError: residual_attention_scores, which two kinds of attention do not share.
        ValueError: cross_position_bias with rotary positions.
    """

    side = "Decoder"
    bidirectional = False
    applications = ("encoder", "lm")

    def __init__(
        self,
        with_lm=True,
        cross_position_bias=True,
        logit_scale=True,
        decoder_sequence_length=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.with_lm = with_lm
        self.cross_position_bias = cross_position_bias
        self.logit_scale = logit_scale
        self.decoder_sequence_length = decoder_sequence_length
        if self.residual_attention_scores:
            raise TypeError(f"{type(self).__name__} cannot have residual_attention_scores")
        if cross_position_bias and self.position_bias_kind == "rotary":
            raise ValueError(
                f"cross_position_bias: {type(self).__name__} has rotary positions, which cross "
                "attention has no use for"
            )

    # ----------------------------------------------------------------- verbs

    def get_inputs(self):
        length = self.decoder_sequence_length
        return [
            self.apply(layer=Input, shape=(self.sequence_length, self.hidden_size), name=CONTEXT),
            self.apply(layer=Input, shape=(length,), dtype="int32", name="Decoder-Input-Token"),
        ]

    def apply_embeddings(self, inputs):
        context, tokens = inputs
        if self.decoding is None and context is self.inputs[0]:
            # On its own; within a whole T5 the encoder's tokens say what is padding.
            context = self.apply(context, Masking, name="Input-Context-Mask")
        return [context, self.finish_embeddings(self.embed_tokens(tokens))]

    def call_on(self, context, tokens):
        """The symbolic output for an encoder's, in the graph of both."""
        return self._forward([context, tokens])

    def start_block(self, inputs, index):
        context, x = inputs
        super().start_block(x, index)
        if self.cross_position_bias and (index == 0 or not self.share_position_bias):
            slots = context.shape[1]
            self.cross_bias = self.relative_positions([x, context], slots=slots)

    def apply_main_layers(self, inputs, index):
        self.start_block(inputs, index)
        (context, x), name = inputs, self.block_name(index)

        def cross_attention(x, name):
            return self.cross_attention(x, context, name)

        x = self.residual(x, f"{name}-MultiHeadSelfAttention", self.self_attention, **self.norms)
        x = self.residual(x, f"{name}-MultiHeadCrossAttention", cross_attention, **self.norms)
        return [context, self.residual(x, f"{name}-FeedForward", self.feed_forward, **self.norms)]

    def cross_attention(self, x, context, name):
        """Multi-head attention of x to the encoder's context."""
        inputs, arguments = [x, context, context], {}
        if self.cross_position_bias:
            inputs.append(self.cross_bias)
            arguments["p_bias"] = "t5_relative"
        options = {**self.attention_options(), "is_cross": True}
        return self.apply(inputs, self.attention_class, arguments, name=name, **options)

    def apply_final_layers(self, inputs):
        x = self.normalize(inputs[1], "Decoder-Output-Norm")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Decoder-Output-Dropout")
        if self.logit_scale:
            scale = self.hidden_size**-0.5
            x = self.apply(x, ScaleOffset, scale=scale, offset=False, name="Decoder-Output-Scale")
        return self.predict_tokens(x) if self.with_lm else x

    def predict_tokens(self, x):
        """The output projection: the token table, or one of its own."""
        activation = get_activation("softmax" if self.with_lm is True else self.with_lm)
        x = self.resize(x, self.embedding_size, "Decoder-Output-Mapping")
        if self.share_embedding:
            x = self.embed_tokens(x, mode="dense")
            return self.apply(
                x, Activation, activation=activation, name="Decoder-Output-LM-Activation"
            )
        return self.apply(
            x,
            Dense,
            units=self.vocab_size,
            activation=activation,
            use_bias=False,
            kernel_initializer=self.initializer,
            name="Decoder-Output-LM",
        )

    # ------------------------------------------------------------- generation

    @property
    def step_inputs(self):
        return self.text_inputs[1:]

    def cut_to_last(self, outputs):
        return [outputs[0], super().cut_to_last(outputs[1])]

    @property
    def fixed_states(self):
        cross = {key for key, layer in self._stateful_calls.items() if _is_cross(layer)}
        return frozenset({CONTEXT, CONDITION, *cross})

    def initial_states(self, batch, slots, inputs=None, source=None, condition=None):
        context = source[self.source_inputs[0].name]
        visible = ops.any(ops.not_equal(context, 0), axis=-1)
        states = self.source_states(context, visible)
        return self.with_source(states, batch, slots, inputs, condition)

    def source_states(self, context, visible):
        """What stays in memory of an encoder's output; `visible` `(batch, m)`: no padding."""
        cross = {key: x for key, x in self._stateful_calls.items() if _is_cross(x)}
        memory = {key: layer.project_memory(context, visible) for key, layer in cross.items()}
        return {**memory, CONTEXT: context}

    def with_source(self, states, batch, slots, inputs=None, condition=None):
        """`initial_states` with `source_states` among them."""
        inputs = None if inputs is None else [states[CONTEXT], *as_list(inputs)]
        own = super().initial_states(batch, slots, inputs, condition=condition)
        return {**own, **states}

    def step(self, inputs, positions, lengths, states, slots, last=False):
        context = states[CONTEXT]
        states = {key: state for key, state in states.items() if key != CONTEXT}
        inputs = [context, *as_list(inputs)]
        outputs, states = super().step(inputs, positions, lengths, states, slots, last)
        return outputs, {**states, CONTEXT: context}


def _is_cross(layer):
    return getattr(layer, "is_cross", False)
