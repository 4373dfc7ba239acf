"""Vocabulary files: one token a line, and the line number is the id."""

import os
import secrets
import shutil

from bert4keras3.tokenizers.characters import is_cjk, is_punctuation


def load_vocab(dict_path, encoding="utf-8", simplified=False, startswith=None):
    """Read a vocabulary file.

    The token of a line is what stands before its first blank; the id is the number of the line,
    counted from 0. Of equal lines the last one names the id. A blank line names the token ''.

    Args:
        dict_path: path of the file.
        encoding: encoding of the file.
        simplified: leave out the tokens that basic tokenization can never produce, such as
            `##我` (see `is_redundant`), and number the rest anew.
        startswith: with `simplified`, the tokens that get the first new ids, in this order.
            Special tokens such as `[PAD]` are kept only if they are named here.

    Returns:
        The dictionary {token: id}; with `simplified` the pair (dictionary, keep_tokens), where
        keep_tokens[new id] is the old id.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be decoded, or lacks a token of `startswith`.
    """
    token_dict = {}
    for number, line in enumerate(_read_lines(dict_path, encoding)):
        token_dict[(line.split(maxsplit=1) or [""])[0]] = number
    if not simplified:
        return token_dict
    missing = [token for token in startswith or () if token not in token_dict]
    if missing:
        raise ValueError(f"startswith names tokens that {dict_path} does not hold: {missing}")
    return simplify(token_dict, startswith)


def save_vocab(dict_path, token_dict, encoding="utf-8"):
    """Write a vocabulary file which `load_vocab` reads back as the same dictionary.

    An id that no token has becomes a line that repeats the next token: of equal lines the last
    one counts. The file is replaced at once or not at all.

    Args:
        dict_path: path of the file to write.
        token_dict: dictionary {token: id}.
        encoding: encoding of the file.

    Raises:
        ValueError: a token that is no line (it holds a blank or the encoding lacks it), an id
            that is no line number, or two tokens with the same id.
    """
    check_vocabulary(token_dict)
    lines = _lines_of(token_dict)
    try:
        data = "".join(line + "\n" for line in lines).encode(encoding)
    except UnicodeEncodeError as error:
        token = next(line for line in lines if not _encodes(line, encoding))
        raise ValueError(f"token {token!r} cannot be written as {encoding}: {error}") from error
    _replace_file(dict_path, data)


def simplify(token_dict, startswith=None):
    """Drop the redundant tokens and number the rest from 0, those of `startswith` first.

    Args:
        token_dict: dictionary {token: id}.
        startswith: tokens that come first, redundant or not.

    Returns:
        (new dictionary, keep_tokens), where keep_tokens[new id] is the old id.
    """
    by_id = sorted(token_dict, key=token_dict.get)
    # a dictionary forgets repetitions, so that new ids and keep_tokens stay in step
    kept = dict.fromkeys(startswith or ())
    kept.update(dict.fromkeys(token for token in by_id if not is_redundant(token)))
    return {token: i for i, token in enumerate(kept)}, [token_dict[token] for token in kept]


def is_redundant(token):
    """Whether basic tokenization never makes this token: an ideograph or a sign with company."""
    if len(token) <= 1:
        return False
    return any(is_cjk(char) or is_punctuation(char) for char in token.removeprefix("##"))


def check_vocabulary(token_dict):
    """Raise TypeError or ValueError unless this maps strings to ids (integers from 0 on)."""
    for token, number in token_dict.items():
        if not isinstance(token, str) or not hasattr(number, "__index__"):
            raise TypeError(f"a vocabulary maps tokens to ids, found {token!r}: {number!r}")
        if number < 0:
            raise ValueError(f"ids count from 0, found {token!r}: {number}")


def _read_lines(path, encoding):
    try:
        with open(path, encoding=encoding) as file:
            return file.readlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no vocabulary file {os.fspath(path)!r}") from None
    except UnicodeDecodeError as error:
        raise ValueError(_undecodable(path, encoding, error)) from error


def _undecodable(path, encoding, error):
    """Say where: a file is decoded in pieces, so the error itself counts from its piece."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        data.decode(encoding)
    except UnicodeDecodeError as whole:
        error = whole
    line = data.count(b"\n", 0, error.start) + 1
    return (
        f"{os.fspath(path)!r} is not {encoding}: "
        f"byte {error.start} (line {line}) cannot be decoded, {error.reason}"
    )


def _lines_of(token_dict):
    lines = []
    for token in sorted(token_dict, key=token_dict.get):
        number = token_dict[token]
        if token and token.split() != [token]:
            raise ValueError(f"token {token!r} (id {number}) holds a blank and cannot be a line")
        if number < len(lines):
            raise ValueError(f"tokens {lines[number]!r} and {token!r} both have the id {number}")
        lines += [token] * (number + 1 - len(lines))
    return lines


def _encodes(line, encoding):
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _replace_file(path, data):
    path = os.path.realpath(path)
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        if os.path.exists(path):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
