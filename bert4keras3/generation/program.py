"""Compiles pure functions of pytrees that use Keras variables.

The only place that knows how a backend compiles.
"""

import numpy as np

from bert4keras3 import ops
from bert4keras3.ops import keras


def program(function, variables, donate=(), compiles=True):
    """A compiled form of a function.

    Args:
        function: a function of pytrees of tensors that returns one.
        variables: the Keras variables it reads.
        donate: numbers of the arguments that are not used afterwards.
        compiles: False runs it operation by operation where the backend can.

    Returns:
        A function of pytrees of arrays or tensors.
    """
    return MAKERS[keras.backend.backend()](function, variables, donate, compiles)


def _jax_program(function, variables, donate, compiles):
    import jax

    def pure(values, *arguments):
        mapping = zip(variables, values, strict=True)
        with keras.StatelessScope(state_mapping=list(mapping)):
            return function(*arguments)

    # Variables are passed in: a program that held them would bake them in.
    compiled = jax.jit(pure, donate_argnums=[1 + i for i in donate])
    return lambda *arguments: compiled([v.value for v in variables], *arguments)


def _tensorflow_program(function, variables, donate, compiles):
    import tensorflow as tf

    compiled = tf.function(function, jit_compile=compiles, autograph=False)
    return lambda *arguments: compiled(*_tensors(arguments))


def _torch_program(function, variables, donate, compiles):
    import torch

    def run(*arguments):
        with torch.inference_mode(), ops.direct():
            return function(*keras.tree.map_structure(own, _tensors(arguments)))

    def own(x):
        # numpy arrays that became tensors share their memory, which belongs to the caller
        return x if x.is_inference() else x.clone()

    return run


MAKERS = {"jax": _jax_program, "tensorflow": _tensorflow_program, "torch": _torch_program}


def _tensors(tree):
    def convert(x):
        if isinstance(x, (np.ndarray, np.generic, float, int)):
            return ops.convert_to_tensor(x, dtype=np.asarray(x).dtype.name)
        return x

    return keras.tree.map_structure(convert, tree)
