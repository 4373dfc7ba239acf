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
        """Endless batches for `model.fit(..., steps_per_epoch=len(generator))`.

        Returns:
            An iterator of batches, which `fit` takes on every backend; batches may differ
            in length and may be lists. Several calls of `fit` go on in one stream.
        """
        return self._feed(self._endless(random))

    def fortest(self, random=False):
        """Endless inputs alone, for `model.predict(..., steps=len(generator))`.

        Returns:
            An iterator of `batch[0]`, which `predict` takes, several inputs in a list too.
        """
        return self._feed((batch[0] for batch in self._endless(random)), inputs_only=True)

    def _feed(self, batches, **options):
        from bert4keras3.snippets.feeding import Feed  # which needs Keras

        return Feed(batches, **options)

    def _endless(self, random):
        while True:
            batch = None
            for batch in self.__iter__(random):
                yield batch
            if batch is None:
                raise ValueError(
                    f"{type(self).__name__}: not one batch in an epoch: is the data empty, or an "
                    "iterator, which can be read only once?"
                )

    def to_dataset(self, types, shapes, names=None, padded_batch=False):
        """A `tf.data.Dataset` of batches, of a generator whose `__iter__` yields single samples.

        Args:
            types: dtypes, in the structure of a sample.
            shapes: shapes of a sample's parts, in the same structure.
            names: names of the parts, so that a sample becomes a dict of them: a string for
                one part, a list of strings for several, or a list of such lists, one for the
                inputs and one for the targets.
            padded_batch: samples differ in length and are padded with zeros; None in
                `shapes` stands for the longest.

        Raises:
            ImportError: TensorFlow is not installed.
        """
        import tensorflow as tf

        types, shapes = _named(types, names), _named(shapes, names)
        signature = _over(types, shapes, lambda dtype, shape: tf.TensorSpec(shape, dtype))

        def samples():
            for sample in self._endless(True):
                yield _over(types, _named(sample, names), lambda dtype, part: part)

        dataset = tf.data.Dataset.from_generator(samples, output_signature=signature)
        if not padded_batch:
            return dataset.batch(self.batch_size)
        padded = _over(types, shapes, lambda dtype, shape: tf.TensorShape(shape))
        return dataset.padded_batch(self.batch_size, padded)


def _named(parts, names):
    """Parts of a sample as dicts of their names."""
    if names is None:
        return parts
    if isinstance(names, str):
        return {names: parts}
    if isinstance(names[0], str):
        return dict(zip(names, parts, strict=True))
    return tuple(_named(part, name) for part, name in zip(parts, names, strict=True))


def _over(types, parts, function):
    """A function of each dtype and what belongs to it, in the structure of the dtypes."""
    if isinstance(types, dict):
        return {key: _over(types[key], parts[key], function) for key in types}
    if isinstance(types, (list, tuple)):
        return tuple(_over(t, p, function) for t, p in zip(types, parts, strict=True))
    return function(types, parts)
