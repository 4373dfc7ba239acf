"""Looking around in a model's graph."""


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
    history = getattr(inputs, "_keras_history", None)
    pending = [history.operation if history else inputs]
    while pending:
        layer = pending.pop()
        if layer.name == name:
            return layer
        if layer in seen:
            continue
        seen.add(layer)
        for node in layer._inbound_nodes:
            pending.extend(parent.operation for parent in node.parent_nodes)
    return None
