"""Generation beside transformers, on the same random weights.  Needs torch and transformers."""

import itertools

import numpy as np
import pytest
from tiny import each

from bert4keras3.models import build_transformer_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

END = 5
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": END,
}
PROMPTS = [
    [7, 30, 6],
    [55, 8, 8, 41, 6, 19, 20],
    [9],
    [12, 13, 12, 13, 12, 13, 40, 41, 59, 58, 6, 7],
]
COUNT = 12
KINDS = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


@pytest.fixture(scope="module", params=each(KINDS, ["llama"]))
def models(request, tmp_path_factory):
    """Their model and ours, from the same folder."""
    cls = getattr(transformers, KINDS[request.param])
    torch.manual_seed(1)
    theirs = cls(cls.config_class(**SIZES)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, build_transformer_model(folder, return_keras_model=False)


def their_texts(model, prompt, **options):
    """Their new ids, up to the end token."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        rows = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=COUNT, **options
        )
    texts = [row[len(prompt) :].tolist() for row in rows]
    return [t[: t.index(END) + 1] if END in t else t for t in texts]


GREEDY = {
    "greedy": ({}, {}),
    "penalty": ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
    "bonus": ({"repetition_penalty": 0.6}, {"repetition_penalty": 0.6}),
    "ngram-1": ({"no_repeat_ngram": 1}, {"no_repeat_ngram_size": 1}),
    "ngram-2": ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
    "ngram-3": ({"no_repeat_ngram": 3}, {"no_repeat_ngram_size": 3}),
    "min": ({"min_new_tokens": 6}, {"min_new_tokens": 6}),
    "ends": ({"end_token": [5, 20, 33]}, {"eos_token_id": [5, 20, 33]}),
    "suppressed": ({"forbidden_tokens": [6, 20]}, {"suppress_tokens": [6, 20]}),
}


@pytest.mark.parametrize("name", GREEDY)
def test_greedy(models, name):
    theirs, ours = models
    mine, their_options = GREEDY[name]
    expected = [their_texts(theirs, p, do_sample=False, **their_options)[0] for p in PROMPTS]
    if name == "ends":
        ends = mine["end_token"]
        for text in expected:
            places = [i for i, token in enumerate(text) if token in ends]
            del text[places[0] + 1 if places else len(text) :]
    assert ours.generate(PROMPTS, COUNT, **mine) == expected


ENDINGS = list(itertools.product([True, False, "never"], [1.0, 0.0, 2.0, -1.0]))


@pytest.mark.parametrize("ending", each(ENDINGS, [(True, 1.0), (False, 2.0), ("never", -1.0)]))
def test_beams(models, ending):
    theirs, ours = models
    early_stopping, length_penalty = ending
    shared = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    for beams in (2, 4):
        expected = [
            their_texts(
                theirs, p, do_sample=False, num_beams=beams, num_return_sequences=beams, **shared
            )
            for p in PROMPTS
        ]
        found = ours.generate(PROMPTS, COUNT, num_beams=beams, num_samples=beams, **shared)
        assert found == expected
        best = ours.generate(PROMPTS, COUNT, num_beams=beams, **shared)
        assert best == [texts[0] for texts in expected]


def test_beams_with_processors(models):
    theirs, ours = models
    expected = [
        their_texts(theirs, p, do_sample=False, num_beams=3, no_repeat_ngram_size=2)[0]
        for p in PROMPTS
    ]
    ids, log_probs = ours.generate(
        PROMPTS, COUNT, num_beams=3, no_repeat_ngram=2, return_log_probs=True
    )
    assert ids == expected
    for text, numbers in zip(ids, log_probs, strict=True):
        assert len(text) == len(numbers) and max(numbers) <= 0


SAMPLING = [
    {"temperature": 1.5},
    {"temperature": 2.0, "top_k": 7},
    {"temperature": 1.3, "top_p": 0.7},
    {"temperature": 2.0, "top_k": 12, "top_p": 0.6},
    {"temperature": 2.0, "min_p": 0.15},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", SAMPLING, ids=str)
def test_sampling_frequencies(models, options):
    """The first two tokens of many samples, theirs against ours, by a chi-squared statistic."""
    theirs, ours = models
    draws, prompt = 3000, PROMPTS[1]
    torch.manual_seed(0)
    settings = {"top_k": 0, "top_p": 1.0, **options}
    ids = torch.tensor([prompt])
    with torch.no_grad():
        rows = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=2,
            min_new_tokens=2,
            do_sample=True,
            num_return_sequences=draws,
            **settings,
        )
    expected = rows[:, len(prompt) :].numpy()
    found = np.array(
        ours.generate(prompt, 2, num_samples=draws, seed=0, min_new_tokens=2, **options)
    )
    for place in range(2):
        a, b = (np.bincount(x[:, place], minlength=60) for x in (expected, found))
        seen = a + b > 0
        statistic = ((a - b)[seen] ** 2 / (a + b)[seen]).sum()
        freedom = seen.sum() - 1
        assert statistic < freedom + 4.5 * np.sqrt(2 * freedom) + 4
