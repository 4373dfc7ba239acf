"""Endless batches as Keras takes them, on every backend."""

import itertools

import numpy as np

from bert4keras3 import ops
from bert4keras3.ops import keras, seam

LOOK_AHEAD = 8  # batches in which an axis must be 1 to count as always 1


class Feed(seam.DataAdapter):
    """An endless stream of batches: an iterator, and data for `fit` and `predict`.

    Keras would take a generator too, but not one of lists, nor, on TensorFlow, one whose
    first two batches are as long as each other and later ones are not.

    Args:
        batches: an iterator.
        inputs_only: batches are inputs, without targets.
    """

    def __init__(self, batches, inputs_only=False):
        self._batches = batches
        self._inputs_only = inputs_only
        self._ahead = []  # taken from the iterator and not handed out yet
        self._handed_out, self._last = 0, None

    def __iter__(self):
        return self

    def __next__(self):
        batch = self._ahead.pop(0) if self._ahead else next(self._batches)
        return self._standard(batch) if seam.is_tf_keras else batch  # which fit takes from here

    def _standard_batches(self):
        # Keras takes one batch to look at, and begins anew: that one comes again.
        batches = itertools.chain([self._last], self) if self._handed_out == 1 else self
        self._handed_out = 0
        for self._last in batches:
            self._handed_out += 1
            yield self._standard(self._last)

    def _standard(self, batch):
        """A batch as a tuple: (inputs,), (inputs, targets) or with weights."""
        batch = _without_lists(batch)
        if self._inputs_only or not isinstance(batch, tuple):
            return (batch,)
        while batch[-1] is None and len(batch) > 1:
            batch = batch[:-1]
        return batch

    def get_numpy_iterator(self):
        return self._standard_batches()

    def get_jax_iterator(self):
        return self._standard_batches()

    def get_torch_dataloader(self):
        for batch in self._standard_batches():
            yield keras.tree.map_structure(ops.convert_to_tensor, batch)

    def get_tf_dataset(self):
        import tensorflow as tf

        self._ahead += itertools.islice(self._batches, max(LOOK_AHEAD - len(self._ahead), 0))
        signature = keras.tree.map_structure(_spec, *map(self._standard, self._ahead))
        return tf.data.Dataset.from_generator(self._standard_batches, output_signature=signature)

    @property
    def num_batches(self):
        return None

    @property
    def batch_size(self):
        return None


def _without_lists(batch):
    """Lists of arrays as tuples, which is how Keras and TensorFlow want structures."""
    if isinstance(batch, dict):
        return {key: _without_lists(x) for key, x in batch.items()}
    if isinstance(batch, tuple) or (isinstance(batch, list) and any(map(_is_array, batch))):
        return tuple(map(_without_lists, batch))
    return np.asarray(batch) if isinstance(batch, list) else batch


def _is_array(x):
    return hasattr(x, "shape") or isinstance(x, (tuple, dict))


def _spec(*arrays):
    """What TensorFlow should expect: any length of an axis that is not always 1."""
    import tensorflow as tf

    arrays = [np.asarray(x) for x in arrays]
    sizes = zip(*(x.shape for x in arrays), strict=True)
    shape = [1 if i and set(size) == {1} else None for i, size in enumerate(sizes)]
    return tf.TensorSpec(shape, arrays[0].dtype)
