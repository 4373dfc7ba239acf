"""A decoding step under way: where every row is, and what the layers remember."""

import inspect
from functools import cache


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


@cache
def call_parameters(layer_class):
    """Names of the arguments of a layer class's `call`."""
    return frozenset(inspect.signature(layer_class.call).parameters)
