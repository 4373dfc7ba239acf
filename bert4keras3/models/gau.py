"""GAU-alpha: RoFormerV2 with gated attention units in the place of whole blocks."""

from bert4keras3.layers import GatedAttentionUnit
from bert4keras3.models.registry import family
from bert4keras3.models.roformer import RoFormerV2

_TF_BLOCK = "GAU_alpha/encoder/layer_{i}/gau/"


@family("gau")
class GAU_alpha(RoFormerV2):
    """GAU-alpha. GAU --> Add --> RMS

    Args:
        **kwargs: as `BERT`; attention_key_size is the size of queries and keys,
            intermediate_size that of the units.

    Inputs, outputs: as `RoFormerV2`.

    Source: https://github.com/ZhuiyiTechnology/GAU-alpha, https://kexue.fm/archives/9052
    """

    initializer_order = 3
    lacks = (*RoFormerV2.lacks, "residual_attention_scores", "query_head", "o_bias")
    has_flash_attention = False
    tables = {
        "tf": {
            "Embedding-Token": "bert/embeddings/word_embeddings:vocab",
            "Embedding-Segment": "bert/embeddings/token_type_embeddings",
            "Embedding-Mapping": "bert/encoder/embedding_hidden_mapping_in/kernel",
            "Output-Mapping": "cls/predictions/output_mapping/kernel",
            "Transformer-{i}-GatedAttentionUnit": _TF_BLOCK
            + "{i_dense/kernel,q_scaleoffset/gamma,k_scaleoffset/gamma,o_dense/kernel}",
        }
    }

    def apply_main_layers(self, inputs, index):
        name = f"{self.block_name(index)}-GatedAttentionUnit"
        return self.residual(inputs, name, self.gated_attention, **self.norms)

    def gated_attention(self, inputs, name):
        """A gated attention unit, with the model's masks and rotary positions."""
        bias = self.compute_attention_bias(inputs)
        return self.apply(
            self.simplify([inputs, bias, self.compute_position_bias(inputs)]),
            GatedAttentionUnit,
            {"a_bias": True if bias is not None else None, "p_bias": "rotary"},
            units=self.intermediate_size,
            key_size=self.attention_key_size,
            activation=self.hidden_act,
            use_bias=False,
            normalization="softmax_plus",
            attention_dropout=self.attention_dropout_rate,
            kernel_initializer=self.initializer,
            name=name,
        )
