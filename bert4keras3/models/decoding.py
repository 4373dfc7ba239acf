"""A decoding step under way: where every row is, and what the layers remember."""

import inspect
from functools import cache

from bert4keras3 import ops


class Decoding:
    """Hands positions and memory to layers that take them, and files the new memory.

    Args:
        states: `{call key: state}`, from `Transformer.initial_states` or the
            step before; each state is a pytree the layer understands.
        positions: int `(batch, n)`, the position (= cache slot) of each token.
        lengths: int `(batch,)`, slots of each row that hold tokens afterwards.
        slots: number of slots in the caches.
    """

    def __init__(self, states, positions, lengths, slots):
        self.states = dict(states)
        self.context = {"positions": positions, "lengths": lengths, "slots": slots}
        self.remembered = set()

    def run(self, key, layer, inputs, arguments):
        """Call a layer; `key` names this call of it."""
        accepted = call_parameters(type(layer))
        context = {name: value for name, value in self.context.items() if name in accepted}
        arguments = {**arguments, **context}
        if "state" not in accepted:
            return layer(inputs, **arguments)
        if key not in self.states:
            raise ValueError(
                f"a decoding step calls {key!r}, which has no state: {list(self.states)}"
            )
        output, self.states[key] = layer(inputs, state=self.states[key], **arguments)
        self.remembered.add(key)
        return output

    def check_all_remembered(self):
        """Raise where a layer with memory was not called: it would forget this step."""
        forgotten = sorted(set(self.states) - self.remembered)
        if forgotten:
            raise ValueError(f"a decoding step did not call {forgotten}, which have a state")


@cache
def call_parameters(layer_class):
    """Names of the arguments of a layer class's `call`."""
    return frozenset(inspect.signature(layer_class.call).parameters)


class Stepwise:
    """Mixin of `Transformer`: its forward, some tokens at a time, with memory.

    Attributes:
        decoding: the `Decoding` under way, None outside `step`.
    """

    decoding = None

    def initial_states(self, batch, slots):
        """What the layers remember before the first token.

        Args:
            batch: number of rows.
            slots: length of the caches.

        Returns:
            `{call key: state}` for every call of a layer that remembers.
        """
        return {
            key: layer.initial_state(batch, slots) for key, layer in self._stateful_calls.items()
        }

    def step(self, inputs, positions, lengths, states, slots):
        """The same forward, on real tensors and with memory.

        A whole prompt is a step at positions 0 … n-1; a single token is a step of n = 1.

        Args:
            inputs: the model's inputs for the new tokens, each `(batch, n)`.
            positions: int `(batch, n)`, their positions (= cache slots).
            lengths: int `(batch,)`, slots of each row that hold tokens afterwards.
            states: from `initial_states` or the step before.
            slots: length of the caches, as given to `initial_states`.

        Returns:
            The outputs for the new tokens and the new states.
        """
        symbolic = self.inputs
        self.decoding = Decoding(
            states, ops.cast(positions, "int32"), ops.cast(lengths, "int32"), slots
        )
        self.inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        try:
            outputs = self._forward(inputs)
            self.decoding.check_all_remembered()
            return outputs, self.decoding.states
        finally:
            self.decoding, self.inputs = None, symbolic
