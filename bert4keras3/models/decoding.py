"""A decoding step under way: where every row is, and what the layers remember."""

import inspect
from contextlib import contextmanager
from functools import cache, cached_property

from bert4keras3 import ops
from bert4keras3.layers import SegmentMask
from bert4keras3.ops import keras, seam

OWN_MASK = "attention_bias"
CONDITION = "layer_norm_condition"


class Decoding:
    """Hands positions and memory to layers that take them, and files the new memory.

    Args:
        states: `{call key: state}`, from `Transformer.initial_states` or the
            step before; each state is a pytree the layer understands.
        positions: int `(batch, n)`, the position (= cache slot) of each token.
        lengths: int `(batch,)`, slots of each row that hold tokens afterwards.
        slots: number of slots in the caches.
        last: only each row's last token goes on to the final layers.
    """

    def __init__(self, states, positions, lengths, slots, last=False):
        self.states = dict(states)
        self.cuts = last
        self.context = {"positions": positions, "lengths": lengths, "slots": slots}
        self.remembered = set()

    def run(self, key, layer, inputs, arguments):
        """Call a layer; `key` names this call of it."""
        if isinstance(layer, keras.layers.Dropout):
            return inputs
        accepted = call_parameters(type(layer))
        context = {name: value for name, value in self.context.items() if name in accepted}
        # What the model says itself counts: cross attention has other slots.
        arguments = {**context, **arguments}
        if "state" not in accepted:
            return layer(inputs, **arguments)
        if key not in self.states:
            raise ValueError(
                f"a decoding step calls {key!r}, which has no state: {list(self.states)}"
            )
        output, self.states[key] = layer(inputs, state=self.states[key], **arguments)
        self.remembered.add(key)
        return output

    def cut(self, x):
        """Of `(batch, n, ...)` the last tokens `(batch, 1, ...)`, once, where asked for."""
        if not self.cuts:
            return x
        self.cuts = False
        positions, lengths = self.context["positions"], self.context["lengths"]
        self.context["positions"] = lengths[:, None] - 1
        if x.shape[1] == 1:
            return x
        index = lengths - 1 - positions[:, 0]
        index = ops.reshape(index, (-1, *[1] * (len(x.shape) - 1)))
        return ops.take_along_axis(x, index, axis=1)

    def check_all_remembered(self):
        """Raise where a layer with memory was not called: it would forget this step."""
        forgotten = sorted(set(self.states) - self.remembered)
        if forgotten:
            raise ValueError(f"a decoding step did not call {forgotten}, which have a state")


class Encoding:
    """A whole text under way, of which nothing is remembered; padding is known by the lengths.

    Args:
        lengths: int `(batch,)`, tokens of each row.
    """

    def __init__(self, lengths):
        self.lengths = lengths

    def run(self, key, layer, inputs, arguments):
        """Call a layer."""
        if isinstance(layer, keras.layers.Dropout):
            return inputs
        if "lengths" in call_parameters(type(layer)):
            arguments = {"lengths": self.lengths, **arguments}
        return layer(inputs, **arguments)

    def cut(self, x):
        """All tokens go on to the final layers."""
        return x


@cache
def call_parameters(layer_class):
    """Names of the arguments of a layer class's `call`."""
    return frozenset(inspect.signature(layer_class.call).parameters)


