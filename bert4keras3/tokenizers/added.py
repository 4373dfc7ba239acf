"""Tokens that are cut out of a text before a model sees it: special ones, and later additions."""

import os
import re
from typing import NamedTuple


class AddedToken(NamedTuple):
    """One of them.

    Attributes:
        id: its id.
        special: whether decoding leaves it out.
        lstrip, rstrip: whether it takes the blanks before or after it along.
    """

    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False


class Splitter:
    """Cuts texts at added tokens; the longest one wins where several begin.

    Args:
        tokens: dictionary {token: AddedToken}.
    """

    def __init__(self, tokens):
        longest_first = sorted(tokens, key=len, reverse=True)
        forms = [_form(token, tokens[token]) for token in longest_first]
        self._pattern = re.compile(f"({'|'.join(forms)})") if forms else None

    def split(self, text):
        """List of (part, whether it is an added token); empty parts are left out."""
        parts = [text] if self._pattern is None else self._pattern.split(text)
        parts = [(part.strip() if i % 2 else part, i % 2 == 1) for i, part in enumerate(parts)]
        return [(part, added) for part, added in parts if part]


def _form(token, added):
    before, after = (r"\s*" if strip else "" for strip in (added.lstrip, added.rstrip))
    return before + re.escape(token) + after


def describe(number, token, path):
    """A token and its `AddedToken`, from what a file says.

    Args:
        number: its id, or that as text.
        token: the token, or a dictionary with "content", "special" and so on.
        path: path of the file, for errors.

    Returns:
        (token, AddedToken).

    Raises:
        ValueError: what the file says makes no token.
    """
    details = {"content": token} if isinstance(token, str) else token
    try:
        content, i = details["content"], int(number)
    except (KeyError, TypeError, ValueError):
        content, i = None, -1
    if not isinstance(content, str) or not content or i < 0:
        raise ValueError(
            f"{os.fspath(path)!r}: expected an added token with its id, found {number!r}: {token!r}"
        )
    kept = {key: bool(details.get(key)) for key in ("special", "lstrip", "rstrip")}
    return content, AddedToken(i, **kept)
