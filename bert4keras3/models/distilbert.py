"""DistilBERT: BERT without segments; other names in Hugging Face files."""

from bert4keras3.models.bert import BERT
from bert4keras3.models.heads import Head
from bert4keras3.models.registry import family

_BLOCK = "distilbert.transformer.layer.{i}."


@family("distilbert", huggingface=("distilbert",))
class DistilBERT(BERT):
    """DistilBERT. Att --> Add --> LN --> FFN --> Add --> LN

    Args:
        **kwargs: as `BERT`.

    Inputs: 'Input-Token', int `(batch, length)`.

    Outputs: as `BERT`.

    Source: https://arxiv.org/abs/1910.01108
    """

    lacks = ("with_pool", "with_nsp", "segment_vocab_size")
    huggingface_prefix = "distilbert."
    huggingface_ties = {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}
    heads = {
        **BERT.heads,
        "sequence_classification": Head(
            "first",
            "relu",
            rows={
                "Pooler-Dense": "pre_classifier.{weight:T,bias}",
                "Classifier": "classifier.{weight:T,bias}",
            },
        ),
    }
    tables = {
        "hf": {
            "Embedding-Token": "distilbert.embeddings.word_embeddings.weight:vocab",
            "Embedding-Position": "distilbert.embeddings.position_embeddings.weight",
            "Embedding-Norm": "distilbert.embeddings.LayerNorm.{bias,weight}",
            "MLM-Dense": "vocab_transform.{weight:T,bias}",
            "MLM-Norm": "vocab_layer_norm.{bias,weight}",
            "MLM-Bias": "vocab_projector.bias:vocab",
            "Transformer-{i}-MultiHeadSelfAttention": _BLOCK
            + "attention.{q,k,v,out}_lin.{weight:T,bias}",
            "Transformer-{i}-MultiHeadSelfAttention-Norm": _BLOCK + "sa_layer_norm.{bias,weight}",
            "Transformer-{i}-FeedForward": _BLOCK + "ffn.{lin1,lin2}.{weight:T,bias}",
            "Transformer-{i}-FeedForward-Norm": _BLOCK + "output_layer_norm.{bias,weight}",
        }
    }

    def __init__(self, segment_vocab_size=0, **kwargs):
        super().__init__(segment_vocab_size=segment_vocab_size, **kwargs)
