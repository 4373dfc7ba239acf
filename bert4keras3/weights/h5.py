"""Keras `.weights.h5` files: where each weight of a model lies, and reading them.

Keras stores `layers/<snake_case class>[_k]/<attribute>/.../vars/<n>`, where k counts
the layers of one class name in the order of `model.layers` (by depth in the graph).
Class and attribute names are therefore file format.
"""

import re
from functools import cache

import h5py
import numpy as np
from ml_dtypes import bfloat16

from bert4keras3.layers.adapters import LowRank
from bert4keras3.layers.quantized import Quantizable
from bert4keras3.ops import keras, seam
from bert4keras3.weights.errors import CheckpointError
from bert4keras3.weights.sources import Source

# Files of early Keras 3 versions, and of tf.keras, call the group of layers so.
OLD_ROOT = "_layer_checkpoint_dependencies/"
LAYER_GROUP = re.compile(r"layers/(\w+)/vars")


class KerasWeights(Source):
    """The datasets of a `.weights.h5` file, by path.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file is no HDF5 file, or truncated.
    """

    def __init__(self, path):
        super().__init__(path)
        self._groups = {}
        try:
            self._file = h5py.File(path, "r")
            self._file.visititems(self._add)
        except (OSError, RuntimeError, KeyError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise CheckpointError(
                f"expected an HDF5 file of Keras weights: {error}", path
            ) from None

    def _add(self, name, item):
        name = name.replace(OLD_ROOT, "layers/")
        layer, group = item.attrs.get("name"), LAYER_GROUP.fullmatch(name)
        if group and isinstance(layer, str):
            self._groups[layer] = group[1]
        if isinstance(item, h5py.Dataset) and "/vars/" in name:
            self._entries[name] = item

    def groups_by_name(self, model):
        """`{layer: group}` as the file says it; None where it does not for all that has weights.

        Recent versions of Keras write the layers' names, but read by the groups' numbers.
        """
        for group, layer in _numbered(model.layers):
            found = self._groups.get(layer.name)
            if layer.weights and (found is None or _stem(found) != _stem(group)):
                return None
        return self._groups

    def _read(self, name, entry):
        try:
            value = entry[()]
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"cannot be read: {error}", self.path, name) from None
        if _is_bfloat16(entry):
            # HDF5 has no bfloat16: the two bytes are stored as an opaque type.
            return value.view(bfloat16) if value.dtype.itemsize == 2 else value.astype(bfloat16)
        return np.asarray(value)

    def dtype(self, name):
        entry = self._entry(name)
        return np.dtype(bfloat16) if _is_bfloat16(entry) else entry.dtype

    def close(self):
        self._file.close()


def name_layers(path, model):
    """Write the layers' names into a file of tf.keras, as Keras 3 writes them itself."""
    with h5py.File(path, "r+") as file:
        for layer, group in numbered_groups(model).items():
            place = f"{OLD_ROOT}{group}/vars"
            if place in file:
                file[place].attrs["name"] = layer


def variable_paths(model, groups=None):
    """`{path in a .weights.h5 file: (layer name, variable)}` of a Keras model; no adapters.

    Args:
        model: the model.
        groups: `{layer: group}`, `numbered_groups` by default.
    """
    paths = {}
    for path, owner, layer in _places(model, groups):
        if not isinstance(layer, LowRank):
            own = enumerate(seam.own_variables(layer))
            paths |= {f"{path}/vars/{n}": (owner, variable) for n, variable in own}
    return paths


def named_variables(model):
    """`{name: (layer name, variable)}` of a Keras model, by names of layers and attributes."""
    return {
        f"{name}/{variable.name}": (owner, variable)
        for name, owner, layer in _named_places(model)
        if not isinstance(layer, LowRank)
        for variable in seam.own_variables(layer)
    }


def quantizable_layers(model):
    """`{name: layer}` of what may be quantised, by the names of `named_variables`."""
    return {
        name: layer
        for name, _, layer in _named_places(model)
        if isinstance(layer, Quantizable) and layer.built
    }


def _named_places(model):
    """`_places` with every layer of the model under its own name."""
    groups = {layer.name: layer.name for layer in model.layers}
    for path, owner, layer in _places(model, groups):
        yield path.removeprefix("layers/"), owner, layer


def load_adapters(model, source, groups=None):
    """Give the model's adapters what a file has of them; its kernels are loaded already."""
    for path, _, layer in _places(model, groups):
        if isinstance(layer, LowRank):
            names = (name for name in source if name.startswith(f"{path}/vars/"))
            layer.load_own_variables({name.rpartition("/")[2]: source[name] for name in names})


def numbered_groups(model):
    """`{layer: group}` as Keras numbers them."""
    return {layer.name: group for group, layer in _numbered(model.layers)}


def _stem(group):
    return re.sub(r"_\d+$", "", group)


def _places(model, groups=None):
    """`(path, name of the outermost layer, layer)` of all that a file has a group for."""
    groups = groups or numbered_groups(model)
    for layer in model.layers:
        if layer.weights:
            yield from _below(layer, f"layers/{groups[layer.name]}", layer.name, set())


def _below(layer, path, owner, seen):
    if id(layer) not in seen:
        seen.add(id(layer))
        yield path, owner, layer
        for attribute, child in _children(layer):
            yield from _below(child, f"{path}/{attribute}", owner, seen)


def _children(layer):
    """Sublayers with their place below the layer's group, in Keras' order."""
    if seam.is_functional(layer):
        yield from ((f"layers/{name}", child) for name, child in _numbered(layer.layers))
    for attribute in sorted(set(dir(layer)) - _plain_attributes()):
        if attribute.startswith("_self_"):
            continue  # TensorFlow's own tracking
        try:
            value = getattr(layer, attribute)
        except Exception:  # a property that is not to be had yet
            continue
        if isinstance(value, keras.layers.Layer):
            yield attribute, value
        elif isinstance(value, (list, tuple, dict)):
            items = value.values() if isinstance(value, dict) else value
            layers = [item for item in items if isinstance(item, keras.layers.Layer)]
            yield from ((f"{attribute}/{name}", child) for name, child in _numbered(layers))


@cache
def _plain_attributes():
    """Attributes every layer or model has: none of them is a sublayer's place."""
    return {*dir(keras.layers.Layer()), *dir(keras.Model())}


def _numbered(layers):
    """(group name, layer): the class in snake case, counted from the second on."""
    counts = {}
    for layer in layers:
        stem = snake_case(type(layer).__name__)
        count = counts[stem] = counts.get(stem, -1) + 1
        yield (f"{stem}_{count}" if count else stem), layer


def snake_case(name):
    """Keras' snake case of a class name, e.g. LLamaFeedForward -> l_lama_feed_forward."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _is_bfloat16(dataset):
    return dataset.attrs.get("dtype") == "bfloat16"
