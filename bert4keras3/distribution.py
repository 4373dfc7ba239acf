"""Models over many devices, by `keras.distribution`: JAX only.

    from bert4keras3.distribution import model_parallel

    model_parallel(model=4, data=2)  # 8 devices
    model = build_transformer_model("folder")

A weight's layout follows from what its layer does: of a pair of layers the first is
split by its columns and the second by its rows, so that one sum over the devices is
all a pair needs (https://arxiv.org/abs/1909.08053). Attention is split by heads,
token tables by tokens. What is left is small, and every device has a copy.
"""

import gc
import math
import re
from typing import NamedTuple

from keras.src.backend.common.global_state import get_global_attribute

from bert4keras3 import sharding
from bert4keras3.layers import (
    DisentangledSelfAttention,
    FeedForward,
    GatedAttentionUnit,
    LLamaFeedForward,
    MultiHeadAttention,
)
from bert4keras3.layers.recurrent import MatrixMemory
from bert4keras3.layers.rwkv6 import ChannelMix
from bert4keras3.ops import keras, seam

DATA_AXIS, MODEL_AXIS = "data", sharding.MODEL_AXIS


class Role(NamedTuple):
    """How the parts of a layer are split.

    Attributes:
        layer: the layer's class.
        columns: its parts that are split by their outputs, a regular expression.
        rows: its parts that are split by their inputs.
        units: the attribute that counts what is split.
        whole: whether it is an error where the devices do not divide them; elsewhere
            the other side of a kernel is split then.
    """

    layer: type
    columns: str
    rows: str
    units: str
    whole: bool = False


ROLES = (
    Role(MultiHeadAttention, "q_dense|query_dense", "o_dense|output_dense", "query_head", True),
    # Key and value heads may be few (grouped queries): then their kernels' rows are split.
    Role(MultiHeadAttention, "k_dense|v_dense|key_dense|value_dense", "", "heads"),
    Role(
        DisentangledSelfAttention,
        "query_dense|key_dense|value_dense",
        "output_dense",
        "num_heads",
        True,
    ),
    # Its i_dense has gates, values and one head beside each other: no columns to split at.
    Role(GatedAttentionUnit, "u_dense|v_dense|vW_dense", "i_dense|o_dense", "units"),
    Role(
        LLamaFeedForward,
        "feedforward_(gate|intermediate)_dense",
        "feedforward_output_dense",
        "units",
    ),
    Role(FeedForward, r"i\d+_dense", "o_dense", "units"),
    Role(MatrixMemory, "dense_[rkvg]", "dense_o", "heads", True),
    Role(ChannelMix, "dense_key|dense_receptance", "dense_value", "expand_size"),
)


# ------------------------------------------------------------------------ setting up


def data_parallel(data=None):
    """Every device has the whole model and its part of each batch; for models built from now on.

    Args:
        data: number of devices, all by default.

    Returns:
        The `keras.distribution.DataParallel`, which has been set.

    Raises:
        ValueError: another backend than JAX, more devices than there are, or models
            that exist already.
    """

    def make(device_mesh):
        # Of several processes each feeds its own part: Keras could only split tf.data.
        return keras.distribution.DataParallel(device_mesh=device_mesh, auto_shard_dataset=False)

    return _set(make, data=data)


def model_parallel(model=None, data=None, layouts=None):
    """Weights are split over devices; for models built from now on.

    Args:
        model: number of devices that a model is split over; all by default.
        data: number of such groups, of which each has a part of the batch; as many as
            there are devices for by default.
        layouts: `{regular expression of a weight's path: axes}`, layouts that differ
            from ours; axes are a tuple of 'data', 'model' or None.

    Returns:
        The `keras.distribution.ModelParallel`, which has been set.

    Raises:
        ValueError: as `data_parallel`; and when a model is built, heads that `model`
            does not divide.
    """

    def make(device_mesh):
        chosen = keras.distribution.LayoutMap(device_mesh)
        for path, axes in (layouts or {}).items():
            chosen[path] = tuple(axes)
        return TransformerParallel(
            layout_map=chosen, batch_dim_name=DATA_AXIS, auto_shard_dataset=False
        )

    return _set(make, data=data, model=model)


