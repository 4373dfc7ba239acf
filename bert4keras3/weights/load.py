"""Filling a model's weights from a source, with one report."""

import logging
import math
import os
import warnings
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bert4keras3 import low_bits, ops
from bert4keras3.layers import FeedForward, MultiHeadAttention
from bert4keras3.weights.errors import CheckpointError, MissingTensorError
from bert4keras3.weights.report import LoadReport
from bert4keras3.weights.resize import resize_weight

logger = logging.getLogger("bert4keras3")

# Threads that read tensors, and the bytes (of float32) they may be ahead by.
THREADS = min(4, os.cpu_count() or 1)
AHEAD = 2**27


class Item(NamedTuple):
    """One weight to fill.

    Attributes:
        layer: the layer it belongs to.
        variable: the Keras variable.
        name: its tensor's name in the source.
        read: a function that reads it, in the form of the weight.
    """

    layer: object
    variable: object
    name: str
    read: callable


def fill(items, path, ignore_invalid=False, autoresize=False, unused=(), done=None):
    """Fill variables, one tensor in memory at a time.

    Args:
        items: the `Item`s.
        path: what is loaded, for messages.
        ignore_invalid: keep the initial value of weights that are missing or do
            not fit, with a warning.
        autoresize: resize weights of another shape.
        unused: names in the source that no item asks for, for the report.
        done: a function (layer, ids of the variables filled so far), called when the last
            item of a layer is filled; a layer's items follow each other.

    Returns:
        The `LoadReport`.

    Raises:
        CheckpointError: weights are missing or do not fit; the message is the
            whole report. Nothing has been changed where the source's headers
            told so; weights before an unreadable tensor may be filled.
    """
    report = LoadReport(str(path), unused=sorted(unused))
    layer = None
    for item, read in _read_ahead(items):
        if done is not None and layer not in (None, item.layer):
            done(layer, report.filled)
        layer = item.layer
        label = f"{item.layer.name}: {item.name}"
        try:
            value = read()
        except MissingTensorError:
            report.missing.append(label)
            continue
        shape = tuple(item.variable.shape)
        if value.shape != shape:
            difference = f"{label}, expected {shape}, found {value.shape}"
            is_float = item.variable.dtype not in low_bits.DTYPES.values()
            if not (autoresize and is_float and value.ndim == len(shape)):
                report.mismatched.append(difference)
                continue
            value = resize_weight(value, shape, _resize_scale(item, value.shape))
            report.resized.append(difference)
        ops.fill(item.variable, value)
        report.loaded.append(item.name)
        report.filled.add(id(item.variable))
    if done is not None and layer is not None:
        done(layer, report.filled)
    _conclude(report, ignore_invalid)
    return report


def _read_ahead(items):
    """`(item, function)` each; the function gives what `item.read` does, or raises what it does.

    Threads read and transpose the next tensors meanwhile, numpy lets them.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        waiting, used = deque(), 0
        try:
            for item in items:
                size = math.prod(item.variable.shape) * 4
                while waiting and (len(waiting) > THREADS or used + size > AHEAD):
                    first, future, its_size = waiting.popleft()
                    used -= its_size
                    yield first, future.result
                waiting.append((item, pool.submit(item.read), size))
                used += size
            for item, future, _ in waiting:
                yield item, future.result
        finally:
            for _, future, _ in waiting:
                future.cancel()


def _conclude(report, ignore_invalid):
    if report.complete:
        logger.info("%s", report)
        return
    if not ignore_invalid:
        hint = "ignore_invalid_weights=True keeps the initial value of these weights"
        raise CheckpointError(f"the checkpoint does not fit the model.\n{report}\n  {hint}")
    warnings.warn(f"some weights keep their initial values.\n{report}", stacklevel=4)


def _resize_scale(item, found):
    """Factor that keeps activations in their range after a resize."""
    layer, variable = item.layer, item.variable
    wanted = tuple(variable.shape)
    place = ops.seam.variable_path(variable).split("/")[-2]
    if isinstance(layer, MultiHeadAttention) and place in ("q_dense", "k_dense"):
        return (wanted[-1] / found[-1]) ** 0.25
    if isinstance(layer, FeedForward):
        if place == "o_dense" and len(wanted) == 2:
            return (found[0] / wanted[0]) ** 0.5
        if place != "o_dense" and layer.activation not in ("relu", "leaky_relu"):
            return (wanted[-1] / found[-1]) ** 0.5
    return 1.0


def select_rows(table, keep_tokens=None, compound_tokens=None):
    """Select and compose rows of a table with one row a token.

    Args:
        table: `(tokens, ...)`.
        keep_tokens: ids of the rows to keep, in their new order.
        compound_tokens: rows to add, each the average of a list of ids or of
            `(ids, weights)`; ids count after `keep_tokens`.

    Raises:
        CheckpointError: an id beyond the table.
    """
    if keep_tokens is not None:
        if len(keep_tokens) and max(keep_tokens) >= len(table):
            raise CheckpointError(
                f"keep_tokens asks for token {max(keep_tokens)}, the table has {len(table)} rows"
            )
        table = table[np.asarray(keep_tokens)]
    extra = []
    for item in compound_tokens or []:
        ids, weights = item if isinstance(item, tuple) else (item, None)
        if max(ids) >= len(table):
            raise CheckpointError(
                f"compound_tokens asks for token {max(ids)}, the table has {len(table)} rows"
            )
        wide = table[np.asarray(ids)].astype("float32")
        extra.append(np.average(wide, axis=0, weights=weights).astype(table.dtype))
    return np.concatenate([table, extra]) if extra else table
