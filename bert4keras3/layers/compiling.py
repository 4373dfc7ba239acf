"""Methods of layers as losses and metrics of `compile`, through `model.save` and back."""

import functools
import weakref

from bert4keras3.layers.base import register_layer

# The last layer of each name: a loaded model's layers are made just before it is compiled.
_layers = weakref.WeakValueDictionary()


@register_layer
class LayerFunction:
    """A method of a layer, `(y_true, y_pred) -> values`, that a saved model remembers.

    Args:
        layer: the layer.
        function: the method's name.
    """

    def __init__(self, layer, function):
        self.layer = layer
        self.__name__ = function
        self._method = getattr(type(layer), function).function

    def __call__(self, y_true, y_pred):
        return self._method(self.layer, y_true, y_pred)

    def get_config(self):
        return {"layer": self.layer.name, "function": self.__name__}

    @classmethod
    def from_config(cls, config):
        if config["layer"] not in _layers:
            raise ValueError(
                f"{config['function']} belongs to a layer {config['layer']!r}, which there is not: "
                "load the model with compile=False, and compile it"
            )
        return cls(_layers[config["layer"]], config["function"])


class for_compile:
    """Decorator of a method `(y_true, y_pred)` of a layer that calls `remember(self)`."""

    def __init__(self, function):
        self.function = function
        functools.update_wrapper(self, function)

    def __get__(self, layer, owner=None):
        return self if layer is None else LayerFunction(layer, self.function.__name__)


def remember(layer):
    """Make a layer one that a loaded loss or metric can be of."""
    _layers[layer.name] = layer
