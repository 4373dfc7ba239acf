"""ALBERT: BERT with one block, applied again and again."""

from bert4keras3.models.bert import BERT
from bert4keras3.models.registry import family

_TF_GROUP = "bert/encoder/transformer/group_0/inner_group_0/"
_HF_GROUP = "albert.encoder.albert_layer_groups.0.albert_layers.0."
# What the one block is called, in the order of a block's layers.
_BLOCK = {
    "MultiHeadSelfAttention": (
        "attention_1/{self/query,self/key,self/value,output/dense}/{kernel,bias}",
        "attention.{query,key,value,dense}.{weight:T,bias}",
    ),
    "MultiHeadSelfAttention-Norm": (
        "LayerNorm/{beta,gamma}",
        "attention.LayerNorm.{bias,weight}",
    ),
    "FeedForward": (
        "ffn_1/intermediate/{dense,output/dense}/{kernel,bias}",
        "{ffn,ffn_output}.{weight:T,bias}",
    ),
    "FeedForward-Norm": ("LayerNorm_1/{beta,gamma}", "full_layer_layer_norm.{bias,weight}"),
}
# brightmart's first ALBERT came before Google's and is another graph.
_OLD_BRIGHTMART = dict.fromkeys(
    ("word_embeddings_2", "layer_shared"),
    "this is brightmart's ALBERT from before Google's release, which has another form: take one "
    "of his checkpoints with 'google' in its name, or the converted ones of "
    "https://github.com/bojone/albert_zh",
)


def _tables(block):
    """The tables, with the block's layers called `Transformer{block}-...`."""
    tf = {k: row for k, row in BERT.tables["tf"].items() if "{i}" not in k}
    hf = {
        k: row.replace("bert.", "albert.").replace("cls.predictions.transform.", "predictions.")
        for k, row in BERT.tables["hf"].items()
        if "{i}" not in k
    }
    for layer, (in_tf, in_hf) in _BLOCK.items():
        tf[f"Transformer{block}-{layer}"] = _TF_GROUP + in_tf
        hf[f"Transformer{block}-{layer}"] = _HF_GROUP + in_hf
    mapping = "albert.encoder.embedding_hidden_mapping_in.{weight:T,bias}"
    return {
        "tf": tf,
        "hf": {
            **hf,
            "Embedding-Mapping": mapping,
            "Pooler-Dense": "albert.pooler.{weight:T,bias}",
            "NSP-Proba": "sop_classifier.classifier.{weight:T,bias}",
            "MLM-Bias": "predictions.bias:vocab",
        },
    }


@family("albert", huggingface=("albert",))
class ALBERT(BERT):
    """ALBERT. (Att --> Add --> LN --> FFN --> Add --> LN) x num_hidden_layers, one set of weights.

    Args:
        always_map_embeddings: the layer between embeddings and blocks is there even
            where the sizes are equal, as in Hugging Face files.
        **kwargs: as `BERT`; embedding_size is small (128) in its checkpoints.

    Inputs, outputs: as `BERT`.

    Source: https://arxiv.org/abs/1909.11942
    """

    norm_epsilon = None
    norm_epsilons = {"Embedding-Norm": 1e-12, "MLM-Norm": 1e-12}
    huggingface_prefix = "albert."
    huggingface_ties = {"predictions.decoder.weight": "albert.embeddings.word_embeddings.weight"}
    tables = _tables("")
    foreign_tensors = _OLD_BRIGHTMART

    def __init__(self, always_map_embeddings=False, **kwargs):
        super().__init__(**kwargs)
        self.always_map_embeddings = always_map_embeddings

    def block_name(self, index):
        return "Transformer"


@family("albert_unshared")
class ALBERT_Unshared(BERT):
    """BERT whose blocks all start from ALBERT's one block.

    Args:
        **kwargs: as `BERT`.

    Inputs, outputs: as `BERT`.
    """

    tables = {"tf": _tables("-{i}")["tf"]}
    foreign_tensors = _OLD_BRIGHTMART
