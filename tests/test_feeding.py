"""Data on its way into Keras, on each backend.  KERAS_BACKEND=jax pytest tests/test_feeding.py"""

import os

import numpy as np
import pytest
from conftest import needs_keras3

from bert4keras3.ops import keras
from bert4keras3.snippets import BatchLoader, DataGenerator, WorkerError, sequence_padding

# The first two batches are of one length, which TensorFlow would take for that of all.
LENGTHS = [3, 3, 3, 3, 5, 5, 2, 4, 1]


class Texts(DataGenerator):
    """Batches in the classic form: lists of arrays, padded to what each needs."""

    def __iter__(self, random=False):
        rows = []
        for is_end, length in self.sample(random):
            rows.append(np.full(length, length))
            if len(rows) == self.batch_size or is_end:
                tokens = sequence_padding(rows)
                yield [tokens, np.zeros_like(tokens)], np.array([[len(r) % 2] for r in rows])
                rows = []


def two_inputs():
    tokens, segments = keras.Input((None,), name="tokens"), keras.Input((None,), name="segments")
    summed = keras.ops.sum(tokens, axis=1, keepdims=True) + keras.ops.sum(segments, 1, True)
    return keras.Model([tokens, segments], summed)


def test_forfit_feeds_fit():
    model = two_inputs()
    output = keras.layers.Dense(2, activation="softmax")(model.output)
    model = keras.Model(model.inputs, output)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    generator = Texts(LENGTHS, batch_size=2)
    stream = generator.forfit(random=False)
    for feed in (stream, stream, generator.forfit()):  # a stream may be gone on with
        history = model.fit(feed, steps_per_epoch=len(generator), epochs=2, verbose=0).history
        assert np.isfinite(history["loss"]).all()
    model.evaluate(generator.forfit(random=False), steps=len(generator), verbose=0)


def test_every_batch_is_trained_on_once():
    """Keras looks at a batch before it begins; none is lost by that."""

    class Count(keras.metrics.Sum):
        def update_state(self, y_true, y_pred, sample_weight=None):
            super().update_state(y_pred)

    model = two_inputs()
    model.compile("sgd", "mse", metrics=[Count(name="total")])
    generator = Texts(LENGTHS, batch_size=2)
    history = model.fit(generator.forfit(False), steps_per_epoch=5, epochs=2, verbose=0).history
    assert history["total"] == [sum(n * n for n in LENGTHS)] * 2


@needs_keras3
def test_fortest_feeds_predict():
    model = two_inputs()
    generator = Texts(LENGTHS, batch_size=2)
    found = model.predict(generator.fortest(), steps=len(generator), verbose=0)
    np.testing.assert_array_equal(found[:, 0], [n * n for n in LENGTHS])
    batch = next(generator.fortest())
    assert isinstance(batch, list) and len(batch) == 2

    class One(Texts):
        def __iter__(self, random=False):
            for (tokens, _), labels in super().__iter__(random):
                yield tokens, labels

    tokens = keras.Input((None,))
    single = keras.Model(tokens, keras.ops.sum(tokens, axis=1))
    found = single.predict(One(LENGTHS, 2).fortest(), steps=5, verbose=0)
    np.testing.assert_array_equal(found, [n * n for n in LENGTHS])


def test_other_forms_of_batches():
    class NoTargets(Texts):
        def __iter__(self, random=False):
            for inputs, _ in super().__iter__(random):
                yield inputs, None

    class Named(Texts):
        def __iter__(self, random=False):
            for (tokens, segments), labels in super().__iter__(random):
                yield {"tokens": tokens, "segments": segments}, labels

    for generator in (NoTargets(LENGTHS, 2), Named(LENGTHS, 2)):
        model = two_inputs()
        found = model.predict(generator.fortest(), steps=5, verbose=0)
        assert found.shape == (len(LENGTHS), 1)


def test_generators_that_give_nothing():
    with pytest.raises(ValueError, match="Texts: not one batch in an epoch"):
        next(Texts([], 2).forfit())
    once = Texts(iter([3, 3]), 2).forfit()
    next(once)
    with pytest.raises(ValueError, match="can be read only once"):
        next(once)


def test_errors_of_a_generator_arrive():
    class Broken(Texts):
        def __iter__(self, random=False):
            yield next(super().__iter__(random))
            raise OSError("disk on fire")

    model = two_inputs()
    model.compile("sgd", "mse")
    with pytest.raises(Exception, match="disk on fire"):
        model.fit(Broken(LENGTHS, 2).forfit(), steps_per_epoch=3, verbose=0)


