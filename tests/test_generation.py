"""Generation against naive decoding.  KERAS_BACKEND=torch pytest tests/test_generation.py"""

import inspect
import itertools

import numpy as np
import pytest
import tiny
from tiny import SIZES, build, predict, randomize

from bert4keras3 import ops
from bert4keras3.backend import K
from bert4keras3.generation import GenerationError, Greedy, Sampler
from bert4keras3.generation.random import row_seeds, uniform
from bert4keras3.layers import Lambda
from bert4keras3.models import BERT, LM_Mask, build_transformer_model
from bert4keras3.ops import keras

LENGTH = 16
ROWS = [[7, 9, 8, 30], [5], [44, 9, 12, 13, 14, 15], [9, 9]]
# What a seq2seq model makes them from; of a decoder alone these are seeds of contexts.
SOURCES = [[8, 4, 20], [33, 6, 6, 6, 41, 7, 12], [11], [49, 48, 47, 3]]
END = 3


def segments_for(transformer, rows):
    """Whole segment inputs; of a UniLM the first two tokens see each other."""
    after = np.maximum(np.arange(LENGTH) - 1, 0) * (transformer.attention_kind == "unilm")
    return np.tile(after if transformer.segment_attention else after > 0, (rows, 1)).astype("int32")


def whole_inputs(transformer, tokens, side="right"):
    inputs = [np.asarray(tokens, "int32")]
    if transformer.source_inputs:
        return [source_array(transformer, len(tokens), side), *inputs]
    if len(transformer.text_inputs) > 1:
        inputs.append(segments_for(transformer, len(tokens)))
    return inputs


def sources_for(transformer, rows):
    """Lists of ids, or contexts."""
    if "Context" not in transformer.source_inputs[0].name:
        return SOURCES[:rows]
    size = transformer.hidden_size
    return [tiny.draw(len(ids), size, seed=ids[0]) for ids in SOURCES[:rows]]


def source_array(transformer, rows, side):
    """The sources, padded; contexts always at the right, as positions count from their start."""
    sources = sources_for(transformer, rows)
    if isinstance(sources[0], list):
        return as_array(sources, side)
    array = np.zeros((rows, LENGTH, transformer.hidden_size), "float32")
    for place, source in zip(array, sources, strict=True):
        place[: len(source)] = source
    return array


def asked(transformer, rows, **options):
    """The arguments of `generate` for texts that begin with rows; a row alone stays one."""
    if not transformer.source_inputs:
        return {"prompts": rows, **options}
    several = isinstance(rows[0], list)
    sources = sources_for(transformer, len(rows) if several else 1)
    sources = sources if several else sources[0]
    return {"prompts": sources, "decoder_prompts": rows, **options}


def naive(transformer, rows, count, choose=None, end=END, conditions=()):
    """Greedy decoding by the whole model at a fixed length; a list of the whole rows.

    Args:
        transformer: the model.
        rows: prompts.
        count: new tokens at most; None for as many as there is room.
        choose: of one row's logits and ids so far, the next id.
        end: the id that ends a row.
        conditions: arrays for the model's `condition_inputs`.
    """
    choose = choose or (lambda logits, ids: int(logits.argmax()))
    texts, open_rows = [list(row) for row in rows], set(range(len(rows)))
    limits = [LENGTH if count is None else len(row) + count for row in rows]
    while open_rows:
        inputs = [*whole_inputs(transformer, as_array(texts)), *conditions]
        outputs = predict(transformer.model, inputs)[-1]
        for i in sorted(open_rows):
            texts[i].append(choose(outputs[i, len(texts[i]) - 1], texts[i]))
            if texts[i][-1] == end or len(texts[i]) >= limits[i]:
                open_rows.remove(i)
    return texts


def as_array(rows, side="right"):
    array = np.zeros((len(rows), LENGTH), "int32")
    for i, row in enumerate(rows):
        array[i, slice(0, len(row)) if side == "right" else slice(LENGTH - len(row), None)] = row
    return array


def completed(rows, wholes):
    """What a cache model returns: finished rows repeat their end while others run."""
    steps = max(len(whole) - len(row) for row, whole in zip(rows, wholes, strict=True))
    array = as_array(wholes)
    for i, (row, whole) in enumerate(zip(rows, wholes, strict=True)):
        array[i, len(whole) : len(row) + steps] = whole[-1]
    return array


