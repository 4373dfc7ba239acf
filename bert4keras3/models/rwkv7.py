"""RWKV-7: a causal language model whose memory has one size and corrects itself."""

from bert4keras3.layers import RWKV7ChannelMix, RWKV7TimeMix
from bert4keras3.models.recurrent import RecurrentModel, official_table
from bert4keras3.models.registry import family

_VECTORS = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "k_k", "k_a")


def _time_mix(low_rank):
    """A TimeMix's tensors, with those of low-rank layers with a bias by their letters."""
    return [
        *(f"{name}:vector" for name in _VECTORS),
        "r_k",
        *(f"{name}.weight:T" for name in ("receptance", "key", "value", "output")),
        *(f"{name}1,{name}2,{name}0:vector" for name in low_rank),
        "g1,g2",
        "ln_x.weight:heads,ln_x.bias:heads",
    ]


@family("rwkv7")
class RWKV7(RecurrentModel):
    """RWKV-7 ("Goose"). LN --> TimeMix --> Add --> LN --> ChannelMix --> Add, causal.

    The first block's value goes to all other blocks.

    Args:
        time_decay_size, rate_size, value_mix_size, gate_size: ranks of the decay, of the rates
            at which memory is corrected, of the mix with the first block's value, and of the
            gate; what the paper advises for the hidden size by default.
        **kwargs: as `RecurrentModel`; states have value before key.

    Inputs, outputs: as `RecurrentModel`.

    Source: https://arxiv.org/abs/2503.14456
    """

    # What some files have for the first block's `v` plays no part.
    tables = {
        "hf": official_table(
            _time_mix("wav"), ["x_k:vector", "key.weight:T", "value.weight:T"], _time_mix("wa")
        )
    }
    tuned_table = {"RWKV-{i}-TimeMix": "blocks.{i}.att.time_state"}
    channel_mix_class = RWKV7ChannelMix

    def __init__(
        self,
        with_lm=True,
        time_decay_size=None,
        rate_size=None,
        value_mix_size=None,
        gate_size=None,
        **kwargs,
    ):
        super().__init__(with_lm=with_lm, **kwargs)
        self.time_decay_size = time_decay_size
        self.rate_size = rate_size
        self.value_mix_size = value_mix_size
        self.gate_size = gate_size

    @classmethod
    def sizes_of(cls, shapes):
        heads, head_size = shapes["blocks.0.att.r_k"]
        ranks = {"time_decay_size": "0.att.w1", "rate_size": "0.att.a1", "gate_size": "0.att.g1"}
        ranks |= {"value_mix_size": "1.att.v1"} if "blocks.1.att.v1" in shapes else {}
        return {
            "num_attention_heads": heads,
            "attention_head_size": head_size,
            **{name: shapes[f"blocks.{tensor}"][1] for name, tensor in ranks.items()},
        }

    def time_mix(self, inputs, name, index, state, with_state):
        v_first = None if index == 0 else self._v_first
        outputs = self.apply(
            self.simplify([inputs, v_first, state]),
            RWKV7TimeMix,
            {"initial_state": state is not None, "with_state": with_state},
            hidden_size=self.hidden_size,
            head_size=self.attention_head_size,
            time_decay_size=self.time_decay_size,
            rate_size=self.rate_size,
            value_mix_size=self.value_mix_size,
            gate_size=self.gate_size,
            **self.depth(index),
            name=name,
        )
        if index == 0:
            output, self._v_first, *states = outputs
            outputs = [output, *states] if states else output
        return outputs
