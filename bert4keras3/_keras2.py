"""`tf.keras` (Keras 2, the package `tf-keras`) as this library uses Keras 3: for TF_KERAS=1.

`keras.ops` on TensorFlow computes within layers of Keras 2, and on its symbolic tensors, as
it does in Keras 3. So nothing is written twice: here is `keras`, the names of `tf_keras` and
a few of Keras 3 beside them, and what layers lack. `_keras3` has the same names.
"""

from types import ModuleType

import keras as keras3
import tensorflow as tf
import tf_keras
from tf_keras.src.engine.keras_tensor import KerasTensor
from tf_keras.src.utils.tf_utils import shape_type_conversion

if keras3.backend.backend() != "tensorflow":
    raise ImportError(
        f"TF_KERAS=1 runs on TensorFlow, but Keras was imported with {keras3.backend.backend()}: "
        "import bert4keras3 first, or set KERAS_BACKEND=tensorflow"
    )

is_tf_keras = True


def only_keras3(what):
    """Raise: something that `tf.keras` has not.

    Raises:
        NotImplementedError: always here.
    """
    raise NotImplementedError(f"{what} needs Keras 3, and TF_KERAS=1 asks for tf.keras: unset it")


# ------------------------------------------------------------------ the names


class _Names(ModuleType):
    """A module with names of its own, and those of another one."""

    def __init__(self, name, module, **own):
        super().__init__(name, module.__doc__)
        vars(self).update(own)
        self._module = module

    def __getattr__(self, name):
        try:
            return getattr(self._module, name)
        except AttributeError:
            message = f"module {self.__name__!r} has no attribute {name!r} under TF_KERAS=1"
            raise AttributeError(message) from None

    def __dir__(self):
        return sorted({*dir(self._module), *vars(self)})


class _Dataset(tf_keras.utils.Sequence):
    """`keras.utils.PyDataset`; `fit` has its arguments in Keras 2."""

    def __init__(self, workers=1, use_multiprocessing=False, max_queue_size=10):
        self.workers = workers
        self.use_multiprocessing = use_multiprocessing
        self.max_queue_size = max_queue_size


def _module(name, **names):
    return _Names(name, ModuleType(name), **names)


keras = _Names(
    "keras",
    tf_keras,
    DTypePolicy=tf_keras.mixed_precision.Policy,
    KerasTensor=KerasTensor,
    Layer=tf_keras.layers.Layer,
    RematScope=lambda *args, **kwargs: only_keras3("remat (RECOMPUTE)"),
    backend=_Names(
        "keras.backend",
        tf_keras.backend,
        is_float_dtype=keras3.backend.is_float_dtype,
        standardize_dtype=keras3.backend.standardize_dtype,
    ),
    config=_module(
        "keras.config",
        epsilon=tf_keras.backend.epsilon,
        floatx=tf_keras.backend.floatx,
        dtype_policy=tf_keras.mixed_precision.global_policy,
        set_dtype_policy=tf_keras.mixed_precision.set_global_policy,
    ),
    distribution=keras3.distribution,
    dtype_policies=_module("keras.dtype_policies", DTypePolicy=tf_keras.mixed_precision.Policy),
    ops=keras3.ops,
    random=keras3.random,
    remat=keras3.remat,
    tree=keras3.tree,
    utils=_Names("keras.utils", tf_keras.utils, PyDataset=_Dataset),
)


# ----------------------------------------------------------------- the layers


class LayerForm:
    """Mixin of all layers of this library: they are called as Keras 3 calls layers."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "build" in vars(cls):
            cls.build = shape_type_conversion(cls.build)  # shapes are tuples

    def add_weight(self, name=None, shape=None, autocast=True, **options):
        """As in Keras 3, all arguments by name; or as Keras 2's own layers call it."""
        options.setdefault("experimental_autocast", autocast)
        scope = tf.get_current_name_scope().split("/")
        if self.name not in scope:  # built by the layer around it
            name = f"{self.name}/{name}"
        return super().add_weight(name=name, shape=shape, **options)

    def quantize(self, *args, **kwargs):
        """Raises: Keras 2 cannot."""
        only_keras3("quantisation")

    def _autographed_call(self):
        return self.call  # loops and conditions are written out already


def own_variables(layer):
    """The variables that are a layer's itself, as they were made: freezing one moves none."""
    return [*layer._trainable_weights, *layer._non_trainable_weights]


def variable_path(variable):
    """The names of a variable's layers and its own, joined by `/`."""
    return variable.name.split(":")[0]


def assign(variable, value):
    """Set a variable from a tensor of its shape, of any dtype."""
    variable.assign(tf.cast(value, getattr(variable, "true_dtype", variable.dtype)))


# ----------------------------------------------------------------- the graphs


def in_symbolic_scope():
    """Whether Keras asks for shapes with numbers it made up."""
    return False


def producer(tensor):
    """The layer that made a symbolic tensor; None for anything else."""
    history = getattr(tensor, "_keras_history", None)
    return history.layer if history else None


def parents(layer):
    """The layers whose outputs a layer of a functional model reads."""
    return [parent.layer for node in layer.inbound_nodes for parent in node.parent_nodes]


def is_functional(layer):
    """Whether a layer is a functional model."""
    return isinstance(layer, tf_keras.Model) and layer._is_graph_network


class DataAdapter:
    """Keras 2 takes iterators, whose batches have to be in its form then."""
