"""The layers of RWKV-6."""

import numpy as np

from bert4keras3 import ops
from bert4keras3.layers.base import register_layer
from bert4keras3.layers.dense import Dense
from bert4keras3.layers.recurrent import (
    DecomposerDense,
    MatrixMemory,
    RecurrentLayer,
    ScaledOrthogonal,
    constant,
    first_shape,
    scaled,
    time_shift,
)
from bert4keras3.layers.wkv6 import RWKVKernelOperator
from bert4keras3.ops import keras

NO_DECAY = -1e9


@register_layer
class ChannelMix(RecurrentLayer):
    """RWKV's feed-forward layer: sigmoid(r) · (relu(k)² · v), over a token and the one before.

    Args:
        hidden_size: size of input and output.
        expand_size: inner size.
        layer_index, num_layers: which of how many blocks, for the initial weights.
        kernel_initializer: of the matrices, RWKV's by default.

    Call arguments:
        inputs: x `(batch, length, hidden)`; with `rnn_mode` [x, last_x].
        rnn_mode: last_x `(batch or 1, 1, hidden)` was before the first token.
        mask: bool `(batch, length)`, False for padding.
        state: `{"last_x"}`, in a decoding step, with `positions` and `lengths`.

    Returns:
        `(batch, length, hidden)`; with a state a pair of that and the new state.

    Source: https://arxiv.org/abs/2404.05892
    """

    def __init__(
        self,
        hidden_size,
        expand_size,
        layer_index=0,
        num_layers=1,
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.expand_size = expand_size
        self.layer_index = layer_index
        self.num_layers = num_layers
        self.kernel_initializer = keras.initializers.get(kernel_initializer or ScaledOrthogonal())

    def build(self, input_shape):
        shape = first_shape(input_shape)
        ramp = np.arange(self.hidden_size) / self.hidden_size
        mix = 1 - ramp ** (1 - self.layer_index / self.num_layers)
        self.time_mix_k = self.add_weight(
            shape=(self.hidden_size,), initializer=constant(mix), name="time_mix_k"
        )
        self.time_mix_r = self.add_weight(
            shape=(self.hidden_size,), initializer=constant(mix), name="time_mix_r"
        )
        inner = (*shape[:-1], self.expand_size)
        for name, dim, units, gain in (
            ("dense_key", shape, self.expand_size, 1.0),
            ("dense_value", inner, self.hidden_size, 0.0),
            ("dense_receptance", shape, self.hidden_size, 0.0),
        ):
            kernel = scaled(self.kernel_initializer, gain)
            self.add_layer(name, Dense, dim, units=units, use_bias=False, kernel_initializer=kernel)
        self.built = True

    def call(self, inputs, mask=None, rnn_mode=False, state=None, positions=None, lengths=None):
        if state is not None:
            mask = self.real_tokens(inputs, positions, lengths)
            output = self.mix(inputs, state["last_x"], mask)
            last_x = self.last_input(inputs, state["last_x"], positions, lengths)
            return output, {"last_x": last_x}
        last_x = self.tuned.get("last_x")
        if rnn_mode:
            inputs, last_x = inputs
            mask = mask[0] if isinstance(mask, list) else mask
        return self.mix(inputs, last_x, mask)

    def mix(self, x, last_x, mask):
        """The layer, after an input `(batch or 1, 1, hidden)` or None."""
        shift = time_shift(x, last_x, mask)
        key = x + shift * ops.cast(self.time_mix_k, x.dtype)
        receptance = x + shift * ops.cast(self.time_mix_r, x.dtype)
        value = self.dense_value(ops.square(ops.relu(self.dense_key(key))))
        return ops.sigmoid(self.dense_receptance(receptance)) * value

    def compute_output_shape(self, input_shape):
        return first_shape(input_shape)

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, list) else mask


