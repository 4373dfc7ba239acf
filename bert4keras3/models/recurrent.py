"""The base of the models whose memory has one size, however long the text: RWKV."""

from bert4keras3.backend import get_activation
from bert4keras3.layers import (
    ChannelMix,
    Dense,
    Embedding,
    Input,
    RecurrentLayer,
    ScaledOrthogonal,
    freeze,
)
from bert4keras3.models.decoding import as_list
from bert4keras3.models.transformer import PRE, Transformer
from bert4keras3.ops import keras, stack
from bert4keras3.weights import CheckpointError, open_source


def official_table(time_mix, channel_mix, first_time_mix=None):
    """The weight table of official files.

    Args:
        time_mix, channel_mix: the tensors of a block's two layers, without their prefix.
        first_time_mix: those of the first block's, where they are others.
    """
    block, time_mixes = "blocks.{i}.", {"RWKV-{i}-TimeMix": "blocks.{i}.att." + _braced(time_mix)}
    if first_time_mix:
        time_mixes["RWKV-0-TimeMix"] = "blocks.0.att." + _braced(first_time_mix)
    return {
        "Embedding-Token": "emb.weight:vocab",
        "Embedding-LN": "blocks.0.ln0.{weight,bias}",
        "RWKV-{i}-TimeMix-Norm": block + "ln1.{weight,bias}",
        **time_mixes,
        "RWKV-{i}-ChannelMix-Norm": block + "ln2.{weight,bias}",
        "RWKV-{i}-ChannelMix": block + "ffn." + _braced(channel_mix),
        "Out-LN": "ln_out.{weight,bias}",
        "RWKV-LM": "head.weight:vocab:T",
    }


def _braced(names):
    return "{" + ",".join(names) + "}"


