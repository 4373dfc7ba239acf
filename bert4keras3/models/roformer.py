"""RoFormer and RoFormerV2: BERT with rotary positions; V2 without biases and norm weights."""

from bert4keras3.backend import DepthScaled
from bert4keras3.layers import Activation, Dense, Dropout, SinusoidalPositionEmbedding
from bert4keras3.models.bert import BERT, POSITION_OPTIONS
from bert4keras3.models.heads import TWO_LAYERS, Head
from bert4keras3.models.nezha import NEZHA
from bert4keras3.models.registry import family


@family("roformer", huggingface=("roformer",))
class RoFormer(NEZHA):
    """RoFormer. Att --> Add --> LN --> FFN --> Add --> LN, with rotary positions.

    RoFormer-Sim is the same graph with `with_pool='linear'` and `application='unilm'`.

    Args:
        **kwargs: as `BERT`; max_position has no effect, any length will do.

    Inputs, outputs: as `BERT`.

    Source: https://arxiv.org/abs/2104.09864, https://kexue.fm/archives/8265
    """

    position_bias_kind = "rotary"
    lacks = POSITION_OPTIONS
    huggingface_prefix = "roformer."
    huggingface_ties = {
        "cls.predictions.decoder.weight": "roformer.embeddings.word_embeddings.weight"
    }
    heads = {**BERT.heads, "sequence_classification": Head("first", True, rows=TWO_LAYERS)}
    tables = {
        "tf": NEZHA.tables["tf"],
        "hf": {
            **{k: row.replace("bert.", "roformer.") for k, row in BERT.tables["hf"].items()},
            "Embedding-Mapping": "roformer.embeddings_project.{weight:T,bias}",
            "Embedding-Position": None,
            "Pooler-Dense": None,
            "NSP-Proba": None,
        },
    }

    def compute_position_bias(self, inputs=None):
        if self.position_bias is None:
            ids = (
                self.inputs[1 + bool(self.segment_vocab_size)] if self.custom_position_ids else None
            )
            self.position_bias = self.apply(
                self.simplify([inputs, ids]),
                SinusoidalPositionEmbedding,
                output_dim=self.attention_key_size,
                merge_mode="zero",
                custom_position_ids=self.custom_position_ids,
                name="Embedding-Rotary-Position",
            )
        return self.position_bias


def without_biases(table):
    """A TensorFlow table less the biases and the norms' weights."""
    return {
        layer: None
        if row is None or "{beta,gamma}" in row or ":vocab" in row and "bias" in row
        else row.replace("/{kernel,bias}", "/kernel")
        for layer, row in table.items()
    }


@family("roformer_v2")
class RoFormerV2(RoFormer):
    """RoFormerV2. Att --> Add --> RMS --> FFN --> Add --> RMS

    No layer has biases, the norms have no weights.

    Args:
        **kwargs: as `BERT`.

    Inputs: as `BERT`.

    Outputs: hidden states `(batch, length, hidden)`, or with_mlm `(batch, length, vocab)`.

    Source: https://github.com/ZhuiyiTechnology/roformer-v2, https://kexue.fm/archives/8998
    """

    norm_epsilons = {}
    norm_options = {"zero_mean": False, "scale": False, "offset": False}
    has_conditional_norms = False
    lacks = (*POSITION_OPTIONS, "with_pool", "with_nsp")
    heads = BERT.heads
    initializer_order = 2
    tables = {
        "tf": {
            **without_biases(RoFormer.tables["tf"]),
            "Output-Mapping": "cls/predictions/output_mapping/kernel",
        }
    }

    @property
    def initializer(self):
        return DepthScaled(self.num_hidden_layers, self.initializer_order)

    @property
    def tied_embeddings(self):
        return bool(self.with_mlm) or self.head == "masked_lm"

    def finish_embeddings(self, x):
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Embedding-Dropout")
        x = self.normalize(x, "Embedding-Norm")
        return self.map_embeddings(x, use_bias=False)

    def attention_options(self):
        return {**super().attention_options(), "use_bias": False}

    def feed_forward_options(self):
        return {**super().feed_forward_options(), "use_bias": False}

    def predict_tokens(self, x):
        """The tied output projection, without a layer before it."""
        if self.embedding_size != self.hidden_size:
            x = self.apply(
                x,
                Dense,
                units=self.embedding_size,
                use_bias=False,
                kernel_initializer=self.initializer,
                name="Output-Mapping",
            )
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Output-MLM-Dropout")
        x = self.embed_tokens(x, mode="dense")
        activation = self.mlm_activation
        return self.apply(x, Activation, activation=activation, name="Output-MLM-Activation")
