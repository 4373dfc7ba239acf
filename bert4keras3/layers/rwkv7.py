"""The layers of RWKV-7."""

import math

import numpy as np

from bert4keras3 import ops
from bert4keras3.layers.base import register_layer
from bert4keras3.layers.dense import Dense
from bert4keras3.layers.recurrent import (
    DecomposerDense,
    MatrixMemory,
    Orthogonal,
    constant,
    first_shape,
    scaled,
    time_shift,
)
from bert4keras3.layers.rwkv6 import ChannelMix
from bert4keras3.layers.wkv7 import wkv7
from bert4keras3.ops import keras

# A token's decay is exp(-exp(-0.5)), 0.545, at the strongest.
STRONGEST_DECAY = -math.exp(-0.5)
EPSILON = 1e-24  # of a squared length


@register_layer
class RWKV7ChannelMix(ChannelMix):
    """RWKV-7's feed-forward layer: relu(k)² · v, over a token and the one before.

    Args, shapes: as `ChannelMix`.

    Source: https://arxiv.org/abs/2503.14456
    """

    def build(self, input_shape):
        shape = first_shape(input_shape)
        ramp = np.arange(self.hidden_size) / self.hidden_size
        mix = 1 - ramp ** (1 - self.layer_index / self.num_layers) ** 4
        self.x_k = self.add_weight(shape=(self.hidden_size,), initializer=constant(mix), name="x_k")
        inner = (*shape[:-1], self.expand_size)
        for name, dim, units, gain in (
            ("dense_key", shape, self.expand_size, 1.0),
            ("dense_value", inner, self.hidden_size, 0.0),
        ):
            kernel = scaled(self.kernel_initializer, gain)
            self.add_layer(name, Dense, dim, units=units, use_bias=False, kernel_initializer=kernel)
        self.built = True

    def mix(self, x, last_x, mask):
        key = x + time_shift(x, last_x, mask) * ops.cast(self.x_k, x.dtype)
        return self.dense_value(ops.square(ops.relu(self.dense_key(key))))


