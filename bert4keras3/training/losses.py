"""Losses for fine-tuning: CoSENT, R-Drop, label smoothing; the multi-label ones beside them."""

from bert4keras3 import ops
from bert4keras3.backend import (
    multilabel_categorical_crossentropy,
    sparse_multilabel_categorical_crossentropy,
)
from bert4keras3.backend.labels import check_labels, masked_mean, spoil
from bert4keras3.backend.shapes import at_least_float32

__all__ = [
    "cosent_loss",
    "masked_mean",
    "multilabel_categorical_crossentropy",
    "pair_similarities",
    "rdrop_crossentropy",
    "smoothed_crossentropy",
    "sparse_multilabel_categorical_crossentropy",
]


def pair_similarities(vectors):
    """Cosine similarities of neighbours: rows 0 and 1, 2 and 3, and so on.

    Args:
        vectors: `(2 n, dim)`.

    Returns:
        `(n,)`.
    """
    vectors = at_least_float32(vectors)
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    # Bounded before the root, whose gradient at 0 is infinite.
    vectors = vectors / ops.sqrt(ops.maximum(squares, 1e-12))
    return ops.sum(vectors[::2] * vectors[1::2], axis=-1)


def cosent_loss(y_true, y_pred, scale=20.0, mask=None):
    """CoSENT: pairs that are labelled more alike should be the more similar ones.

    log(1 + sum of exp(scale · (s_j - s_i))) over all i, j where pair i has the greater label.

    Args:
        y_true: `(pairs,)` or `(pairs, 1)`, any numbers: only their order matters.
        y_pred: similarities, of the same shape; see `pair_similarities`.
        scale: how sharply similarities are told apart.
        mask: bool `(pairs,)`; False for pairs that do not count.

    Returns:
        A scalar; 0 where no two labels differ.

    Source: https://kexue.fm/archives/8847
    """
    similarities = ops.reshape(at_least_float32(y_pred), (-1,)) * scale
    labels = ops.reshape(ops.cast(y_true, similarities.dtype), (-1,))
    ordered = labels[:, None] > labels[None, :]
    if mask is not None:
        mask = ops.cast(ops.reshape(mask, (-1,)), "bool")
        ordered = ops.logical_and(ordered, ops.logical_and(mask[:, None], mask[None, :]))
        similarities = ops.where(mask, similarities, ops.zeros_like(similarities))
    wrong = similarities[None, :] - similarities[:, None]
    wrong = ops.reshape(ops.where(ordered, wrong, ops.lowest(wrong.dtype)), (-1,))
    return ops.logsumexp(ops.concatenate([ops.zeros_like(wrong[:1]), wrong]))


def rdrop_crossentropy(y_true, y_pred, alpha=4.0, from_logits=True, mask=None):
    """Cross entropy and R-Drop: two passes through dropout should agree.

    Each sample stands in the batch twice, one after the other.

    Args:
        y_true: int `(2 n, ...)` or `(2 n, ..., 1)`.
        y_pred: `(2 n, ..., classes)`.
        alpha: weight of the divergence; half the sum of both directions, of each sample,
            counts alpha/2 times.
        from_logits: y_pred are logits, else probabilities.
        mask: bool `(2 n, ...)`; False where the loss is 0.

    Returns:
        `(2 n, ...)`.

    Raises:
        ValueError: a label out of range; in a compiled program its loss is NaN.

    Source: https://arxiv.org/abs/2106.14448, https://kexue.fm/archives/8496
    """
    log_p = _log_probabilities(y_pred, from_logits)
    other = ops.reshape(log_p, (-1, 2, *ops.shape(log_p)[1:]))
    other = ops.reshape(ops.flip(other, axis=1), ops.shape(log_p))
    # KL(p||q) + KL(q||p); a class that both rule out adds nothing.
    divergence = ops.sum((ops.exp(log_p) - ops.exp(other)) * (log_p - other), axis=-1)
    loss, fine = _crossentropy(y_true, log_p, 0.0, mask, "rdrop_crossentropy")
    return _finish(loss + alpha / 4 * divergence, fine, mask)


def smoothed_crossentropy(y_true, y_pred, smoothing=0.1, from_logits=True, mask=None):
    """Cross entropy with a share of the target spread evenly over all classes.

    Args:
        y_true: int `(batch, ...)` or `(batch, ..., 1)`.
        y_pred: `(batch, ..., classes)`.
        smoothing: the share, from 0 to 1.
        from_logits: y_pred are logits, else probabilities.
        mask: bool `(batch, ...)`; False where the loss is 0.

    Returns:
        `(batch, ...)`.

    Raises:
        ValueError: a label out of range (in a compiled program its loss is NaN), or a
            smoothing that is no share.

    Source: https://arxiv.org/abs/1512.00567
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothed_crossentropy: smoothing: expected 0 to 1, got {smoothing}")
    log_p = _log_probabilities(y_pred, from_logits)
    loss, fine = _crossentropy(y_true, log_p, smoothing, mask, "smoothed_crossentropy")
    return _finish(loss, fine, mask)


def _log_probabilities(y_pred, from_logits):
    y_pred = at_least_float32(y_pred)
    if from_logits:
        return ops.log_softmax(y_pred, axis=-1)
    return ops.log(ops.clip(y_pred, 1e-7, 1.0))


def _crossentropy(y_true, log_p, smoothing, mask, name):
    """The cross entropy, and where the labels are in range."""
    labels = ops.cast(ops.reshape(y_true, ops.shape(log_p)[:-1]), "int32")
    counted = None if mask is None else ops.cast(mask, "bool")
    fine = check_labels(labels, log_p.shape[-1], name, counted)
    usable = fine if counted is None else ops.logical_and(fine, counted)
    labels = ops.where(usable, labels, 0)
    chosen = ops.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    return -(1 - smoothing) * chosen - smoothing * ops.mean(log_p, axis=-1), fine


def _finish(loss, fine, mask):
    if mask is not None:
        loss = ops.where(ops.cast(mask, "bool"), loss, ops.zeros_like(loss))
    return spoil(loss, fine)
