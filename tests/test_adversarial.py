"""Training with perturbed embeddings.  KERAS_BACKEND=jax pytest tests/test_adversarial.py"""

import numpy as np
import pytest
import torch
from conftest import needs_keras3
from tiny import assert_close, build, draw, inputs_for, numpy, tensor

from bert4keras3 import ops
from bert4keras3.layers import Embedding, Loss
from bert4keras3.ops import keras
from bert4keras3.training import (
    adversarial_training,
    gradient_penalty,
    integrated_gradients,
    virtual_adversarial_training,
)

pytestmark = needs_keras3
TOKENS = np.array([[3, 5, 0, 0], [2, 2, 7, 0], [6, 1, 4, 4]], "int32")
SEGMENTS = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1]], "int32")
LABELS = np.array([1, 0, 2])
WEIGHTS = np.array([1.0, 0.5, 2.0])
RATE = 0.1
SHAPES = {"tokens": (8, 4), "segments": (2, 4), "hidden": (4, 5), "output": (5, 3)}


class MaskedMean(keras.layers.Layer):
    supports_masking = True

    def call(self, x, mask=None):
        mask = ops.cast(mask, x.dtype)[..., None]
        return ops.sum(x * mask, axis=1) / ops.sum(mask, axis=1)

    def compute_mask(self, x, mask=None):
        return None


def network(policy="float32"):
    """Two inputs, padding, two Denses: small enough to be written down a second time."""
    inputs = [keras.Input((None,), dtype="int32", name=n) for n in ("tokens", "segments")]
    x = Embedding(8, 4, mask_zero=True, name="tokens-table", dtype=policy)(inputs[0])
    x = keras.layers.Add(dtype=policy)(
        [x, Embedding(2, 4, name="segments-table", dtype=policy)(inputs[1])]
    )
    x = MaskedMean(dtype=policy)(x, mask=keras.ops.not_equal(inputs[0], 0))
    x = keras.layers.Dense(5, "tanh", use_bias=False, name="hidden", dtype=policy)(x)
    x = keras.layers.Dense(3, use_bias=False, name="output", dtype=policy)(x)
    model = keras.Model(inputs, x)
    for seed, weight in enumerate(model.weights):
        weight.assign(draw(*weight.shape, seed=seed))
    return model


def reference_weights(model):
    """The weights in float64, by name, as PyTorch leaves."""
    return {
        name: torch.tensor(numpy(weight.value), dtype=torch.float64, requires_grad=True)
        for name, weight in zip(SHAPES, model.weights, strict=True)
    }


def reference_logits(w, table_change=0.0, output_change=0.0):
    tokens, segments = torch.tensor(TOKENS).long(), torch.tensor(SEGMENTS).long()
    x = (w["tokens"] + table_change)[tokens] + output_change + w["segments"][segments]
    mask = (tokens != 0).double()[..., None]
    x = (x * mask).sum(1) / mask.sum(1)
    return torch.tanh(x @ w["hidden"]) @ w["output"]


def reference_loss(w, weights=WEIGHTS, **changes):
    log_p = torch.log_softmax(reference_logits(w, **changes), -1)
    losses = -log_p[torch.arange(3), torch.tensor(LABELS)]
    return (losses * torch.tensor(weights)).sum() / 3


def unit(g, rows):
    norm = g.square().sum((1, 2), keepdim=True).sqrt() if rows else g.square().sum().sqrt()
    return (g / norm).detach()


def changes(at):
    """The name of the reference's change, and a zero one."""
    shape = (3, 4, 4) if at == "output" else (8, 4)
    return f"{at}_change", torch.zeros(shape, dtype=torch.float64, requires_grad=True)


