"""T5, mT5, UMT5 and MisakaT5: encoder and decoder in one."""

from bert4keras3 import ops
from bert4keras3.models.decoding import as_list
from bert4keras3.models.registry import family
from bert4keras3.models.t5_halves import T5_Base, T5_Decoder, T5_Encoder
from bert4keras3.weights.h5 import numbered_groups


@family("mt5.1.1", huggingface=("mt5", "umt5"), version="mt5.1.1")
@family("t5.1.1", version="t5.1.1")
@family("t5.1.0", version="t5.1.0")
@family("t5", huggingface=("t5",))
class T5(T5_Base):
    """T5: text to text.

    The halves share their layers with the whole and with each other.

    Args:
        segment_size: as `T5_Encoder`.
        with_lm, cross_position_bias, logit_scale, decoder_sequence_length: as `T5_Decoder`.
        num_decoder_layers: number of the decoder's blocks, num_hidden_layers by default.
        name: the halves' Keras models are called after it.
        **kwargs: as `T5_Base`.

    Inputs: those of `T5_Encoder`, and 'Decoder-Input-Token', int `(batch, length)`, which
    begins with a start token of any id.

    Outputs: `(batch, decoder length, vocab)`, or `(batch, decoder length, hidden)`.

    Attributes:
        encoder, decoder: the Keras models of the halves; `decoder` takes what `encoder` gives.
    """

    encoder_class = T5_Encoder
    decoder_class = T5_Decoder
    parts = (T5_Encoder, T5_Decoder)
    attention_kind = "causal"

    def __init__(
        self,
        segment_size=0,
        with_lm=True,
        cross_position_bias=True,
        logit_scale=True,
        decoder_sequence_length=None,
        num_decoder_layers=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.segment_size = segment_size
        self.with_lm = with_lm
        self.cross_position_bias = cross_position_bias
        self.logit_scale = logit_scale
        self.decoder_sequence_length = decoder_sequence_length
        self.num_decoder_layers = num_decoder_layers or self.num_hidden_layers
        kwargs |= {"layers": self.layers}
        names = [f"{self.name}_{side}" if self.name else side for side in ("Encoder", "Decoder")]
        self._encoder = self.encoder_class(
            segment_size=segment_size, **{**kwargs, "name": names[0]}
        )
        self._decoder = self.decoder_class(
            with_lm=with_lm,
            cross_position_bias=cross_position_bias,
            logit_scale=logit_scale,
            decoder_sequence_length=decoder_sequence_length,
            **{**kwargs, "name": names[1], "num_hidden_layers": self.num_decoder_layers},
        )

    @property
    def encoder(self):
        """The Keras model of the encoder."""
        return self._encoder.model

    @property
    def decoder(self):
        """The Keras model of the decoder."""
        return self._decoder.model

    def build(
        self,
        layer_norm_cond=None,
        layer_norm_cond_hidden_size=None,
        layer_norm_cond_hidden_act=None,
        additional_input_layers=None,
    ):
        """Build the Keras models `model`, `encoder` and `decoder`.

        Args:
            layer_norm_cond, layer_norm_cond_hidden_size, layer_norm_cond_hidden_act,
            additional_input_layers: as `Transformer.build`, for both halves.
        """
        if self.model is not None:
            return
        conditions = (layer_norm_cond, layer_norm_cond_hidden_size, layer_norm_cond_hidden_act)
        for half in (self._encoder, self._decoder):
            half.defers_weights = self.defers_weights
            half.build(None, *conditions, additional_input_layers)
        self.layer_norm_conds = self._decoder.layer_norm_conds
        self.condition_inputs = self._decoder.condition_inputs
        tokens = self._decoder.get_inputs()[1]
        self.set_inputs([*as_list(self._encoder.get_inputs()), tokens], additional_input_layers)
        self.set_outputs(self._decoder.call_on(self._encoder.context, tokens))
        self.make_model()

    # ------------------------------------------------------------- generation

    @property
    def step_inputs(self):
        return self.text_inputs[len(as_list(self._encoder.get_inputs())) :]

    @property
    def fixed_states(self):
        return self._decoder.fixed_states

    @property
    def has_own_mask(self):
        return self._decoder.has_own_mask

    def initial_states(self, batch, slots, inputs=None, source=None, condition=None):
        texts = [source[tensor.name] for tensor in self.source_inputs]
        read = (texts, source["lengths"], condition)
        states = ops.by_rows(self._read, read, texts[0].shape[1])
        return self._decoder.with_source(states, batch, slots, inputs, condition)

    def _read(self, source):
        """What the decoder remembers of sources `(texts, lengths, condition)`."""
        texts, lengths, condition = source
        context = self._encoder.encode(texts, lengths, condition)
        places = ops.arange(context.shape[1], dtype="int32")[None]
        return self._decoder.source_states(context, places < lengths[:, None])

    def grow_states(self, states, slots):
        return self._decoder.grow_states(states, slots)

    def step(self, inputs, positions, lengths, states, slots, last=False):
        return self._decoder.step(inputs, positions, lengths, states, slots, last)

    # ---------------------------------------------------------------- weights

    def table(self, form):
        # The halves may have different numbers of blocks.
        return {**self._encoder.table(form), **self._decoder.table(form)}

    def groups_in_files(self):
        """The order of layers follows whether there was dropout where a file was saved."""
        saved = self.dropout_rate if self.saved_dropout_rate is None else self.saved_dropout_rate
        if bool(saved) == bool(self.dropout_rate) or self.cross_position_bias:
            return None
        # Without dropout layers, two norms of the decoder's first block come before the
        # encoder's that they otherwise follow.
        groups = numbered_groups(self.model)
        last = f"Encoder-Transformer-{self.num_hidden_layers - 1}-FeedForward-Norm"
        for name, other in ((last, "Self"), ("Encoder-Output-Norm", "Cross")):
            other = f"Decoder-Transformer-0-MultiHead{other}Attention-Norm"
            name, other = self.prefixed(name), self.prefixed(other)
            groups[name], groups[other] = groups[other], groups[name]
        return groups


class MisakaT5_Encoder(T5_Encoder):
    """The encoder of `MisakaT5`."""

    position_bias_kind = "rotary"


class MisakaT5_Decoder(T5_Decoder):
    """The decoder of `MisakaT5`."""

    position_bias_kind = "rotary"


@family("misakat5")
class MisakaT5(T5):
    """T5 with rotary positions instead of relative ones.

    Args:
        cross_position_bias: as `T5`, which only False makes sense for.
        **kwargs: as `T5`.

    Inputs, outputs, attributes: as `T5`.
    """

    encoder_class = MisakaT5_Encoder
    decoder_class = MisakaT5_Decoder
    position_bias_kind = "rotary"

    def __init__(self, cross_position_bias=False, **kwargs):
        super().__init__(cross_position_bias=cross_position_bias, **kwargs)
