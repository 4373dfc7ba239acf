"""Ids of many texts at the speed of C: their characters are one array, looked up in tables.

What a table lacks is asked of the tokenizer's own rules, once per character and per word, so the
result is that of `encode`. The Rust package `tokenizers` was measured, too: on two cores it takes
longer to make its objects than all of this takes on one.
"""

import sys
import threading
import unicodedata
from itertools import chain, pairwise

import numpy as np

from bert4keras3.tokenizers.base import token_list
from bert4keras3.tokenizers.characters import CJK_BLOCKS, spaced

# kinds of characters
DROPPED, BLANK, ALONE, PART = range(1, 5)

# characters that are worked on at once: enough to forget the calls, few enough for the caches
GROUP = 1 << 16

# what is remembered: words up to this length, and at most so many (some 30 MB)
LONGEST = 64
MOST = 100_000


class IdReader:
    """Reads the ids of texts as a `Tokenizer` without `pre_tokenize` would."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._settings = _settings(tokenizer)
        # The characters met so far are numbered from 1 on: 0 is a new one. Memory of the large
        # table that is never touched costs nothing.
        self._numbers = np.zeros(sys.maxunicode + 1, np.int32)
        # Kind and id by number. Ids stay the objects that the vocabulary holds: to make an int
        # for every token would take most of the time.
        self._kinds = np.array([DROPPED], np.uint8)
        self._ids = np.array([None], object)
        self._lock = threading.Lock()
        self._whole = _whole_words(tokenizer)
        self._pieces = _Memory(self._piece_ids)

    def is_current(self):
        """Whether what is remembered still holds: the tokenizer's settings have not changed."""
        return all(map(_same, self._settings, _settings(self._tokenizer)))

    def read(self, texts, argument):
        """Yield the list of ids of each text, start and end included.

        Args:
            texts: list of texts or of lists of tokens.
            argument: the name by which to complain about a text.
        """
        tokenizer = self._tokenizer
        start, end = tokenizer._token_start, tokenizer._token_end
        found = self._text_ids(text for text in texts if isinstance(text, str))
        for text in texts:
            if not isinstance(text, str):
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
        chars = self._numbers_of(codes)
        kinds = self._kinds[chars]
        kept = np.flatnonzero(kinds != DROPPED)
        if len(kept) < len(codes):
            ends = kept.searchsorted(ends)
            codes, chars, kinds = codes[kept], chars[kept], kinds[kept]
        part = kinds == PART
        starts = part.copy()
        starts[1:] &= ~part[:-1]
        starts = np.flatnonzero(starts | (kinds == ALONE))
        ids, counts = self._unit_ids(chars[starts], part[starts], _words(codes, part))
        cuts = np.append(0, counts.cumsum())[starts.searchsorted(ends)]
        return [ids[a:b].tolist() for a, b in pairwise([0, *cuts.tolist()])]

    def _unit_ids(self, chars, is_word, words):
        """All ids in one array, and how many there are for each character alone or word.

        Args:
            chars: number of the first or only character of each.
            is_word: which of them are words.
            words: these words.
        """
        ids = self._ids[chars]
        counts = np.ones(len(ids), np.intp)
        whole = np.fromiter(map(self._whole.get, words), object, len(words))
        ids[is_word] = whole
        cut = np.flatnonzero(np.equal(whole, None))
        if len(cut):
            pieces = [self._pieces[words[i]] for i in cut.tolist()]
            is_cut = np.zeros(len(ids), bool)
            is_cut[np.flatnonzero(is_word)[cut]] = True
            counts[is_cut] = list(map(len, pieces))
            ids = ids.repeat(counts)
            ids[is_cut.repeat(counts)] = list(chain.from_iterable(pieces))
        return ids, counts

    def _numbers_of(self, codes):
        numbers = self._numbers[codes]
        if not numbers.all():
            with self._lock:
                self._learn(codes)
            numbers = self._numbers[codes]
        return numbers

    def _learn(self, codes):
        """Number the characters that are new."""
        present = np.zeros(codes.max() + 1, bool)
        present[codes] = True
        present &= self._numbers[: len(present)] == 0
        new = np.flatnonzero(present)
        # a word of one character is one token, known or not
        ids = self._ids_of(list(map(chr, new.tolist())))
        kinds = _kinds(new, self._tokenizer._do_lower_case)
        # the number comes last: another thread may look at what it stands for at once
        known = len(self._kinds)
        self._kinds = np.append(self._kinds, kinds)
        self._ids = np.append(self._ids, np.array(ids, object))
        self._numbers[new] = np.arange(known, known + len(new))

    def _piece_ids(self, word):
        return tuple(self._ids_of(self._tokenizer._word_piece_tokenize(word)))

    def _ids_of(self, tokens):
        tokenizer = self._tokenizer
        ids = list(map(self._whole.get, tokens))
        for i, number in enumerate(ids):
            if number is None:
                [ids[i]] = tokenizer.tokens_to_ids(tokenizer._translated([tokens[i]]))
        return ids


class _Memory(dict):
    """A dictionary, bounded, that asks a function for what it does not know."""

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


def _kinds(codes, drop_marks):
    kinds = np.zeros(len(codes), np.uint8)
    # most new characters are ideographs: they are not asked for one by one
    for first, last in CJK_BLOCKS:
        kinds[(first <= codes) & (codes <= last)] = ALONE
    others = np.flatnonzero(kinds == 0)
    kinds[others] = [_kind(chr(code), drop_marks) for code in codes[others].tolist()]
    return kinds


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
