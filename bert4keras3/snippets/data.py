"""Batches for training, from any iterable."""

import numpy as np


class DataGenerator:
    """Base class of batch generators; a subclass defines `__iter__(self, random=False)`.

    Args:
        data: samples; a sequence, or any iterable (then without a length).
        batch_size: samples a batch.
        buffer_size: samples shuffled at a time where data has no length,
            1000 batches by default.

    A subclass loops over `self.sample(random)` and yields batches:

        def __iter__(self, random=False):
            rows = []
            for is_end, sample in self.sample(random):
                rows.append(sample)
                if len(rows) == self.batch_size or is_end:
                    yield sequence_padding(rows)
                    rows = []
    """

    def __init__(self, data, batch_size=32, buffer_size=None):
        self.data = data
        self.batch_size = batch_size
        self.buffer_size = buffer_size or batch_size * 1000
        self.steps = None
        if hasattr(data, "__len__"):
            self.steps = -(-len(data) // batch_size)

    def __len__(self):
        if self.steps is None:
            raise TypeError(f"{type(self).__name__}: the data has no length")
        return self.steps

    def sample(self, random=False):
        """Yield `(is_end, sample)` once through the data; `is_end` is True on the last.

        Args:
            random: in random order (within the buffer where data has no length).
        """
        previous = []
        for sample in self._ordered(random):
            if previous:
                yield False, previous.pop()
            previous.append(sample)
        if previous:
            yield True, previous.pop()

    def _ordered(self, random):
        if not random:
            yield from self.data
        elif self.steps is not None:
            for i in np.random.permutation(len(self.data)):
                yield self.data[i]
        else:
            yield from self._shuffled_stream()

    def _shuffled_stream(self):
        buffer = []
        for sample in self.data:
            buffer.append(sample)
            if len(buffer) == self.buffer_size:
                yield buffer.pop(np.random.randint(len(buffer)))
        for i in np.random.permutation(len(buffer)):
            yield buffer[i]

    def __iter__(self, random=False):
        raise NotImplementedError(f"{type(self).__name__} does not define __iter__")

    def forfit(self, random=True):
        """Endless batches for `model.fit(..., steps_per_epoch=len(generator))`."""
        while True:
            yield from map(_tuples, self.__iter__(random))

    def fortest(self, random=False):
        """Endless inputs alone, for `model.predict`."""
        while True:
            for batch in self.__iter__(random):
                yield batch[0]


def _tuples(batch):
    """Lists of arrays as tuples: TensorFlow takes no list for the structure of a batch."""
    if isinstance(batch, (list, tuple)) and any(isinstance(x, (list, np.ndarray)) for x in batch):
        return tuple(map(_tuples, batch))
    return batch