@pytest.mark.parametrize("name", tiny.each(tiny.DECODERS))
def test_cache_model_equals_naive_greedy(name):
    """Ragged prompts in one batch, padded at either side, each as it would be alone."""
    transformer = build(name)
    # the two tokens that see each other belong to the prompt
    rows = [row for row in ROWS if len(row) > 1 or transformer.attention_kind != "unilm"]
    wholes = naive(transformer, rows, None)
    expected = completed(rows, wholes)
    model = transformer.build_cache_model([LENGTH] * len(transformer.inputs), END)
    # With a start token of the padding's id, padding at the left cannot be told from it.
    sides = ["right"] + ["left"] * (getattr(transformer, "decoder_start_id", None) != 0)
    for side in sides:
        inputs = whole_inputs(transformer, as_array(rows, side), side)
        if side == "left" and len(inputs) > 1 and not transformer.source_inputs:
            for segments, row in zip(inputs[1], rows, strict=True):
                segments[:] = np.roll(segments, LENGTH - len(row))
        np.testing.assert_array_equal(model.predict(inputs, verbose=0), expected)


@pytest.mark.parametrize("name", tiny.each(tiny.DECODERS))
def test_generate_equals_naive_greedy(name):
    transformer = build(name)
    if transformer.segment_attention:
        return  # its new tokens need segments of their own
    rows = [[9, 9], [6, 8]] if "unilm" in name else ROWS
    wholes = naive(transformer, rows, 6)
    expected = [whole[len(row) :] for row, whole in zip(rows, wholes, strict=True)]
    segments = {"segments": [[0, 0] for _ in rows]} if "unilm" in name else {}
    options = {"max_new_tokens": 6, "end_token": END}
    every, first = (asked(transformer, x, **options) for x in (rows, rows[0]))
    assert transformer.generate(**every, **segments) == expected
    assert transformer.generate(**first) == expected[0]
    assert list(transformer.stream(**first)) == expected[0]
    streamed = list(transformer.stream(**every))
    for i, ids in enumerate(expected):
        assert [token for row, token in streamed if row == i] == ids


@pytest.fixture(scope="module")
def llama():
    return build("llama")


@pytest.fixture(scope="module")
def unilm():
    return build("bert_unilm")


# ------------------------------------------------------------------- masks


class OldStyle(BERT):
    """As users of the old libraries write it: a memoised Lambda that knows shapes only."""

    def compute_attention_bias(self, inputs=None):
        if self.attention_bias is None:

            def banded(s):
                length = K.shape(s)[1] if hasattr(K, "shape") else ops.shape(s)[1]
                steps = ops.arange(length)
                seen = ops.logical_and(
                    steps[None] <= steps[:, None], steps[:, None] - steps[None] < 4
                )
                return -(1 - ops.cast(seen, "float32")[None, None]) * 1e12

            self.attention_bias = self.apply(
                inputs=self.inputs[0], layer=Lambda, function=banded, name="Attention-LM-Mask"
            )
        return self.attention_bias


class Unmemoised(OldStyle):
    """A mask of each row, without the memo and with a flat result."""

    def compute_attention_bias(self, inputs=None):
        def causal(s):
            steps = ops.arange(ops.shape(s)[1])
            shape = (ops.shape(s)[0], ops.shape(s)[1], ops.shape(s)[1])
            return ops.broadcast_to(steps[None, None] <= steps[None, :, None], shape)

        return self.apply(self.inputs[0], Lambda, function=causal, name="My-Mask")


class OnTopOfOurs(LM_Mask, BERT):
    """Adds to the library's own mask."""

    def compute_attention_bias(self, inputs=None):
        if self.attention_bias is None:
            ours = super().compute_attention_bias(inputs)

            def not_the_third(seen):
                keys = ops.arange(ops.shape(seen)[-1])
                return ops.logical_and(seen, keys != 2)

            self.attention_bias = self.apply(ours, Lambda, function=not_the_third, name="No-Third")
        return self.attention_bias


@pytest.mark.parametrize("cls", [OldStyle, Unmemoised, OnTopOfOurs])
def test_own_masks_generate(cls):
    transformer = build_transformer_model(
        model=cls, with_mlm="linear", return_keras_model=False, **SIZES
    )
    randomize(transformer.model)
    expected = completed(ROWS, naive(transformer, ROWS, None))
    model = transformer.build_cache_model([LENGTH] * 2, END)
    found = model.predict(whole_inputs(transformer, as_array(ROWS)), verbose=0)
    np.testing.assert_array_equal(found, expected)
    # the plain model is as it was
    assert transformer.inputs[0].name == "Input-Token"
    assert "compute_attention_bias" not in vars(transformer)