def memory_per_device(model):
    """Bytes of a model's weights on each device of this process: `{device name: bytes}`.

    Args:
        model: a Keras model or a transformer.

    Raises:
        ValueError: another backend than JAX.
    """
    _check_backend()
    found = {}
    for variable in _keras_model(model).variables:
        for shard in variable.value.addressable_shards:
            name = f"{shard.device.platform}:{shard.device.id}"
            found[name] = found.get(name, 0) + shard.data.nbytes
    return dict(sorted(found.items(), key=lambda item: int(item[0].partition(":")[2])))


def _set(make, **sizes):
    """Make a distribution over a mesh of these axes, and set it."""
    _check_backend()
    devices = keras.distribution.list_devices()
    sizes = _complete(sizes, len(devices))
    _check_unbuilt()
    shape = tuple(sizes.values())
    mesh = keras.distribution.DeviceMesh(shape, tuple(sizes), devices[: math.prod(shape)])
    distribution = make(device_mesh=mesh)
    keras.distribution.set_distribution(distribution)
    return distribution


def _check_backend():
    backend = keras.backend.backend()
    if backend != "jax":
        raise ValueError(
            f"backend {backend!r}: keras.distribution works on JAX only; set KERAS_BACKEND=jax "
            "before the first import"
        )


def _complete(sizes, available):
    """The sizes of the axes: what is not given takes the devices that are left."""
    import jax

    asked = {name: size for name, size in sizes.items() if size is not None}
    for name, size in asked.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"{name}: expected a number of devices, 1 or more, got {size!r}")
    given = math.prod(asked.values())
    asked = " × ".join(f"{name}={size}" for name, size in asked.items())
    if given > available:
        raise ValueError(
            f"{asked} asks for {given} devices, there are {available}; on a CPU the environment "
            f"variable XLA_FLAGS=--xla_force_host_platform_device_count={given} makes so many"
        )
    left = available // given
    for name in reversed(sizes):
        if sizes[name] is None:
            sizes[name], left = left, 1
    used = math.prod(sizes.values())
    if jax.process_count() > 1 and used != available:
        raise ValueError(
            f"{asked} makes {used} devices of {available}: with several processes all devices "
            "of all of them have to be used"
        )
    return sizes


def _check_unbuilt():
    gc.collect()
    names = sorted(transformer.model.name for transformer in sharding.built)
    if names:
        raise ValueError(
            f"the models {names} were built before: their weights would stay where they are. "
            "Set the distribution before the first model is built, or delete them"
        )


# --------------------------------------------------------------------------- layouts


class TransformerParallel(keras.distribution.ModelParallel):
    """Keras' `ModelParallel`, which asks the layer being built what its weights are for."""

    def get_variable_layout(self, variable):
        layout = getattr(variable, "_layout", None) or self._layout_map[variable.path]
        if layout is None:
            axes = weight_axes(*_being_built(), variable, self.device_mesh)
            layout = keras.distribution.TensorLayout(axes, self.device_mesh)
        return layout


def _being_built():
    """The layer that makes a weight just now, and the layer that it is part of; or None."""
    scopes = get_global_attribute("name_scope_stack") or []
    layers = [scope.caller for scope in scopes if isinstance(scope.caller, keras.layers.Layer)]
    layer, parent = (layers[::-1] + [None, None])[:2]
    return parent, layer


def layout_map(model, mesh, **options):
    """The layouts of a model's weights, for Keras' own `ModelParallel`.

    Args:
        model: a Keras model or a transformer; or a family's key or class, whose layouts
            are then given for any number of blocks.
        mesh: a `keras.distribution.DeviceMesh` with an axis 'model'.
        **options: of a family, arguments of `build_transformer_model` that decide which
            weights there are, e.g. `with_lm=True`.

    Returns:
        A `keras.distribution.LayoutMap`: for each weight that is split its path, a regular
        expression, and the axes.

    Raises:
        ValueError: another backend than JAX, a mesh without an axis 'model', or heads that
            it does not divide.
    """
    _check_backend()
    if MODEL_AXIS not in mesh.axis_names:
        raise ValueError(f"mesh: expected an axis {MODEL_AXIS!r}, got {tuple(mesh.axis_names)}")
    of_family = isinstance(model, (str, type))
    built = _sample(model, mesh, options) if of_family else _keras_model(model)
    found = {}
    for parent, layer in _parts(built):
        for variable in seam.own_variables(layer):
            axes = weight_axes(parent, layer, variable, mesh)
            path = re.escape(variable.path)
            path = re.sub(r"(?<=\\-)0(?=\\-)", r"\\d+", path) if of_family else path
            if any(axes):
                found[path] = axes
    layouts = keras.distribution.LayoutMap(mesh)
    layouts.update(found)
    return layouts