def updated(model, weights=WEIGHTS, compiled=False, **options):
    """The weights after one step of `fit`."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss, run_eagerly=not compiled, **options)
    model.fit(
        {"tokens": TOKENS, "segments": SEGMENTS},
        LABELS,
        sample_weight=weights,
        shuffle=False,
        verbose=0,
    )
    return [numpy(w.value) for w in model.weights]


def assert_step(model, w, loss, found):
    gradients = torch.autograd.grad(loss, list(w.values()))
    for before, g, after in zip(w.values(), gradients, found, strict=True):
        assert_close(after, (before - RATE * g).detach().numpy())


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("at", ["table", "output"])
def test_adversarial_step(at, clean):
    model = network()
    w = reference_weights(model)
    name, zero = changes(at)
    g = torch.autograd.grad(reference_loss(w, **{name: zero}), zero)[0]
    loss = reference_loss(w, **{name: 0.7 * unit(g, at == "output")})
    loss = loss + reference_loss(w) if clean else loss
    trained = adversarial_training(model, "tokens-table", epsilon=0.7, at=at, clean=clean)
    assert_step(model, w, loss, updated(trained))


@pytest.mark.parametrize("at", ["table", "output"])
def test_gradient_penalty_step(at):
    model = network()
    w = reference_weights(model)
    name, zero = changes(at)
    loss = reference_loss(w, **{name: zero})
    g = torch.autograd.grad(loss, zero, create_graph=True)[0]
    loss = loss + 3 / 2 * g.square().sum()
    found = updated(gradient_penalty(model, "tokens-table", epsilon=3, at=at))
    assert_step(model, w, loss, found)


@pytest.mark.parametrize("at", ["table", "output"])
def test_virtual_adversarial_step(at):
    """Unlabelled rows, of weight 0, take part in the divergence."""
    weights = np.array([1.0, 0.0, 2.0])
    model = network()
    w = reference_weights(model)
    name, zero = changes(at)
    trained = virtual_adversarial_training(
        model, "tokens-table", epsilon=0.8, weight=2, xi=0.3, iterations=2, at=at
    )
    trained.noise.state.assign([7, 0])
    noise = keras.random.SeedGenerator(0)
    noise.state.assign([7, 0])
    direction = torch.tensor(numpy(keras.random.normal(zero.shape, seed=noise)))
    p = torch.softmax(reference_logits(w), -1).detach()

    def divergence(change):
        q = torch.log_softmax(reference_logits(w, **{name: change}), -1)
        return (p * (p.log() - q)).sum(-1).mean()

    direction = direction.double()
    for _ in range(2):
        start = (0.3 * unit(direction, at == "output")).requires_grad_()
        direction = torch.autograd.grad(divergence(start), start)[0]
    loss = reference_loss(w, weights) + 2 * divergence(0.8 * unit(direction, at == "output"))
    assert_step(model, w, loss, updated(trained, weights, compiled=at == "output"))
    # The noise is new at each step.
    assert numpy(trained.noise.state.value).tolist() == [7, 1]


def test_value_and_gradients():
    x, y = (tensor(draw(3, seed=seed)) for seed in (1, 2))
    value, (g, nothing) = ops.value_and_gradients(lambda a: ops.sum(a[0] ** 3), [x, y])
    assert_close(numpy(value), (numpy(x) ** 3).sum())
    assert_close(numpy(g), 3 * numpy(x) ** 2)
    assert not numpy(nothing).any()

    def penalty(arrays, differentiable):
        _, (g,) = ops.value_and_gradients(lambda a: ops.sum(a[0] ** 3), arrays, differentiable)
        return ops.sum(g) + ops.sum(arrays[0])

    for differentiable in (True, False):
        _, (g,) = ops.value_and_gradients(lambda a, d=differentiable: penalty(a, d), [x])
        assert_close(numpy(g), 1 + 6 * differentiable * numpy(x))


def test_terms_add_up():
    """One after another: adversarial training, then a penalty on the loss without it."""
    model = network()
    w = reference_weights(model)
    name, zero = changes("table")
    clean = reference_loss(w, table_change=zero)
    g = torch.autograd.grad(clean, zero, retain_graph=True)[0]
    loss = reference_loss(w, table_change=0.5 * unit(g, False))
    name, zero = changes("output")
    g = torch.autograd.grad(reference_loss(w, output_change=zero), zero, create_graph=True)[0]
    penalised = gradient_penalty(model, "tokens-table", epsilon=2)
    found = updated(adversarial_training(penalised, "tokens-table", epsilon=0.5), compiled=True)
    assert_step(model, w, loss + g.square().sum(), found)


class CrossEntropy(Loss):
    """The loss as a layer: next tokens of a sequence, padding left out."""

    def compute_loss(self, inputs, mask=None):
        tokens, logits = inputs
        weights = ops.cast(mask[1][:, 1:], "float32")
        losses = keras.losses.sparse_categorical_crossentropy(
            tokens[:, 1:], ops.cast(logits[:, :-1], "float32"), from_logits=True
        )
        return ops.sum(losses * weights) / ops.sum(weights)


def language_model(name="bert_lm"):
    """A tiny model with dropout whose loss is a layer, and a batch with padding for it."""
    keras.utils.set_random_seed(0)
    rates = {"dropout_rate": 0.3, "attention_dropout_rate": 0.3}
    transformer = build(name, num_hidden_layers=1, **rates)
    tokens = transformer.inputs[-1 if name == "t5" else 0]
    outputs = CrossEntropy(1)([tokens, transformer.outputs[-1]])
    arrays = inputs_for(transformer)
    arrays[0][1, 4:] = 0
    return keras.Model(transformer.inputs, outputs), arrays


def fitted(model, arrays, optimizer, steps=1):
    model.compile(optimizer)
    losses = [model.train_on_batch(arrays) for _ in range(steps)]
    assert np.isfinite(losses).all()
    return [numpy(w.value) for w in model.weights if "float" in w.dtype]


def test_dropout_is_that_of_the_undisturbed_forward():
    """Of length and weight 0 all methods together change nothing, two steps long."""
    expected = fitted(*language_model(), keras.optimizers.SGD(0.1), 2)
    model, arrays = language_model()
    before = [numpy(w.value) for w in model.weights if "float" in w.dtype]
    trained = adversarial_training(model, epsilon=0.0)
    trained = virtual_adversarial_training(trained, epsilon=0.0, from_logits=True)
    trained = gradient_penalty(trained, epsilon=0.0)
    found = fitted(trained, arrays, keras.optimizers.SGD(0.1), 2)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)
    assert max(np.abs(a - c).max() for a, c in zip(found, before, strict=True)) > 1e-3


@pytest.mark.further
@pytest.mark.slow
def test_options_of_keras_go_along():
    """Loss layers, a moving average, accumulated gradients and float16, and two methods.

    T5 looks into one table twice a forward.
    """
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, arrays = language_model("t5")
        trained = adversarial_training(model, epsilon=0.1, at="output")
        trained = virtual_adversarial_training(trained, divergence=mean_square)
        before = [numpy(w.value) for w in model.trainable_weights]
        optimizer = keras.optimizers.Adam(
            1e-3, use_ema=True, ema_momentum=0.9, gradient_accumulation_steps=2
        )
        fitted(trained, arrays, optimizer, 2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert "Scale" in type(trained.optimizer).__name__
    moved = [
        np.abs(numpy(w.value) - b).max()
        for w, b in zip(model.trainable_weights, before, strict=True)
    ]
    assert np.mean(np.array(moved) > 1e-4) > 0.9


def mean_square(outputs, changed):
    return ops.mean(ops.square(ops.cast(outputs, "float32") - ops.cast(changed, "float32")))


def test_the_model_itself_is_trained(tmp_path):
    """Weights, files, metrics and evaluation are those of the model that is given."""
    model = network()
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=plain, metrics=["accuracy"])
    trained = adversarial_training(model, model.get_layer("tokens-table"))
    before = [numpy(w.value) for w in model.weights]
    updated(trained, metrics=["accuracy"])
    assert any(
        np.abs(numpy(w.value) - b).max() > 1e-3 for w, b in zip(model.weights, before, strict=True)
    )
    data = ({"tokens": TOKENS, "segments": SEGMENTS}, LABELS)
    np.testing.assert_allclose(trained.evaluate(*data, verbose=0), model.evaluate(*data, verbose=0))
    trained.save_weights(tmp_path / "m.weights.h5")
    other = network()
    other.load_weights(tmp_path / "m.weights.h5")
    inputs = [TOKENS, SEGMENTS]
    assert_close(other.predict_on_batch(inputs), trained.predict_on_batch(inputs), 1e-6)
    with pytest.raises(NotImplementedError, match="save the model that this one trains"):
        trained.save(tmp_path / "m.keras")


def test_unknown_places():
    model = network()
    with pytest.raises(ValueError, match="the model has no 'Embedding-Token'"):
        adversarial_training(model)
    with pytest.raises(ValueError, match=r"at: expected one of \['output', 'table'\], got 'x'"):
        adversarial_training(model, "tokens-table", at="x")
    with pytest.raises(ValueError, match="'hidden' is a Dense without a table"):
        gradient_penalty(model, "hidden", at="table")
    with pytest.raises(ValueError, match="from_logits: expected True or False"):
        fitted(virtual_adversarial_training(*language_model()[:1]), language_model()[1], "sgd")
    with pytest.raises(TypeError, match="expected a functional Keras model"):
        adversarial_training(keras.layers.Dense(1), "x")


def test_integrated_gradients():
    """They add up to the score, less that of embeddings of zero."""
    model = network()
    inputs = {"tokens": TOKENS, "segments": SEGMENTS}
    shares = integrated_gradients(model, inputs, LABELS, "tokens-table", steps=200)
    assert shares.shape == TOKENS.shape and not shares[TOKENS == 0].any()
    w = reference_weights(model)
    scores = reference_logits(w).detach().numpy()
    w["tokens"] = torch.zeros_like(w["tokens"])
    differences = scores - reference_logits(w).detach().numpy()
    assert_close(shares.sum(axis=1), differences[np.arange(3), LABELS], 1e-3)
    one = integrated_gradients(model, inputs, 2, "tokens-table", steps=200)
    assert_close(one[2], shares[2])
