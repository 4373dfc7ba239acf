"""Labels of sequences: are they labels at all, and which real step comes before another?"""

from bert4keras3 import ops


def check_labels(labels, classes, name, counted=None):
    """Where labels are numbers of classes.

    Args:
        labels: int `(batch, ...)`.
        classes: number of classes.
        name: what the error speaks of.
        counted: bool like labels; False where a label does not matter.

    Returns:
        bool like labels: True where a label is in range, or does not matter.

    Raises:
        ValueError: a label out of range. Within a compiled program numbers cannot be
            looked at: there the loss becomes NaN, see `spoil`.
    """
    labels = ops.cast(labels, "int32")
    fine = ops.logical_and(labels >= 0, labels < classes)
    if counted is not None:
        fine = ops.logical_or(fine, ops.logical_not(counted))
    if ops.has_values(fine):
        wrong = ops.convert_to_numpy(labels)[~ops.convert_to_numpy(fine)]
        if wrong.size:
            raise ValueError(
                f"{name}: {wrong.size} labels out of range, the first is {wrong[0]}; "
                f"expected 0 to {classes - 1}"
            )
    return fine


def spoil(loss, fine):
    """NaN where a label of the row is out of range: a clamped label would train silently.

    Args:
        loss: `(batch, ...)`.
        fine: bool, of one axis more or the same ones.
    """
    if len(fine.shape) > len(loss.shape):
        fine = ops.all(fine, axis=-1)
    return ops.where(fine, loss, ops.cast(float("nan"), loss.dtype))


def previous_steps(counted, reverse=False):
    """The counted step before each step.

    Args:
        counted: bool `(batch, length)`.
        reverse: the counted step after each step instead.

    Returns:
        int32 `(batch, length)`: its number; -1 where there is none.
    """
    if 0 in counted.shape:  # of which torch knows no maximum
        return ops.zeros(counted.shape, dtype="int32")
    length = ops.shape(counted)[1]
    steps = ops.arange(length, dtype="int32")
    known = counted[:, None, :]
    if reverse:
        near = ops.logical_and(known, steps > steps[:, None])
        found = ops.min(ops.where(near, steps, length), axis=-1)
        return ops.where(found < length, found, -1)
    near = ops.logical_and(known, steps < steps[:, None])
    return ops.max(ops.where(near, steps, -1), axis=-1)


def masked_mean(values, mask=None):
    """The mean of what a mask counts; 0 where it counts nothing.

    Args:
        values: `(batch, ...)`.
        mask: of the same shape, or None.

    Returns:
        A scalar.
    """
    if mask is None:
        return ops.mean(values)
    mask = ops.cast(mask, values.dtype)
    # A value that does not count may be infinite, and 0 · inf is NaN.
    kept = ops.where(mask > 0, values, ops.zeros_like(values))
    return ops.sum(kept * mask) / ops.maximum(ops.sum(mask), 1)
