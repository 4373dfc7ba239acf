"""Masked language models: which tokens are hidden, whole words at a time."""

import numpy as np

HIDDEN, RANDOM = 0.8, 0.1  # of the chosen words; the rest stays as it is


def word_numbers(places, words):
    """The number of the word that each token belongs to; -1 for special tokens.

        tokens = tokenizer.tokenize(text)
        numbers = word_numbers(tokenizer.rematch(text, tokens), jieba.lcut(text))

    Args:
        places: for each token the places of its characters in the text, as
            `Tokenizer.rematch` returns them.
        words: the text, cut into pieces; joined, they are the text.

    Returns:
        A list of ints; a token that reaches into several words belongs to its first one.

    Raises:
        ValueError: the words are shorter than the text.
    """
    numbers = [number for number, word in enumerate(words) for _ in word]
    last = max((place[-1] for place in places if place), default=-1)
    if last >= len(numbers):
        raise ValueError(
            f"word_numbers: the words have {len(numbers)} characters, "
            f"but a token stands at character {last} of the text"
        )
    return [numbers[place[0]] if place else -1 for place in places]


def mask_words(token_ids, words, mask_id, random_ids, rate=0.15, rng=None):
    """Hide some of the words of a text, for a masked language model to find.

    Every word is chosen with the same probability, and all its tokens with it. Of the chosen
    words 80 % become [MASK], 10 % random tokens, and 10 % stay.

        masked, weights = mask_words(ids, numbers, tokenizer._token_mask_id, range(106, 21128))
        model.fit([masked, segments], ids, sample_weight=weights)

    Args:
        token_ids: ids of a text.
        words: for each token the number of its word (see `word_numbers`; the tokens' own
            positions to hide single tokens); negative for tokens that always stay.
        mask_id: the id of [MASK].
        random_ids: a sequence of the ids that may stand in another one's place.
        rate: share of words to choose; at least one is chosen where there is any.
        rng: a numpy generator, or a seed; None for a fresh one.

    Returns:
        (masked ids, weights): int and float32 arrays; weights are 1 at chosen tokens, else 0.

    Raises:
        ValueError: `words` has another length, or the rate is no share.

    Source: https://arxiv.org/abs/1810.04805, https://arxiv.org/abs/1906.08101
    """
    ids, words = np.array(token_ids, dtype=int), np.array(words, dtype=int)
    if words.shape != ids.shape:
        raise ValueError(f"mask_words: {ids.size} ids, but the words of {words.size}")
    if not 0 <= rate <= 1:
        raise ValueError(f"mask_words: rate: expected 0 to 1, got {rate}")
    rng = np.random.default_rng(rng)
    numbers = np.unique(words[words >= 0])
    chosen = rng.random(numbers.size) < rate
    if rate and numbers.size and not chosen.any():
        chosen[rng.integers(numbers.size)] = True
    fate = dict(zip(numbers[chosen], rng.random(chosen.sum()), strict=True))
    fates = np.array([fate.get(word, 2.0) for word in words])
    replaced = (fates >= HIDDEN) & (fates < HIDDEN + RANDOM)
    ids[replaced] = rng.choice(random_ids, replaced.sum())
    ids[fates < HIDDEN] = mask_id
    return ids, (fates < 1).astype("float32")
