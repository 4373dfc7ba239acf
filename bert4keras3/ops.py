"""`keras.ops`, whole, and the few operations this library needs beside it.

The only place that knows how a backend does something `keras.ops` does badly.
"""

import contextlib
import math
import threading

from bert4keras3._environment import select_backend, uses_tf_keras

select_backend()

import numpy as np  # noqa: E402
from keras import ops as _keras_ops  # noqa: E402
from keras.ops import *  # noqa: E402, F403

if uses_tf_keras():
    from bert4keras3 import _keras2 as seam
else:
    from bert4keras3 import _keras3 as seam

keras = seam.keras


def lowest(dtype):
    """The most negative finite number of a float dtype, halved so that sums stay finite.

    A score set to it vanishes in a softmax; unlike -inf, a row of nothing else
    gives a uniform distribution instead of NaN.

    Args:
        dtype: a float dtype name, e.g. `'bfloat16'`.
    """
    return {"float16": -3e4}.get(keras.backend.standardize_dtype(dtype), -1e30)


def has_values(x):
    """Whether a tensor's numbers can be read now: not within a program being compiled."""
    if isinstance(x, keras.KerasTensor) or seam.in_symbolic_scope():
        return False  # Keras may ask for shapes with numbers it made up
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return not isinstance(x, jax.core.Tracer)
    if backend == "torch":
        return getattr(getattr(x, "device", None), "type", None) != "meta"
    return hasattr(x, "numpy") or isinstance(x, np.ndarray)


# Tokens that `by_rows` computes at a time.
TOKENS_AT_ONCE = 512

_mode = threading.local()


@contextlib.contextmanager
def direct():
    """For a loop that runs operation by operation, on tensors nobody else holds.

    Within it `write_rows` overwrites the cache it is given, and the layers of this
    library leave out Keras' checks of a call, which take longer than a small layer.
    """
    before, _mode.direct = is_direct(), True
    try:
        yield
    finally:
        _mode.direct = before


def is_direct():
    """Whether a `direct()` is around."""
    return getattr(_mode, "direct", False)


def write_rows(cache, rows, positions):
    """Write new rows into a cache, each batch row at its own positions.

    Args:
        cache: `(batch, slots, ...)`.
        rows: `(batch, n, ...)`, the new values.
        positions: int `(batch, n)`, the slot of each new value; slots beyond the
            cache are written nowhere that is read later (clamped to the last).

    Returns:
        The cache with the rows written, same shape and dtype.
    """
    batch, slots = _keras_ops.shape(cache)[:2]
    positions = _keras_ops.minimum(_keras_ops.cast(positions, "int32"), slots - 1)
    row_ids = _keras_ops.arange(batch, dtype="int32")[:, None]
    return _write(cache, (row_ids, positions), rows, _keras_ops.shape(rows)[:2])


def write_heads(cache, rows, positions):
    """Write new keys or values into a cache that has its heads first.

    Args:
        cache: `(batch, heads, slots, size)`; the slots of a head lie together, as
            the products of a decoding step read them.
        rows: `(batch, n, heads, size)`, the new ones.
        positions: int `(batch, n)`, as for `write_rows`.

    Returns:
        The cache with the rows written, same shape and dtype.
    """
    batch, heads, slots = _keras_ops.shape(cache)[:3]
    positions = _keras_ops.minimum(_keras_ops.cast(positions, "int32"), slots - 1)
    row_ids = _keras_ops.arange(batch, dtype="int32")[:, None, None]
    head_ids = _keras_ops.arange(heads, dtype="int32")[None, None]
    places = (row_ids, head_ids, positions[:, :, None])
    return _write(cache, places, rows, _keras_ops.shape(rows)[:3])


def _write(cache, places, rows, shape):
    """Write rows, `shape` of them, at places that broadcast to this shape."""
    rows = _keras_ops.cast(rows, cache.dtype)
    if is_direct() and keras.backend.backend() == "torch":
        # A repeated row is one row in memory, seen several times.
        cache = cache.clone() if 0 in cache.stride() else cache
        cache[places] = rows
        return cache
    places = [_keras_ops.broadcast_to(place, shape) for place in places]
    indices = _keras_ops.reshape(_keras_ops.stack(places, axis=-1), (-1, len(places)))
    values = _keras_ops.reshape(rows, (-1, *rows.shape[len(places) :]))
    return _keras_ops.scatter_update(cache, indices, values)


