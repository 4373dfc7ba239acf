"""What the texts of a seq2seq model are made from, checked and packed."""

import numpy as np

from bert4keras3 import ops
from bert4keras3.generation.prompts import bucket, pack_ids, pack_segments, read_prompts


def read_sources(transformer, sources):
    """Sources as lists of ids, and whether there was one that was no list of sources.

    Args:
        transformer: a seq2seq model.
        sources: as `read_prompts`; of a decoder alone contexts, the encoder's output: an
            array `(length, hidden)`, or several as a list or as an array
            `(batch, length, hidden)`, where vectors of zeros are padding.

    Raises:
        ValueError: as `read_prompts`, or contexts of another shape.
    """
    if not takes_contexts(transformer):
        return read_prompts(transformer, sources)
    rows = list(sources) if isinstance(sources, (list, tuple)) else sources
    single = not isinstance(rows, list) and len(rows.shape) == 2
    rows = [ops.convert_to_numpy(row) for row in ([rows] if single else rows)]
    size = transformer.hidden_size
    for i, row in enumerate(rows):
        if row.ndim != 2 or row.shape[1] != size or not row.any():
            raise ValueError(
                f"context {i}: expected an array (length, {size}) that is not all zeros, got one "
                f"of shape {row.shape}"
            )
    if not rows:
        raise ValueError("contexts: expected at least one, got none")
    return rows, single


def takes_contexts(transformer):
    """Whether a seq2seq model is a decoder alone."""
    return len(transformer.source_inputs[0].shape) == 3


def read_beginnings(transformer, beginnings, count):
    """What the texts begin with: lists of ids, one a source.

    Args:
        transformer: a seq2seq model.
        beginnings: None for its start token, a list of ids for all, or such a list each.
        count: number of sources.

    Raises:
        ValueError: as `read_prompts`, or another number of lists.
    """
    if beginnings is None:
        beginnings = [transformer.decoder_start_id]
    rows, single = read_prompts(transformer, beginnings)
    rows = rows * count if single else rows
    if len(rows) != count:
        raise ValueError(f"decoder_prompts: expected one for each of {count}, got {len(rows)}")
    return rows


def pack_sources(transformer, sources, segments):
    """The sources of a batch as `Transformer.initial_states` takes them.

    Args:
        transformer: a seq2seq model.
        sources: from `read_sources`.
        segments: lists of segment ids, or None for zeros.
    """
    names = [tensor.name for tensor in transformer.source_inputs]
    lengths = np.array([len(source) for source in sources], "int32")
    shape = (len(sources), bucket(int(lengths.max())))
    if takes_contexts(transformer):
        contexts = np.zeros((*shape, transformer.hidden_size), "float32")
        for place, source in zip(contexts, sources, strict=True):
            place[: len(source)] = source
        return {names[0]: contexts}
    packed = {names[0]: pack_ids(sources, shape[1]), "lengths": lengths}
    if len(names) > 1:
        packed[names[1]] = pack_segments(shape, sources, segments)
    return packed
