"""Ids of a text at the speed of C: every character, word and chunk is looked at once.

What is new is asked of the tokenizer's own rules, what is known is remembered, so the result is
that of `encode`. The Rust package `tokenizers` was measured, too: on two cores it takes longer
to make its objects than all of this takes on one.
"""

import re
import unicodedata
from itertools import chain

from bert4keras3.tokenizers.base import token_list
from bert4keras3.tokenizers.characters import spaced

# what is remembered: strings up to this length, and at most so many (some 30 MB)
LONGEST = 64
MOST = 100_000

# Runs of characters that are words of their own. Not all of them, only what the long runs of
# Chinese consist of: the others are found one by one, and a short list is a fast search.
SINGLES = re.compile("([\u3400-\u4dbf\u4e00-\u9fff，。、：；！？]+)")


class IdReader:
    """Reads the ids of texts as a `Tokenizer` without `pre_tokenize` would."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._settings = _settings(tokenizer)
        self._replacements = _Replacements(tokenizer._do_lower_case)
        self._words = _Memory(self._word_ids)
        self._pieces = _Memory(self._piece_ids)
        self._singles = _Memory(self._single_id)

    def is_current(self):
        """Whether what is remembered still holds: the tokenizer's settings have not changed."""
        return all(map(_same, self._settings, _settings(self._tokenizer)))

    def read(self, text, argument):
        """List of ids, start and end included, of a text or of a list of tokens.

        Args:
            text: the text or the tokens.
            argument: the name by which to complain about it.
        """
        tokenizer = self._tokenizer
        if not isinstance(text, str):
            return tokenizer.tokens_to_ids(token_list(text, argument))
        start, end = tokenizer._token_start, tokenizer._token_end
        ids = [] if start is None else [tokenizer.token_to_id(start)]
        ids.extend(self._text_ids(text))
        if end is not None:
            ids.append(tokenizer.token_to_id(end))
        return ids

    def _text_ids(self, text):
        """The ids of a text, cut where no word can reach over: at ideographs and at blanks."""
        if self._tokenizer._do_lower_case:
            text = unicodedata.normalize("NFD", text.lower())
        ids = []
        # the pattern's group makes `split` return what it splits at, too: every second part
        parts = [*SINGLES.split(text.replace("\n", " ")), ""]
        for others, singles in zip(parts[::2], parts[1::2], strict=True):
            # not `others.split()`: that splits at controls such as U+0085, which are to vanish
            ids.extend(chain.from_iterable(map(self._pieces.__getitem__, others.split(" "))))
            ids.extend(map(self._singles.__getitem__, singles))
        return ids

    def _piece_ids(self, piece):
        words = piece.translate(self._replacements).split()
        return tuple(chain.from_iterable(map(self._words.__getitem__, words)))

    def _single_id(self, char):
        # a word of one character is one token, known or not
        return self._word_ids(char)[0]

    def _word_ids(self, word):
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


class _Replacements(dict):
    """Table for `str.translate`, filled as characters turn up: code point -> its `spaced` form."""

    def __init__(self, drop_marks):
        super().__init__()
        self._drop_marks = drop_marks

    def __missing__(self, code):
        char = chr(code)
        dropped = self._drop_marks and unicodedata.category(char) == "Mn"
        self[code] = "" if dropped else spaced(char)
        return self[code]


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
