"""From tokens back to text: where the blanks go."""

import re

from bert4keras3.tokenizers.characters import is_cjk, is_punctuation

# the signs of Chinese text, which take no blank after them
CJK_SIGNS = (
    "\uff02-\uff0d\uff0f\uff1a-\uff1e\uff20\uff3b-\uff40\uff5b-\uff60\uff62-\uff64"
    "\u3000\u3001\u3003\u3008-\u3011\u3014-\u301f\u3030\u303e\u303f\u2013\u2014\u2018\u2019"
    "\u201b-\u201f\u2026\u2027\ufe4f\ufe51\ufe54\u00b7\uff01\uff1f\uff61\u3002"
)

# in this order
REPAIRS = (
    (re.compile(" +"), " "),
    (re.compile("' (re|m|s|t|ve|d|ll) "), r"'\1 "),
    (re.compile(rf"([{CJK_SIGNS}+\-/={{(<\[]) "), r"\1"),
    (re.compile(r"(\d\.) (\d)"), r"\1\2"),
)


def join_tokens(tokens):
    """Write tokens (without special ones) as a text."""
    text = ""
    for i, token in enumerate(tokens):
        if token.startswith("##"):
            text += token[2:]
        elif len(token) == 1 and is_cjk(token):
            text += token
        elif len(token) == 1 and is_punctuation(token):
            text += token + " "
        elif i > 0 and text and is_cjk(text[-1]):
            text += token
        else:
            text += " " + token
    for pattern, replacement in REPAIRS:
        text = pattern.sub(replacement, text)
    return text.strip()