def test_own_mask_with_samples():
    transformer = build_transformer_model(
        model=OldStyle, with_mlm="linear", return_keras_model=False, segment_vocab_size=0, **SIZES
    )
    randomize(transformer.model)
    assert transformer.generate([[5, 6], [7, 8, 9]], 4, num_samples=2, sampler="greedy") == [
        [ids] * 2 for ids in transformer.generate([[5, 6], [7, 8, 9]], 4)
    ]


# -------------------------------------------------------------- cache models


def test_cache_model_as_documented(llama, unilm):
    model = unilm.build_cache_model([LENGTH, LENGTH], end_token=END, search_mode="greedy", k=1)
    assert isinstance(model, keras.Model)
    names = [f"Input-{kind}-cache-{LENGTH}" for kind in ("Token", "Segment")]
    assert [x.name for x in model.inputs] == names
    assert [tuple(x.shape) for x in model.inputs] == [(None, LENGTH)] * 2
    assert {x.dtype for x in model.inputs} == {"int32"}
    tokens = as_array(ROWS)
    inputs = whole_inputs(unilm, tokens)
    found = model.predict(inputs, verbose=0)
    assert found.dtype == np.int32 and found.shape == tokens.shape
    direct = model([ops.convert_to_tensor(x) for x in inputs], tranning=False)
    np.testing.assert_array_equal(ops.convert_to_numpy(direct), found)
    model.compile(jit_compile=True)
    np.testing.assert_array_equal(model.predict(inputs, batch_size=3, verbose=0), found)
    model.compile(jit_compile=False)
    np.testing.assert_array_equal(model.predict(inputs, batch_size=3, verbose=0), found)

    model = llama.build_cache_model([LENGTH], END)
    found = model.predict(tokens, verbose=0)
    for form in ([tokens], {"Input-Token": tokens}, tokens.tolist(), ops.convert_to_tensor(tokens)):
        np.testing.assert_array_equal(model.predict(form, verbose=0), found)
    np.testing.assert_array_equal(model.predict_on_batch(tokens), found)
    batches = ((tokens[i : i + 2], None) for i in (0, 2))
    in_twos = model.predict(tokens, batch_size=2, verbose=0)
    np.testing.assert_array_equal(model.predict(batches, steps=2), in_twos)
    # alone as in the batch
    np.testing.assert_array_equal(
        model.predict(tokens[:1], verbose=0)[0, : 4 + 3], found[0, : 4 + 3]
    )


def test_several_cache_models_share_the_weights(llama):
    tokens = as_array(ROWS)
    long = llama.build_cache_model([LENGTH], END)
    short = llama.build_cache_model([8], [END, 4])
    before = long.predict(tokens, verbose=0)
    np.testing.assert_array_equal(short.predict(tokens[:, :8], verbose=0), short(tokens[:, :8]))
    np.testing.assert_array_equal(long.predict(tokens, verbose=0), before)
    assert {id(v) for v in long.weights} == {id(v) for v in llama.model.weights}
    weights = llama.model.get_weights()
    randomize(llama.model, seed=9)
    try:
        assert (long.predict(tokens, verbose=0) != before).any()
    finally:
        llama.model.set_weights(weights)
    np.testing.assert_array_equal(long.predict(tokens, verbose=0), before)


def test_end_tokens_in_a_list(llama):
    wholes = naive(llama, ROWS, None, end=-1)
    ends = [wholes[0][6], wholes[2][8]]
    cut = []
    for row, whole in zip(ROWS, wholes, strict=True):
        places = [i for i in range(len(row), LENGTH) if whole[i] in ends]
        cut.append(whole[: places[0] + 1] if places else whole)
    model = llama.build_cache_model([LENGTH], ends)
    np.testing.assert_array_equal(model.predict(as_array(ROWS), verbose=0), completed(ROWS, cut))
    assert llama.generate(ROWS[0], LENGTH - 4, end_token=ends) == cut[0][4:]


def test_index_bias_and_padding_ids(llama):
    """The first ids count whatever they are; so do generated ones and those within a prompt."""
    rows = [[0, 9], [0, 7, 0, 5]]
    model = llama.build_cache_model([LENGTH], -1, index_bias=1)
    found = model.predict(as_array(rows), verbose=0)
    expected = llama.generate(rows, LENGTH - 4)
    assert found[0, 2:14].tolist() == expected[0] and found[1, 4:].tolist() == expected[1]


