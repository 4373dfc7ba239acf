"""Keras 3: what this library asks of the Keras in use beside its public names.

`_keras2` has the same names, for `tf.keras`; `ops` takes one of the two.
"""

import keras
from keras.src.backend.common.symbolic_scope import in_symbolic_scope  # noqa: F401

# Keras takes objects of this class wherever it takes data; it has no public name.
from keras.src.trainers.data_adapters.data_adapter import DataAdapter  # noqa: F401

is_tf_keras = False
LayerForm = object  # a mixin of all layers of this library


def own_variables(layer):
    """The variables that are a layer's itself, as they were made: freezing one moves none."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def variable_path(variable):
    """The names of a variable's layers and its own, joined by `/`."""
    return variable.path


def assign(variable, value):
    """Set a variable from a tensor of its shape, of any dtype."""
    variable.assign(value)


def producer(tensor):
    """The layer that made a symbolic tensor; None for anything else."""
    history = getattr(tensor, "_keras_history", None)
    return history.operation if history else None


def parents(layer):
    """The layers whose outputs a layer of a functional model reads."""
    return [parent.operation for node in layer._inbound_nodes for parent in node.parent_nodes]


def is_functional(layer):
    """Whether a layer is a functional model."""
    return isinstance(layer, keras.Model) and hasattr(layer, "operations")


def only_keras3(what):
    """Raise where `tf.keras` is in use; here nothing."""
