"""Optimizers for fine-tuning.  KERAS_BACKEND=jax pytest tests/test_optimizers.py"""

import numpy as np
import pytest
from conftest import needs_keras3
from tiny import assert_close, build, draw, numpy, tensor

from bert4keras3.layers import Embedding, LayerNormalization
from bert4keras3.ops import keras
from bert4keras3.training import AdamW, ByLayer, PiecewiseLinear, layerwise_decay

RATE, DECAY = 0.01, 0.5


def network():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="Transformer-0-FeedForward")(inputs)
    x = LayerNormalization(name="Transformer-0-FeedForward-Norm")(x)
    x = keras.layers.Dense(3, name="Transformer-1-FeedForward")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, name="head")(x))
    for seed, weight in enumerate(model.weights):
        weight.assign(draw(*weight.shape, seed=seed))
    return model


def fitted(model, optimizer, epochs=4, batch_size=8, compiled=False):
    """The weights after some steps of `fit`."""
    model.compile(optimizer, "mse", run_eagerly=not compiled)
    x, y = draw(8, 4, seed=8), draw(8, 1, seed=9)
    model.fit(x, y, batch_size, epochs, verbose=0, shuffle=False)
    return {w.path: numpy(w.value) for w in model.weights}


@needs_keras3
def test_multipliers_and_decay_are_those_of_adamw():
    """Each group of weights is what Keras' own AdamW makes of it, if the rest stands still.

    The first step of AdamW depends on the signs of gradients only.
    """
    multipliers = {"Transformer-0-": 0.25, "head/kernel": 10, "Transformer": 0}
    model = network()
    before = {w.path: numpy(w.value) for w in model.weights}
    after = fitted(model, AdamW(RATE, DECAY, multipliers=multipliers), epochs=1)
    for path, factor in {"Transformer-0-": 0.25, "head/kernel": 10, "head/bias": 1}.items():
        plain = keras.optimizers.AdamW(RATE * factor, DECAY)
        plain.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        expected = fitted(network(), plain, epochs=1)
        for name in (name for name in after if name.startswith(path)):
            assert_close(after[name], expected[name], 1e-6)
            assert np.abs(after[name] - before[name]).max() > RATE * factor / 2
    for name in ("kernel", "bias"):
        name = f"Transformer-1-FeedForward/{name}"
        np.testing.assert_array_equal(after[name], before[name])


@needs_keras3
def test_without_options_it_is_adamw():
    expected = fitted(network(), keras.optimizers.AdamW(RATE, DECAY))
    for name, found in fitted(network(), AdamW(RATE, DECAY, decayed="all")).items():
        assert_close(found, expected[name], 1e-6)


class LayerwiseLion(ByLayer, keras.optimizers.Lion):
    pass


def test_options_of_keras_work(tmp_path):
    """Gradient accumulation, a moving average, a schedule and clipping, and all of it saved."""
    schedule = PiecewiseLinear({2: 1, 6: 0.5}, RATE)
    options = {"global_clipnorm": 1.0, "multipliers": {"head": 2}}
    average = {"use_ema": True, "ema_momentum": 0.5}
    model = network()
    weights = fitted(model, AdamW(schedule, DECAY, **average, **options), compiled=True)
    plain = fitted(network(), AdamW(schedule, DECAY, **options))
    assert all(np.abs(weights[name] - plain[name]).max() > 1e-5 for name in weights)
    accumulated = AdamW(RATE, DECAY, gradient_accumulation_steps=2, **options)
    halves = fitted(network(), accumulated, batch_size=4)
    for name, expected in fitted(network(), AdamW(RATE, DECAY, **options)).items():
        assert_close(halves[name], expected)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is AdamW
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    x, y = draw(8, 4, seed=8), draw(8, 1, seed=9)
    for each in (loaded, model):
        each.fit(x, y, 8, verbose=0)
    for a, b in zip(loaded.weights, model.weights, strict=True):
        assert_close(numpy(a.value), numpy(b.value), 1e-6)
    lion = fitted(network(), LayerwiseLion(RATE, multipliers={"head": 0}))
    np.testing.assert_array_equal(lion["head/kernel"], draw(3, 1, seed=6))
    with pytest.raises(ValueError, match="decayed: expected 'matrices' or 'all', got 'biases'"):
        AdamW(RATE, decayed="biases")
    with pytest.raises(ValueError, match="multipliers: expected 0 or more, got {'a': -1.0}"):
        AdamW(RATE, multipliers={"a": -1})


