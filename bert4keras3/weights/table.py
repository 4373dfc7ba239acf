"""Weight tables: one row a layer, read both ways.

A row maps a layer to the tensors of a file, in the order of the layer's weights:

    "Transformer-{i}-FeedForward": "encoder.layer.{i}.{up,down}.{weight:T,bias}"

`{i}` (or `{i:02}`) is the block's number, other braces are choices, multiplied out
from left to right: here up.weight, up.bias, down.weight, down.bias. A row None says
that the files have nothing for the layer. What follows a colon transforms the tensor
on its way into the layer:

    T           transposed
    vocab       one row a token: keep_tokens selects rows here
    heads       the last axis split into heads
    rows        the first axis split into heads
    swap        the first two axes swapped
    turn        the last two axes swapped
    vector      a vector that the file has as (1, 1, size)
    part0of3    the first third of the last axis (a fused projection); of a tensor with
                parts, each part is named somewhere
    stack0of3   the first of three along the first axis, likewise
"""

import itertools
import re
from typing import NamedTuple

import numpy as np

from bert4keras3.weights.sources import empty_array

TILE = 256


class Transform(NamedTuple):
    """A change of form between file and layer, and its inverse: functions of (array, argument).

    Where `read` copies although a view would do, `view` gives the view.
    """

    read: callable
    write: callable
    view: callable = None


def transpose(x, _=None):
    """A transposed copy, in memory that JAX adopts; five times as fast as numpy's own."""
    if x.ndim != 2:
        return np.asarray(x).T
    transposed = empty_array(x.shape[::-1], x.dtype)
    # Between tiles of an odd width that fit the processor's cache: rows a power of two
    # apart, as most are, compete for the same few places in it.
    tile, turned = (np.empty((TILE, TILE + 16), x.dtype) for _ in range(2))
    for row, column in itertools.product(*(range(0, n, TILE) for n in x.shape)):
        rows, columns = slice(row, row + TILE), slice(column, column + TILE)
        part = x[rows, columns]
        n, m = part.shape
        tile[:n, :m] = part
        turned[:m, :n] = tile[:n, :m].T
        transposed[columns, rows] = turned[:m, :n]
    return transposed


def _same(x, _=None):
    return x


def _split_heads(x, size):
    return x.reshape(*x.shape[:-1], -1, int(size))


def _join_heads(x, _):
    return x.reshape(*x.shape[:-2], -1)


def _split_rows(x, size):
    return x.reshape(-1, int(size), *x.shape[1:])


def _join_rows(x, _):
    return x.reshape(-1, *x.shape[2:])


def _swap(x, _):
    return np.swapaxes(x, 0, 1)


def _turn(x, _):
    return np.swapaxes(x, -1, -2)


def _part(x, which):
    index, count = map(int, which.split("of"))
    size = x.shape[-1] // count
    return x[..., index * size : (index + 1) * size]


def _entry(x, which):
    return x[int(which.partition("of")[0])]


def _as_vector(x, _):
    return x.reshape(-1)


def _as_cube(x, _):
    return x[None, None]


TRANSFORMS = {
    "T": Transform(transpose, transpose, lambda x, _: np.asarray(x).T),
    "vocab": Transform(_same, _same),
    "heads": Transform(_split_heads, _join_heads),
    "rows": Transform(_split_rows, _join_rows),
    "swap": Transform(_swap, _swap),
    "turn": Transform(_turn, _turn),
    "vector": Transform(_as_vector, _as_cube),
    # Whoever writes puts the parts together, along the axis of `join_axis`.
    "part": Transform(_part, _same),
    "stack": Transform(_entry, lambda x, _: x[None]),
}


class Tensor(NamedTuple):
    """A tensor of a file and how it becomes a weight.

    Attributes:
        name: what tells it from all others: its name in the file, with the part.
        transforms: `(key, argument)` each.
    """

    name: str
    transforms: tuple = ()

    @property
    def is_vocabulary(self):
        return ("vocab", "") in self.transforms

    def read(self, value, select=_same, as_view=False):
        """File form -> weight form.

        Args:
            value: the array.
            select: picks the rows of a table of tokens.
            as_view: give a view of the array where there is one.
        """
        for key, argument in self.transforms:
            if key == "vocab":
                value = select(value)
            else:
                transform = TRANSFORMS[key]
                read = as_view and transform.view or transform.read
                value = read(value, argument)
        return value

    def write(self, value):
        """Weight form -> file form."""
        for key, argument in reversed(self.transforms):
            value = TRANSFORMS[key].write(value, argument)
        return value


def stored_name(name):
    """The name in the file of a tensor, which may be part of another."""
    return name.partition(":")[0]


def join_axis(name):
    """The axis along which a tensor's parts, of which this is one, are put together."""
    return 0 if ":stack" in name else -1


def part_number(name):
    """Which part a tensor is, counted from 0."""
    found = re.search(r":(?:part|stack)(\d+)of", name)
    return int(found[1]) if found else 0


def expand_table(table, num_hidden_layers, head_size=None):
    """Multiply out the rows of a table.

    Args:
        table: `{layer: row}`.
        num_hidden_layers: how many values `{i}` takes.
        head_size: what `heads` splits into.

    Returns:
        `{layer: [Tensor, ...]}`, in the table's order, block by block; a row of one block
        counts before that of all.
    """
    fixed = {layer: row for layer, row in table.items() if "{i" not in layer}
    expanded = {layer: expand_row(row, head_size) for layer, row in fixed.items()}
    for i in range(num_hidden_layers):
        for layer, row in table.items():
            if _number(layer, i) not in fixed:
                expanded[_number(layer, i)] = expand_row(row and _number(row, i), head_size)
    return expanded


def expand_row(row, head_size=None):
    """The tensors of one row, `{i}` filled in already."""
    if row is None:
        return []
    parts = re.split(r"\{([^}]*)\}", row)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return [_tensor("".join(choice), head_size) for choice in itertools.product(*choices)]


def _number(text, i):
    return re.sub(r"\{i(?::(\w+))?\}", lambda match: format(i, match[1] or ""), text)


def _tensor(text, head_size):
    name, *words = text.split(":")
    transforms = []
    for word in words:
        key, argument = re.fullmatch(r"(\D*)(.*)", word).groups()
        if key not in TRANSFORMS:
            raise ValueError(f"weight table: unknown transform {word!r} in {text!r}")
        transforms.append((key, str(head_size) if key in ("heads", "rows") else argument))
    part = "".join(f":{word}" for word in words if word.startswith(("part", "stack")))
    return Tensor(name + part, tuple(transforms))