def test_to_dataset():
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("one backend is enough")

    class Samples(DataGenerator):
        def __iter__(self, random=False):
            for _, n in self.sample(random):
                yield [[n] * n, [0] * n], [[n % 2]]

    names = (("tokens", "segments"), ("label",))
    types = (("float32", "float32"), ("float32",))
    shapes = (([None], [None]), ([1],))
    generator = Samples([1, 2, 3], batch_size=2)
    inputs, targets = next(iter(generator.to_dataset(types, shapes, names, padded_batch=True)))
    assert inputs["tokens"].shape[0] == 2 and set(inputs) == {"tokens", "segments"}
    assert targets["label"].shape == (2, 1)
    plain = Samples([2, 2], batch_size=2).to_dataset(types, shapes)
    (tokens, _), (labels,) = next(iter(plain))
    np.testing.assert_array_equal(tokens, [[2, 2], [2, 2]])
    assert isinstance(plain, tf.data.Dataset) and labels.shape == (2, 1)
    model = two_inputs()
    model.compile("sgd", "mse")
    model.fit(
        generator.to_dataset(
            (("float32", "float32"), "float32"), (([None], [None]), [1, 1]), padded_batch=True
        ),
        steps_per_epoch=2,
        verbose=0,
    )


# ------------------------------------------------------------------------ loader


def encode(n):
    return {"tokens": [n] * n, "segments": [0] * n}, n % 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [False, True])
def test_loader_trains(workers, processes):
    model = two_inputs()
    model = keras.Model(model.inputs, keras.layers.Dense(1)(model.output))
    model.compile("adam", "mse")
    samples = list(range(1, 31)) + [3] * 10
    loader = BatchLoader(samples, encode, 4, seed=0, workers=workers, use_multiprocessing=processes)
    history = model.fit(loader, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    loader.close()


@pytest.mark.once
def test_loader_batches():
    samples = list(range(1, 31)) + [3] * 10
    loader = BatchLoader(samples, encode, 4, lengths=[4, 16, 64], seed=0)
    assert loader.lengths == [4, 16, 64]
    orders = []
    for _ in range(2):
        batches = [loader[i] for i in range(len(loader))]
        rows = [inputs["tokens"] for inputs, _ in batches]
        assert sorted(row.max() for x in rows for row in x) == sorted(samples)
        for (inputs, labels), x in zip(batches, rows, strict=True):
            assert x.shape[1] in (4, 16, 64) and len(x) == len(labels) <= 4
            assert x.shape == inputs["segments"].shape
            assert ((x > 0).sum(1) == x.max(1)).all()
        assert rows[0].shape[1] != rows[1].shape[1]
        assert sorted(loader.order) == list(range(40))
        orders.append(loader.order.tolist())
        loader.on_epoch_end()
    assert orders[0] != orders[1]
    again = BatchLoader(samples, encode, 4, lengths=[4, 16, 64], seed=0)
    assert again.order.tolist() == orders[0]


@pytest.mark.once
def test_loader_options():
    loader = BatchLoader(list(range(1, 31)), encode, 8, max_tokens=64, shuffle=False)
    assert all(inputs["tokens"].size <= 64 for inputs, _ in loader)
    assert [x["tokens"].shape[1] for x, _ in loader][:2] == [16, 24]
    full = BatchLoader(list(range(1, 31)), encode, 4, drop_last=True)
    assert all(len(labels) == 4 for _, labels in full)
    padded = BatchLoader([2, 3], encode, padding=({"tokens": -1, "segments": 7}, 0), shuffle=False)
    (inputs, labels) = padded[0]
    assert inputs["tokens"][0].tolist() == [2, 2] + [-1] * 14 and inputs["segments"][0, -1] == 7
    assert labels.tolist() == [0, 1]
    alone = BatchLoader([np.arange(3), np.arange(4)], length=len)
    assert alone[0][0].shape == (2, 16)


@pytest.mark.once
def test_loader_errors():
    with pytest.raises(ValueError, match="there are no samples"):
        BatchLoader([])
    with pytest.raises(ValueError, match="sample 1 has length 9, more than the last of lengths, 4"):
        BatchLoader([2, 9], encode, lengths=[4])
    with pytest.raises(ValueError, match="drop_last leaves no batch"):
        BatchLoader([2, 9], encode, drop_last=True)


@pytest.mark.once
@pytest.mark.parametrize("processes", [False, True])
def test_loader_workers_that_raise(processes):
    def broken(n):
        if n == 7:
            raise KeyError("seven")
        return encode(n)

    loader = BatchLoader(
        list(range(1, 31)), broken, 4, length=lambda n: n, workers=2, use_multiprocessing=processes
    )
    model = two_inputs()
    model.compile("sgd", "mse")
    with pytest.raises(Exception, match="seven"):  # TensorFlow wraps what it was
        model.fit(loader, epochs=1, verbose=0)


@pytest.mark.once
def test_loader_workers_that_die():
    def deadly(n):
        os._exit(3)

    loader = BatchLoader([1, 2], deadly, length=lambda n: n, workers=2, use_multiprocessing=True)
    with pytest.raises(WorkerError, match="a worker process died"):
        loader[0]
    loader.close()
