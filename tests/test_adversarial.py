"""Training with perturbed embeddings.  KERAS_BACKEND=jax pytest tests/test_adversarial.py"""

import keras
import numpy as np
import pytest
import torch
from tiny import assert_close, build, draw, numpy, tensor

from bert4keras3 import ops
from bert4keras3.layers import Embedding, Loss
from bert4keras3.training import (
    adversarial_training,
    gradient_penalty,
    integrated_gradients,
    virtual_adversarial_training,
)

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
    x = keras.layers.Add(dtype=policy)([x, Embedding(2, 4, name="segments-table", dtype=policy)(inputs[1])])
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


def updated(model, weights=WEIGHTS, optimizer=None, loss=True, **options):
    """The weights after one step of `fit`."""
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if loss else None
    model.compile(optimizer or keras.optimizers.SGD(RATE), crossentropy, **options)
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
    assert_step(model, w, loss, updated(trained, weights))
    # The noise is new at each step.
    assert numpy(trained.noise.state.value).tolist() == [7, 1]