def _keras_model(model):
    return model if isinstance(model, keras.Model) else model.model


def _parts(model):
    """`(the layer it is part of or None, layer)` of all layers, each once."""
    seen, waiting = set(), [(None, layer) for layer in model.layers]
    while waiting:
        parent, layer = waiting.pop(0)
        if id(layer) not in seen:
            seen.add(id(layer))
            yield parent, layer
            waiting += [(layer, part) for part in layer._layers]


def _sample(family, mesh, options):
    """A small model of a family, of one block, whose sizes the mesh divides."""
    from bert4keras3.models import build_transformer_model

    size = sharding.axis_size(mesh, MODEL_AXIS)
    sizes = {
        "vocab_size": 64 * size,
        "hidden_size": 8 * size,
        "num_attention_heads": size,
        "intermediate_size": 8 * size,
        "max_position": 8,
        "hidden_act": "gelu",
    }
    before = sharding.current()
    keras.distribution.set_distribution(None)
    try:
        return build_transformer_model(model=family, **{**sizes, **options, "num_hidden_layers": 1})
    finally:
        keras.distribution.set_distribution(before)


def weight_axes(parent, layer, variable, mesh):
    """The mesh axis, or None, along each axis of a weight.

    Args:
        parent: the layer that `layer` is part of, or None.
        layer: the layer whose weight it is.
        variable: the weight: its name and shape count.
        mesh: the `keras.distribution.DeviceMesh`.

    Raises:
        ValueError: heads that the mesh does not divide.
    """
    shape, size = tuple(variable.shape), sharding.axis_size(mesh, MODEL_AXIS)
    axes = [None] * len(shape)
    if size > 1 and layer is not None:
        for axis in _candidates(parent, layer, variable, size):
            if shape[axis] % size == 0:
                axes[axis] = MODEL_AXIS
                break
    return tuple(axes)


def _candidates(parent, layer, variable, size):
    """Axes along which a weight may be split, the best one first."""
    if isinstance(layer, keras.layers.Embedding) and variable.name == "embeddings":
        # Only what has more rows than columns is a vocabulary.
        return (0, 1) if layer.input_dim > layer.output_dim else ()
    if variable.name not in ("kernel", "bias"):
        return ()
    if not isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense)):
        return ()
    inputs, kernel, outputs, bias = _letters(layer)
    new = [letter for letter in outputs if letter in kernel and letter not in inputs]
    summed = [letter for letter in kernel if letter not in outputs]
    if parent is None or isinstance(parent, keras.Model):
        sides = (new,) if _is_to_vocabulary(layer, variable) else ()
    else:
        sides = _sides(parent, layer.name, size, new, summed)
    if variable.name == "bias":
        return [bias.index(side[0]) for side in sides[:1] if side[0] in bias]
    return [kernel.index(side[0]) for side in sides]


def _letters(layer):
    """The letters of the axes: (inputs, kernel, outputs, bias)."""
    if isinstance(layer, keras.layers.Dense):
        return "d", "du", "u", "u"
    inputs, kernel, outputs = re.split(",|->", layer.equation)
    return inputs, kernel, outputs, layer.bias_axes or ""


def _is_to_vocabulary(layer, variable):
    """Whether a Dense that is part of no other layer gives more than it takes."""
    kernel = variable if variable.name == "kernel" else layer.weights[0]
    return isinstance(layer, keras.layers.Dense) and layer.units > kernel.shape[0]


def _sides(parent, name, size, new, summed):
    """Of a part of a layer the letters to split, the best first."""
    for role in ROLES:
        if not isinstance(parent, role.layer):
            continue
        by_columns = re.fullmatch(role.columns, name)
        if not by_columns and not re.fullmatch(role.rows, name):
            continue
        units = getattr(parent, role.units)
        if units % size == 0:
            return (new, summed) if by_columns else (summed, new)
        if role.whole:
            raise ValueError(
                f"layer {parent.name!r}: its {units} heads ({role.units}) cannot be split over "
                f"the {size} devices of the mesh axis {MODEL_AXIS!r}: choose a number that "
                f"divides {units}"
            )
        return (summed,) if by_columns else (new,)
    return ()
