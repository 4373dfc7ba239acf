"""Turns any model into a language model: causal, or UniLM's mix of both."""

from bert4keras3.layers import CausalMask, SegmentMask


class LM_Mask:
    """Mixin: every token sees itself and what comes before it."""

    attention_kind = "causal"

    def compute_attention_bias(self, inputs=None):
        if self.attention_bias is None:
            self.attention_bias = self.apply(self.step_inputs[0], CausalMask, name="Attention-Mask")
        return self.attention_bias


class UniLM_Mask:
    """Mixin: segment 0 sees itself both ways, segment 1 what comes before (seq2seq in one model).

    Source: https://arxiv.org/abs/1905.03197, https://kexue.fm/archives/6933
    """

    attention_kind = "unilm"

    def compute_attention_bias(self, inputs=None):
        if self.attention_bias is None:
            if not getattr(self, "segment_vocab_size", len(self.inputs) > 1):
                raise ValueError(
                    "application='unilm' needs segment ids: segment_vocab_size is 0, so the model "
                    f"has the inputs {[tensor.name for tensor in self.inputs]}"
                )
            self.attention_bias = self.apply(
                self.inputs[1],
                SegmentMask,
                cumulative=not self.segment_attention,
                name="Attention-Mask",
            )
        return self.attention_bias


def extend_with_language_model(BaseModel):
    """The class `BaseModel` with a causal attention mask, and its LM head switched on."""
    return _extend(LM_Mask, BaseModel, with_head=True)


def extend_with_unified_language_model(BaseModel):
    """The class `BaseModel` with UniLM's attention mask, and its LM head switched on."""
    return _extend(UniLM_Mask, BaseModel, with_head=True)


def extend_with_causal_mask(BaseModel):
    """The class `BaseModel` with a causal attention mask."""
    return _extend(LM_Mask, BaseModel, with_head=False)


def _extend(Mask, BaseModel, with_head):
    if issubclass(BaseModel, Mask):
        return BaseModel  # a causal family is a language model as it is

    class LanguageModel(Mask, BaseModel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if with_head and "with_mlm" not in self.lacks:
                self.with_mlm = self.with_mlm or True

    LanguageModel.__name__ = LanguageModel.__qualname__ = f"{Mask.__name__}_{BaseModel.__name__}"
    LanguageModel.__doc__ = BaseModel.__doc__
    return LanguageModel