@register_layer
class TimeMix(MatrixMemory):
    """RWKV-6's replacement of attention: a linear recurrence with a matrix a head.

    Args:
        rwkv_kernel: the operator, as `RWKVKernelOperator`; None for a new one.
        hidden_size: size of input and output.
        decomposer_size: rank of the mixes of a token and the one before.
        head_size: size of a head.
        time_decay_size: rank of the decay.
        layer_index, num_layers: which of how many blocks, for the initial weights.
        kernel_initializer: of the matrices, RWKV's by default.

    Call arguments:
        inputs: x `(batch, length, hidden)`; or a list of x and, as far as the flags say,
            the mask, the matrix state `(batch or 1, heads, size, size)` and last_x
            `(batch or 1, 1, hidden)`.
        initial_state, input_mask, rnn_mode: whether a list has a state, a mask, last_x.
        with_state: also return the state afterwards.
        mask: bool `(batch, length)`, False for padding: it neither decays nor feeds.
        state: `{"wkv", "last_x"}`, in a decoding step, with `positions` and `lengths`.

    Returns:
        `(batch, length, hidden)`; of a list, or with_state, a list of that and the matrix
        state, float32; with a state a pair of that and the new state.

    Raises:
        ValueError: head_size does not divide hidden_size.

    Source: https://arxiv.org/abs/2404.05892
    """

    def __init__(
        self,
        rwkv_kernel,
        hidden_size,
        decomposer_size,
        head_size,
        time_decay_size=64,
        layer_index=0,
        num_layers=1,
        kernel_initializer=None,
        **kwargs,
    ):
        super().__init__(
            hidden_size, head_size, layer_index, num_layers, kernel_initializer, **kwargs
        )
        if isinstance(rwkv_kernel, dict):
            rwkv_kernel = keras.saving.deserialize_keras_object(rwkv_kernel)
        self.rwkv_kernel = rwkv_kernel or RWKVKernelOperator(head_size)
        self.decomposer_size = decomposer_size
        self.time_decay_size = time_decay_size

    def get_config(self):
        kernel = keras.saving.serialize_keras_object(self.rwkv_kernel)
        return {**super().get_config(), "rwkv_kernel": kernel}

    # ------------------------------------------------------------------ weights

    def build(self, input_shape):
        shape = first_shape(input_shape)
        mixes, decay, bonus = self._initial_vectors()
        self.time_mix_x = self.add_weight(
            shape=(self.hidden_size,), initializer=constant(mixes["x"]), name="time_mix_x"
        )
        self.time_faaaa = self.add_weight(
            shape=(self.heads, self.head_size), initializer=constant(bonus), name="time_faaaa"
        )
        # File format: the attributes' names.
        for name in "rwkvg":
            self._add_decomposer(f"dense_x{name}", shape, self.decomposer_size, mixes[name])
        for name, gain in (("r", 1.0), ("k", 0.1), ("v", 1.0)):
            self.add_projection(f"dense_{name}", shape, gain)
        self._add_decomposer("dense_w", shape, self.time_decay_size, decay)
        self.add_projection("dense_g", shape, 0.1)
        self.add_projection("dense_o", shape, 0.0)
        self.add_group_norm(shape)
        # The outer scale and offset say all that the inner ones could.
        self.group_norm.group_ln.trainable = False
        self.built = True

    def _add_decomposer(self, name, shape, rank, bias):
        small = keras.initializers.RandomUniform(-0.01, 0.01)
        self.add_layer(
            name,
            DecomposerDense,
            shape,
            hidden_size=self.hidden_size,
            decomposer_size=rank,
            use_bias=True,
            kernel_initializer=("zeros", small),
            bias_initializer=constant(bias),
        )

    def _initial_vectors(self):
        """RWKV-6's initial mixes by name, decays and bonuses, which vary with the depth."""
        index, layers, size = self.layer_index, self.num_layers, self.hidden_size
        deep, shallow = index / max(layers - 1, 1), 1 - index / layers
        place = np.arange(size)
        ramp, rising = place / size, place / max(size - 1, 1)
        mixes = dict.fromkeys("xwk", 1 - ramp**shallow)
        mixes["v"] = mixes["x"] - 0.3 * deep
        mixes["r"] = mixes["g"] = 1 - ramp ** (0.5 * shallow)
        decay = -6 + 5 * rising ** (0.7 + 1.3 * deep)
        bonus = deep * (1 - rising) + ((place + 1) % 3 - 1) * 0.1
        return mixes, decay, bonus

    @property
    def checkpoint_weights(self):
        """Without the norm within the heads, which `fold_norm` makes the identity."""
        inner = {id(weight) for weight in self.group_norm.group_ln.weights}
        return [weight for weight in super().checkpoint_weights if id(weight) not in inner]

    def fold_norm(self):
        """Move the inner norm's scale and offset into the outer ones; nothing else changes."""
        norm = self.group_norm
        gamma, beta = norm.group_ln.get_weights()
        scale, offset = (ops.convert_to_numpy(x) for x in (norm.scale, norm.offset))
        norm.offset.assign(beta * scale + offset)
        norm.scale.assign(gamma * scale)
        norm.group_ln.set_weights([np.ones_like(gamma), np.zeros_like(beta)])

    # --------------------------------------------------------------------- call

    def call(
        self,
        inputs,
        mask=None,
        initial_state=False,
        input_mask=True,
        with_state=False,
        rnn_mode=False,
        state=None,
        positions=None,
        lengths=None,
    ):
        if state is not None:
            mask = self.real_tokens(inputs, positions, lengths)
            output, wkv = self.mix(inputs, state["last_x"], mask, state["wkv"], True)
            last_x = self.last_input(inputs, state["last_x"], positions, lengths)
            return output, {"wkv": wkv, "last_x": last_x}
        wkv, last_x = self.tuned.get("wkv"), self.tuned.get("last_x")
        if listed := isinstance(inputs, (list, tuple)):
            inputs, *more = inputs
            mask = mask[0] if isinstance(mask, list) else mask
            mask = more.pop(0) if input_mask else mask
            wkv = more.pop(0) if initial_state else wkv
            last_x = more.pop(0) if rnn_mode else last_x
        output, wkv = self.mix(inputs, last_x, mask, wkv, listed or with_state)
        return [output, wkv] if listed or with_state else output

    def mix(self, x, last_x, mask, wkv, with_state=False):
        """The layer, after an input and a matrix state; None for none."""
        shift = time_shift(x, last_x, mask)
        mixed = x + shift * ops.cast(self.time_mix_x, x.dtype)
        r = self.dense_r(x + shift * self.dense_xr(mixed))
        k = self.dense_k(x + shift * self.dense_xk(mixed))
        v = self.dense_v(x + shift * self.dense_xv(mixed))
        w = self.dense_w(x + shift * self.dense_xw(mixed))
        gate = ops.silu(self.dense_g(x + shift * self.dense_xg(mixed)))
        r, k, v, w = (ops.cast(part, "float32") for part in (r, k, v, w))
        if mask is not None:
            k = ops.where(mask[..., None], k, 0.0)
            w = ops.where(mask[..., None], w, NO_DECAY)
        bonus = ops.cast(self.time_faaaa, "float32")
        y, wkv = self.rwkv_kernel(
            r, k, v, w, bonus, with_state=with_state or wkv is not None, init_state=wkv
        )
        return self.dense_o(self.group_norm(y) * gate), wkv

    def compute_output_spec(self, inputs, with_state=False, **kwargs):
        listed = isinstance(inputs, (list, tuple))
        x = inputs[0] if listed else inputs
        output = keras.KerasTensor(x.shape, dtype=self.compute_dtype)
        if not listed and not with_state:
            return output
        shape = (x.shape[0], self.heads, self.head_size, self.head_size)
        return [output, keras.KerasTensor(shape, dtype="float32")]

    def compute_mask(self, inputs, mask=None):
        return None if isinstance(inputs, (list, tuple)) else mask
