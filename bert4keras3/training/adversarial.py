"""Adversarial training, virtual adversarial training, gradient penalty: a line each, for `fit`."""

from bert4keras3 import ops
from bert4keras3.backend.labels import masked_mean
from bert4keras3.backend.shapes import at_least_float32
from bert4keras3.ops import keras
from bert4keras3.training.places import find_place
from bert4keras3.training.regularized import Regularized


def adversarial_training(model, layer="Embedding-Token", epsilon=0.5, at="table", clean=False):
    """Train on the worst small change of the embeddings, the fast gradient method (FGM).

    The change is epsilon · g / ‖g‖, g being the gradient of the loss.

        model = adversarial_training(model, epsilon=0.5)
        model.compile(...)
        model.fit(...)

    Args:
        model: a functional Keras model.
        layer: the embedding layer, or its name.
        epsilon: length of the change.
        at: `'table'` changes the layer's table, ‖g‖ being the norm of the whole table;
            `'output'` the layer's output, ‖g‖ being the norm of each row of the batch.
        clean: train on the sum of both losses, not on that of the changed model alone.

    Returns:
        A Keras model on the same layers; compile and fit this one, and go on using the other.

    Raises:
        TypeError, ValueError: a model that is not functional, or a place it does not have.

    Source: https://arxiv.org/abs/1605.07725, https://kexue.fm/archives/7234
    """
    place = find_place(model, layer, at)

    def term(step):
        gradients = step.gradients(
            place, lambda deltas: step.loss(place, deltas), place.zeros(step.inputs)
        )
        return step.loss(place, [epsilon * x for x in place.normalize(gradients)])

    term.replaces_loss = not clean
    return Regularized(model, [term])


def virtual_adversarial_training(
    model,
    layer="Embedding-Token",
    epsilon=1.0,
    weight=1.0,
    xi=0.1,
    iterations=1,
    at="output",
    from_logits=None,
    divergence=None,
):
    """Predict the same under the worst small change of the embeddings, without labels (VAT).

    Added to the loss is weight · KL(p ‖ q): p is what the model predicts, and q what it
    predicts under the change of length epsilon that makes the divergence largest. It needs no
    labels: rows of `sample_weight` 0 are unlabelled rows, whose labels may be any.

    Args:
        model: a functional Keras model that predicts distributions over its last axis, or of
            yes and no where that has one entry.
        layer: the embedding layer, or its name.
        epsilon: length of the change.
        weight: of the divergence in the loss.
        xi: length of the change by which the worst direction is looked for.
        iterations: how often it is bettered, from a random one.
        at: `'output'` or `'table'`, see `adversarial_training`.
        from_logits: the outputs are logits; None for what the loss of `compile` says.
        divergence: a function (outputs, changed outputs) -> scalar in place of KL, for models
            whose outputs are no such distributions.

    Returns:
        A Keras model on the same layers, as `adversarial_training` does.

    Raises:
        TypeError, ValueError: a model that is not functional, or a place it does not have.

    Source: https://arxiv.org/abs/1704.03976, https://kexue.fm/archives/7466
    """
    place = find_place(model, layer, at)

    def term(step):
        outputs = keras.tree.map_structure(ops.stop_gradient, step.outputs)

        def diverge(deltas):
            changed = step.predict(place, deltas)
            if divergence is not None:
                return divergence(outputs, changed)
            logits = _has_logits(step.model) if from_logits is None else from_logits
            pairs = zip(*map(keras.tree.flatten, (outputs, changed, step.outputs)), strict=True)
            return sum(divergence_of(p, q, logits, _mask_of(seen)) for p, q, seen in pairs)

        direction = [
            keras.random.normal(ops.shape(x), dtype=x.dtype, seed=step.model.noise)
            for x in place.zeros(step.inputs)
        ]
        for _ in range(iterations):
            start = [xi * x for x in place.normalize(direction)]
            direction = step.gradients(place, diverge, start)
        return weight * diverge([epsilon * x for x in place.normalize(direction)])

    term.replaces_loss = False
    return Regularized(model, [term])


def gradient_penalty(model, layer="Embedding-Token", epsilon=1.0, at="output"):
    """Penalise how strongly the loss depends on the embeddings.

    Added to the loss is epsilon / 2 · ‖g‖², g being the gradient of the (mean) loss.

    Args:
        model: a functional Keras model.
        layer: the embedding layer, or its name.
        epsilon: weight of the penalty.
        at: `'output'`: g is that of the layer's output, at all positions of the batch;
            `'table'`: that of its table.

    Returns:
        A Keras model on the same layers, as `adversarial_training` does.

    Raises:
        TypeError, ValueError: a model that is not functional, or a place it does not have.

    Source: https://kexue.fm/archives/7234
    """
    place = find_place(model, layer, at)

    def term(step):
        gradients = step.gradients(
            place, lambda deltas: step.loss(place, deltas), place.zeros(step.inputs), True
        )
        return epsilon / 2 * sum(ops.sum(ops.square(x)) for x in gradients)

    term.replaces_loss = False
    return Regularized(model, [term])


def divergence_of(p, q, from_logits=False, mask=None):
    """The mean KL(p ‖ q) of distributions.

    Args:
        p, q: `(batch, ..., classes)`; of a last axis of 1, the probability of yes.
        from_logits: they are logits.
        mask: bool `(batch, ...)`; False where a distribution does not count.

    Returns:
        A scalar.
    """
    log_p, log_q = (_log_probabilities(x, from_logits) for x in (p, q))
    return masked_mean(ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1), mask)


def _has_logits(model):
    """Whether the loss of `compile` says that the outputs are logits."""
    if model.loss is None:
        raise ValueError(
            "from_logits: expected True or False, as the model has no loss in compile to say it"
        )
    return getattr(model.loss, "from_logits", False)


def _log_probabilities(x, from_logits):
    x = at_least_float32(x)
    if x.shape[-1] == 1:
        x = ops.concatenate([x, ops.zeros_like(x) if from_logits else 1 - x], axis=-1)
    if from_logits:
        return ops.log_softmax(x, axis=-1)
    return ops.log(ops.maximum(x, keras.config.epsilon()))


def _mask_of(outputs):
    """The mask that Keras remembers of a tensor; None where it is not of its shape."""
    mask = getattr(outputs, "_keras_mask", None)
    fits = mask is not None and len(mask.shape) == len(outputs.shape) - 1
    return mask if fits else None
