"""Ids of many texts at the speed of C: their characters are one array, looked up in tables.

What a table lacks is asked of the tokenizer's own rules, once per character and per word, so the
result is that of `encode`. The Rust package `tokenizers` was measured, too: on two cores it takes
longer to make its objects than all of this takes on one.
"""

import sys
import unicodedata
from itertools import chain, pairwise

import numpy as np

from bert4keras3.tokenizers.base import token_list
from bert4keras3.tokenizers.characters import spaced

# kinds of characters; NEW is 0 because tables begin as zeros
NEW, DROPPED, BLANK, ALONE, PART = range(5)

# characters that are worked on at once: enough to forget the calls, few enough for the caches
GROUP = 1 << 18

# what is remembered: words up to this length, and at most so many (some 30 MB)
LONGEST = 64
MOST = 100_000


class IdReader:
    """Reads the ids of texts as a `Tokenizer` without `pre_tokenize` would."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._settings = _settings(tokenizer)
        # Kind and id by code point. Ids stay the objects that the vocabulary holds: to make an
        # int for every token would take most of the time.
        self._kinds = np.zeros(sys.maxunicode + 1, np.uint8)
        self._ids = np.zeros(sys.maxunicode + 1, object)
        self._whole = _whole_words(tokenizer)
        self._pieces = _Memory(self._piece_ids)

    def is_current(self):
        """Whether what is remembered still holds: the tokenizer's settings have not changed."""
        return all(map(_same, self._settings, _settings(self._tokenizer)))

    def read(self, texts, argument):
        """Yield the list of ids of each text, start and end included.

        Args:
            texts: list of texts, lists of tokens, or None (whose ids are None).
            argument: the name by which to complain about a text.
        """
        tokenizer = self._tokenizer
        start, end = tokenizer._token_start, tokenizer._token_end
        found = self._text_ids(text for text in texts if isinstance(text, str))
        for text in texts:
            if text is None:
                yield None
            elif not isinstance(text, str):
                yield tokenizer.tokens_to_ids(token_list(text, argument))
            else:
                ids = next(found)
                if start is not None:
                    ids.insert(0, tokenizer.token_to_id(start))
                if end is not None:
                    ids.append(tokenizer.token_to_id(end))
                yield ids

    def _text_ids(self, texts):
        for group in _groups(texts):
            if self._tokenizer._do_lower_case:
                group = [_decomposed(text) for text in group]
            yield from self._group_ids(group)

    def _group_ids(self, texts):
        """The ids of some texts, worked on as one; a line end after each keeps words apart."""
        codes = _codes("\n".join([*texts, ""]))
        ends = np.cumsum([len(text) + 1 for text in texts])
        kinds = self._kinds_of(codes)
        kept = np.flatnonzero(kinds != DROPPED)
        codes, kinds, ends = codes[kept], kinds[kept], kept.searchsorted(ends)
        part = kinds == PART
        starts = part.copy()
        starts[1:] &= ~part[:-1]
        starts = np.flatnonzero(starts | (kinds == ALONE))
        ids, counts = self._unit_ids(codes[starts], part[starts], _words(codes, part))
        cuts = np.append(0, counts.cumsum())[starts.searchsorted(ends)]
        return [ids[a:b].tolist() for a, b in pairwise([0, *cuts.tolist()])]

    def _unit_ids(self, codes, is_word, words):
        """All ids in one array, and how many there are for each character alone or word.

        Args:
            codes: the first or only character of each.
            is_word: which of them are words.
            words: these words.
        """
        ids = self._ids[codes]
        found = list(map(self._whole.get, words))
        ids[is_word] = found
        cut = np.array([i for i, number in enumerate(found) if number is None], np.intp)
        pieces = [self._pieces[words[i]] for i in cut.tolist()]
        counts = np.ones(len(ids), np.intp)
        if pieces:
            cut = np.flatnonzero(is_word)[cut]
            counts[cut] = list(map(len, pieces))
            holes = np.zeros(len(ids), bool)
            holes[cut] = True
            ids = ids.repeat(counts)
            ids[holes.repeat(counts)] = list(chain.from_iterable(pieces))
        return ids, counts

    def _kinds_of(self, codes):
        kinds = self._kinds[codes]
        if not kinds.all():
            self._learn(codes)
            kinds = self._kinds[codes]
        return kinds

    def _learn(self, codes):
        """Fill the tables for the characters that are new."""
        tokenizer = self._tokenizer
        present = np.zeros(len(self._kinds), bool)
        present[codes] = True
        new = np.flatnonzero(present & (self._kinds == NEW))
        chars = list(map(chr, new.tolist()))
        # a word of one character is one token, known or not
        self._ids[new] = tokenizer.tokens_to_ids(tokenizer._translated(chars))
        self._kinds[new] = [_kind(char, tokenizer._do_lower_case) for char in chars]

    def _piece_ids(self, word):
        tokenizer = self._tokenizer
        tokens = tokenizer._word_piece_tokenize(word)
        return tuple(tokenizer.tokens_to_ids(tokenizer._translated(tokens)))


class _Memory(dict):
    """A dictionary that asks a function for what it does not know."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def __missing__(self, key):
        value = self._function(key)
        if len(key) <= LONGEST:
            if len(self) >= MOST:
                self.clear()
            self[key] = value
        return value


def _groups(texts):
    group, size = [], 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group


def _decomposed(text):
    """Lower case and NFD; the marks go later."""
    text = text.lower()
    return text if text.isascii() else unicodedata.normalize("NFD", text)


def _codes(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _words(codes, part):
    """The runs of characters that are part of words."""
    text = np.where(part, codes, np.uint32(ord(" "))).tobytes()
    return text.decode("utf-32-le", "surrogatepass").split()


def _kind(char, drop_marks):
    form = spaced(char)
    if not form or (drop_marks and unicodedata.category(char) == "Mn"):
        return DROPPED
    # more than `is_space`: words are split as `str.split` does
    if not form.split():
        return BLANK
    return PART if form == char else ALONE


def _whole_words(tokenizer):
    """Dictionary of the words that are one token: word -> id."""
    if not tokenizer._token_translate:
        return tokenizer._token_dict
    tokens = list(tokenizer._token_dict)
    return dict(zip(tokens, tokenizer.tokens_to_ids(tokenizer._translated(tokens)), strict=True))


def _settings(tokenizer):
    return (
        tokenizer._token_dict,
        len(tokenizer._token_dict),
        tokenizer._token_translate,
        len(tokenizer._token_translate),
        tokenizer._do_lower_case,
        tokenizer._word_maxlen,
        tokenizer._token_unk_id,
    )


def _same(old, new):
    # comparing whole dictionaries would cost more than it protects
    return old is new or (not isinstance(old, dict) and old == new)