def project(x, kernel, transposed=False):
    """x times a matrix of weights.

    XLA multiplies bfloat16 on a CPU 5 to 40 times slower than memory allows, unless
    the product is accumulated in float32 and has two rows at least; on a GPU one row is no
    matrix product to it, which takes longer than two.

    Args:
        x: `(batch, ..., dim)`.
        kernel: `(dim, units)`, or with `transposed` `(units, dim)`.

    Returns:
        `(batch, ..., units)`.
    """
    single = None not in x.shape and math.prod(x.shape[:-1]) == 1
    slow = _is_bfloat16_on_cpu(x, kernel) or (single and _is_half_on_gpu(x, kernel))
    if not slow:
        return _keras_ops.matmul(x, _keras_ops.transpose(kernel) if transposed else kernel)
    import jax

    rows = _keras_ops.reshape(x, (-1, x.shape[-1]))
    contract = (((1,), (1 if transposed else 0,)), ((), ()))
    product = jax.lax.dot_general(
        _keras_ops.concatenate([rows, rows]) if single else rows,
        kernel,
        contract,
        preferred_element_type="float32",
    )
    units = product.shape[-1]
    product = _keras_ops.cast(product[:1] if single else product, x.dtype)
    return _keras_ops.reshape(product, (*x.shape[:-1], units))


# Rows of a table up to which `lookup` chooses among them.
FEW_ROWS = 8


def lookup(table, ids):
    """Rows of a table: `take` on its first axis.

    JAX on a GPU adds the gradients of a row one after another. Of the two rows of a segment
    table that is most of a step of BERT, so few rows are chosen among, by conditions.

    TensorFlow leaves the gradients of a row that is looked up twice apart, and Keras squares
    each: neither Adam's moments nor a norm to clip by would be those of the other backends.

    Args:
        table: `(rows, ...)`, a tensor or a variable of floats.
        ids: int tensor.
    """
    if keras.backend.backend() == "tensorflow":
        return _gather_for_dense_gradients(table, ids)
    rows = table.shape[0]
    if rows > FEW_ROWS or keras.backend.backend() != "jax" or is_jax_on("cpu"):
        return _keras_ops.take(table, ids, axis=0)
    table = _keras_ops.convert_to_tensor(table)
    ids = _keras_ops.reshape(ids, (*_keras_ops.shape(ids), *[1] * (len(table.shape) - 1)))
    found = _keras_ops.full((), float("nan"), dtype=table.dtype)  # as `take` has it beyond the end
    for i in range(rows):
        found = _keras_ops.where(ids == i, table[i], found)
    return found


def _gather_for_dense_gradients(table, ids):
    import tensorflow as tf

    @tf.custom_gradient
    def gather(table):
        def gradient(upstream):
            flat = tf.reshape(upstream, (-1, *table.shape[1:]))
            return tf.math.unsorted_segment_sum(flat, tf.reshape(ids, (-1,)), table.shape[0])

        return _keras_ops.take(table, ids, axis=0), gradient

    # `custom_gradient` wants the variable's value, which Keras' own conversion leaves alone.
    return gather(tf.convert_to_tensor(_keras_ops.convert_to_tensor(table)))


def recur(step, state, xs, remat=False, reverse=False):
    """A loop over the first axis, as `keras.ops.scan`, and differentiable on every backend.

    Keras' own takes results of the state's shape only, on TensorFlow.

    Args:
        step: a function (state, x) -> (state, y) of tensors; x is a list.
        state: a tensor.
        xs: a list of tensors `(steps, ...)`.
        remat: compute a step again for its gradient, instead of keeping what it computed.
        reverse: begin with the last x.

    Returns:
        The last state, and the ys `(steps, ...)`, of the state's dtype, in the order of the xs.
    """
    if xs[0].shape[0] == 1:
        state, y = step(state, [x[0] for x in xs])
        return state, y[None]
    step = keras.remat(step) if remat and is_differentiated() else step
    if keras.backend.backend() != "tensorflow":
        return _keras_ops.scan(step, state, xs, reverse=reverse)
    import tensorflow as tf

    count = xs[0].shape[0]
    steps = tf.shape(xs[0])[0] if count is None else count
    arrays = [
        tf.TensorArray(x.dtype, steps, element_shape=x.shape[1:], clear_after_read=False).unstack(x)
        for x in xs
    ]
    results = tf.TensorArray(state.dtype, steps, infer_shape=True)

    def body(i, state, results):
        place = steps - 1 - i if reverse else i
        state, y = step(state, [array.read(place) for array in arrays])
        return i + 1, state, results.write(place, y)

    # XLA differentiates a loop whose length it knows.
    _, state, results = tf.while_loop(
        lambda i, *_: i < steps, body, (0, state, results), maximum_iterations=steps
    )
    return state, results.stack()


