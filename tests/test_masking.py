"""Whole-word masking.  pytest tests/test_masking.py"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert4keras3.snippets import mask_words, word_numbers
from bert4keras3.tokenizers import Tokenizer

pytestmark = pytest.mark.once

MASK = 4
RANDOM_IDS = range(100, 200)


def test_tokens_know_their_words():
    pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] 明 月 光 mo ##on".split()
    tokenizer = Tokenizer({token: i for i, token in enumerate(pieces)})
    text = "明月 光moon好"
    tokens = tokenizer.tokenize(text)
    assert tokens == ["[CLS]", "明", "月", "光", "mo", "##on", "好", "[SEP]"]
    numbers = word_numbers(tokenizer.rematch(text, tokens), ["明月", " ", "光", "moon", "好"])
    assert numbers == [-1, 0, 0, 2, 3, 3, 4, -1]
    with pytest.raises(ValueError, match="the words have 2 characters, but .* at character 8"):
        word_numbers(tokenizer.rematch(text, tokens), ["明月"])


@given(st.lists(st.integers(-1, 6), max_size=12), st.floats(0, 1), st.integers(0, 9))
def test_words_are_hidden_whole_or_not_at_all(words, rate, seed):
    ids = np.arange(len(words)) + 10
    masked, weights = mask_words(ids, words, MASK, RANDOM_IDS, rate, seed)
    for word in set(words):
        place = np.array(words) == word
        assert len(set(weights[place])) == 1
        kinds = {"mask" if i == MASK else "random" if i >= 100 else "own" for i in masked[place]}
        assert len(kinds) == 1 and (kinds == {"own"} or weights[place].all())
    untouched = weights == 0
    np.testing.assert_array_equal(masked[untouched], ids[untouched])
    assert untouched[np.array(words, dtype=int) < 0].all()
    assert weights.any() == (rate > 0 and max(words, default=-1) >= 0)


def test_shares_of_what_is_hidden():
    ids = np.full(20000, 7)
    masked, weights = mask_words(ids, np.arange(ids.size) // 2, MASK, RANDOM_IDS, 0.15, 0)
    chosen = weights == 1
    shares = [chosen.mean(), (masked == MASK).sum() / chosen.sum()]
    shares += [(masked >= 100).sum() / chosen.sum(), (masked[chosen] == 7).mean()]
    np.testing.assert_allclose(shares, [0.15, 0.8, 0.1, 0.1], atol=0.02)
    assert len(set(masked)) > 90


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="3 ids, but the words of 2"):
        mask_words([1, 2, 3], [0, 1], MASK, RANDOM_IDS)
    with pytest.raises(ValueError, match="rate: expected 0 to 1, got 15"):
        mask_words([1], [0], MASK, RANDOM_IDS, rate=15)