@register_layer
class RWKV7TimeMix(MatrixMemory):
    """RWKV-7's replacement of attention: a linear recurrence that corrects what it remembers.

    Of what the state has under a key a part is taken back, at a rate of its own for each
    feature, before the new value is written there.

    Args:
        hidden_size: size of input and output.
        head_size: size of a head.
        time_decay_size, rate_size, value_mix_size, gate_size: ranks of the decay, the rates,
            the mix with the first block's value and the gate; what the paper advises for
            the hidden size by default.
        layer_index, num_layers: which of how many blocks, for the initial weights; the first
            one has no value but its own.
        kernel_initializer: of the matrices, RWKV's by default.

    Call arguments:
        inputs: x `(batch, length, hidden)`; or a list of x and, in other blocks than the first,
            that block's value `(batch, length, hidden)`, and as far as the flags say the
            matrix state `(batch or 1, heads, size, size)`, value before key, and last_x `(batch
            or 1, 1, hidden)`, what was before the first token.
        initial_state, rnn_mode: whether the list has a matrix state, last_x.
        with_state: also return the matrix state afterwards.
        mask: bool `(batch, length)`, False for padding: it neither decays nor feeds.
        state: `{"wkv", "last_x"}`, in a decoding step, with `positions` and `lengths`.

    Returns:
        `(batch, length, hidden)`; a list of that and, in the first block, the value and, with
        with_state, the matrix state; with a state a pair of that and the new state.

    Raises:
        ValueError: head_size does not divide hidden_size; the first block's value is missing.

    Source: https://arxiv.org/abs/2503.14456
    """

    def __init__(
        self,
        hidden_size,
        head_size,
        time_decay_size=None,
        rate_size=None,
        value_mix_size=None,
        gate_size=None,
        layer_index=0,
        num_layers=1,
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(
            hidden_size, head_size, layer_index, num_layers, kernel_initializer, **kwargs
        )
        root = hidden_size**0.5
        self.time_decay_size = time_decay_size or _rank(1.8 * root)
        self.rate_size = rate_size or _rank(1.8 * root)
        self.value_mix_size = value_mix_size or _rank(1.3 * root)
        self.gate_size = gate_size or _rank(0.6 * hidden_size**0.8)

    @property
    def is_first(self):
        """Whether this is the block whose value all others mix with theirs."""
        return self.layer_index == 0

    # ------------------------------------------------------------------ weights

    def build(self, input_shape):
        shape, vectors = first_shape(input_shape), self._initial_vectors()
        size, by_head = (self.hidden_size,), (self.heads, self.head_size)
        # File format: the names and the order.
        for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "k_k", "k_a", "r_k"):
            weight = self.add_weight(
                shape=by_head if name == "r_k" else size,
                initializer=constant(np.broadcast_to(vectors[name], size)),
                name=name,
            )
            setattr(self, name, weight)
        for name, gain in (("r", 1.0), ("k", 0.1), ("v", 1.0), ("o", 0.0)):
            self.add_projection(f"dense_{name}", shape, gain)
        self._add_low_rank("low_rank_w", shape, self.time_decay_size, "tanh", vectors["w0"])
        self._add_low_rank("low_rank_a", shape, self.rate_size, "linear", vectors["a0"])
        if not self.is_first:
            rank = self.value_mix_size
            self._add_low_rank("low_rank_v", shape, rank, "linear", vectors["v0"])
        self._add_low_rank("low_rank_g", shape, self.gate_size, "sigmoid")
        self.add_group_norm(shape, inner_weights=False)
        self.built = True

    def _add_low_rank(self, name, shape, rank, activation, bias=None):
        bias = {} if bias is None else {"use_bias": True, "bias_initializer": constant(bias)}
        self.add_layer(
            name,
            DecomposerDense,
            shape,
            hidden_size=self.hidden_size,
            decomposer_size=rank,
            kernel_initializer=("zeros", Orthogonal(0.1)),
            activation=activation,
            **bias,
        )

    def _initial_vectors(self):
        """RWKV-7's initial vectors, which vary with the depth, by their official names."""
        index, layers, size = self.layer_index, self.num_layers, self.hidden_size
        deep, shallow = index / max(layers - 1, 1), 1 - index / layers
        place = np.arange(size)
        ramp, rising = place / size, place / max(size - 1, 1)
        middle = (self.head_size - 1) / 2
        zigzag = (place % self.head_size - middle) / (middle or 1)
        zigzag, linear = zigzag * np.abs(zigzag), rising - 0.5
        powers = {"r": 0.2, "w": 0.9, "k": 0.7, "v": 0.7, "a": 0.9, "g": 0.2}
        return {
            **{f"x_{name}": 1 - ramp ** (power * shallow) for name, power in powers.items()},
            "w0": -5.5 + 6 * rising ** (1 + deep**0.3) + 2.5 * zigzag,
            "a0": -0.19 + 0.3 * zigzag + 0.4 * linear,
            "v0": 0.73 - 0.4 * linear,
            "k_k": 0.71 - 0.1 * linear,
            "k_a": 1.02,
            "r_k": -0.04,
        }

    # --------------------------------------------------------------------- call

    def call(
        self,
        inputs,
        mask=None,
        initial_state=False,
        with_state=False,
        rnn_mode=False,
        state=None,
        positions=None,
        lengths=None,
    ):
        x, *more = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        mask = mask[0] if isinstance(mask, list) else mask
        if len(more) < (not self.is_first) + initial_state + rnn_mode:
            raise ValueError(
                f"layer {self.name!r}: expected a list of x, the first block's value (in other "
                f"blocks) and what the flags say, got {1 + len(more)} inputs"
            )
        v_first = None if self.is_first else more.pop(0)
        if state is not None:
            mask = self.real_tokens(x, positions, lengths)
            outputs, wkv = self.mix(x, v_first, state["last_x"], mask, state["wkv"])
            last_x = self.last_input(x, state["last_x"], positions, lengths)
            return _one_or_list(outputs), {"wkv": wkv, "last_x": last_x}
        wkv = more.pop(0) if initial_state else self.tuned.get("wkv")
        last_x = more.pop(0) if rnn_mode else self.tuned.get("last_x")
        outputs, wkv = self.mix(x, v_first, last_x, mask, wkv)
        return _one_or_list([*outputs, wkv] if with_state else outputs)

    def mix(self, x, v_first, last_x, mask, wkv):
        """The layer, after an input and a matrix state; None for none."""
        shift = time_shift(x, last_x, mask)

        def mixed(name):
            return x + shift * ops.cast(getattr(self, f"x_{name}"), x.dtype)

        r, k, x_v = self.dense_r(mixed("r")), self.dense_k(mixed("k")), mixed("v")
        v = self.dense_v(x_v)
        if not self.is_first:
            v = v + (v_first - v) * ops.sigmoid(self.low_rank_v(x_v))
        gate = self.low_rank_g(mixed("g"))
        w, rates = self.low_rank_w(mixed("w")), self.low_rank_a(mixed("a"))
        y, wkv = self._recur(r, w, k, v, rates, mask, wkv)
        outputs = [self.dense_o(y * gate)]
        return [*outputs, v] if self.is_first else outputs, wkv

    def _recur(self, r, w, k, v, rates, mask, wkv):
        """What is read, `(batch, length, hidden)`, and the state afterwards."""

        def by_head(x):
            shape = (*ops.shape(x)[:-1], self.heads, self.head_size)
            return ops.reshape(ops.cast(x, "float32"), shape)

        r, w, k, v, rates = (by_head(x) for x in (r, w, k, v, rates))
        w, rates = STRONGEST_DECAY * ops.sigmoid(w), ops.sigmoid(rates)
        unit = k * by_head(self.k_k)
        square = ops.sum(ops.square(unit), axis=-1, keepdims=True)
        unit = unit * ops.rsqrt(ops.maximum(square, EPSILON))
        k = k * (1 + (rates - 1) * by_head(self.k_a))
        if mask is not None:
            w, k, unit = (ops.where(mask[..., None, None], x, 0.0) for x in (w, k, unit))
        y, wkv = wkv7(r, w, k, v, -unit, unit * rates, wkv)
        own = ops.sum(r * k * ops.cast(self.r_k, "float32"), axis=-1, keepdims=True) * v
        shape = (*ops.shape(y)[:2], self.hidden_size)
        y, own = (ops.reshape(x, shape) for x in (y, own))
        return self.group_norm(y) + ops.cast(own, self.compute_dtype), wkv

    def compute_output_spec(self, inputs, with_state=False, **kwargs):
        x = inputs[0] if isinstance(inputs, (list, tuple)) else inputs
        kinds = [(x.shape, self.compute_dtype)] * (2 if self.is_first else 1)
        if with_state:
            shape = (x.shape[0], self.heads, self.head_size, self.head_size)
            kinds = [*kinds, (shape, "float32")]
        return _one_or_list([keras.KerasTensor(shape, dtype) for shape, dtype in kinds])

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, list) else mask


def _rank(size):
    """The next multiple of 32 that is one."""
    return 32 * max(round(size / 32), 1)


def _one_or_list(outputs):
    return outputs if len(outputs) > 1 else outputs[0]
