"""Helpers for strings."""

import re

# Full-width forms of the ASCII signs, and the full-width space.
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}


def is_string(s):
    """Whether this is a `str`."""
    return isinstance(s, str)


def strQ2B(ustring):
    """Full-width letters, digits and signs as half-width ones: `'ＡＢＣ１，'` -> `'ABC1,'`."""
    return ustring.translate(_HALF_WIDTH)


def string_matching(s, keywords):
    """Whether one of the keywords, regular expressions, is found in a string."""
    return any(re.search(keyword, s) for keyword in keywords)


def convert_to_unicode(text, encoding="utf-8", errors="ignore"):
    """Bytes as a string; anything else as it is."""
    return text.decode(encoding, errors) if isinstance(text, bytes) else text


# Both names mean this on Python 3.
convert_to_str = convert_to_unicode


def text_segmentate(text, maxlen, seps="\n", strips=None):
    """Cut a text at separators into pieces that are about as long as allowed.

    Args:
        text: the text.
        maxlen: what length of a piece to aim at. A piece without a separator is not cut,
            however long it is.
        seps: separators, tried one after another: a later one cuts what the earlier ones
            left too long. They stay at the end of a piece.
        strips: characters that are taken off both ends of each piece, white space by
            default.

    Returns:
        A list of strings.
    """
    text = text.strip().strip(strips)
    if not seps or len(text) <= maxlen:
        return [text]
    parts = text.split(seps[0])
    pieces, piece = [], ""
    for i, part in enumerate(parts):
        if piece and part and len(piece) + len(part) > maxlen - 1:
            pieces += text_segmentate(piece, maxlen, seps[1:], strips)
            piece = ""
        piece += part if i == len(parts) - 1 else part + seps[0]
    return pieces + (text_segmentate(piece, maxlen, seps[1:], strips) if piece else [])
