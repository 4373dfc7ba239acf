"""Token embeddings, also used backwards as the output projection."""

from bert4keras3 import ops
from bert4keras3.layers.adapters import Adaptable
from bert4keras3.layers.base import Configured, Direct, register_layer
from bert4keras3.layers.quantized import Quantizable
from bert4keras3.ops import keras


@register_layer
class Embedding(Direct, Configured, Quantizable, Adaptable, keras.layers.Embedding):
    """Keras' `Embedding`, with a padding mask that suits texts and a dense mode.

    Args:
        mask_zero: whether padding positions are masked.
        pad_token_id: the id that is padding; None for none.
        first_is_token: the first position always counts, whatever its id.
        *args, **kwargs: as `keras.layers.Embedding`.

    Call arguments:
        inputs: ids `(batch, length)`; in dense mode vectors `(batch, ..., dim)`.
        mode: `'embedding'`, or `'dense'` to multiply by the transposed table:
            the logits `(batch, ..., input_dim)` of a model with tied embeddings.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, *args, pad_token_id=0, first_is_token=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.pad_token_id = pad_token_id
        self.first_is_token = first_is_token
        self.supports_masking = True

    def call(self, inputs, mode="embedding"):
        if not self._is_dense(mode):
            return self.adapt(self._look_up(inputs), inputs)
        x = ops.cast(inputs, self.compute_dtype)
        for factor in (adapter.factor() for adapter in self.adapters):
            x = x if factor is None else x * ops.cast(factor, x.dtype)
        if self.quantized is None:
            table = ops.cast(self.embeddings, self.compute_dtype)
            logits = ops.project(x, table, transposed=True)
        else:
            logits = self.quantized.product(x)
        for adapter in self.adapters:
            logits = logits + adapter.branch_back(x)
        return logits

    def _look_up(self, ids):
        ids = _whole(ids)
        if self.quantized is not None:
            return self.quantized.rows(ids, self.compute_dtype)
        return ops.cast(ops.lookup(self.embeddings, ids), self.compute_dtype)

    # -------------------------------------------- adapters and few bits

    drops_inputs = False
    kernel_attribute = "_embeddings"

    @property
    def kernel_variable(self):
        return self.embeddings if self.quantized is None else self.quantized.values

    def by_outputs(self, matrix):
        return matrix

    def low_rank_initializers(self):
        return "zeros", keras.initializers.RandomNormal(stddev=1.0)

    def down(self, x, a):
        return ops.cast(ops.lookup(a, _whole(x)), self.compute_dtype)

    def compute_mask(self, inputs, mask=None):
        if len(inputs.shape) != 2:
            return mask
        if not self.mask_zero or self.pad_token_id is None:
            return None
        keep = ops.not_equal(inputs, self.pad_token_id)
        if not self.first_is_token:
            return keep
        return ops.concatenate([ops.ones_like(keep[:, :1]), keep[:, 1:]], axis=1)

    def compute_output_shape(self, input_shape, mode="embedding"):
        if self._is_dense(mode):
            return (*input_shape[:-1], self.input_dim)
        return (*input_shape, self.output_dim)

    def compute_output_spec(self, inputs, mode="embedding"):
        shape = self.compute_output_shape(inputs.shape, mode)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    @staticmethod
    def _is_dense(mode):
        if mode not in ("embedding", "dense"):
            raise ValueError(f"Embedding mode: expected 'embedding' or 'dense', got {mode!r}")
        return mode == "dense"


def _whole(ids):
    """Ids as whole numbers; Keras gives them as floats now and then."""
    return ids if ids.dtype in ("int32", "int64") else ops.cast(ids, "int32")
