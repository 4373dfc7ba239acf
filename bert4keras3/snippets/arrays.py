"""Helpers for arrays and objects."""

import numpy as np


def to_array(*args):
    """Lists as numpy arrays: one array, or a list of one for each argument."""
    arrays = [np.array(x) for x in args]
    return arrays[0] if len(arrays) == 1 else arrays


def is_one_of(x, ys):
    """Whether x is one of the objects themselves, not just equal to one."""
    return any(x is y for y in ys)


def softmax(x, axis=-1):
    """The softmax of a numpy array; as exact for large numbers as for small ones."""
    x = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return x / x.sum(axis=axis, keepdims=True)
