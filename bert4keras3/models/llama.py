"""Llama and its kin: Mistral, Qwen and Yi."""

from bert4keras3.layers import LLamaFeedForward, LlamaLayerNorm
from bert4keras3.models.gemma import Gemma
from bert4keras3.models.registry import family


@family("llama", "qwen", "yi", "mistral", huggingface=("llama", "qwen2", "mistral"))
class Llama(Gemma):
    """Llama, with Qwen, Yi and Mistral. LN --> Att --> Add --> LN --> FFN --> Add

    Qwen has `use_bias=True, o_bias=False`; its small models and others share the
    token table (`share_embedding=True`).

    Args:
        input_scale, use_EinsumDense, share_embedding, **kwargs: as `Gemma`, with
            other defaults.

    Inputs, outputs: as `Gemma`.

    Source: https://arxiv.org/abs/2302.13971, https://arxiv.org/abs/2407.10671
    """

    norm_class = LlamaLayerNorm
    feed_forward_class = LLamaFeedForward

    def __init__(self, input_scale=False, use_EinsumDense=False, share_embedding=False, **kwargs):
        super().__init__(
            input_scale=input_scale,
            use_EinsumDense=use_EinsumDense,
            share_embedding=share_embedding,
            **kwargs,
        )


@family("qwen3", huggingface=("qwen3",))
class Qwen3(Llama):
    """Qwen3. LN --> Att --> Add --> LN --> FFN --> Add, with a norm of each query and key head.

    Args:
        qk_norm, **kwargs: as `Llama`, with another default.

    Inputs, outputs: as `Gemma`.

    Source: https://arxiv.org/abs/2505.09388
    """

    def __init__(self, qk_norm="llama", **kwargs):
        super().__init__(qk_norm=qk_norm, **kwargs)
