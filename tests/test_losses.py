"""Losses for fine-tuning.  KERAS_BACKEND=jax pytest tests/test_losses.py"""

import functools

import numpy as np
import pytest
from test_labelling import gradients
from tiny import assert_close, draw, numpy, tensor

from bert4keras3 import backend, ops
from bert4keras3.layers import Loss
from bert4keras3.ops import keras
from bert4keras3.training.losses import (
    cosent_loss,
    masked_mean,
    multilabel_categorical_crossentropy,
    pair_similarities,
    rdrop_crossentropy,
    smoothed_crossentropy,
    sparse_multilabel_categorical_crossentropy,
)

LABELS = np.array([[0, 2], [3, 1]])
MASK = np.array([[True, False], [True, True]])


def log_softmax(x):
    x = x.astype("float64")
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_cosent():
    labels, similarities = np.array([1, 0, 2, 0]), np.array([0.3, 0.9, -0.2, 0.1], "float32")

    def expected(rows):
        terms = [
            np.exp(20 * (float(similarities[j]) - float(similarities[i])))
            for i in rows
            for j in rows
            if labels[i] > labels[j]
        ]
        return np.log(1 + sum(terms))

    found = cosent_loss(tensor(labels), tensor(similarities))
    assert_close(numpy(found), expected(range(4)))
    found = cosent_loss(tensor(labels[:, None]), tensor(similarities[:, None]))
    assert_close(numpy(found), expected(range(4)))
    mask = tensor(np.array([True, False, True, True]))
    broken = similarities.copy()
    broken[1] = np.inf
    found = cosent_loss(tensor(labels), tensor(broken), mask=mask)
    assert_close(numpy(found), expected([0, 2, 3]))
    assert numpy(cosent_loss(tensor(np.ones(3)), tensor(draw(3)))) == 0
    assert numpy(cosent_loss(tensor(labels), tensor(draw(4)), mask=tensor(np.zeros(4)))) == 0


def test_pair_similarities():
    x = draw(4, 3)
    norms = np.linalg.norm(x, axis=1)
    expected = [(x[i] @ x[i + 1]) / norms[i] / norms[i + 1] for i in (0, 2)]
    assert_close(numpy(pair_similarities(tensor(x))), expected)
    assert not numpy(pair_similarities(tensor(np.zeros((2, 3), "float32")))).any()


@pytest.mark.parametrize("from_logits", [True, False])
def test_smoothing_and_rdrop(from_logits):
    logits = draw(2, 2, 5)
    log_p = log_softmax(logits)
    given = logits if from_logits else np.exp(log_p).astype("float32")
    chosen = np.take_along_axis(log_p, LABELS[..., None], -1)[..., 0]
    smooth = -0.8 * chosen - 0.2 * log_p.mean(-1)
    options = {"from_logits": from_logits}
    for labels in (LABELS, LABELS[..., None]):
        found = smoothed_crossentropy(tensor(labels), tensor(given), 0.2, **options)
        assert_close(numpy(found), smooth)
    p, q = np.exp(log_p), np.exp(log_p[::-1])
    divergence = ((p - q) * (log_p - log_p[::-1])).sum(-1)
    found = rdrop_crossentropy(tensor(LABELS), tensor(given), 3.0, **options)
    assert_close(numpy(found), -chosen + 0.75 * divergence)
    wild = np.where(MASK, LABELS, -100)
    found = smoothed_crossentropy(tensor(wild), tensor(given), 0.2, mask=tensor(MASK), **options)
    assert_close(numpy(found), np.where(MASK, smooth, 0))


def test_masks_of_multilabel_losses():
    scores = draw(3, 6)
    mask = tensor(np.array([True, False, True]))
    dense = np.random.default_rng(0).integers(0, 2, (3, 6))
    found = multilabel_categorical_crossentropy(tensor(dense), tensor(scores), mask=mask)
    full = multilabel_categorical_crossentropy(tensor(dense), tensor(scores))
    assert_close(numpy(found), numpy(full) * [1, 0, 1])
    sparse = np.array([[1, 2], [9, 9], [3, 3]])
    found = sparse_multilabel_categorical_crossentropy(tensor(sparse), tensor(scores), mask=mask)
    assert numpy(found)[1] == 0 and np.isfinite(numpy(found)).all()
    assert numpy(masked_mean(found, mask)) == pytest.approx(numpy(found)[[0, 2]].mean())
    assert numpy(masked_mean(tensor(draw(2)), tensor(np.zeros(2)))) == 0


def dense_loss(scores):
    targets = np.array([[0, 1, 0, 0.5], [1, 1, 0, 0]], "float32")
    return multilabel_categorical_crossentropy(tensor(targets), scores)


