"""RWKV-6: a causal language model whose memory has one size, however long the text."""

from bert4keras3.layers import RWKVKernelOperator, TimeMix
from bert4keras3.models.recurrent import RecurrentModel, official_table
from bert4keras3.models.registry import family

# What a low-rank mix has in the files: parts of three tensors, in the order w, k, v, r, g.
_MIXES = [
    f"time_maa_w1:part{i}of5,time_maa_w2:stack{i}of5,time_maa_{name}:vector"
    for name, i in (("r", 3), ("w", 0), ("k", 1), ("v", 2), ("g", 4))
]
_TIME_MIX = [
    "time_maa_x:vector",
    "time_faaaa",
    *_MIXES,
    *(f"{name}.weight:T" for name in ("receptance", "key", "value")),
    "time_decay_w1,time_decay_w2,time_decay:vector",
    "gate.weight:T",
    "output.weight:T",
    "ln_x.weight:heads,ln_x.bias:heads",
]
_CHANNEL_MIX = [
    *("time_maa_k:vector", "time_maa_r:vector"),
    *(f"{name}.weight:T" for name in ("key", "value", "receptance")),
]


@family("rwkv6")
class RWKV6(RecurrentModel):
    """RWKV-6 ("Finch"). LN --> TimeMix --> Add --> LN --> ChannelMix --> Add, causal.

    Args:
        decomposer_size: rank of the mixes of a token and the one before.
        time_decay_size: rank of the decays.
        **kwargs: as `RecurrentModel`.

    Inputs, outputs: as `RecurrentModel`.

    Source: https://arxiv.org/abs/2404.05892
    """

    tables = {"hf": official_table(_TIME_MIX, _CHANNEL_MIX)}
    tuned_table = {"RWKV-{i}-TimeMix": "blocks.{i}.att.time_state:turn"}

    def __init__(self, decomposer_size, with_lm=True, time_decay_size=64, **kwargs):
        super().__init__(with_lm=with_lm, **kwargs)
        self.decomposer_size = decomposer_size
        self.time_decay_size = time_decay_size

    @classmethod
    def sizes_of(cls, shapes):
        heads, head_size = shapes["blocks.0.att.time_faaaa"]
        return {
            "num_attention_heads": heads,
            "attention_head_size": head_size,
            "decomposer_size": shapes["blocks.0.att.time_maa_w1"][1] // 5,
            "time_decay_size": shapes["blocks.0.att.time_decay_w1"][1],
        }

    def time_mix(self, inputs, name, index, state, with_state):
        arguments = {"with_state": True} if with_state else {}
        if state is not None:
            inputs = [inputs, state]
            arguments |= {"initial_state": True, "input_mask": False}
        return self.apply(
            inputs,
            TimeMix,
            arguments,
            rwkv_kernel=RWKVKernelOperator(self.attention_head_size),
            hidden_size=self.hidden_size,
            decomposer_size=self.decomposer_size,
            head_size=self.attention_head_size,
            time_decay_size=self.time_decay_size,
            **self.depth(index),
            name=name,
        )

    def fold_norms(self):
        for index in range(self.num_hidden_layers):
            self.layers[self.prefixed(f"RWKV-{index}-TimeMix")].fold_norm()
