"""Arrays over many devices: what JAX has to be told beside what Keras tells it.

Without a `keras.distribution` nothing here does anything. It never changes a number,
only where numbers lie.
"""

import weakref

import numpy as np

from bert4keras3.ops import keras
from bert4keras3.weights.sources import owned_array
from bert4keras3.weights.table import transpose

MODEL_AXIS = "model"

# Transformers that have their weights, as long as somebody has them.
built = weakref.WeakSet()


def current():
    """The distribution that is set, or None."""
    return keras.distribution.distribution()


def axis_size(mesh, axis):
    """Number of devices along an axis of a mesh; 1 for an axis it does not have."""
    return dict(zip(mesh.axis_names, mesh.shape, strict=True)).get(axis, 1)


def is_laid_out(variable):
    """Whether a Keras variable has a place on a mesh."""
    return getattr(variable, "_layout", None) is not None


def check_laid_out(variables):
    """Refuse a model that was built before the distribution was set, or for another one.

    Raises:
        ValueError: it names the first such weight.
    """
    distribution = current()
    if distribution is None:
        return
    for variable in variables:
        mesh = variable._layout.device_mesh if is_laid_out(variable) else None
        if mesh is None or mesh.backend_mesh != distribution.device_mesh.backend_mesh:
            raise ValueError(
                f"weight {variable.path!r} is not on the mesh {_describe(distribution)}, but "
                f"{'on one device' if mesh is None else 'on another mesh'}: the model was built "
                "before the distribution was set. Set it first, then build the model; or unset "
                "it by keras.distribution.set_distribution(None)"
            )


def _describe(distribution):
    mesh = distribution.device_mesh
    return " × ".join(f"{n}={s}" for n, s in zip(mesh.axis_names, mesh.shape, strict=True))


def fill(variable, array):
    """Set a variable that has a place on a mesh; every device is given its own part only.

    Keras' `assign` would put the whole array on one device first.

    Args:
        variable: the Keras variable.
        array: of its shape; may be a view of a file that is mapped, of which only the
            parts of this process's devices are read then.
    """
    import jax

    layout, parts = variable._layout, {}
    layout = getattr(layout, "backend_layout", layout)

    def part(index):
        # Devices that hold the same part share it.
        key = tuple((s.start, s.stop) for s in index)
        if key not in parts:
            parts[key] = _own(array[index], np.dtype(variable.dtype))
        return parts[key]

    variable.assign(jax.make_array_from_callback(array.shape, layout, part))


def _own(part, dtype):
    """A copy in memory of its own, aligned; of a transposed view by the fast way."""
    turned = part.ndim == 2 and part.strides[0] < part.strides[1]
    part = transpose(part.T) if turned else owned_array(part)
    return part if part.dtype == dtype else part.astype(dtype)


def spread(tree):
    """Within a compiled program: rows over the data axis, heads over the model axis.

    Args:
        tree: a pytree of tensors, `(batch, ...)` or, of four axes, `(batch, heads, ...)`;
            axes that the mesh does not divide stay whole.
    """
    distribution = current()
    if distribution is None:
        return tree
    mesh = distribution.device_mesh
    names = (distribution.batch_dim_name, MODEL_AXIS)

    def constrain(x):
        if not len(x.shape):
            return x
        axes = [None] * len(x.shape)
        for i, name in enumerate(names[: 2 if len(axes) == 4 else 1]):
            if axis_size(mesh, name) > 1 and x.shape[i] % axis_size(mesh, name) == 0:
                axes[i] = name
        return keras.distribution.distribute_tensor(x, keras.distribution.TensorLayout(axes, mesh))

    return keras.tree.map_structure(constrain, tree)


def to_numpy(x):
    """A numpy array of a tensor or variable whose parts other processes may hold: all call it."""
    x = keras.ops.convert_to_tensor(x)
    if getattr(x, "is_fully_addressable", True) or x.is_fully_replicated:
        return np.asarray(keras.ops.convert_to_numpy(x))
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(x, tiled=True)
