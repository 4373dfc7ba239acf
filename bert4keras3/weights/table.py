"""Weight tables: one row a layer, read both ways.

A row maps a layer to the tensors of a file, in the order of the layer's weights:

    "Transformer-{i}-FeedForward": "encoder.layer.{i}.{up,down}.{weight:T,bias}"

`{i}` (or `{i:02}`) is the block's number, other braces are choices, multiplied out
from left to right: here up.weight, up.bias, down.weight, down.bias. What follows a
colon transforms the tensor on its way into the layer. A row None says that the
files have nothing for the layer.
"""

import itertools
import re
from typing import NamedTuple

import numpy as np

from bert4keras3.weights.sources import empty_array


class Transform(NamedTuple):
    """A change of form between file and layer, and its inverse."""

    read: callable
    write: callable


def _transpose(x):
    """A transposed copy, a few rows at a time: twice as fast as numpy's, JAX adopts it as it is."""
    if x.ndim != 2:
        return np.asarray(x).T
    transposed = empty_array(x.shape[::-1], x.dtype)
    for row in range(0, len(x), 32):
        transposed[:, row : row + 32] = x[row : row + 32].T
    return transposed


def _same(x):
    return x


TRANSFORMS = {
    "T": Transform(_transpose, _transpose),
    # One row a token: the reader selects rows here (keep_tokens).
    "vocab": Transform(_same, _same),
}


class Tensor(NamedTuple):
    """A tensor of a file and how it becomes a weight."""

    name: str
    transforms: tuple = ()

    @property
    def is_vocabulary(self):
        return "vocab" in self.transforms

    def read(self, value, select=_same):
        """File form -> weight form; `select` picks the rows of a table of tokens."""
        for key in self.transforms:
            value = select(value) if key == "vocab" else TRANSFORMS[key].read(value)
        return value

    def write(self, value):
        """Weight form -> file form."""
        for key in reversed(self.transforms):
            value = TRANSFORMS[key].write(value)
        return value


def expand_table(table, num_hidden_layers):
    """Multiply out the rows of a table.

    Args:
        table: `{layer: row}`.
        num_hidden_layers: how many values `{i}` takes.

    Returns:
        `{layer: [Tensor, ...]}`, in the table's order, block by block.
    """
    fixed = {layer: row for layer, row in table.items() if "{i" not in layer}
    expanded = {layer: expand_row(row) for layer, row in fixed.items()}
    for i in range(num_hidden_layers):
        for layer, row in table.items():
            if layer not in fixed:
                expanded[_number(layer, i)] = expand_row(row and _number(row, i))
    return expanded


def expand_row(row):
    """The tensors of one row, `{i}` filled in already."""
    if row is None:
        return []
    parts = re.split(r"\{([^}]*)\}", row)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return [_tensor("".join(choice)) for choice in itertools.product(*choices)]


def _number(text, i):
    return re.sub(r"\{i(?::(\w+))?\}", lambda match: format(i, match[1] or ""), text)


def _tensor(text):
    name, *transforms = text.split(":")
    unknown = set(transforms) - set(TRANSFORMS)
    if unknown:
        raise ValueError(f"weight table: unknown transform {sorted(unknown)} in {text!r}")
    return Tensor(name, tuple(transforms))