class RecurrentModel(Transformer):
    """Base of RWKV: blocks of a TimeMix and a ChannelMix, each after a norm; causal by nature.

    Args:
        with_lm: output token probabilities; True for softmax, or an activation, e.g.
            'linear' for logits; False for hidden states.
        input_state: a further input 'Stack-Statess', float32 `(batch, layers, heads, size,
            size)`: the matrix states before the first token.
        output_state: a further output, the states after the last one.
        num_attention_heads: number of heads, hidden_size / attention_head_size by default.
        max_position: tokens it was made for; nothing here depends on it.
        **kwargs: as `Transformer`.

    Attributes, to be set by a family:
        channel_mix_class: the class of its ChannelMix.
        tuned_table: `{layer: tensor}` of official files of tuned states.

    Inputs: 'Input-Token', int `(batch, length)`; padding, at either side or between,
    neither decays nor feeds the states. 'Stack-Statess' with input_state.

    Outputs: `(batch, length, vocab)`, or `(batch, length, hidden)` without a head; the
    states with output_state.
    """

    norms = PRE
    norm_class = keras.layers.LayerNormalization
    norm_epsilon = 1e-5
    has_conditional_norms = False
    has_flash_attention = False
    attention_kind = "causal"
    applications = ("encoder", "lm")
    lacks = ("segment_vocab_size",)
    heads = {}
    rewinds = False
    channel_mix_class = ChannelMix
    tuned_table = {}

    def __init__(
        self,
        with_lm=True,
        input_state=False,
        output_state=False,
        num_attention_heads=None,
        hidden_size=None,
        attention_head_size=None,
        max_position=None,
        first_is_token=False,
        **kwargs,
    ):
        if num_attention_heads is None and attention_head_size:
            num_attention_heads = hidden_size // attention_head_size
        if not num_attention_heads:
            raise ValueError(
                f"{type(self).__name__} needs num_attention_heads or attention_head_size"
            )
        super().__init__(
            num_attention_heads=num_attention_heads,
            hidden_size=hidden_size,
            attention_head_size=attention_head_size,
            first_is_token=first_is_token,
            **kwargs,
        )
        self.with_lm = with_lm
        self.input_state = input_state
        self.output_state = output_state
        self.max_position = max_position

    @property
    def initializer(self):
        return ScaledOrthogonal()

    @property
    def step_inputs(self):
        return self.inputs[:1]

    @property
    def source_inputs(self):
        return []

    @property
    def lm_output(self):
        return self.outputs[0]

    # -------------------------------------------------------------------- verbs

    def get_inputs(self):
        inputs = [
            self.apply(
                layer=Input, shape=(self.sequence_length,), dtype="int32", name="Input-Token"
            )
        ]
        if self.input_state:
            # The name is the documents'.
            shape = self.state_shape
            inputs.append(self.apply(layer=Input, shape=shape, name="Stack-Statess"))
        return inputs if len(inputs) > 1 else inputs[0]

    @property
    def state_shape(self):
        """The shape of a row's matrix states: `(layers, heads, size, size)`."""
        size = self.attention_head_size
        return (self.num_hidden_layers, self.num_attention_heads, size, size)

    def apply_embeddings(self, inputs):
        tokens, *states = as_list(inputs)
        self._states_in = states[0] if states else None
        self._states_out = []
        x = self.apply(
            tokens,
            Embedding,
            input_dim=self.vocab_size,
            output_dim=self.hidden_size,
            embeddings_initializer=keras.initializers.RandomUniform(-1e-4, 1e-4),
            mask_zero=True,
            pad_token_id=self.pad_token_id,
            first_is_token=self.first_is_token,
            name="Embedding-Token",
        )
        return self.normalize(x, "Embedding-LN")

    def apply_main_layers(self, inputs, index):
        def time_mix(x, name):
            return self._mix_states(x, name, index)

        def channel_mix(x, name):
            return self.channel_mix(x, name, index)

        x = self.residual(inputs, f"RWKV-{index}-TimeMix", time_mix, **self.norms)
        return self.residual(x, f"RWKV-{index}-ChannelMix", channel_mix, **self.norms)

    def _mix_states(self, x, name, index):
        """A block's TimeMix, with its part of the model's input and output of states."""
        state = None if self._states_in is None else self._states_in[:, index]
        # A decoding step has its states from elsewhere.
        with_state = self.output_state and self.decoding is None
        output = self.time_mix(x, name, index, state, with_state)
        if not isinstance(output, (list, tuple)):
            return output
        self._states_out.append(output[1])
        return output[0]

    def time_mix(self, inputs, name, index, state, with_state):
        """The family's TimeMix of a block, after a matrix state or None; the output, with_state
        in a list with the state afterwards."""
        raise TypeError(f"{type(self).__name__} does not define time_mix")

    def channel_mix(self, inputs, name, index):
        """The family's ChannelMix of a block."""
        return self.apply(
            inputs,
            self.channel_mix_class,
            hidden_size=self.hidden_size,
            expand_size=self.intermediate_size,
            **self.depth(index),
            name=name,
        )

    def depth(self, index):
        """What the layers' initial weights depend on."""
        return {
            "layer_index": index,
            "num_layers": self.num_hidden_layers,
            "kernel_initializer": self.initializer,
        }

    def apply_final_layers(self, inputs):
        x = self.normalize(inputs, "Out-LN")
        if self.with_lm:
            x = self.apply(
                x,
                Dense,
                units=self.vocab_size,
                use_bias=False,
                activation=get_activation("softmax" if self.with_lm is True else self.with_lm),
                kernel_initializer=ScaledOrthogonal(gain=0.5),
                name="RWKV-LM",
            )
        if self.output_state and self.decoding is None:
            return [x, stack(self._states_out, axis=1)]
        return x

    # ------------------------------------------------------------------ weights

    @classmethod
    def config_of(cls, checkpoint_path):
        """The sizes of a model, from its official `.pth` file, which has no configuration."""
        with open_source(checkpoint_path) as source:
            shapes = {name: source.shape(name) for name in source}
        for name in ("emb.weight", "blocks.0.ffn.key.weight"):
            if name not in shapes:
                raise CheckpointError("this is no official RWKV file", checkpoint_path, name)
        blocks = [int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")]
        vocab_size, hidden_size = shapes["emb.weight"]
        return {
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "num_hidden_layers": max(blocks) + 1,
            "intermediate_size": shapes["blocks.0.ffn.key.weight"][0],
            **cls.sizes_of(shapes),
        }

    @classmethod
    def sizes_of(cls, shapes):
        """The family's own sizes, from the shapes of the file's tensors by name."""
        raise TypeError(f"{cls.__name__} does not define sizes_of")

    def fold_norms(self):
        """Give the weights that official files know nothing of the values that need no saving."""

    def load_weights_from_checkpoint(self, checkpoint, mapping=None):
        self.fold_norms()
        return super().load_weights_from_checkpoint(checkpoint, mapping)

    def save_weights_as_pth(self, path, dtype=None):
        """Write an official `.pth` file, as the `rwkv` package and its kin read it.

        Args:
            path: the file.
            dtype: dtype to store, 'bfloat16' for one; the weights' own by default.

        Raises:
            CheckpointError: PyTorch is not installed, or the model has weights that have no
                name there.
        """
        from bert4keras3.weights.torch import write_torch_file

        self.fold_norms()
        mapping = self.variable_mapping()
        self._check_mapped(mapping, "official files")
        saved = self._saved(mapping).items()
        write_torch_file(path, {name: self._joined(parts, dtype) for name, parts in saved})

    # -------------------------------------------------------------- state tuning

    def enable_state_tuning(self, time_shift_tuning=False):
        """Train the states before the first token, and nothing else but matrices of LoRA.

        Args:
            time_shift_tuning: also what the time shifts take for the input before the
                first token.

        Raises:
            ValueError: it has been enabled.

        Source: https://zhuanlan.zhihu.com/p/695005541
        """
        for layer in self.layers.values():
            if isinstance(layer, RecurrentLayer):
                layer.enable_state_tuning(time_shift_tuning)
            elif isinstance(layer, keras.Layer):
                freeze(layer)

    def enable_state_tunig(self, time_shitf_tuning=False):
        """The documents' spelling of `enable_state_tuning`."""
        self.enable_state_tuning(time_shitf_tuning)

    def get_tuned_state(self):
        """The trained state, as a value: for `save_state`, or for single rows of `generate`."""
        from bert4keras3.generation.states import initial

        return initial(self)

    def set_tuned_state(self, state):
        """Set the trained state.

        Args:
            state: from `get_tuned_state` or `load_state`.

        Raises:
            ValueError: state tuning is not enabled, or the state is not the model's.
        """
        from bert4keras3.generation.states import rows_of

        (state,) = rows_of(self, state, 1)
        if not any(self.layers[key].is_tuning for key in state):
            raise ValueError("set_tuned_state: call enable_state_tuning first")
        for key, parts in state.items():
            for name, weight in self.layers[key].tuned.items():
                weight.assign(parts[name].astype("float32"))

    # --------------------------------------------------------------------- states

    def state_keys(self):
        """Names of the layers with memory, in the blocks' order."""
        return [
            self.prefixed(f"RWKV-{index}-{name}")
            for index in range(self.num_hidden_layers)
            for name in ("TimeMix", "ChannelMix")
        ]

    def read(self, prompts, states=None):
        """What is remembered after some texts: states for `generate`, all of one size.

        Args:
            prompts: as in `generate`.
            states: as in `generate`, what was remembered before them.

        Returns:
            A state for each prompt (one, for a single prompt): `{layer: {part: array}}`.

        Raises:
            ValueError: a prompt or a state does not fit.
        """
        from bert4keras3.generation.states import read

        return read(self, prompts, states)

    def save_state(self, path, state):
        """Write a state to a `.safetensors` file, whole or not at all.

        Args:
            path: the file.
            state: from `read`, `get_tuned_state` or `load_state`.

        Raises:
            ValueError: the state is not the model's.
        """
        from bert4keras3.generation.states import save

        save(self, path, state)

    def load_state(self, path):
        """Read a state.

        Args:
            path: a file of `save_state`; or an official `.pth` file of a tuned state.

        Raises:
            OSError: the file cannot be opened.
            CheckpointError: it is damaged, or of another model.
        """
        from bert4keras3.generation.states import load

        return load(self, path)

    def build_cache_model(
        self,
        input_lengths,
        end_token,
        search_mode="greedy",
        k=1,
        progress_print=False,
        index_bias=0,
        input_state=False,
        output_state=False,
        initial=True,
        seed=None,
    ):
        """A Keras model that completes token arrays, and may take and give its memory.

        What it gives is the memory before the last id. With that id alone as the next
        prompt, and `outputs[1:]` after it, the text goes on as if it had never stopped.

        Args:
            input_state: two further inputs, the memory before the prompt, zeros for none:
                float32 `(batch, layers, heads, size, size)`, and `(batch, 2 layers, 1,
                hidden)`, the last input of each block's TimeMix and ChannelMix.
            output_state: the outputs are a list of the ids and these two. Of a row that
                met its end token, the memory is that before the first end token.
            input_lengths, end_token, search_mode, k, progress_print, index_bias, initial,
            seed: as in `Transformer.build_cache_model`.

        Returns:
            A `CacheModel`, as there.

        Raises:
            ValueError: as there.
        """
        from bert4keras3.generation.cache_model import build_cache_model

        return build_cache_model(
            self,
            input_lengths,
            end_token,
            search_mode,
            k,
            progress_print,
            index_bias,
            initial,
            seed,
            input_state,
            output_state,
        )
