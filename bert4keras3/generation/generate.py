"""`generate` and `stream`: from prompts to new ids, by the compiled loop."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from tqdm import tqdm

from bert4keras3.generation.beam import beam_search
from bert4keras3.generation.conditions import read_conditions
from bert4keras3.generation.options import Options, whole
from bert4keras3.generation.programs import fetch, new_tokens, programs, whole_rows
from bert4keras3.generation.prompts import check_generates, pack, read_prompts, room
from bert4keras3.generation.random import row_seeds
from bert4keras3.generation.sources import pack_sources, read_beginnings, read_sources
from bert4keras3.generation.states import join, rows_of
from bert4keras3.ops import keras

# Steps of a stream's compiled stretches: the first soon, the later ones cheaply.
FIRST_CHUNK, LAST_CHUNK = 4, 16


@dataclass(frozen=True)
class Request:
    """Checked prompts, a list entry each.

    Attributes:
        transformer: the model.
        rows: ids that the texts begin with.
        sources: of a seq2seq model what they are made from, else None.
        segments: segment ids of the prompts, or None.
        states: of a recurrent model what each begins with, or None for the usual.
        conditions: of a model with conditional layer norms an array `(prompts, ...)` for
            each of its `condition_inputs`; none of others.
        single: there was one prompt that was no list of prompts.
        count: tokens to add at most.
    """

    transformer: object
    rows: list
    sources: list | None
    segments: list | None
    states: list | None
    conditions: list
    single: bool
    count: int

    @classmethod
    def read(
        cls, transformer, prompts, max_new_tokens, segments, decoder_prompts, states, conditions
    ):
        """Check what `Transformer.generate` was given."""
        check_generates(transformer)
        sources = None
        if transformer.source_inputs:
            sources, single = read_sources(transformer, prompts)
            rows = read_beginnings(transformer, decoder_prompts, len(sources))
        elif decoder_prompts is not None:
            raise ValueError(f"decoder_prompts: {type(transformer).__name__} has no decoder")
        else:
            rows, single = read_prompts(transformer, prompts)
        segments = [segments] if single and segments is not None else segments
        if states is not None:
            if transformer.rewinds:
                name = type(transformer).__name__
                raise ValueError(f"states: {name} has none that a text may begin with")
            states = rows_of(transformer, states, len(rows))
        conditions = read_conditions(transformer, conditions, len(rows))
        count = room(transformer, rows, max_new_tokens)
        return cls(transformer, rows, sources, segments, states, conditions, single, count)

    def pack(self, chosen):
        """The arrays of some prompts, and their prompt length."""
        rows = [self.rows[i] for i in chosen]
        segments = None if self.segments is None else [self.segments[i] for i in chosen]
        texts = segments if self.sources is None else None
        arrays, prompt_length = pack(self.transformer, rows, texts, self.count)
        if self.sources is not None:
            sources = [self.sources[i] for i in chosen]
            arrays["source"] = pack_sources(self.transformer, sources, segments)
        if self.states is not None:
            arrays["states"] = join([self.states[i] for i in chosen])
        if self.conditions:
            arrays["conditions"] = [array[list(chosen)] for array in self.conditions]
        return arrays, prompt_length

    def batches(self, size):
        """Lists of prompts; those of like lengths go together."""
        texts = self.rows if self.sources is None else self.sources
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        return [order[i : i + size] for i in range(0, len(order), size)]


def generate(
    transformer,
    prompts,
    max_new_tokens=None,
    *,
    segments=None,
    decoder_prompts=None,
    states=None,
    conditions=None,
    num_samples=1,
    num_beams=1,
    length_penalty=1.0,
    early_stopping=False,
    batch_size=32,
    first_prompt=0,
    return_log_probs=False,
    progress=None,
    **options,
):
    """See `Transformer.generate`."""
    options = Options(**options)
    request = Request.read(
        transformer, prompts, max_new_tokens, segments, decoder_prompts, states, conditions
    )
    whole("batch_size", batch_size, 1), whole("num_samples", num_samples, 1)
    search = _sample
    if whole("num_beams", num_beams, 1) > 1:
        search = partial(
            beam_search,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )
    seed, first = options.make_seed(), whole("first_prompt", first_prompt, 0)
    batches, total = request.batches(batch_size), len(request.rows)
    # The results come in the order of the prompts.
    results = [None] * total
    bar = tqdm(total=total, desc="generate", unit="prompt", disable=_quiet(progress, batches))
    with bar:
        for batch in batches:
            arrays, prompt_length = request.pack(batch)
            found = search(
                transformer,
                options,
                arrays,
                prompt_length,
                [first + i for i in batch],
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
    if request.single:
        ids, log_probs = ids[0], log_probs[0]
    return (ids, log_probs) if return_log_probs else ids


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


def stream(
    transformer,
    prompts,
    max_new_tokens=None,
    *,
    segments=None,
    decoder_prompts=None,
    states=None,
    conditions=None,
    **options,
):
    """See `Transformer.stream`."""
    options = Options(**options)
    request = Request.read(
        transformer, prompts, max_new_tokens, segments, decoder_prompts, states, conditions
    )
    plan, settings = options.make_plan(transformer)
    arrays, prompt_length = request.pack(range(len(request.rows)))
    seeds = row_seeds(options.make_seed(), range(len(request.rows)))
    begin, go_on = programs(transformer, plan, prompt_length)
    return _stream(begin, go_on, whole_rows(arrays, seeds, settings), request.single)


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
