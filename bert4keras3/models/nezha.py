"""NEZHA: BERT with relative positions inside the attention."""

from bert4keras3.backend import Sinusoidal
from bert4keras3.layers import RelativePositionEmbedding
from bert4keras3.models.bert import BERT, POSITION_OPTIONS
from bert4keras3.models.registry import family


@family("nezha")
class NEZHA(BERT):
    """NEZHA. Att --> Add --> LN --> FFN --> Add --> LN, with typical relative positions.

    Args:
        **kwargs: as `BERT`; max_position has no effect, any length will do.

    Inputs, outputs: as `BERT`.

    Source: https://arxiv.org/abs/1909.00204
    """

    norm_epsilon = None
    norm_epsilons = {"MLM-Norm": 1e-12}
    position_bias_kind = "typical_relative"
    position_limit = None
    lacks = (*POSITION_OPTIONS, "custom_position_ids")
    tables = {"tf": {**BERT.tables["tf"], "Embedding-Position": None}}
    farthest = 64  # distances beyond it share a vector

    def __init__(self, max_position=None, **kwargs):
        super().__init__(max_position=max_position, **kwargs)
        if self._shares_positions and self.attention_key_size != self.attention_head_size:
            raise ValueError(
                "NEZHA adds one table of positions to keys and values: attention_key_size "
                f"{self.attention_key_size} must be attention_head_size {self.attention_head_size}"
            )

    @property
    def _shares_positions(self):
        return self.position_bias_kind == "typical_relative"

    def add_positions(self, x, positions=None):
        return x

    def compute_position_bias(self, inputs=None):
        if self.position_bias is None:
            self.position_bias = self.apply(
                [inputs, inputs],
                RelativePositionEmbedding,
                input_dim=2 * self.farthest + 1,
                output_dim=self.attention_key_size,
                embeddings_initializer=Sinusoidal(),
                trainable=False,
                name="Embedding-Relative-Position",
            )
        return self.position_bias
