"""Splitting a batch into parts and joining them again."""

from bert4keras3 import ops
from bert4keras3.layers.base import Layer, register_layer
from bert4keras3.ops import keras


@register_layer
class BatchSplit(Layer):
    """Cuts batches into consecutive parts.

    Args:
        parts: how many parts of about one size; or a list of their shares, whose ends are
            rounded down to whole rows.

    Shapes: `(batch, ...)` -> a list of `(part of the batch, ...)`; of several inputs, the
    parts of the first one, then those of the next.
    """

    def __init__(self, parts, **kwargs):
        super().__init__(**kwargs)
        shares = [1] * parts if isinstance(parts, int) else list(parts)
        if not shares or min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(f"layer {self.name!r}: parts: expected some shares, got {parts!r}")
        self.parts = parts
        self._shares = shares

    def call(self, inputs):
        return self._over(inputs, self._split)

    def compute_mask(self, inputs, mask=None):
        if mask is None:
            return None
        split = lambda m: [None] * len(self._shares) if m is None else self._split(m)  # noqa: E731
        return self._over(mask, split)

    def compute_output_spec(self, inputs):
        def parts(x):
            return [keras.KerasTensor((None, *x.shape[1:]), dtype=x.dtype) for _ in self._shares]

        return self._over(inputs, parts)

    def _over(self, inputs, split):
        inputs = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        return [part for x in inputs for part in split(x)]

    def _split(self, x):
        rows, total, done, start = ops.shape(x)[0], sum(self._shares), 0, 0
        parts = []
        for share in self._shares:
            done += share
            end = self._share_of(rows, done, total)
            parts.append(x[start:end])
            start = end
        return parts

    def _share_of(self, rows, share, total):
        if share == total:
            return rows
        if isinstance(rows, int) or isinstance(total, int):
            return rows * share // total if isinstance(total, int) else int(rows * share / total)
        return ops.cast(ops.cast(rows, "float64") * (share / total), "int32")


@register_layer
class BatchConcat(Layer):
    """Joins parts of a batch: a list of `(rows, ...)` -> `(all rows, ...)`."""

    def call(self, inputs):
        return ops.concatenate(inputs, axis=0)

    def compute_mask(self, inputs, mask=None):
        if mask is None or any(m is None for m in mask):
            return None
        return ops.concatenate(mask, axis=0)

    def compute_output_shape(self, input_shape):
        return (None, *input_shape[0][1:])
