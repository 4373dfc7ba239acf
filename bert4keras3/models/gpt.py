"""GPT, GPT2 and GPT2-ML: causal language models with absolute positions."""

from bert4keras3.backend import get_activation
from bert4keras3.layers import Activation, Dropout
from bert4keras3.models.bert import BERT, HEAD_OPTIONS
from bert4keras3.models.heads import CAUSAL_HEADS
from bert4keras3.models.masks import LM_Mask
from bert4keras3.models.registry import family
from bert4keras3.models.transformer import PRE

_HF_BLOCK = "transformer.h.{i}."
_TF = {
    layer: row.replace("bert/", "gpt/").replace("encoder", "transformer")
    for layer, row in BERT.tables["tf"].items()
    if layer.startswith(("Embedding", "Transformer")) and layer != "Embedding-Norm"
}
# One tensor holds the projections of queries, keys and values.
_HF = {
    "Transformer-{i}-MultiHeadSelfAttention": _HF_BLOCK
    + "attn.{c_attn.weight:part0of3,c_attn.bias:part0of3,c_attn.weight:part1of3,"
    "c_attn.bias:part1of3,c_attn.weight:part2of3,c_attn.bias:part2of3,"
    "c_proj.weight,c_proj.bias}",
    "Transformer-{i}-MultiHeadSelfAttention-Norm": _HF_BLOCK + "ln_1.{bias,weight}",
    "Transformer-{i}-FeedForward": _HF_BLOCK + "mlp.{c_fc,c_proj}.{weight,bias}",
    "Transformer-{i}-FeedForward-Norm": _HF_BLOCK + "ln_2.{bias,weight}",
}


@family("gpt", huggingface=("openai-gpt",))
class GPT(LM_Mask, BERT):
    """OpenAI's GPT, and CDial-GPT. Att --> Add --> LN --> FFN --> Add --> LN, causal.

    Args:
        final_activation: activation of the token probabilities, e.g. 'linear' for
            logits; False for hidden states.
        **kwargs: as `BERT`.

    Inputs: as `BERT`.

    Outputs: `(batch, length, vocab)`, or `(batch, length, hidden)`.

    Source: https://github.com/openai/finetune-transformer-lm
    """

    lacks = HEAD_OPTIONS
    heads = CAUSAL_HEADS
    huggingface_prefix = "transformer."
    huggingface_ties = {"lm_head.weight": "transformer.tokens_embed.weight"}
    tables = {
        "tf": _TF,
        "hf": {
            "Embedding-Token": "transformer.tokens_embed.weight:vocab",
            "Embedding-Position": "transformer.positions_embed.weight",
            **_HF,
        },
    }

    def __init__(self, final_activation="softmax", **kwargs):
        super().__init__(**kwargs)
        self.final_activation = final_activation

    @property
    def tied_embeddings(self):
        return self.final_activation is not False and not self.head

    def finish_embeddings(self, x):
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Embedding-Dropout")
        return self.map_embeddings(x)

    def apply_final_layers(self, inputs):
        if self.head:
            return self.apply_head(inputs)
        return inputs if self.final_activation is False else self.predict_tokens(inputs)

    def predict_tokens(self, x):
        """The output projection, tied to the token embeddings."""
        x = self.embed_tokens(x, mode="dense")
        activation = get_activation(self.final_activation)
        return self.apply(x, Activation, activation=activation, name="LM-Activation")


@family("gpt2", huggingface=("gpt2",))
class GPT2(GPT):
    """GPT2, and CPM. LN --> Att --> Add --> LN --> FFN --> Add, causal.

    Args:
        **kwargs: as `GPT`.

    Inputs: 'Input-Token', int `(batch, length)`.

    Outputs: as `GPT`.

    Source: https://github.com/openai/gpt-2
    """

    norms = PRE
    norm_epsilon = 1e-5
    lacks = (*HEAD_OPTIONS, "segment_vocab_size", "custom_position_ids")
    huggingface_ties = {"lm_head.weight": "transformer.wte.weight"}
    tables = {
        "tf": {
            **{
                layer: row.replace("output/LayerNorm", "input/LayerNorm")
                for layer, row in _TF.items()
            },
            "Output-Norm": "gpt/output/LayerNorm/{beta,gamma}",
        },
        "hf": {
            "Embedding-Token": "transformer.wte.weight:vocab",
            "Embedding-Position": "transformer.wpe.weight",
            **_HF,
            "Output-Norm": "transformer.ln_f.{bias,weight}",
        },
    }

    def __init__(self, segment_vocab_size=0, **kwargs):
        super().__init__(segment_vocab_size=segment_vocab_size, **kwargs)

    def finish_embeddings(self, x):
        return self.map_embeddings(x)

    def apply_final_layers(self, inputs):
        x = self.normalize(inputs, "Output-Norm")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Output-Dropout")
        return super().apply_final_layers(x)


_ML_BLOCK = "newslm/layer{i:02}/"


@family("gpt2_ml")
class GPT2_ML(GPT):
    """GPT2-ML. Att --> Add --> LN --> FFN --> Add --> LN, causal.

    The first norm is before the feed-forward layer only: what is added is not normalised.

    Args:
        **kwargs: as `GPT`.

    Inputs: 'Input-Token', int `(batch, length)`.

    Outputs: as `GPT`.

    Source: https://github.com/imcaspar/gpt2-ml
    """

    norms = {}
    feed_forward_norms = {"before": "Norm-0", "after": "Norm-1"}
    norm_epsilon = 1e-5
    lacks = (*HEAD_OPTIONS, "segment_vocab_size", "custom_position_ids")
    tables = {
        "tf": {
            "Embedding-Token": "newslm/embeddings/word_embed:vocab",
            "Embedding-Position": "newslm/embeddings/pos_embed",
            "Embedding-Norm": "newslm/embeddings/LayerNorm_embed_norm/{beta,gamma}",
            "Embedding-Mapping": "newslm/embeddings/embedding_hidden_mapping_in/{kernel,bias}",
            "Transformer-{i}-MultiHeadSelfAttention": _ML_BLOCK
            + "{query_layer,key_layer,value_layer,context_projection_layer}/{kernel,bias}",
            "Transformer-{i}-FeedForward-Norm-0": _ML_BLOCK + "LayerNorm_mlp_ln0/{beta,gamma}",
            "Transformer-{i}-FeedForward": _ML_BLOCK + "{intermediate,output}/{kernel,bias}",
            "Transformer-{i}-FeedForward-Norm-1": _ML_BLOCK + "LayerNorm_mlp_ln1/{beta,gamma}",
        }
    }

    def __init__(self, segment_vocab_size=0, **kwargs):
        super().__init__(segment_vocab_size=segment_vocab_size, **kwargs)

    def finish_embeddings(self, x):
        return self.map_embeddings(self.normalize(x, "Embedding-Norm"))