def test_full_prompt_returns_itself(llama):
    tokens = np.random.default_rng(0).integers(4, 50, (2, LENGTH)).astype("int32")
    model = llama.build_cache_model([LENGTH], END)
    np.testing.assert_array_equal(model.predict(tokens, verbose=0), tokens)


def test_prompt_that_ends_with_the_end_token_goes_on(llama):
    """`[CLS] text [SEP]` with the end token [SEP] is how seq2seq prompts of BERT look."""
    row = [8, 9, END]
    (whole,) = naive(llama, [row], 3)
    assert llama.generate(row, 3, end_token=END) == whole[3:]
    model = llama.build_cache_model([LENGTH], END)
    assert model.predict(as_array([row]), verbose=0)[0, 3] == whole[3]


def test_probabilities_generate_like_logits():
    """`with_lm=True` gives a softmax head; every option works on it."""
    logits, softmax = (
        build("llama", with_lm=head, penalty=1.5, temperature=0.7) for head in ("linear", True)
    )
    tokens = as_array(ROWS)
    for transformer in (logits, softmax):
        model = transformer.build_cache_model([LENGTH], END, "topp", [0.8, 6], seed=3)
        found = model.predict(tokens, verbose=0)
        assert ((found >= 0) & (found < 50)).all()
    plain = [build("llama", with_lm=head) for head in ("linear", True)]
    a, b = (t.build_cache_model([LENGTH], END).predict(tokens, verbose=0) for t in plain)
    np.testing.assert_array_equal(a, b)


PENALTIES = {
    "plain": {"penalty": 1.8},
    "range": {"penalty": 1.3, "max_penalty_range": [2, 3]},
    "window": {"penalty": 2.5, "penalty_window": 4},
    "all": {"penalty": 1.4, "penalty_window": 8, "max_penalty_range": [1, 2], "temperature": 0.5},
    "mask": {"mask_output": [48, 10, 27]},
}


