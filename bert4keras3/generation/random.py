"""Random numbers from a counter: the same on every backend, whatever the batch.

`keras.random` takes no seeds that are tensors on TensorFlow and torch; here the
seed of a row and its position give the number, so that a row draws the same
alone, in a batch, and in a stream.
"""

import numpy as np

from bert4keras3 import ops


def row_seeds(seed, rows):
    """The seeds of rows: int32 `(len(rows),)`, from one number and the rows' own."""
    seeds = [np.random.SeedSequence([seed, row]).generate_state(1)[0] for row in rows]
    return np.array(seeds, "uint32").view("int32")


def uniform(seeds, counters):
    """Uniform numbers in [0, 1): float32 `(batch,)`.

    Args:
        seeds: int32 `(batch,)`.
        counters: int32 `(batch,)`, the positions.

    Source: the finaliser of MurmurHash3 (public domain)
    """
    bits = _mix(seeds ^ _mix(counters * _signed(0x9E3779B9)))
    return ops.cast(_shift(bits, 9), "float32") * 2.0**-23


def _mix(h):
    h = (h ^ _shift(h, 16)) * _signed(0x85EBCA6B)
    h = (h ^ _shift(h, 13)) * _signed(0xC2B2AE35)
    return h ^ _shift(h, 16)


def _shift(h, by):
    """A logical shift to the right: ours are signed integers."""
    return ops.bitwise_and(ops.right_shift(h, by), (1 << (32 - by)) - 1)


def _signed(constant):
    return constant - (1 << 32) if constant >= 1 << 31 else constant