class Stepwise:
    """Mixin of `Transformer`: its forward, some tokens at a time, with memory.

    Attributes:
        decoding: the `Decoding` or `Encoding` under way, None outside `step` and `encode`.
        fixed_states: keys of the states that decoding leaves as they are.
        condition_inputs: the inputs that the condition of the layer norms comes from.
        rewinds: whether what was remembered of later tokens may be overwritten.
    """

    decoding = None
    fixed_states = frozenset()
    rewinds = True
    condition_inputs = ()

    @property
    def text_inputs(self):
        """The inputs that have an entry for each token."""
        conditions = {id(x) for x in self.condition_inputs}
        return [x for x in self.inputs if id(x) not in conditions]

    @property
    def source_inputs(self):
        """Of a seq2seq model the inputs that a text is made from; none of others."""
        inputs = self.text_inputs
        return inputs[: len(inputs) - len(self.step_inputs)]

    @property
    def step_inputs(self):
        """The inputs that grow with a text, token ids first."""
        return self.text_inputs

    @cached_property
    def condition_model(self):
        """A Keras model from `condition_inputs` to what `build` was given as layer_norm_cond.

        Raises:
            ValueError: it comes from other inputs, too.
        """
        try:
            return keras.Model(list(self.condition_inputs), self.layer_norm_conds[0])
        except ValueError as error:
            raise ValueError(
                "layer_norm_cond: to generate, it has to come from additional_input_layers alone"
            ) from error

    def initial_states(self, batch, slots, inputs=None, source=None, condition=None):
        """What the layers remember before the first token.

        Args:
            batch: number of rows.
            slots: length of the caches.
            inputs: the `step_inputs` at full length, each `(batch, slots)`; needed
                where a subclass computes its own attention mask from them.
            source: of a seq2seq model, `{name: array}` of its `source_inputs`, and of token
                ids `"lengths"`, int `(batch,)`.
            condition: what steers the layer norms, `(batch, size)`; None for nothing.

        Returns:
            `{call key: state}` for every call of a layer that remembers, and the condition.

        Raises:
            ValueError: a subclass has its own mask, and there are no inputs.
        """
        own_mask = self.has_own_mask
        states = {
            key: layer.initial_state(batch, slots)
            for key, layer in self._stateful_calls.items()
            if not (own_mask and isinstance(layer, SegmentMask))
        }
        if condition is not None:
            states[CONDITION] = condition
        if own_mask:
            states[OWN_MASK] = self._whole_mask(inputs)
        return states

    def grow_states(self, states, slots):
        """The states with room for more tokens; what has no slots stays as it is."""
        calls = self._stateful_calls
        return {
            key: calls[key].grow_state(state, slots) if hasattr(calls[key], "grow_state") else state
            for key, state in states.items()
        }

    @property
    def has_own_mask(self):
        """Whether a subclass computes its attention mask, in a way we know nothing of."""
        module = inspect.getmodule(type(self).compute_attention_bias)
        return module is None or not module.__name__.startswith("bert4keras3.")

    def _whole_mask(self, inputs):
        """The mask of a subclass at the cache's length: a later step takes its rows."""
        if inputs is None:
            raise ValueError(
                f"{type(self).__name__} computes its own attention mask: initial_states needs "
                "the inputs at full length"
            )
        symbolic, self.inputs = self.inputs, as_list(inputs)
        self._reset()
        try:
            return self.compute_attention_bias()
        finally:
            self.inputs = symbolic

    def encode(self, inputs, lengths, condition=None):
        """The same forward, on whole texts as real tensors.

        Args:
            inputs: the model's inputs, each `(batch, n)`, padded at the right.
            lengths: int `(batch,)`, tokens of each row.
            condition: as `initial_states`.

        Returns:
            The outputs.
        """
        with self._under_way(Encoding(ops.cast(lengths, "int32")), inputs, condition):
            return self._forward(inputs)

    @contextmanager
    def _under_way(self, decoding, inputs, condition):
        """A forward on real tensors, in place of the symbolic ones the model was built from."""
        symbolic = self.inputs, self.layer_norm_conds
        self.decoding, self.inputs = decoding, as_list(inputs)
        self.layer_norm_conds = [condition, *self.layer_norm_conds[1:]]
        try:
            yield decoding
        finally:
            self.decoding = None
            self.inputs, self.layer_norm_conds = symbolic

    def step(self, inputs, positions, lengths, states, slots, last=False):
        """The same forward, on real tensors and with memory.

        A whole prompt is a step at positions 0 … n-1; a single token is a step of n = 1.

        Args:
            inputs: the `step_inputs` for the new tokens, each `(batch, n)`.
            positions: int `(batch, n)`, their positions (= cache slots).
            lengths: int `(batch,)`, slots of each row that hold tokens afterwards.
            states: from `initial_states` or the step before.
            slots: length of the caches, as given to `initial_states`.
            last: compute the last output, of each row's last token, only.

        Returns:
            The outputs for the new tokens and the new states; with `last` instead
            the one output `(batch, 1, ...)` that is the language model's.
        """
        positions = ops.cast(positions, "int32")
        states = dict(states)
        kept = {key: states.pop(key) for key in (OWN_MASK, CONDITION) if key in states}
        mask, condition = kept.get(OWN_MASK), kept.get(CONDITION)
        if mask is not None:
            rows = _rows(mask, positions)
            # Shadows the method: a subclass's own code finds the rows of this step.
            self.compute_attention_bias = lambda inputs=None: rows
        # With memory in the final layers every token must pass through them.
        decoding = Decoding(
            states, positions, ops.cast(lengths, "int32"), slots, last and not self._ends_stateful
        )
        try:
            with self._under_way(decoding, inputs, condition):
                outputs = self._forward(inputs)
                decoding.check_all_remembered()
                if last:
                    outputs = as_list(outputs)[-1]
                    if self._ends_stateful or decoding.cuts:
                        decoding.cuts = True
                        outputs = decoding.cut(outputs)
        finally:
            self.__dict__.pop("compute_attention_bias", None)
        return outputs, decoding.states | kept

    def to_logits(self, outputs):
        """Logits of the last output, of whatever form; log-probabilities are logits."""
        return ops.log(ops.maximum(outputs, 1e-38)) if self._outputs_probabilities else outputs

    @cached_property
    def _outputs_probabilities(self):
        layer = seam.producer(self.lm_output)
        return getattr(layer, "activation", None) is keras.activations.softmax

    def cut_to_last(self, outputs):
        """Before the final layers: what each row's last token needs of the hidden states."""
        return outputs if self.decoding is None else self.decoding.cut(outputs)


def map_rows(function, states):
    """Apply a function to every state that has an entry for each row, on its first axis."""
    own = states.get(OWN_MASK)
    mapped = keras.tree.map_structure(
        function, {key: state for key, state in states.items() if key != OWN_MASK}
    )
    if own is None:
        return mapped
    shared = len(own.shape) == 2 or own.shape[0] == 1
    return mapped | {OWN_MASK: own if shared else function(own)}


def _rows(mask, positions):
    """The rows of a mask `([batch, [heads,]] slots, slots)` at positions `(batch, n)`."""
    ndim = len(mask.shape)
    if ndim == 2:
        return ops.take(mask, positions, axis=0)
    index = ops.expand_dims(positions, -1) if ndim == 3 else positions[:, None, :, None]
    shape = (ops.shape(positions)[0], *mask.shape[1:])
    return ops.take_along_axis(ops.broadcast_to(mask, shape), index, axis=-2)


def as_list(x):
    """A list of what is one, several or None."""
    if x is None:
        return []
    return list(x) if isinstance(x, (list, tuple)) else [x]