def test_moving_average_swaps_in_and_out():
    """`use_ema` with a transformer: the averaged weights are evaluated, the others trained."""
    bert = build("bert_classifier", num_hidden_layers=1)
    model, seen = bert.model, []
    x = [np.ones((4, 5), "int32"), np.zeros((4, 5), "int32")]
    y = np.arange(4) % 3
    model.compile(
        AdamW(1e-2, use_ema=True, ema_momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)
    head = model.get_layer("Classifier").kernel
    watch = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: seen.append(numpy(head.value).copy())
    )
    swap = keras.callbacks.SwapEMAWeights()
    model.fit(x, y, epochs=2, validation_data=(x, y), callbacks=[swap, watch], verbose=0)
    assert len(seen) == 2 and np.abs(numpy(head.value) - seen[-1]).max() < 1e-6


def test_layerwise_decay():
    bert = build("bert_heads", prefix="a-")
    optimizer = AdamW(RATE, multipliers=layerwise_decay(bert.model, 0.5, head=3))
    factors = {w.path.split("/")[0]: optimizer.factor_of(w) for w in bert.model.weights}
    assert factors["a-Embedding-Token"] == factors["a-Embedding-Norm"] == 0.125
    assert factors["a-Transformer-0-MultiHeadSelfAttention"] == 0.25
    assert factors["a-Transformer-1-FeedForward-Norm"] == 0.5
    assert factors["a-MLM-Dense"] == factors["a-Pooler-Dense"] == 3
    t5 = build("t5_1_1")
    optimizer = AdamW(RATE, multipliers=layerwise_decay(t5.model, 0.5))
    factors = {w.path.split("/")[0]: optimizer.factor_of(w) for w in t5.model.weights}
    assert factors["Encoder-Transformer-0-FeedForward"] == 0.25
    assert factors["Decoder-Transformer-0-FeedForward"] == 0.5
    assert factors["Embedding-Token"] == factors["Encoder-Embedding-Relative-Position"] == 0.125
    with pytest.raises(ValueError, match="no layers Transformer-<number>"):
        layerwise_decay(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), 0.9)


def test_piecewise_linear():
    schedule = PiecewiseLinear({10: 1, 20: 0.5}, 2e-3)
    steps = {0: 0, 5: 1e-3, 10: 2e-3, 15: 1.5e-3, 20: 1e-3, 99: 1e-3}
    for copy in (schedule, PiecewiseLinear.from_config(schedule.get_config())):
        for step, rate in steps.items():
            assert numpy(copy(tensor(step))) == pytest.approx(rate)
    assert numpy(PiecewiseLinear({0: 1, 10: 0})(0)) == 1


def test_initializer_of_the_model_in_a_head():
    """`bert.initializer` is a kernel initializer, and a new one each time."""
    bert = build("bert")
    heads = [keras.layers.Dense(200, kernel_initializer=bert.initializer) for _ in "ab"]
    model = keras.Model(bert.inputs, [head(bert.output) for head in heads])
    first, second = (numpy(head.kernel) for head in heads)
    assert first.std() == pytest.approx(0.0176, rel=0.1)
    assert np.abs(first - second).max() > 0.01
    copy = keras.Model.from_config(model.get_config())
    assert copy.layers[-1].kernel_initializer.stddev == 0.02


@pytest.mark.parametrize("name", ["adam", "clip"])
def test_gradients_of_a_row_add_up_before_they_are_squared(name):
    """TensorFlow keeps apart what comes from several lookups of a row."""
    ids, target = [0, 0, 0, 1], np.array([3.0, -2.0])
    inputs = keras.Input((4,), dtype="int32")
    layer = Embedding(3, 2, embeddings_initializer="ones")
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(layer(inputs)))
    adam, clipped = keras.optimizers.Adam(0.1), keras.optimizers.SGD(0.1, global_clipnorm=0.1)
    model.compile(adam if name == "adam" else clipped, "mse")
    model.fit(np.array([ids]), target[None], epochs=3, verbose=0)

    table, mean, square = np.ones((3, 2)), 0.0, 0.0
    for step in range(1, 4):
        error = table[ids].mean(0) - target  # the gradient of the mean square of two outputs
        gradient = np.bincount(ids, minlength=3)[:, None] / 4 * error
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        if name == "adam":
            change = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-7)
        else:
            change = gradient * 0.1 / np.sqrt((gradient**2).sum())
        table = table - 0.1 * change
    assert_close(layer.get_weights()[0], table, 1e-4)
