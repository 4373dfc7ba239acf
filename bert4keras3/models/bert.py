"""BERT and RoBERTa: encoders with absolute positions and norms after each block."""

from bert4keras3.backend import get_activation
from bert4keras3.layers import (
    Activation,
    Add,
    Dense,
    Dropout,
    Embedding,
    FirstToken,
    Input,
    PositionEmbedding,
    ScaleOffset,
)
from bert4keras3.models.decoding import as_list
from bert4keras3.models.heads import HEADS, TWO_LAYERS, Head
from bert4keras3.models.registry import family
from bert4keras3.models.transformer import Transformer

# Options of BERT that its relatives cannot have: they name those they lack.
HEAD_OPTIONS = ("with_nsp", "with_pool", "with_mlm")
POSITION_OPTIONS = ("hierarchical_position", "position_offset", "position_skips_padding")

_HF_BLOCK = "bert.encoder.layer.{i}."


@family("bert", huggingface=("bert",))
class BERT(Transformer):
    """BERT. Att --> Add --> LN --> FFN --> Add --> LN

    Args:
        max_position: number of positions in the table.
        segment_vocab_size: number of segments; 0 for no segment input.
        with_pool: output the first token through a Dense; True for tanh, or an
            activation.
        with_nsp: output the next-sentence probabilities (implies with_pool).
        with_mlm: output the token probabilities; True for softmax, or an
            activation, e.g. 'linear' for logits.
        hierarchical_position: True or a number: positions up to max_position²
            (https://kexue.fm/archives/7947).
        custom_position_ids: a further input 'Input-Position' gives the positions.
        shared_segment_embeddings: segments use the token table.
        position_offset, position_skips_padding: see `PositionEmbedding`.
        hierarchical: the documents' other name of hierarchical_position.
        **kwargs: as `Transformer`.

    Inputs: 'Input-Token', 'Input-Segment' (if segment_vocab_size), 'Input-Position'
    (if custom_position_ids), each int `(batch, length)`.

    Outputs: hidden states `(batch, length, hidden)`; with heads instead the
    pooled vector `(batch, hidden)` or NSP `(batch, 2)`, and/or the MLM
    `(batch, length, vocab)`.

    Source: https://arxiv.org/abs/1810.04805
    """

    norm_epsilon = 1e-12
    heads = {**HEADS, "masked_lm": Head()}
    always_map_embeddings = False
    huggingface_prefix = "bert."
    huggingface_ties = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}

    tables = {
        "tf": {
            "Embedding-Token": "bert/embeddings/word_embeddings:vocab",
            "Embedding-Segment": "bert/embeddings/token_type_embeddings",
            "Embedding-Position": "bert/embeddings/position_embeddings",
            "Embedding-Norm": "bert/embeddings/LayerNorm/{beta,gamma}",
            "Embedding-Mapping": "bert/encoder/embedding_hidden_mapping_in/{kernel,bias}",
            "Pooler-Dense": "bert/pooler/dense/{kernel,bias}",
            "NSP-Proba": "cls/seq_relationship/{output_weights:T,output_bias}",
            "MLM-Dense": "cls/predictions/transform/dense/{kernel,bias}",
            "MLM-Norm": "cls/predictions/transform/LayerNorm/{beta,gamma}",
            "MLM-Bias": "cls/predictions/output_bias:vocab",
            "Transformer-{i}-MultiHeadSelfAttention": "bert/encoder/layer_{i}/attention/"
            "{self/query,self/key,self/value,output/dense}/{kernel,bias}",
            "Transformer-{i}-MultiHeadSelfAttention-Norm": "bert/encoder/layer_{i}/attention/"
            "output/LayerNorm/{beta,gamma}",
            "Transformer-{i}-FeedForward": "bert/encoder/layer_{i}/"
            "{intermediate,output}/dense/{kernel,bias}",
            "Transformer-{i}-FeedForward-Norm": "bert/encoder/layer_{i}/output/"
            "LayerNorm/{beta,gamma}",
        },
        "hf": {
            "Embedding-Token": "bert.embeddings.word_embeddings.weight:vocab",
            "Embedding-Segment": "bert.embeddings.token_type_embeddings.weight",
            "Embedding-Position": "bert.embeddings.position_embeddings.weight",
            "Embedding-Norm": "bert.embeddings.LayerNorm.{bias,weight}",
            "Pooler-Dense": "bert.pooler.dense.{weight:T,bias}",
            "NSP-Proba": "cls.seq_relationship.{weight:T,bias}",
            "MLM-Dense": "cls.predictions.transform.dense.{weight:T,bias}",
            "MLM-Norm": "cls.predictions.transform.LayerNorm.{bias,weight}",
            "MLM-Bias": "cls.predictions.bias:vocab",
            "Transformer-{i}-MultiHeadSelfAttention": _HF_BLOCK
            + "attention.{self.query,self.key,self.value,output.dense}.{weight:T,bias}",
            "Transformer-{i}-MultiHeadSelfAttention-Norm": _HF_BLOCK
            + "attention.output.LayerNorm.{bias,weight}",
            "Transformer-{i}-FeedForward": _HF_BLOCK
            + "{intermediate,output}.dense.{weight:T,bias}",
            "Transformer-{i}-FeedForward-Norm": _HF_BLOCK + "output.LayerNorm.{bias,weight}",
        },
    }

    def __init__(
        self,
        max_position,
        segment_vocab_size=2,
        with_pool=False,
        with_nsp=False,
        with_mlm=False,
        hierarchical_position=None,
        custom_position_ids=False,
        shared_segment_embeddings=False,
        position_offset=0,
        position_skips_padding=False,
        hierarchical=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.max_position = max_position
        self.segment_vocab_size = segment_vocab_size
        self.with_pool = with_pool or bool(with_nsp)
        self.with_nsp = with_nsp
        self.with_mlm = with_mlm
        self.hierarchical_position = hierarchical_position or hierarchical
        self.custom_position_ids = custom_position_ids
        self.shared_segment_embeddings = shared_segment_embeddings
        self.position_offset = position_offset
        self.position_skips_padding = position_skips_padding
        self._check_options()

    def _check_options(self):
        for name in self.lacks:
            if getattr(self, name):
                raise TypeError(f"{type(self).__name__} cannot have {name}={getattr(self, name)!r}")
        if self.head and (self.with_pool or self.with_mlm):
            raise ValueError(
                f"head={self.head!r} stands in the place of with_pool, with_nsp and with_mlm"
            )

    @property
    def position_limit(self):
        size = self.max_position
        return size**2 if self.hierarchical_position else size - self.position_offset

    def get_inputs(self):
        names = ["Input-Token"]
        names += ["Input-Segment"] * bool(self.segment_vocab_size)
        names += ["Input-Position"] * bool(self.custom_position_ids)
        inputs = [
            self.apply(layer=Input, shape=(self.sequence_length,), dtype="int32", name=name)
            for name in names
        ]
        return inputs if len(inputs) > 1 else inputs[0]

    def apply_embeddings(self, inputs):
        inputs = as_list(inputs)
        x = self.embed_tokens(inputs.pop(0))
        if self.segment_vocab_size:
            x = self.add_segments(x, inputs.pop(0))
        x = self.add_positions(x, inputs.pop(0) if self.custom_position_ids else None)
        return self.finish_embeddings(x)

    def add_positions(self, x, positions=None):
        """x plus the vectors of its positions."""
        return self.apply(
            self.simplify([x, positions]),
            PositionEmbedding,
            input_dim=self.max_position,
            output_dim=self.embedding_size,
            merge_mode="add",
            hierarchical=self.hierarchical_position,
            embeddings_initializer=self.initializer,
            custom_position_ids=self.custom_position_ids,
            offset=self.position_offset,
            skip_padding=self.position_skips_padding,
            name="Embedding-Position",
        )

    def finish_embeddings(self, x):
        """What happens to the sum of the embeddings before the first block."""
        x = self.normalize(x, "Embedding-Norm")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Embedding-Dropout")
        return self.map_embeddings(x)

    def embed_tokens(self, inputs, mode="embedding"):
        """Token ids -> vectors; in dense mode vectors -> logits."""
        if mode == "dense" and inputs.shape[-1] != self.embedding_size:
            raise ValueError(
                f"{type(self).__name__}: the output projection is the token table, so "
                f"embedding_size {self.embedding_size} must be hidden_size {self.hidden_size}"
            )
        return self.apply(
            inputs,
            Embedding,
            {"mode": mode},
            input_dim=self.vocab_size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.initializer,
            mask_zero=True,
            pad_token_id=self.pad_token_id,
            first_is_token=self.first_is_token,
            name="Embedding-Token",
        )

    def add_segments(self, x, segments):
        """x plus the vectors of its segments."""
        name = "Embedding-Token" if self.shared_segment_embeddings else "Embedding-Segment"
        segments = self.apply(
            segments,
            Embedding,
            input_dim=self.segment_vocab_size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.initializer,
            name=name,
        )
        return self.apply([x, segments], Add, mask_from=0, name="Embedding-Token-Segment")

    def map_embeddings(self, x, use_bias=True):
        """From the size of the embeddings to that of the hidden states, where they differ."""
        if self.embedding_size == self.hidden_size and not self.always_map_embeddings:
            return x
        return self.apply(
            x,
            Dense,
            units=self.hidden_size,
            use_bias=use_bias,
            kernel_initializer=self.initializer,
            name="Embedding-Mapping",
        )

    def apply_main_layers(self, inputs, index):
        name = self.block_name(index)
        x = self.residual(
            inputs, f"{name}-MultiHeadSelfAttention", self.self_attention, **self.norms
        )
        norms = self.norms if self.feed_forward_norms is None else self.feed_forward_norms
        return self.residual(x, f"{name}-FeedForward", self.feed_forward, **norms)

    def block_name(self, index):
        """What the layers of a block are called after."""
        return f"Transformer-{index}"

    def apply_final_layers(self, inputs):
        if self.head == "masked_lm":
            return self.predict_tokens(inputs)
        if self.head:
            return self.apply_head(inputs)
        outputs = []
        if self.with_pool:
            outputs.append(self.pool(inputs))
        if self.with_mlm:
            outputs.append(self.predict_tokens(inputs))
        return self.simplify(outputs) if outputs else inputs

    def pool(self, x):
        """The first token's vector through a Dense, and through the NSP head if there is one."""
        x = self.apply(x, FirstToken, name="Pooler")
        x = self.apply(
            x,
            Dense,
            units=self.hidden_size,
            activation=get_activation("tanh" if self.with_pool is True else self.with_pool),
            kernel_initializer=self.initializer,
            name="Pooler-Dense",
        )
        if not self.with_nsp:
            return x
        return self.apply(
            x,
            Dense,
            units=2,
            activation="softmax",
            kernel_initializer=self.initializer,
            name="NSP-Proba",
        )

    def predict_tokens(self, x):
        """The masked-language-model head, its output tied to the token embeddings."""
        x = self.apply(
            x,
            Dense,
            units=self.embedding_size,
            activation=get_activation(self.hidden_act),
            kernel_initializer=self.initializer,
            name="MLM-Dense",
        )
        x = self.normalize(x, "MLM-Norm")
        x = self.embed_tokens(x, mode="dense")
        x = self.apply(x, ScaleOffset, scale=False, name="MLM-Bias")
        return self.apply(x, Activation, activation=self.mlm_activation, name="MLM-Activation")

    @property
    def mlm_activation(self):
        """The activation of the masked-language-model head: logits, unless with_mlm says else."""
        return get_activation("softmax" if self.with_mlm is True else self.with_mlm or "linear")


@family("roberta", huggingface=("roberta", "xlm-roberta", "camembert"))
class RoBERTa(BERT):
    """RoBERTa: BERT's graph; other names, and positions that start at 2, in Hugging Face files.

    The Chinese checkpoints called RoBERTa are BERT's in every respect.

    Source: https://arxiv.org/abs/1907.11692
    """

    huggingface_prefix = "roberta."
    huggingface_ties = {"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight"}
    heads = {**BERT.heads, "sequence_classification": Head("first", "tanh", rows=TWO_LAYERS)}

    tables = {
        "tf": BERT.tables["tf"],
        "hf": {
            **{
                layer: row.replace("bert.", "roberta.", 1)
                for layer, row in BERT.tables["hf"].items()
            },
            "NSP-Proba": None,
            "MLM-Dense": "lm_head.dense.{weight:T,bias}",
            "MLM-Norm": "lm_head.layer_norm.{bias,weight}",
            "MLM-Bias": "lm_head.bias:vocab",
        },
    }
