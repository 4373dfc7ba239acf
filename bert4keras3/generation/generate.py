"""`generate` and `stream`: from prompts to new ids, by the compiled loop."""

from functools import partial

import numpy as np
from tqdm import tqdm

from bert4keras3.generation.beam import beam_search
from bert4keras3.generation.options import Options, whole
from bert4keras3.generation.programs import fetch, new_tokens, programs, whole_rows
from bert4keras3.generation.prompts import check_generates, pack, read_prompts, room
from bert4keras3.generation.random import row_seeds
from bert4keras3.generation.states import join, rows_of
from bert4keras3.ops import keras

# Steps of a stream's compiled stretches: the first soon, the later ones cheaply.
FIRST_CHUNK, LAST_CHUNK = 4, 16


def generate(
    transformer,
    prompts,
    max_new_tokens=None,
    *,
    segments=None,
    states=None,
    num_samples=1,
    num_beams=1,
    length_penalty=1.0,
    early_stopping=False,
    batch_size=32,
    return_log_probs=False,
    progress=None,
    **options,
):
    """See `Transformer.generate`."""
    options = Options(**options)
    rows, segments, single, count = _read(transformer, prompts, segments, max_new_tokens)
    states = _begin(transformer, states, rows)
    whole("batch_size", batch_size, 1), whole("num_samples", num_samples, 1)
    search = _sample
    if whole("num_beams", num_beams, 1) > 1:
        search = partial(
            beam_search,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )
    seed = options.make_seed()
    # Rows of like lengths go together; the results come in the order of the prompts.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    results = [None] * len(rows)
    bar = tqdm(total=len(rows), desc="generate", unit="prompt", disable=_quiet(progress, batches))
    with bar:
        for batch in batches:
            chosen = [rows[i] for i in batch]
            texts = None if segments is None else [segments[i] for i in batch]
            arrays, prompt_length = pack(transformer, chosen, texts, count)
            if states is not None:
                arrays["states"] = join([states[i] for i in batch])
            found = search(
                transformer,
                options,
                arrays,
                prompt_length,
                batch,
                seed,
                num_samples,
                return_log_probs,
            )
            for i, result in zip(batch, found, strict=True):
                results[i] = result
            bar.update(len(batch))
    ids = [[ids for ids, _ in samples] for samples in results]
    log_probs = [[log_probs for _, log_probs in samples] for samples in results]
    if num_samples == 1:
        ids, log_probs = ([samples[0] for samples in x] for x in (ids, log_probs))
    if single:
        ids, log_probs = ids[0], log_probs[0]
    return (ids, log_probs) if return_log_probs else ids


def _read(transformer, prompts, segments, max_new_tokens):
    """Prompts and segments as lists, whether there was one only, and the room for new tokens."""
    check_generates(transformer)
    rows, single = read_prompts(transformer, prompts)
    segments = [segments] if single and segments is not None else segments
    return rows, segments, single, room(transformer, rows, max_new_tokens)


def _quiet(progress, batches):
    """Whether there is no bar: by default for a single batch, and where nobody looks (None)."""
    return (True if len(batches) < 2 else None) if progress is None else not progress


def _sample(transformer, options, arrays, prompt_length, numbers, seed, samples, log_probs):
    """For each prompt a list of (ids, log-probabilities), by the plain loop."""
    plan, settings = options.make_plan(transformer, samples=samples, log_probs=log_probs)
    seeds = row_seeds(seed, [n * samples + k for n in numbers for k in range(samples)])
    begin, go_on = programs(transformer, plan, prompt_length)
    carry = go_on(begin(whole_rows(arrays, seeds, settings)), np.int32(arrays["ids"].shape[1]))
    carry = fetch(carry)
    kept = carry.get("log_probs")
    found = [
        new_tokens(carry["ids"][row], None if kept is None else kept[row], start, end)
        for row, (start, end) in enumerate(zip(carry["starts"], carry["lengths"], strict=True))
    ]
    return [found[i : i + samples] for i in range(0, len(found), samples)]


def _begin(transformer, states, rows):
    """For each row the state it begins with; None for the usual one."""
    if states is not None and transformer.rewinds:
        raise ValueError(
            f"states: {type(transformer).__name__} has none that a text may begin with"
        )
    return None if states is None else rows_of(transformer, states, len(rows))


def stream(transformer, prompts, max_new_tokens=None, *, segments=None, states=None, **options):
    """See `Transformer.stream`."""
    options = Options(**options)
    rows, segments, single, count = _read(transformer, prompts, segments, max_new_tokens)
    plan, settings = options.make_plan(transformer)
    arrays, prompt_length = pack(transformer, rows, segments, count)
    states = _begin(transformer, states, rows)
    if states is not None:
        arrays["states"] = join(states)
    seeds = row_seeds(options.make_seed(), range(len(rows)))
    begin, go_on = programs(transformer, plan, prompt_length)
    return _stream(begin, go_on, whole_rows(arrays, seeds, settings), single)


def _stream(begin, go_on, rows, single):
    """Yields ids, or (row, id) of several rows, in the order of their positions."""
    for _, found in chunks(begin(rows), go_on, rows):
        for row, token in found:
            yield token if single else (row, token)


def chunks(carry, go_on, rows):
    """Yields the carry after every compiled stretch, and what is new in it: [(row, id), ...]."""
    chunk = 1 if keras.backend.backend() == "torch" else FIRST_CHUNK
    known = rows["lengths"]
    while True:
        seen = fetch(carry)
        done = seen["finished"] | (seen["lengths"] >= rows["limits"])
        found = []
        for place in range(int(known.min()), int(seen["lengths"].max())):
            for row in np.flatnonzero((known <= place) & (place < seen["lengths"])):
                found.append((int(row), int(seen["ids"][row, place])))
        yield carry, found
        if done.all():
            return
        known = seen["lengths"]
        carry = go_on(carry, np.int32(chunk))
        chunk = chunk if chunk == 1 else min(chunk * 2, LAST_CHUNK)
