"""Where T5's weights lie in files."""

SIDES = ("Encoder", "Decoder")
# A block's layer: its side, its number in the block and its name in files of every form.
ATTENTION = {
    "Encoder-Transformer-{i}-MultiHeadSelfAttention": ("encoder", 0, "SelfAttention"),
    "Decoder-Transformer-{i}-MultiHeadSelfAttention": ("decoder", 0, "SelfAttention"),
    "Decoder-Transformer-{i}-MultiHeadCrossAttention": ("decoder", 1, "EncDecAttention"),
}
FEED_FORWARD = {
    "Encoder-Transformer-{i}-FeedForward": ("encoder", 1, "DenseReluDense"),
    "Decoder-Transformer-{i}-FeedForward": ("decoder", 2, "DenseReluDense"),
}


class T5Files:
    """Mixin of the T5 models: their weight tables."""

    huggingface_ties = {
        "lm_head.weight": "shared.weight",
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    }
    # transformers writes what is the same tensor only once.
    huggingface_synonyms = {
        "shared.weight": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
        "lm_head.weight": ("shared.weight", "encoder.embed_tokens.weight"),
    }

    @property
    def tied_embeddings(self):
        return bool(getattr(self, "with_lm", False)) and self.share_embedding

    @property
    def tables(self):
        norm, final = "layer_norm/scale", "final_layer_norm/scale"
        if self.version == "mt5.1.1":
            norm = final = "rms_norm/scale"
        return {
            "tf": {
                "Embedding-Token": "shared/embedding:vocab",
                **self._rows(
                    lambda side, n: f"{side}/block_{{i:03}}/layer_{n:03}/",
                    {"attention": "/{q,k,v,o}", "dense": "/{}/kernel", "norm": norm},
                    "/relative_attention_bias:T",
                ),
                **{f"{side}-Output-Norm": f"{side.lower()}/{final}" for side in SIDES},
                "Decoder-Output-LM": "decoder/logits/kernel:T:vocab:T",
            },
            "hf": {
                "Embedding-Token": "shared.weight:vocab",
                **self._rows(
                    lambda side, n: f"{side}.block.{{i}}.layer.{n}.",
                    {
                        "attention": ".{q,k,v,o}.weight:T",
                        "dense": ".{}.weight:T",
                        "norm": "layer_norm.weight",
                    },
                    ".relative_attention_bias.weight",
                ),
                **{
                    f"{side}-Output-Norm": f"{side.lower()}.final_layer_norm.weight"
                    for side in SIDES
                },
                "Decoder-Output-LM": "lm_head.weight:vocab:T",
            },
        }

    def _rows(self, place, ends, bias):
        """The rows of the blocks.

        Args:
            place: function (side, number in the block) -> where the layer lies.
            ends: what follows there, for `{"attention", "dense", "norm"}`.
            bias: what follows an attention's name for its relative positions.
        """
        gated = isinstance(self.hidden_act, (list, tuple))
        inner = [f"wi_{k}" for k in range(len(self.hidden_act))] if gated else ["wi"]
        dense = ends["dense"].replace("{}", "{" + ",".join([*inner, "wo"]) + "}")
        rows = {}
        for layers, end in ((ATTENTION, ends["attention"]), (FEED_FORWARD, dense)):
            for layer, (side, number, name) in layers.items():
                rows[layer] = place(side, number) + name + end
                rows[f"{layer}-Norm"] = place(side, number) + ends["norm"]
        for side in SIDES:
            row = place(side.lower(), 0) + "SelfAttention" + bias
            if self.share_position_bias:
                first = row.replace("{i:03}", "000").replace("{i}", "0")
                rows[f"{side}-Embedding-Relative-Position"] = first
            else:
                rows[f"{side}-Transformer-{{i}}-Relative-Position"] = row
        return rows
