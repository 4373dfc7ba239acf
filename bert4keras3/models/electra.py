"""ELECTRA: BERT, trained to tell replaced tokens from real ones."""

from bert4keras3.backend import get_activation
from bert4keras3.layers import Dense
from bert4keras3.models.bert import BERT, HEAD_OPTIONS
from bert4keras3.models.heads import TWO_LAYERS, Head
from bert4keras3.models.registry import family

_PREDICTIONS = "discriminator_predictions"


@family("electra", huggingface=("electra",))
class ELECTRA(BERT):
    """ELECTRA's discriminator. Att --> Add --> LN --> FFN --> Add --> LN

    Args:
        with_discriminator: output whether each token was replaced,
            `(batch, length, 1)`; True for a probability, or an activation, e.g.
            'linear' for logits.
        **kwargs: as `BERT`; `head='masked_lm'` is the generator that goes with it.

    Inputs: as `BERT`.

    Outputs: hidden states `(batch, length, hidden)`, or the discriminator's.

    Source: https://arxiv.org/abs/2003.10555
    """

    applications = ("encoder",)
    lacks = HEAD_OPTIONS
    config_advice = {
        "segment_vocab_size": "no type_vocab_size, so there are 2 segments, as in Google's "
        'ELECTRA: add "type_vocab_size": 2, or 0 for a model without segments'
    }
    huggingface_prefix = "electra."
    huggingface_ties = {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}
    heads = {
        **BERT.heads,
        "sequence_classification": Head("first", "gelu_erf", rows=TWO_LAYERS),
    }
    tables = {
        "tf": {
            **{k: row.replace("bert/", "electra/") for k, row in BERT.tables["tf"].items()},
            "Embedding-Mapping": "electra/embeddings_project/{kernel,bias}",
            "MLM-Dense": "generator_predictions/dense/{kernel,bias}",
            "MLM-Norm": "generator_predictions/LayerNorm/{beta,gamma}",
            "MLM-Bias": "generator_predictions/output_bias:vocab",
            "Discriminator-Dense": f"{_PREDICTIONS}/dense/{{kernel,bias}}",
            "Discriminator-Prediction": f"{_PREDICTIONS}/dense_1/{{kernel,bias}}",
        },
        "hf": {
            **{k: row.replace("bert.", "electra.") for k, row in BERT.tables["hf"].items()},
            "Embedding-Mapping": "electra.embeddings_project.{weight:T,bias}",
            "MLM-Dense": "generator_predictions.dense.{weight:T,bias}",
            "MLM-Norm": "generator_predictions.LayerNorm.{bias,weight}",
            "MLM-Bias": "generator_lm_head.bias:vocab",
            "Discriminator-Dense": f"{_PREDICTIONS}.dense.{{weight:T,bias}}",
            "Discriminator-Prediction": f"{_PREDICTIONS}.dense_prediction.{{weight:T,bias}}",
        },
    }

    def __init__(self, with_discriminator=False, **kwargs):
        super().__init__(**kwargs)
        self.with_discriminator = with_discriminator
        if self.head and with_discriminator:
            raise ValueError(f"head={self.head!r} stands in the place of with_discriminator")

    def apply_final_layers(self, inputs):
        if self.head or not self.with_discriminator:
            return super().apply_final_layers(inputs)
        x = self.apply(
            inputs,
            Dense,
            units=self.hidden_size,
            activation=get_activation(self.hidden_act),
            kernel_initializer=self.initializer,
            name="Discriminator-Dense",
        )
        activation = "sigmoid" if self.with_discriminator is True else self.with_discriminator
        return self.apply(
            x,
            Dense,
            units=1,
            activation=get_activation(activation),
            kernel_initializer=self.initializer,
            name="Discriminator-Prediction",
        )
