"""Which tokens a prediction comes from."""

from bert4keras3 import ops
from bert4keras3.training.places import find_place
from bert4keras3.training.regularized import in_order


def integrated_gradients(model, inputs, target, layer="Embedding-Token", steps=20):
    """How much each token adds to an output, by integrated gradients.

    The gradient of the output is averaged on the way of the layer's output from zero to what
    it is, and multiplied with it. A row's numbers add up to the output minus that at zero.

    Args:
        model: a functional Keras model with one output `(batch, classes)`.
        inputs: as `model.predict` takes them.
        target: the class, or `(batch,)` classes.
        layer: the embedding layer, or its name.
        steps: points on the way; all go through the model in one batch.

    Returns:
        A float32 numpy array `(batch, length)`.

    Raises:
        ValueError: a layer the model does not have, or one that is called several times.

    Source: https://arxiv.org/abs/1703.01365, https://kexue.fm/archives/7533
    """
    place = find_place(model, layer, "output")
    arrays = in_order(model, inputs)
    rows = arrays[0].shape[0]
    values = place.values(arrays)
    if len(values) != 1:
        raise ValueError(f"layer {layer!r}: expected one call of it, the model has {len(values)}")
    repeated = [ops.repeat(x, steps, axis=0) for x in arrays]
    whole = ops.repeat(values[0], steps, axis=0)
    # The middles of equal parts of the way.
    shares = (ops.arange(steps, dtype=whole.dtype) + 0.5) / steps
    shares = ops.reshape(ops.tile(shares, (rows,)), (-1, *[1] * (len(whole.shape) - 1)))
    targets = ops.repeat(ops.broadcast_to(ops.cast(target, "int32"), (rows,)), steps)

    def output(deltas):
        scores = place.network([*repeated, *deltas], training=False)
        return ops.sum(ops.take_along_axis(scores, targets[:, None], axis=-1))

    _, (gradients,) = ops.value_and_gradients(output, [(shares - 1) * whole])
    mean = ops.mean(ops.reshape(gradients, (rows, steps, *gradients.shape[1:])), axis=1)
    return ops.convert_to_numpy(ops.sum(mean * values[0], axis=-1))
