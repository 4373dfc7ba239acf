"""What kind of character is this? The rules of BERT's basic tokenizer."""

import unicodedata
from string import punctuation

# first and last code points of the Chinese ideographs, each of which is a word of its own
CJK_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)

# the ASCII signs; Unicode itself calls some of them (`$`, `+`, `^`) symbols, not punctuation
ASCII_SIGNS = frozenset(punctuation)


def is_cjk(char):
    """Whether the character is a Chinese ideograph (kana and hangul are not)."""
    code = ord(char)
    return any(first <= code <= last for first, last in CJK_BLOCKS)


def is_punctuation(char):
    """Whether the character is an ASCII sign or of a Unicode category P*."""
    return char in ASCII_SIGNS or unicodedata.category(char).startswith("P")


def is_space(char):
    """Whether the character separates words: blank, tab, line ends and category Zs."""
    return char in " \n\r\t" or unicodedata.category(char) == "Zs"


def is_control(char):
    """Whether the character is of category Cc or Cf (ask `is_space` first: tabs are Cc)."""
    return unicodedata.category(char) in ("Cc", "Cf")


def is_dropped(char):
    """Whether the character leaves no trace in the tokens: NUL, U+FFFD and controls."""
    return char in "\0\ufffd" or is_control(char)


def spaced(char):
    """What basic tokenization puts in the place of a character.

    An ideograph or punctuation stands between blanks, anything space-like is a blank, controls
    vanish. The order of the tests matters: a tab is a control character, and is a space here.
    """
    if is_punctuation(char) or is_cjk(char):
        return f" {char} "
    if is_space(char):
        return " "
    if is_dropped(char):
        return ""
    return char


def lowercase_and_normalize(text):
    """Lower case without accents: `lower()`, NFD, and no combining marks (category Mn)."""
    decomposed = unicodedata.normalize("NFD", text.lower())
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
