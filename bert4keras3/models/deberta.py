"""DeBERTa: an encoder whose attention keeps content and relative position apart."""

from bert4keras3.backend import get_activation
from bert4keras3.layers import (
    Activation,
    DebertaRelativeEmbedding,
    DisentangledSelfAttention,
    Dropout,
    MaskedLMHead,
)
from bert4keras3.models.bert import BERT, POSITION_OPTIONS
from bert4keras3.models.heads import Head
from bert4keras3.models.registry import family
from bert4keras3.ops import keras

_BLOCK = "deberta.encoder.layer.{i}."
_HEAD = "cls.predictions."


@family("deberta", huggingface=("deberta-v2",))
class Deberta(BERT):
    """DeBERTa-v2 and v3. Att --> Add --> LN --> FFN --> Add --> LN

    Args:
        bucket_size: buckets of relative positions on either side.
        max_position: distance at which the last of them is reached; any length will do.
        **kwargs: as `BERT`.

    Inputs: 'Input-Token', 'Input-Segment' (if segment_vocab_size: its files say 0), int
    `(batch, length)`.

    Outputs: hidden states `(batch, length, hidden)`, or with_mlm `(batch, length, vocab)`.

    Source: https://arxiv.org/abs/2006.03654, https://arxiv.org/abs/2111.09543
    """

    norm_class = keras.layers.LayerNormalization
    norm_epsilon = 1e-7
    norm_epsilons = {"MLM_Head": 1e-5}
    has_conditional_norms = False
    has_flash_attention = False
    position_limit = None
    lacks = (
        *POSITION_OPTIONS,
        "with_pool",
        "with_nsp",
        "custom_position_ids",
        "residual_attention_scores",
        "query_head",
        "o_bias",
    )
    huggingface_prefix = "deberta."
    huggingface_ties = {
        f"{_HEAD}decoder.weight": "deberta.embeddings.word_embeddings.weight",
    }
    heads = {
        **BERT.heads,
        "sequence_classification": Head(
            "first",
            "gelu_erf",
            rows={
                "Pooler-Dense": "pooler.dense.{weight:T,bias}",
                "Classifier": "classifier.{weight:T,bias}",
            },
        ),
    }
    tables = {
        "hf": {
            "Embedding-Token": "deberta.embeddings.word_embeddings.weight:vocab",
            "Embedding-Segment": "deberta.embeddings.token_type_embeddings.weight",
            "Embedding-Norm": "deberta.embeddings.LayerNorm.{weight,bias}",
            "Embedding-Mapping": "deberta.embeddings.embed_proj.weight:T",
            "Embedding-Deberta-Position": "deberta.encoder."
            "{rel_embeddings.weight,LayerNorm.weight,LayerNorm.bias}",
            "Transformer-{i}-MultiHeadSelfAttention": _BLOCK
            + "attention.{self.query_proj.weight:T:heads,self.query_proj.bias:heads,"
            "self.key_proj.weight:T:heads,self.key_proj.bias:heads,"
            "self.value_proj.weight:T:heads,self.value_proj.bias:heads,"
            "output.dense.weight:T,output.dense.bias}",
            "Transformer-{i}-MultiHeadSelfAttention-Norm": _BLOCK
            + "attention.output.LayerNorm.{weight,bias}",
            "Transformer-{i}-FeedForward": _BLOCK + "{intermediate,output}.dense.{weight:T,bias}",
            "Transformer-{i}-FeedForward-Norm": _BLOCK + "output.LayerNorm.{weight,bias}",
            "MLM_Head": _HEAD + "{bias:vocab,transform.dense.weight:T,transform.dense.bias,"
            "transform.LayerNorm.weight,transform.LayerNorm.bias}",
        }
    }

    def __init__(self, bucket_size, **kwargs):
        super().__init__(**kwargs)
        self.bucket_size = bucket_size
        sizes = {self.attention_head_size, self.attention_key_size}
        if sizes != {self.hidden_size // self.num_attention_heads}:
            raise ValueError(
                "attention_head_size, attention_key_size: expected hidden_size / "
                f"num_attention_heads for {type(self).__name__}, got {sorted(sizes)}"
            )

    @property
    def tied_embeddings(self):
        return bool(self.with_mlm) or self.head == "masked_lm"

    def add_positions(self, x, positions=None):
        return x

    def finish_embeddings(self, x):
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Embedding-Dropout")
        x = self.normalize(x, "Embedding-Norm")
        return self.map_embeddings(x, use_bias=False)

    def compute_position_bias(self, inputs=None):
        """The table of relative positions, of every block."""
        if self.position_bias is None:
            self.position_bias = self.apply(
                inputs,
                DebertaRelativeEmbedding,
                hidden_dim=self.hidden_size,
                bucket_size=self.bucket_size,
                layer_norm_epsilon=self.norm_epsilon,
                kernel_initializer=self.initializer,
                name="Embedding-Deberta-Position",
            )
        return self.position_bias

    def self_attention(self, inputs, name):
        bias = self.compute_attention_bias(inputs)
        return self.apply(
            self.simplify([inputs, self.compute_position_bias(inputs), bias]),
            DisentangledSelfAttention,
            {"a_bias": True} if bias is not None else None,
            num_heads=self.num_attention_heads,
            hidden_dim=self.hidden_size,
            max_position_embeddings=self.max_position,
            bucket_size=self.bucket_size,
            dropout=self.attention_dropout_rate,
            kernel_initializer=self.initializer,
            name=name,
        )

    def predict_tokens(self, x):
        head = {
            "vocab_size": self.vocab_size,
            "embedding_size": self.embedding_size,
            "intermediate_activation": get_activation(self.hidden_act),
            "layer_norm_epsilon": self.norm_epsilons.get("MLM_Head", self.norm_epsilon),
            "kernel_initializer": self.initializer,
            "name": "MLM_Head",
        }
        x = self.apply(x, MaskedLMHead, **head)
        x = self.embed_tokens(x, mode="dense")
        x = self.apply(x, MaskedLMHead, {"mode": "bias"}, **head)
        return self.apply(x, Activation, activation=self.mlm_activation, name="MLM-Activation")
