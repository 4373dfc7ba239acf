"""Looking around in a model's graph."""

from bert4keras3.ops import seam


def search_layer(inputs, name, exclude_from=None):
    """Find a layer by name, walking the graph upward from a tensor or layer.

    Args:
        inputs: a symbolic tensor of a functional model, or a layer.
        name: the name of the layer looked for.
        exclude_from: layers not to walk through (a set; it is extended).

    Returns:
        The layer, or None where the walk does not meet it.
    """
    seen = exclude_from if exclude_from is not None else set()
    pending = [seam.producer(inputs) or inputs]
    while pending:
        layer = pending.pop()
        if layer.name == name:
            return layer
        if layer in seen:
            continue
        seen.add(layer)
        pending.extend(seam.parents(layer))
    return None
