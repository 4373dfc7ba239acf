"""transformers' names of activations, and ours."""

from bert4keras3.backend import get_activation
from bert4keras3.weights.errors import CheckpointError

# Their name: ours. Of several names with one meaning the first is written.
ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "silu": "swish",
    "swish": "swish",
    **{name: name for name in ("relu", "relu6", "tanh", "sigmoid", "linear", "mish")},
}


def read_activation(name, names, key, path):
    """Our name of an activation.

    Args:
        name: theirs.
        names: `{their name: ours}`.
        key: the key it stands under, and
        path: the file, for messages.

    Raises:
        ValueError: an activation we do not have.
    """
    if name not in names:
        raise ValueError(f"{path}: {key}: expected one of {sorted(names)}, found {name!r}")
    return names[name]


def write_activation(activation, names):
    """Their name of an activation.

    Raises:
        CheckpointError: they have none that means the same.
    """
    function = get_activation(activation)
    for theirs, ours in names.items():
        if get_activation(ours) is function:
            return theirs
    raise CheckpointError(f"Hugging Face has no activation {activation!r} here")
