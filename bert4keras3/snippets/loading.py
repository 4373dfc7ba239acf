"""Batches of about equal lengths, made by workers while the model trains."""

import threading

import numpy as np

from bert4keras3.ops import keras
from bert4keras3.snippets.padding import sequence_padding
from bert4keras3.snippets.parallel import end_pool, process_pool, result_of, work


class BatchLoader(keras.utils.PyDataset):
    """Data for `fit`, `evaluate` and `predict`: samples of similar length go together.

    A batch is padded to the next of a few lengths, so that little is computed for nothing
    and JAX compiles a few programs only. Each epoch mixes anew.

        loader = BatchLoader(texts_and_labels, encode, batch_size=32, length=lambda s: len(s[0]))
        model.fit(loader, epochs=3)

    Args:
        samples: a sequence.
        encode: a function of a sample that returns `inputs`, `(inputs, targets)` or
            `(inputs, targets, weights)`; inputs may be tuples or dicts of parts. A part is a
            number, which is kept, or a list or array, which is padded along its first axis.
            None where samples are of this form. It runs in the workers.
        batch_size: samples a batch.
        lengths: the lengths to pad to; by default powers of two from 16 on, and the one
            halfway between two of them.
        length: a function of a sample that returns its length, for choosing its batch; by
            default that of the longest part, for which each sample is encoded once.
        padding: what is filled in: a number, or numbers in the structure of a sample.
        max_tokens: what batch size times length must not exceed: longer ones come in
            smaller batches. None for no such limit.
        shuffle: a new order, and new batches, for each epoch.
        drop_last: leave incomplete batches out, as each size is compiled for itself.
        seed: of the order.
        workers: how many make batches; 0 or 1 makes each when it is asked for.
        use_multiprocessing: processes instead of threads; see `parallel_apply` on what they
            can run. One that raises or dies ends the training with that error.
        max_queue_size: how many batches are made ahead.

    Raises:
        ValueError: no samples, or one longer than the last of `lengths`.
    """

    def __init__(
        self,
        samples,
        encode=None,
        batch_size=32,
        lengths=None,
        length=None,
        padding=0,
        max_tokens=None,
        shuffle=True,
        drop_last=False,
        seed=None,
        workers=1,
        use_multiprocessing=False,
        max_queue_size=10,
    ):
        # Keras' own processes hang when one of them dies; its threads wait for ours.
        super().__init__(workers=workers, max_queue_size=max_queue_size)
        self.samples = samples
        self.encode = encode or (lambda sample: sample)
        self.batch_size = batch_size
        self.padding = padding
        self.max_tokens = max_tokens
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rng = np.random.default_rng(seed)
        self.processes = max(workers, 1) if use_multiprocessing else 0
        self._pool, self._lock = None, threading.Lock()
        self.lengths, self._buckets = self._sort(lengths, length or self._encoded_length)
        self._draw()

    def _encoded_length(self, sample):
        parts = keras.tree.flatten(_structure(self.encode(sample)))
        return max((len(part) for part in parts if part.ndim), default=1)

    def _sort(self, lengths, length):
        """The lengths in use, and the numbers of the samples of each."""
        found = np.array([length(sample) for sample in self.samples], dtype=int)
        if not found.size:
            raise ValueError("BatchLoader: there are no samples")
        lengths = sorted(lengths or _default_lengths(found.max()))
        places = np.searchsorted(lengths, found)
        if places.max() == len(lengths):
            longest = int(found.argmax())
            raise ValueError(
                f"BatchLoader: sample {longest} has length {found[longest]}, "
                f"more than the last of lengths, {lengths[-1]}"
            )
        used = np.unique(places)
        return [lengths[i] for i in used], [np.flatnonzero(places == i) for i in used]

    def _draw(self):
        """The batches of an epoch: (length, numbers of samples)."""
        batches = []
        for length, members in zip(self.lengths, self._buckets, strict=True):
            size = self.batch_size
            if self.max_tokens is not None:
                size = max(min(size, self.max_tokens // length), 1)
            order = self.rng.permutation(members) if self.shuffle else members
            parts = [order[i : i + size] for i in range(0, len(order), size)]
            if self.drop_last and len(parts[-1]) < size:
                parts.pop()
            batches += [(length, part) for part in parts]
        if not batches:
            raise ValueError("BatchLoader: drop_last leaves no batch")
        if self.shuffle:
            batches = [batches[i] for i in self.rng.permutation(len(batches))]
        # TensorFlow takes what the first two batches share for the shape of all.
        other = next((i for i, (n, _) in enumerate(batches) if n != batches[0][0]), None)
        if other is not None:
            batches[1], batches[other] = batches[other], batches[1]
        self._batches = batches

    @property
    def order(self):
        """The numbers of the samples, in the order of this epoch's batches: int `(samples,)`."""
        return np.concatenate([numbers for _, numbers in self._batches])

    def __len__(self):
        return len(self._batches)

    def on_epoch_end(self):
        if self.shuffle:
            self._draw()

    def __getitem__(self, index):
        length, numbers = self._batches[index]
        job = (length, [self.samples[i] for i in numbers])
        if not self.processes:
            return self._make(job)
        with self._lock:
            if self._pool is None:
                self._pool = process_pool(self._make, self.processes)
            future = self._pool.submit(work, job)
        return result_of(future)

    def _make(self, job):
        length, samples = job
        encoded = [_structure(self.encode(sample)) for sample in samples]
        padding = _structure(self.padding)
        if not keras.tree.is_nested(padding):
            padding = keras.tree.map_structure(lambda _: padding, encoded[0])

        def stack(value, *parts):
            if parts[0].ndim == 0:
                return np.stack(parts)
            return sequence_padding(parts, length, value)

        batch = keras.tree.map_structure(stack, padding, *encoded)
        return batch if isinstance(batch, tuple) else (batch,)

    def close(self):
        """End the worker processes; they start again when they are needed."""
        with self._lock:
            if self._pool is not None:
                end_pool(self._pool)
                self._pool = None

    def __getstate__(self):
        return {**vars(self), "_pool": None, "_lock": None}


def _structure(sample):
    """A sample's tuples and dicts, with arrays in them."""
    if isinstance(sample, dict):
        return {key: _structure(part) for key, part in sample.items()}
    if isinstance(sample, tuple):
        return tuple(map(_structure, sample))
    return np.asarray(sample)


def _default_lengths(longest):
    """16, 24, 32, 48, 64, …, the last one enough for the longest."""
    lengths = [16]
    while lengths[-1] < longest:
        lengths.append(lengths[-1] * 3 // 2 if len(lengths) % 2 else lengths[-2] * 2)
    return lengths