def value_and_gradients(function, arrays, differentiable=False):
    """A function's value and its gradients, wherever in a program: `fit` may be around.

    Args:
        function: of a list of float tensors; returns a scalar tensor.
        arrays: the list.
        differentiable: the gradients will be differentiated themselves. Without it they
            count as constants.

    Returns:
        The value, and the list of gradients; zeros for what the value does not depend on.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        value, gradients = jax.value_and_grad(function)(list(arrays))
    elif backend == "tensorflow":
        import tensorflow as tf

        arrays = [tf.convert_to_tensor(x) for x in arrays]
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            value = function(arrays)
        gradients = tape.gradient(value, arrays, unconnected_gradients="zero")
        gradients = [tf.convert_to_tensor(x) for x in gradients]
    else:
        import torch

        with torch.enable_grad():
            leaves = [x if x.requires_grad else x.detach().requires_grad_() for x in arrays]
            value = function(leaves)
            gradients = torch.autograd.grad(
                value,
                leaves,
                create_graph=differentiable,
                allow_unused=True,
                materialize_grads=True,
            )
    if not differentiable:
        gradients = [_keras_ops.stop_gradient(x) for x in gradients]
    return value, list(gradients)


def seed_states(layer):
    """The variables that the seed generators of a layer, or of a model, count with."""
    return [v for v in layer.variables if v.name == "seed_generator_state"]


def noise_state():
    """What random numbers depend on beside Keras' variables: torch's own, for its dropout.

    Returns:
        What `same_noise` takes; None where there is no such thing.
    """
    if keras.backend.backend() != "torch":
        return None
    import torch

    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None


@contextlib.contextmanager
def same_noise(state):
    """Within it random numbers come as they did after `noise_state()`, and go on as without it."""
    if state is None:
        yield
        return
    import torch

    with torch.random.fork_rng():
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1])
        yield


def is_differentiated():
    """Whether a gradient may be taken of what is computed now."""
    if keras.backend.backend() != "torch":
        return True
    import torch

    return torch.is_grad_enabled()


def cache_dtype(dtype):
    """The dtype of a cache for values of a dtype: float32 for bfloat16 on JAX's CPU backend.

    XLA has no bfloat16 scatter there: each write would convert the whole cache
    twice. A cache is small beside the weights.
    """
    slow = dtype == "bfloat16" and is_jax_on("cpu")
    return "float32" if slow else dtype


def _is_bfloat16_on_cpu(*tensors):
    """Whether these are bfloat16 tensors of JAX on a CPU."""
    return _dtypes(tensors) == {"bfloat16"} and is_jax_on("cpu")


def _is_half_on_gpu(*tensors):
    """Whether these are tensors of 16 bits, of one dtype, of JAX on a GPU."""
    return _dtypes(tensors) in ({"bfloat16"}, {"float16"}) and is_jax_on("gpu")


def _dtypes(tensors):
    return {keras.backend.standardize_dtype(x.dtype) for x in tensors}


def is_jax_on(platform):
    """Whether XLA compiles for a platform, `'cpu'` or `'gpu'`, and through JAX."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == platform


def adopt(array):
    """A tensor with the values of a numpy array that is the caller's to give away.

    JAX takes the memory as it is (where it starts at a multiple of 64 bytes) and torch
    does; TensorFlow copies. Keras' conversion would copy bfloat16 on every backend.

    Args:
        array: any number dtype, `ml_dtypes.bfloat16` too.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.device_put(array)
    if keras.backend.backend() == "torch":
        return as_torch(array)
    return _keras_ops.convert_to_tensor(array)


def as_torch(array):
    """A PyTorch tensor in the memory of a numpy array, `ml_dtypes.bfloat16` too."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(array)


def by_rows(function, arrays, length):
    """A function of rows, some rows at a time where that is faster.

    XLA on a CPU multiplies long activations more slowly than short ones, which stay in its
    caches.

    Args:
        function: of arrays `(rows, ...)`, for each row by itself; returns a pytree of the same.
        arrays: a pytree of arrays `(batch, ...)`.
        length: number of tokens in a row.

    Returns:
        The function's result for all rows.
    """
    if not is_jax_on("cpu"):
        return function(arrays)
    batch = keras.tree.flatten(arrays)[0].shape[0]
    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    group = [n for n in divisors if n == 1 or n * length <= TOKENS_AT_ONCE][-1]
    if group == batch:
        return function(arrays)
    import jax

    groups = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[1:]), arrays)
    result = jax.lax.map(function, groups)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)


def fill(variable, array):
    """Set a Keras variable from a numpy array that is the caller's to give away.

    JAX adopts the memory; torch copies into the variable's own. Keras' `assign`
    would make one more copy on torch, of what may be the largest tensor of all.

    Args:
        variable: a Keras variable.
        array: of its shape; any number dtype, `ml_dtypes.bfloat16` too.
    """
    from bert4keras3 import sharding

    if sharding.is_laid_out(variable):
        sharding.fill(variable, array)
        return
    value = adopt(array)
    if keras.backend.backend() != "torch":
        seam.assign(variable, value)
        return
    import torch

    with torch.no_grad():
        variable.value.copy_(value)
