"""Memories of one size, as values: made of texts, trained, kept in files, one for each row.

A state is `{layer: {part: array (1, ...)}}`, what the layers of a recurrent model remember of
one text. It is never changed: two texts may go on from the same one.
"""

import numpy as np

from bert4keras3 import ops
from bert4keras3.generation.programs import cached_programs
from bert4keras3.generation.prompts import pack, read_prompts
from bert4keras3.ops import keras
from bert4keras3.weights import CheckpointError, open_source
from bert4keras3.weights.safetensors import SafetensorsFile, write_safetensors
from bert4keras3.weights.table import expand_table

FORMAT = "bert4keras3 state"
STATES, LAST_INPUTS = "Stack-Statess", "Stack-Last-X"  # the documents' names


def read(transformer, prompts, states=None):
    """See `RecurrentModel.read`."""
    rows, single = read_prompts(transformer, prompts)
    states = rows_of(transformer, states, len(rows))
    arrays, length = pack(transformer, rows, None, 0)

    def run(ids, lengths, states):
        positions = ops.broadcast_to(ops.arange(length, dtype="int32")[None], (len(rows), length))
        return transformer.step([ids], positions, lengths, states, length, last=True)[1]

    (program,) = cached_programs(transformer, ("read", len(rows), length), lambda: (run, ()))
    found = _to_numpy(program(arrays["ids"][:, :length], arrays["lengths"], join(states)))
    found = [keras.tree.map_structure(lambda x, i=i: x[i : i + 1], found) for i in range(len(rows))]
    return found[0] if single else found


def initial(transformer):
    """The state of one row before the first token: what was tuned, else zeros."""
    return _to_numpy(transformer.initial_states(1, 1))


def rows_of(transformer, states, count):
    """A state for each of so many rows.

    Args:
        transformer: the model.
        states: a state for all rows; or a list of one a row, None in it for the initial one.
        count: number of rows.

    Raises:
        ValueError: another number of states, or one that is not the model's.
    """
    empty = initial(transformer)
    states = [states] * count if states is None or isinstance(states, dict) else list(states)
    if len(states) != count:
        raise ValueError(f"states: expected {count}, one a prompt, got {len(states)}")
    return [empty if state is None else _checked(state, empty) for state in states]


def _checked(state, empty):
    layers = {name: sorted(parts) for name, parts in empty.items()}
    if {name: sorted(parts) for name, parts in state.items()} != layers:
        raise ValueError(f"states: expected one of the layers {layers}, got {sorted(state)}")

    checked = {}
    for layer, parts in empty.items():
        for name, like in parts.items():
            given = np.asarray(state[layer][name])
            if given.shape != like.shape:
                raise ValueError(f"state {layer}/{name}: expected {like.shape}, got {given.shape}")
            checked.setdefault(layer, {})[name] = given.astype(like.dtype)
    return checked


def join(states):
    """The states of several rows as one, `(batch, ...)`; or any arrays of several batches."""
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *states)


def _to_numpy(states):
    return keras.tree.map_structure(lambda x: np.array(ops.convert_to_numpy(x)), states)


# ------------------------------------------------------------------------- files


def save(transformer, path, state):
    """See `RecurrentModel.save_state`."""
    (state,) = rows_of(transformer, state, 1)
    tensors = [
        (f"{layer}/{name}", array.shape, array.dtype, lambda array=array: array)
        for layer, parts in state.items()
        for name, array in parts.items()
    ]
    write_safetensors(path, tensors, {"format": FORMAT})


def load(transformer, path):
    """See `RecurrentModel.load_state`."""
    if str(path).endswith(".safetensors"):
        return _load_own(transformer, path)
    state = initial(transformer)
    table = expand_table(transformer.tuned_table, transformer.num_hidden_layers)
    with open_source(path) as source:
        for layer, (tensor,) in table.items():
            parts = state[transformer.prefixed(layer)]
            value = tensor.read(source[tensor.name].astype("float32"))[None]
            if value.shape != parts["wkv"].shape:
                raise CheckpointError(
                    f"expected {parts['wkv'].shape[1:]}, found {value.shape[1:]}", path, tensor.name
                )
            state[transformer.prefixed(layer)] = {
                "wkv": value,
                "last_x": np.zeros_like(parts["last_x"]),
            }
    return state


def _load_own(transformer, path):
    with SafetensorsFile(path) as file:
        if file.metadata.get("format") != FORMAT:
            raise CheckpointError("expected a file of save_state", path)
        state = {}
        for name in file:
            layer, _, part = name.rpartition("/")
            state.setdefault(layer, {})[part] = file[name]
    try:
        (state,) = rows_of(transformer, state, 1)
    except ValueError as error:
        raise CheckpointError(f"the state is of another model: {error}", path) from error
    return state


# -------------------------------------------------------- the documents' two arrays


def shapes(transformer):
    """`{name: shape without the batch}` of the two arrays that hold all of a state."""
    layers = 2 * transformer.num_hidden_layers
    return {
        STATES: transformer.state_shape,
        LAST_INPUTS: (layers, 1, transformer.hidden_size),
    }


def stack(transformer, states):
    """The matrix states `(batch, layers, heads, size, size)`, and the last inputs of each
    block's two layers `(batch, 2 layers, 1, hidden)`, both float32."""
    keys = list(transformer.state_keys())
    matrices = [states[key]["wkv"] for key in keys[::2]]
    last = [ops.cast(states[key]["last_x"], "float32") for key in keys]
    return ops.stack(matrices, axis=1), ops.stack(last, axis=1)


def unstack(transformer, matrices, last):
    """The inverse of `stack`."""
    dtype = transformer.layers[next(iter(transformer.state_keys()))].compute_dtype
    states = {}
    for i, key in enumerate(transformer.state_keys()):
        states[key] = {"last_x": ops.cast(last[:, i], dtype)}
        if i % 2 == 0:
            states[key]["wkv"] = ops.cast(matrices[:, i // 2], "float32")
    return states