def penalised(
    logits,
    ids,
    penalty=1.0,
    penalty_window=None,
    max_penalty_range=None,
    temperature=1.0,
    mask_output=(),
):
    """The documented rules, written out."""
    logits = logits.astype("float64").copy()
    index = len(ids)
    first = 0 if penalty_window is None else max(index // penalty_window - 1, 0) * penalty_window
    for token in set(ids[first:index]):
        count = ids[first:index].count(token)
        low, high = max_penalty_range or (1, 1)
        n = 0 if count < low else min(count, high)
        factor = penalty**n
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    logits[list(mask_output)] = -np.inf
    return int((logits / temperature).argmax())


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties(name):
    options = PENALTIES[name]
    transformer = build("llama", **options)
    wholes = naive(transformer, ROWS, None, lambda x, ids: penalised(x, ids, **options))
    plain = naive(transformer, ROWS, None)
    assert wholes != plain
    model = transformer.build_cache_model([LENGTH], END)
    np.testing.assert_array_equal(model.predict(as_array(ROWS), verbose=0), completed(ROWS, wholes))


def test_nothing_runs_before_it_is_needed(llama, monkeypatch):
    """One prefill and one trace of the loop's body (two at most) for a first predict."""
    transformer = build("llama")
    calls, step = [], transformer.step
    monkeypatch.setattr(transformer, "step", lambda *a, **k: calls.append(1) or step(*a, **k))
    model = transformer.build_cache_model([LENGTH], -1)
    assert not calls
    model.predict(as_array(ROWS[:1]), verbose=0)
    if keras.backend.backend() == "torch":
        assert len(calls) == LENGTH - len(ROWS[0])
    else:
        assert len(calls) == 2
        model.predict(as_array(ROWS[2:3]), verbose=0)  # another length, the same program
        assert len(calls) == 2


def test_a_second_prompt_does_not_compile_again(monkeypatch):
    transformer = build("llama", max_position=None)
    calls, step = [], transformer.step
    monkeypatch.setattr(transformer, "step", lambda *a, **k: calls.append(1) or step(*a, **k))
    transformer.generate([5, 6, 7], 8, temperature=0.7, top_p=0.9)
    before = len(calls)
    transformer.generate([5, 6, 7, 8, 9], 6, temperature=0.9, top_p=0.5)
    list(transformer.stream([5] * 20, 8, temperature=1.5, top_p=1.0))
    if keras.backend.backend() != "torch":
        assert len(calls) == before


# ----------------------------------------------------------------- sampling


def test_random_numbers_are_the_same_everywhere():
    seeds = row_seeds(7, range(3))
    found = ops.convert_to_numpy(
        uniform(ops.convert_to_tensor(seeds), ops.arange(3, dtype="int32"))
    )
    np.testing.assert_array_equal(seeds, UNIFORM_SEEDS)
    np.testing.assert_allclose(found, UNIFORM, rtol=1e-7)


UNIFORM_SEEDS = np.array([2083679832, 369571992, 1009178997])
UNIFORM = np.array([0.41638481616973877, 0.23255181312561035, 0.4025270938873291])


def test_random_numbers_are_uniform():
    seeds, counters = np.repeat(row_seeds(1, range(64)), 64), np.tile(np.arange(64), 64)
    draws = ops.convert_to_numpy(
        uniform(ops.convert_to_tensor(seeds), ops.convert_to_tensor(counters.astype("int32")))
    )
    assert (0 <= draws).all() and (draws < 1).all()
    counts, _ = np.histogram(draws, 16, (0, 1))
    assert ((counts - 256) ** 2 / 256).sum() < 45  # chi-squared, 15 degrees of freedom
    table = draws.reshape(64, 64)
    for a, b in itertools.pairwise([*table[:4], *table.T[:4]]):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.5


def filtered(probabilities, top_k=None, top_p=None, min_p=None, classic=False):
    """The distribution a sampler draws from, by sorting."""
    order = np.argsort(-probabilities, kind="stable")
    kept = probabilities.copy()
    if top_k is not None:
        kept[order[top_k:]] = 0
        if not classic:
            kept /= kept.sum()
    if top_p is not None:
        before = np.cumsum(kept[order]) - kept[order]
        out = before > top_p if classic else before >= top_p
        kept[order[out]] = 0
    if min_p is not None:
        kept[probabilities < min_p * probabilities.max()] = 0
    return kept / kept.sum()


SAMPLERS = [
    {},
    {"top_k": 3},
    {"top_k": 1},
    {"top_p": 0.6},
    {"top_p": 1e-6},
    {"top_p": 1.0},
    {"min_p": 0.2},
    {"top_k": 6, "top_p": 0.5},
    {"top_k": 6, "top_p": 0.5, "classic": True},
    {"top_k": 100, "top_p": 0.9, "min_p": 0.05},
]


@pytest.mark.parametrize("options", SAMPLERS, ids=str)
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_sampling_frequencies(options, ties):
    """Every draw of a fine grid of uniform numbers: frequencies are exact up to the grid."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20).astype("float32")
    if ties:
        logits = np.round(logits)
    temperature, draws = 0.8, 4096
    sampler = Sampler(temperature=temperature, **options)
    settings = {k: np.float32(v) for k, v in sampler.settings().items()}
    grid = ((np.arange(draws) + 0.5) / draws).astype("float32")
    tokens = sampler(
        ops.convert_to_tensor(np.tile(logits, (draws, 1))),
        ops.convert_to_tensor(grid),
        {k: ops.convert_to_tensor(v) for k, v in settings.items()},
    )
    found = np.bincount(ops.convert_to_numpy(tokens), minlength=20) / draws
    scaled = logits.astype("float64") / temperature
    probabilities = np.exp(scaled - scaled.max())
    expected = filtered(probabilities / probabilities.sum(), **options)
    assert np.abs(found - expected).max() < 2 / draws
    assert not found[expected == 0].any()


def test_a_vocabulary_of_llms():
    """Top p by bisection, on 150,000 tokens of a long-tailed distribution."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 151_936)).astype("float32")
    exact = np.exp(logits.astype("float64") - logits.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    for p in (0.3, 0.9):
        sampler = Sampler(top_p=p)
        settings = {k: ops.convert_to_tensor(np.float32(v)) for k, v in sampler.settings().items()}
        kept = sampler._filter(ops.softmax(ops.convert_to_tensor(logits)), settings)
        counts = (ops.convert_to_numpy(kept) > 0).sum(1)
        wanted = [(filtered(row, top_p=p) > 0).sum() for row in exact]
        assert np.abs(counts - wanted).max() <= 3  # float32 sums


def test_noise_is_fresh_and_reproducible(llama):
    # the head says nothing: every token is as likely as another
    transformer = build("llama")
    transformer.layers["Decoder-Output-LM"].kernel.assign(np.zeros((16, 50)))
    prompt = [[5, 6]] * 3
    first, second = (transformer.generate(prompt, 12, sampler="random") for _ in range(2))
    assert first != second and first[0] != first[1]
    assert len(set(first[0])) > 4
    seeded = [transformer.generate(prompt, 12, sampler="random", seed=5) for _ in range(2)]
    assert seeded[0] == seeded[1] != first
    # alone, streamed, and in smaller batches: the same draws
    assert transformer.generate(prompt[0], 12, sampler="random", seed=5) == seeded[0][0]
    assert list(transformer.stream(prompt[0], 12, sampler="random", seed=5)) == seeded[0][0]
    small = transformer.generate(prompt, 12, sampler="random", seed=5, batch_size=2)
    assert small == seeded[0]
    keras.utils.set_random_seed(1)
    a = transformer.generate(prompt, 12, sampler="random")
    keras.utils.set_random_seed(1)
    assert transformer.generate(prompt, 12, sampler="random") == a

    tokens = as_array(prompt)
    model = transformer.build_cache_model([LENGTH], -1, "topp", 0.9)
    a, b = model.predict(tokens, verbose=0), model.predict(tokens, verbose=0)
    assert (a != b).any() and (a[0] != a[1]).any()
    a, b = (
        transformer.build_cache_model([LENGTH], -1, "topk", 30, seed=4).predict(tokens, verbose=0)
        for _ in range(2)
    )
    np.testing.assert_array_equal(a, b)


def test_generated_frequencies(llama):
    """Many samples of one step against the model's own distribution."""
    prompt = [7, 9, 8]
    tokens = np.zeros((1, LENGTH), "int32")
    tokens[0, :3] = prompt
    logits = predict(llama.model, [tokens])[0][0, 2].astype("float64") / 1.5
    probabilities = np.exp(logits - logits.max())
    expected = filtered(probabilities / probabilities.sum(), top_k=10)
    draws = 2000
    found = llama.generate(prompt, 1, num_samples=draws, temperature=1.5, top_k=10, seed=0)
    counts = np.bincount([ids[0] for ids in found], minlength=50)
    error = np.sqrt(draws * expected * (1 - expected)) + 1e-9
    assert (np.abs(counts - draws * expected) < 4.5 * error + 1e-6).all()


# ------------------------------------------------------------------ options


def test_samples_and_log_probs(llama):
    ids, log_probs = llama.generate(ROWS, 5, return_log_probs=True, num_samples=2, temperature=1.2)
    assert [len(samples) for samples in ids] == [2] * len(ROWS)
    for row, samples, numbers in zip(ROWS, ids, log_probs, strict=True):
        for sample, values in zip(samples, numbers, strict=True):
            tokens = np.zeros((1, LENGTH), "int32")
            tokens[0, : len(row) + 5] = row + sample
            logits = predict(llama.model, [tokens])[0][0].astype("float64")
            logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
            wanted = [logits[len(row) + i - 1, token] for i, token in enumerate(sample)]
            if 0 not in sample:
                np.testing.assert_allclose(values, wanted, atol=1e-4)


def test_stop_sequences(llama):
    row = ROWS[0]
    whole = llama.generate(row, 10)
    stop = whole[3:5]
    first = next(i for i in range(9) if whole[i : i + 2] == stop)
    assert llama.generate(row, 10, stop_sequences=[stop, [49, 48, 47]]) == whole[: first + 2]
    # what the prompt ends with does not count
    assert llama.generate(row, 3, stop_sequences=[row[-2:]]) == whole[:3]


def test_processors_and_samplers_of_the_user(llama):
    row, seen = ROWS[0], []

    def only_even(logits, ids, positions):
        seen.append((tuple(ids.shape), tuple(positions.shape)))
        odd = ops.arange(logits.shape[-1]) % 2 == 1
        return ops.where(odd[None], -1e9, logits)

    found = llama.generate([row, row], 6, processors=[only_even])
    assert all(token % 2 == 0 for ids in found for token in ids)
    assert seen[0][0][0] == 2 and seen[0][1] == (2,)

    def second_best(logits, uniform):
        return ops.top_k(logits, 2)[1][:, 1]

    def choose(logits, ids):
        return int(np.argsort(-logits)[1])

    expected = naive(llama, [row], 4, choose, end=-1)[0][4:]
    assert llama.generate(row, 4, sampler=second_best) == expected
    assert llama.generate(row, 4, sampler=Greedy()) == llama.generate(row, 4, temperature=0)


def test_forbidden_tokens(llama):
    row = ROWS[0]
    taken = llama.generate(row, 6)
    assert not set(taken) & set(llama.generate(row, 6, forbidden_tokens=taken))


def test_many_prompts_in_batches(llama, capsys):
    rows = [[4 + i % 40] * (1 + i % 7) for i in range(11)]
    expected = [llama.generate(row, 3) for row in rows]
    assert llama.generate(rows, 3, batch_size=4, progress=True) == expected
    assert "11/11" in capsys.readouterr().err
    padded = np.zeros((11, 9), "int32")
    for i, row in enumerate(rows):
        padded[i, 2 : 2 + len(row)] = row
    assert llama.generate(padded, 3) == expected


def test_a_stream_can_be_left(llama):
    tokens = llama.stream(ROWS[0], 12)
    assert inspect.isgenerator(tokens)
    first = next(tokens)
    tokens.close()
    assert first == llama.generate(ROWS[0], 1)[0]


def test_bfloat16_decodes():
    keras.config.set_dtype_policy("bfloat16")
    try:
        transformer = build("llama")
        assert {str(v.dtype) for v in transformer.model.weights} == {"bfloat16"}
        found = transformer.generate(ROWS, 5, return_log_probs=True)[1]
    finally:
        keras.config.set_dtype_policy("float32")
    expected = build("llama").generate(ROWS, 5, return_log_probs=True)[1]
    # greedy texts may part where two tokens are near; first tokens are near in probability
    np.testing.assert_allclose([x[0] for x in found], [x[0] for x in expected], atol=0.15)


# ---------------------------------------------------------------- bad input


def test_models_that_cannot_generate():
    with pytest.raises(ValueError, match="BERT sees both ways.*application='lm'"):
        build("bert_heads").generate([5], 3)
    with pytest.raises(ValueError, match=r"no language-model head.*\(None, None, 16\).*with_lm"):
        build("llama", with_lm=False).generate([5], 3)
    with pytest.raises(ValueError, match="no language-model head"):
        build("llama", with_lm=False).build_cache_model([8], 3)
    cache = keras.Input((4, 16))
    caches = {"Transformer-0-MultiHeadSelfAttention": [cache, cache]}
    with pytest.raises(ValueError, match="LM_Mask_BERT has attention_caches"):
        build("bert_lm", attention_caches=caches, additional_input_layers=cache).generate([5], 3)


BAD_CACHE = [
    ({"search_mode": "beam"}, "search_mode: expected one of .*got 'beam'"),
    ({"search_mode": "topk", "k": 0}, "k: expected a whole number from 1 on, got 0"),
    ({"search_mode": "topk", "k": -2}, "k: expected a whole number from 1 on, got -2"),
    ({"search_mode": "topp", "k": 0.0}, r"top_p: expected a number in \(0, 1\], got 0.0"),
    ({"search_mode": "topp", "k": 1.5}, r"top_p: expected a number in \(0, 1\], got 1.5"),
    ({"search_mode": "topp", "k": [0.5, 0]}, "k: expected a whole number from 1 on, got 0"),
    ({"search_mode": "topp", "k": [0.5]}, r"k: expected p or \[p, k\]"),
    ({"input_lengths": [8, 8]}, "input_lengths: expected one for each of .*Input-Token"),
    ({"input_lengths": [1]}, "input_lengths: expected a whole number from 2 on"),
    ({"end_token": 50}, "end_token: expected ids from 0 to 49, got 50"),
    ({"index_bias": -1}, "index_bias: expected a whole number from 0 on"),
]


@pytest.mark.parametrize(("options", "message"), BAD_CACHE)
def test_bad_cache_models(llama, options, message):
    with pytest.raises(ValueError, match=message):
        llama.build_cache_model(**{"input_lengths": [8], "end_token": 3, **options})


def test_bad_settings_of_the_transformer():
    with pytest.raises(ValueError, match="penalty_window=5 does not divide the length 16"):
        build("llama", penalty=1.2, penalty_window=5).build_cache_model([LENGTH], 3)
    with pytest.raises(ValueError, match="max_penalty_range: expected .*got .3, 3."):
        build("llama", penalty=1.2, max_penalty_range=[3, 3]).build_cache_model([LENGTH], 3)
    with pytest.raises(ValueError, match="temperature: expected a number above 0, got 0"):
        build("llama", temperature=0).build_cache_model([LENGTH], 3, "topp", 0.5)
    with pytest.raises(ValueError, match="max_position is 32, got 40"):
        build("bert_unilm").build_cache_model([40, 40], 3)


def test_bad_arrays(llama):
    model = llama.build_cache_model([LENGTH], END)
    tokens = as_array(ROWS)
    with pytest.raises(ValueError, match=r"cache-16': expected the shape \(4, 16\), got \(4, 8\)"):
        model.predict(tokens[:, :8], verbose=0)
    with pytest.raises(ValueError, match="expected 1 arrays .* got 2"):
        model.predict([tokens, tokens], verbose=0)
    tokens[2, 1] = 50
    with pytest.raises(ValueError, match="row 2, position 1: expected an id from 0 to 49, got 50"):
        model.predict(tokens, verbose=0)
    with pytest.raises(ValueError, match="row 1: the prompt is empty, all 16 ids are padding"):
        model.predict(as_array([[5], []]), verbose=0)


BAD_CALLS = [
    (([], 3), {}, "prompts: expected at least one"),
    (([[5], []], 3), {}, "prompt 1 is empty"),
    (([[5], 6], 3), {}, "prompt 1: expected a list of ids, got 6"),
    (([5, 50], 3), {}, "prompt 0, position 1: expected an id from 0 to 49, got 50"),
    (([5.5], 3), {}, "expected a list of ids|expected an id"),
    (([[5, -1]], 3), {}, "prompt 0, position 1: expected an id"),
    (([5], 0), {}, "max_new_tokens: expected a whole number from 1 on, got 0"),
    (([5] * 32, None), {}, "prompt 0 has 32 tokens: the model's max_position is 32"),
    (([5] * 30, 3), {}, "max_new_tokens=3 after a prompt of 30 tokens .* max_position 32"),
    (([5], 3), {"top_k": 0}, "top_k: expected a whole number above 0, got 0"),
    (([5], 3), {"top_p": 0}, r"top_p: expected a number in \(0, 1\], got 0"),
    (([5], 3), {"min_p": 1.2}, r"min_p: expected a number in \(0, 1\], got 1.2"),
    (([5], 3), {"temperature": -1}, "temperature: expected a number above 0, got -1"),
    (([5], 3), {"sampler": "beam"}, "sampler: expected one of .*got 'beam'"),
    (([5], 3), {"sampler": "topp"}, "sampler='topp' needs top_p"),
    (([5], 3), {"sampler": Greedy(), "top_k": 2}, "cannot be given too"),
    (([5], 3), {"repetition_penalty": 0}, "repetition_penalty: expected a number above 0"),
    (([5], 3), {"no_repeat_ngram": -1}, "no_repeat_ngram: expected a whole number from 1 on"),
    (([5], 3), {"stop_sequences": [[]]}, "stop_sequences: one of them is empty"),
    (([5], 3), {"stop_sequences": [[99]]}, "stop_sequences: expected ids from 0 to 49, got 99"),
    (([5], 3), {"end_token": 99}, "end_token: expected ids from 0 to 49, got 99"),
    (([5], 3), {"seed": -1}, "seed: expected a whole number from 0 on"),
    (([5], 3), {"num_samples": 0}, "num_samples: expected a whole number from 1 on"),
    (([5], 3), {"num_beams": 2, "top_k": 3}, "a beam search draws nothing.*top_k"),
    (([5], 3), {"num_beams": 2, "num_samples": 3}, "num_samples=3: a search with 2 beams"),
    (([5], 3), {"num_beams": 2, "early_stopping": "yes"}, "early_stopping: expected True, False"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), BAD_CALLS)
def test_bad_calls(llama, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        llama.generate(*arguments, **options)


def test_unknown_option_is_named(llama):
    with pytest.raises(TypeError, match="top_q"):
        llama.generate([5], 3, top_q=1)


def test_nan_is_an_error():
    transformer = build("llama")
    transformer.layers["Output-Norm"].scale.assign(np.full(16, np.nan))
    with pytest.raises(GenerationError, match="logits are NaN"):
        transformer.generate([5], 3)
    with pytest.raises(GenerationError, match="logits are NaN"):
        list(transformer.stream([5], 3))
    with pytest.raises(GenerationError, match="logits are NaN"):
        transformer.generate([5], 3, num_beams=2)
    with pytest.raises(GenerationError, match="logits are NaN"):
        transformer.build_cache_model([8], 3).predict(np.full((1, 8), 5) * (np.arange(8) < 2))


def test_segments_of_prompts(unilm):
    with pytest.raises(ValueError, match="segments 0: expected 2 ids, one a token, got 1"):
        unilm.generate([5, 6], 3, segments=[0])


def test_progress_print(llama, capsys):
    model = llama.build_cache_model([8], -1, progress_print=True)
    model.predict(as_array(ROWS[:1])[:, :8], verbose=0)
    printed = capsys.readouterr().out
    assert ("position 7 of 8" in printed) == (keras.backend.backend() == "torch")
