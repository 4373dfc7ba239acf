"""Prompts, checked and packed into the arrays of the loop."""

import numbers

import numpy as np

from bert4keras3.generation.options import whole

SEGMENT, POSITION = "Input-Segment", "Input-Position"


def check_generates(transformer):
    """Raise ValueError where a model cannot continue a text, and say why."""
    name = type(transformer).__name__
    if transformer.outputs is None:
        raise ValueError(f"{name} is not built: call build() or build_transformer_model first")
    shape = tuple(transformer.lm_output.shape)
    if len(shape) != 3 or shape[-1] != transformer.vocab_size:
        raise ValueError(
            f"{name} has no language-model head: its last output has the shape {shape}, expected "
            f"(batch, length, {transformer.vocab_size}); build it with with_mlm, with_lm or "
            "final_activation='linear', whichever it has"
        )
    if transformer.attention_kind == "full" and not transformer.has_own_mask:
        raise ValueError(
            f"{name} sees both ways and cannot continue a text: build it with application='lm' "
            "or 'unilm'"
        )
    if transformer.attention_caches:
        raise ValueError(
            f"{name} has attention_caches: generation cannot put them before the keys it remembers"
        )
    if transformer.layer_norm_conds[0] is not None:
        transformer.condition_model  # noqa: B018 raises where there is none


def bucket(length):
    """The length that programs are compiled for: powers of two from 32, from 512 on multiples."""
    if length > 512:
        return -(-length // 512) * 512
    return max(32, 1 << (length - 1).bit_length())


def read_prompts(transformer, prompts):
    """Prompts as lists of ids, and whether there was one that was no list of prompts.

    Args:
        transformer: the model.
        prompts: a list of ids; or several of them as a list, or as an array
            `(batch, length)` padded at either side with the model's padding id.

    Raises:
        ValueError: no prompts, an empty one, one that holds no ids, or ids out of range.
    """
    padded = hasattr(prompts, "shape") and len(prompts.shape) == 2
    if hasattr(prompts, "shape"):
        prompts = np.asarray(prompts).tolist()
    prompts = list(prompts)
    single = bool(prompts) and isinstance(prompts[0], numbers.Integral)
    rows = [prompts] if single else prompts
    if not rows:
        raise ValueError("prompts: expected at least one, got none")
    rows = [_read_ids(row, i, transformer.vocab_size) for i, row in enumerate(rows)]
    if padded and transformer.pad_token_id is not None:
        rows = [_strip(row, transformer.pad_token_id) for row in rows]
    for i, row in enumerate(rows):
        if not row:
            raise ValueError(f"prompt {i} is empty: expected at least one id")
    return rows, single


def _read_ids(row, i, vocab_size):
    try:
        ids = list(row)
    except TypeError:
        raise ValueError(f"prompt {i}: expected a list of ids, got {row!r}") from None
    for place, token in enumerate(ids):
        if not isinstance(token, numbers.Integral) or not 0 <= token < vocab_size:
            raise ValueError(
                f"prompt {i}, position {place}: expected an id from 0 to {vocab_size - 1}, "
                f"got {token!r}"
            )
    return [int(token) for token in ids]


def _strip(row, pad):
    inside = [place for place, token in enumerate(row) if token != pad]
    return row[inside[0] : inside[-1] + 1] if inside else []


def room(transformer, prompts, max_new_tokens):
    """Tokens to generate at most, checked against the model's positions.

    Args:
        transformer: the model.
        prompts: lists of ids.
        max_new_tokens: as asked for; None for 128, or less where that is all there is.

    Raises:
        ValueError: the prompt, or prompt and new tokens, are longer than the limit.
    """
    longest, limit = max(map(len, prompts)), transformer.context_length
    if limit is not None and longest >= limit:
        raise ValueError(
            f"prompt {[len(p) for p in prompts].index(longest)} has {longest} tokens: the model's "
            f"max_position is {limit}, which leaves no room for new ones"
        )
    if max_new_tokens is None:
        return 128 if limit is None else min(128, limit - longest)
    max_new_tokens = whole("max_new_tokens", max_new_tokens, 1)
    if limit is not None and longest + max_new_tokens > limit:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} after a prompt of {longest} tokens goes beyond the "
            f"model's max_position {limit}"
        )
    return max_new_tokens


def pack(transformer, prompts, segments, max_new_tokens, least=0):
    """The arrays of a batch and the prompt length its programs are compiled for.

    Args:
        transformer: the model.
        prompts: lists of ids.
        segments: lists of segment ids, or None for the usual ones.
        max_new_tokens: tokens to add at most.
        least: length that the arrays have at least.

    Returns:
        `{"ids", "extras", "lengths", "limits"}`, and the prompt length.
    """
    lengths = np.array([len(prompt) for prompt in prompts], "int32")
    most, limit = int(lengths.max()), transformer.context_length
    prompt_length = min(bucket(most), limit or bucket(most))
    slots = bucket(most + max_new_tokens)
    slots = max(min(slots, limit or slots), prompt_length, least)
    ids = pack_ids(prompts, slots)
    extras = {
        tensor.name: _extra(transformer, tensor.name, ids.shape, prompts, segments)
        for tensor in transformer.step_inputs[1:]
    }
    limits = np.minimum(lengths + max_new_tokens, slots).astype("int32")
    return {"ids": ids, "extras": extras, "lengths": lengths, "limits": limits}, prompt_length


def pack_ids(rows, length):
    """Lists of ids as an int32 array `(rows, length)`, filled up with 0."""
    ids = np.zeros((len(rows), length), "int32")
    for place, row in zip(ids, rows, strict=True):
        place[: len(row)] = row
    return ids


def _extra(transformer, name, shape, prompts, segments):
    """An input beside the ids, for prompt and new tokens."""
    if name.endswith(POSITION):
        return np.broadcast_to(np.arange(shape[1], dtype="int32"), shape).copy()
    if not name.endswith(SEGMENT):
        raise ValueError(
            f"the model's input {name!r} is unknown: use build_cache_model and feed it"
        )
    array = pack_segments(shape, prompts, segments)
    # UniLM: what is generated is the second text.
    for row, prompt in zip(array, prompts, strict=True):
        end = len(prompt)
        row[end:] = 1 if transformer.attention_kind == "unilm" else row[end - 1]
    return array


def pack_segments(shape, prompts, segments):
    """The segment ids of prompts as an array `shape`, 0 where they are not given, and after them.

    Raises:
        ValueError: not one id a token.
    """
    array = np.zeros(shape, "int32")
    if segments is None:
        return array
    for i, (row, prompt) in enumerate(zip(segments, prompts, strict=True)):
        if len(row) != len(prompt):
            raise ValueError(
                f"segments {i}: expected {len(prompt)} ids, one a token, got {len(row)}"
            )
        array[i, : len(row)] = row
    return array
