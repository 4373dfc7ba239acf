"""Cross entropy for several labels at once."""

from bert4keras3 import ops
from bert4keras3.backend.activations import register
from bert4keras3.backend.labels import check_labels, spoil
from bert4keras3.backend.shapes import at_least_float32, dtype
from bert4keras3.ops import keras


@register
def multilabel_categorical_crossentropy(y_true, y_pred, mask=None):
    """Cross entropy for several labels at once, without thresholds.

    Args:
        y_true: `(..., classes)`, the probability in [0, 1] that a class is a target.
        y_pred: `(..., classes)`, real scores (no sigmoid, no softmax); classes
            scored -inf are left out.
        mask: bool `(...)`; False for rows whose loss is 0.

    Returns:
        `(...)`: one loss per row. Predict the classes with score > 0.

    Source: https://kexue.fm/archives/7359 and https://kexue.fm/archives/9064
    """
    y_pred = at_least_float32(y_pred)
    y_true = ops.cast(y_true, y_pred.dtype)
    low = ops.lowest(dtype(y_pred))
    counted = y_pred > low
    # Replaced before any arithmetic: an infinite score would make the gradient NaN.
    scores = ops.where(counted, y_pred, ops.zeros_like(y_pred))

    def side(sign, probability):
        possible = probability > 0
        logits = sign * scores + ops.log(ops.where(possible, probability, 1))
        logits = ops.where(ops.logical_and(counted, possible), logits, low)
        return _logsumexp_with_zero(logits)

    return _kept(side(1, 1 - y_true) + side(-1, y_true), mask)


@register
def sparse_multilabel_categorical_crossentropy(y_true, y_pred, mask_zero=False, mask=None):
    """`multilabel_categorical_crossentropy` where the targets are class numbers.

    Args:
        y_true: int `(..., positives)`, the target classes.
        y_pred: `(..., classes)`, real scores; classes scored -inf are left out.
        mask_zero: class 0 is padding: it is neither target nor class.
        mask: bool `(...)`; False for rows whose loss is 0.

    Returns:
        `(...)`: one loss per row.

    Raises:
        ValueError: a target out of range; in a compiled program the loss is NaN.

    Source: https://kexue.fm/archives/7359
    """
    y_true, y_pred = ops.cast(y_true, "int32"), at_least_float32(y_pred)
    low = ops.lowest(dtype(y_pred))
    counted = None if mask is None else ops.cast(mask, "bool")[..., None]
    name = "sparse_multilabel_categorical_crossentropy"
    classes = ops.shape(y_pred)[-1]  # TensorFlow may not know it before
    fine = check_labels(y_true, classes, name, counted)
    y_true = ops.where(ops.logical_and(y_true >= 0, y_true < classes), y_true, 0)
    scores = ops.maximum(y_pred, low)
    positive = ops.take_along_axis(scores, y_true, axis=-1)
    keep = positive > low
    if mask_zero:
        keep = ops.logical_and(keep, y_true != 0)
        scores = ops.concatenate([ops.full_like(scores[..., :1], low), scores[..., 1:]], axis=-1)

    def targets(x):
        return ops.where(keep, x, low)

    positive_loss = _logsumexp_with_zero(targets(-positive))
    everything = _logsumexp_with_zero(scores)
    share = _logsumexp(targets(positive)) - everything
    rest = ops.clip(1 - ops.exp(share), keras.config.epsilon(), 1)
    return _kept(spoil(positive_loss + everything + ops.log(rest), fine), mask)


# The documents' spelling of the name above.
msparse_multilabel_categorical_crossentropy = sparse_multilabel_categorical_crossentropy


def _kept(loss, mask):
    return loss if mask is None else ops.where(ops.cast(mask, "bool"), loss, ops.zeros_like(loss))


def _logsumexp(x):
    peak = ops.stop_gradient(ops.max(x, axis=-1, keepdims=True))
    return ops.log(ops.sum(ops.exp(x - peak), axis=-1)) + peak[..., 0]


def _logsumexp_with_zero(x):
    return _logsumexp(ops.concatenate([x, ops.zeros_like(x[..., :1])], axis=-1))
