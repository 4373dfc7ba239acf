"""The keys and values an attention layer remembers while decoding."""

from bert4keras3 import ops


def empty_memory(batch, heads, slots, key_size, value_size, dtype):
    """A state without tokens: `{"k", "v"}` of `(batch, heads, slots, size)`."""
    shape, dtype = (batch, heads, slots), ops.cache_dtype(dtype)
    return {
        "k": ops.zeros((*shape, key_size), dtype=dtype),
        "v": ops.zeros((*shape, value_size), dtype=dtype),
    }


def remember(state, key, value, positions):
    """The state with new keys and values `(batch, n, heads, size)` at `positions` `(batch, n)`."""
    return {
        "k": ops.write_heads(state["k"], key, positions),
        "v": ops.write_heads(state["v"], value, positions),
    }


def filled_slots(key, lengths):
    """bool `(batch, slots)`: the slots of keys `(batch, heads, slots, size)` that hold tokens."""
    slots = ops.arange(ops.shape(key)[2], dtype="int32")
    return slots[None] < ops.cast(lengths, "int32")[:, None]


class Remembering:
    """Mixin of layers that remember keys and values."""

    def grow_state(self, state, slots):
        """The state with room for `slots` tokens."""
        more = slots - state["k"].shape[2]
        widths = ((0, 0), (0, 0), (0, more), (0, 0))
        return {name: ops.pad(x, widths) for name, x in state.items()}