def sparse_loss(scores):
    return sparse_multilabel_categorical_crossentropy(
        tensor(np.array([[1, 0], [2, 3]])), scores, mask_zero=True
    )


LOSSES = {
    "multilabel": (dense_loss, (2, 4)),
    "sparse_multilabel": (sparse_loss, (2, 4)),
    "cosent": (
        lambda x: cosent_loss(tensor(np.array([1, 0, 2])), pair_similarities(x), scale=2),
        (6, 4),
    ),
    "rdrop": (lambda x: rdrop_crossentropy(tensor(LABELS), x), (2, 2, 4)),
    "smoothed": (
        lambda x: smoothed_crossentropy(tensor(LABELS), x, mask=tensor(MASK)),
        (2, 2, 4),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_finite_differences(name):
    loss, shape = LOSSES[name]
    x = draw(*shape, seed=4)
    found = gradients(lambda a: ops.sum(loss(a)), [x])[0]
    expected = np.zeros_like(x)
    for index in np.ndindex(shape):
        moved = np.stack([x, x])
        moved[0][index] += 1e-2
        moved[1][index] -= 1e-2
        up, down = (numpy(loss(tensor(a))).astype("float64").sum() for a in moved)
        expected[index] = (up - down) / 2e-2
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("loss", [dense_loss, sparse_loss], ids=["dense", "sparse"])
def test_gradients_where_classes_are_left_out(loss):
    """As a global pointer's lower triangle is; rows of nothing else too."""
    scores = draw(2, 4)
    scores[0, 2:], scores[1] = -np.inf, -np.inf
    if loss is dense_loss:
        assert numpy(loss(tensor(scores)))[1] == 0
    found = gradients(lambda a: ops.sum(loss(a)), [scores])[0]
    assert np.isfinite(found).all() and not found[0, 2:].any()


@pytest.mark.parametrize(
    "loss",
    [
        sparse_multilabel_categorical_crossentropy,
        smoothed_crossentropy,
        functools.partial(rdrop_crossentropy, alpha=1.0),
    ],
)
def test_labels_out_of_range(loss):
    labels = np.array([[1, 7], [0, 2]])
    scores = draw(2, 2, 5) if "multilabel" not in str(loss) else draw(2, 5)
    with pytest.raises(ValueError, match="1 labels out of range, the first is 7; expected 0 to 4"):
        loss(tensor(labels), tensor(scores))
    with pytest.raises(ValueError, match="smoothing: expected 0 to 1"):
        smoothed_crossentropy(tensor(labels), tensor(scores), smoothing=2)


def test_training_with_a_loss():
    """The losses go into `compile` as they are."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    vectors, labels = draw(8, 4), np.arange(8) % 3
    for loss in (smoothed_crossentropy, rdrop_crossentropy):
        model.compile(keras.optimizers.SGD(0.01), loss)
        # One batch an epoch, in its order: R-Drop's rows come in pairs.
        history = model.fit(vectors, labels, 8, epochs=5, shuffle=False, verbose=0).history["loss"]
        assert history[-1] < history[0]
    assert backend.multilabel_categorical_crossentropy is multilabel_categorical_crossentropy


class Spread(Loss):
    """Two losses of two outputs, the second of them where a mask says so."""

    def compute_loss(self, inputs, mask=None):
        kept = ops.cast(mask[1], inputs[1].dtype)[..., None]
        return ops.mean(ops.square(inputs[0])) + ops.sum(ops.abs(inputs[1]) * kept)


def test_loss_layer_of_several_outputs_with_metrics(tmp_path):
    tokens = keras.Input((3,), dtype="int32")
    hidden = keras.layers.Embedding(5, 4, mask_zero=True)(tokens)
    first = keras.layers.Dense(1, name="first")(keras.layers.Flatten()(hidden))
    second = keras.layers.Dense(2, name="second")(hidden)
    outputs = Spread([1, 0])([first, second])
    model = keras.Model(tokens, outputs)
    assert [x.shape[1:] for x in outputs] == [(3, 2), (1,)]
    model.compile("adam", metrics=[["mae"], ["mse"]])
    x = np.array([[1, 2, 0], [3, 0, 0]])
    y = [np.zeros((2, 3, 2)), np.zeros((2, 1))]
    history = model.fit(x, y, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert {key.rpartition("_")[2] for key in history} == {"loss", "mae", "mse"}
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    predicted = model.predict(x, verbose=0)
    mse = next(value for key, value in logs.items() if key.endswith("mse"))
    assert mse == pytest.approx(np.square(predicted[1]).mean(), rel=1e-4)
    model.save_weights(tmp_path / "m.weights.h5")
    model.load_weights(tmp_path / "m.weights.h5")
