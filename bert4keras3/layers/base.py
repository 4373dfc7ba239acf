"""The base of every layer here: configuration derived from the constructor."""

import inspect

from bert4keras3 import ops
from bert4keras3.backend import get_activation
from bert4keras3.layers.quantized import CANNOT_TELL, check_unquantized
from bert4keras3.layers.recomputing import recomputed
from bert4keras3.ops import keras, seam

Policy = keras.dtype_policies.DTypePolicy
register_layer = keras.saving.register_keras_serializable("bert4keras3")


class Configured:
    """Mixin: `get_config` returns the constructor's arguments, read from attributes.

    A layer keeps an attribute for each argument of its `__init__`; nothing is
    listed twice. Activations and initializers are serialised.
    """

    def get_config(self):
        check_unquantized(self, CANNOT_TELL)
        config = super().get_config()
        for name in _argument_names(type(self)):
            config[name] = _serialize(getattr(self, name))
        return config


class Direct(seam.LayerForm):
    """Mixin: within `ops.direct()` a call goes straight to the layer's `call`.

    Keras casts inputs and variables between dtypes on the way; a layer that needs
    that, or is quantised, goes that way.
    """

    def __call__(self, *args, **kwargs):
        if ops.is_direct() and self.built:
            policy = self.dtype_policy
            if type(policy) is Policy and policy.compute_dtype == policy.variable_dtype:
                return self.call(*args, **kwargs)
        return super().__call__(*args, **kwargs)


class Layer(Direct, Configured, keras.layers.Layer):
    """A Keras layer that passes masks on and knows its configuration."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def rematerialized_call(self, layer_call, *args, **kwargs):
        # Keras asks for it where the layer was made within a `keras.RematScope`.
        chosen = super().rematerialized_call(layer_call, *args, **kwargs)
        return layer_call if chosen is layer_call else recomputed(self, layer_call)

    def add_layer(self, name, layer_class, input_shape, **options):
        """Make and build a layer of this layer's dtype; `name`, its attribute, is file format."""
        layer = layer_class(dtype=self.dtype_policy, name=name.strip("_"), **options)
        layer.supports_masking = True
        layer.build(tuple(input_shape))
        setattr(self, name, layer)


def _argument_names(cls):
    """Named arguments of the constructors of a class, down to Keras' own."""
    names = []
    for base in cls.__mro__:
        if base.__module__.startswith(("keras.", "tf_keras.")):
            break
        init = vars(base).get("__init__")
        if init is not None:
            parameters = inspect.signature(init).parameters.values()
            names += [
                p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            ]
    return [name for name in dict.fromkeys(names) if name not in ("self", "name")]


def _serialize(value):
    if isinstance(value, (list, tuple)):
        return [_serialize(v) for v in value]
    if isinstance(value, keras.initializers.Initializer) or inspect.isfunction(value):
        return keras.saving.serialize_keras_object(value)
    return value


def fresh(initializer):
    """A copy of an initializer: one Keras object draws the same values for every weight."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    if hasattr(initializer, "clone"):
        return initializer.clone()
    return type(initializer).from_config(initializer.get_config())


def activation_function(identifier):
    """The function of an activation argument, which may be its serialised form."""
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    return get_activation(identifier)
