"""Which characters of a text did a token come from?"""

import unicodedata
from itertools import groupby

from bert4keras3.tokenizers.characters import is_dropped, is_space


def match(text, forms, do_lower_case):
    """Look for tokens in a text, one after the other.

    Args:
        text: the text.
        forms: for each token the strings it may have in the text; none for special tokens.
        do_lower_case: whether the tokens are in lower case and without accents.

    Returns:
        For each token the list of indices of its characters, rising; empty if it is not found.
    """
    kept = normalized(text, do_lower_case)
    letters = "".join(char for char, _ in kept)
    places = [place for _, place in kept]
    indices, start = [], 0
    for strings in forms:
        found = [(letters.find(s, start), -len(s)) for s in strings if s]
        found = [(first, -size) for first, size in sorted(found) if first >= 0]
        first, size = found[0] if found else (start, 0)
        indices.append(places[first : first + size])
        start = first + size
    return indices


def normalized(text, do_lower_case):
    """The characters that tokenization leaves, each with the index of its origin in the text.

    Args:
        text: the text.
        do_lower_case: whether tokenization lowers the case and removes accents.

    Returns:
        List of (character, index).
    """
    pairs = [(char, i) for i, char in enumerate(text)]
    if do_lower_case:
        # all of the text at once (a final sigma depends on what surrounds it), but counted by
        # character: one may become two
        places = [i for i, char in enumerate(text) for _ in char.lower()]
        pairs = zip(text.lower(), places, strict=True)
        pairs = [(part, i) for char, i in pairs for part in unicodedata.normalize("NFD", char)]
        pairs = [pair for pair in _ordered(pairs) if unicodedata.category(pair[0]) != "Mn"]
    return [(char, i) for char, i in pairs if is_space(char) or not is_dropped(char)]


def _ordered(pairs):
    """NFD's canonical order: runs of combining characters sorted by their class."""
    ordered = []
    for _, run in groupby(pairs, key=lambda pair: _combining_class(pair) > 0):
        ordered += sorted(run, key=_combining_class)
    return ordered


def _combining_class(pair):
    return unicodedata.combining(pair[0])
