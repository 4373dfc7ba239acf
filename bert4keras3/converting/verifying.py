"""Reading back what was written, one tensor at a time."""

import numpy as np

from bert4keras3.converting.forms import H5, HF
from bert4keras3.ops import seam
from bert4keras3.weights import CheckpointError, open_source
from bert4keras3.weights.h5 import KerasWeights, variable_paths


def verify(transformer, target, progress):
    """Compare every weight of the model with the file, bit by bit.

    Args:
        transformer: the model that was written.
        target: the `Target`.
        progress: a `Progress`.

    Returns:
        The number of weights.

    Raises:
        CheckpointError: a weight is missing or differs.
    """
    compare = _compare_h5 if target.form == H5 else _compare_tensors
    with progress.stage("verifying"):
        compared = compare(transformer, target, progress)
    unseen = [v for v in transformer.model.trainable_variables if id(v) not in compared]
    missing = [seam.variable_path(variable) for variable in unseen]
    if missing:
        raise CheckpointError(f"written without the weights {missing}", target.path)
    return len(compared)


def _compare_h5(transformer, target, progress):
    places = variable_paths(transformer.model)
    with KerasWeights(target.path) as source:
        for name, (_, variable) in places.items():
            progress.step(len(places))
            _compare(source[name], variable, target, name)
    return {id(variable) for _, variable in places.values()}


def _compare_tensors(transformer, target, progress):
    if target.form == HF:
        rows = transformer.table("hf").items()
        mapping = {layer: [tensor.name for tensor in row] for layer, row in rows}
    else:
        mapping = transformer.variable_mapping()
    compared = set()
    with open_source(target.path) as source:
        for layer, names in mapping.items():
            layer = transformer.layers.get(transformer.prefixed(layer))
            for variable, name in zip(layer.weights if layer else (), names, strict=False):
                _compare(transformer.load_variable(source, name), variable, target, name)
                compared.add(id(variable))
    return compared


def _compare(found, variable, target, name):
    expected = variable.numpy()
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        raise CheckpointError(
            f"expected {expected.dtype} {expected.shape}, found {found.dtype} {found.shape}",
            target.path,
            name,
        )
    # As bytes: NaN is NaN, and -0 is not 0.
    found, expected = (np.ascontiguousarray(x).reshape(-1).view("u1") for x in (found, expected))
    if not np.array_equal(found, expected):
        raise CheckpointError("was written with other numbers than it has", target.path, name)
