"""The tokenizer of RWKV: the longest token of a vocabulary of bytes, from the left."""

import ast
import os

from bert4keras3.tokenizers.base import TokenizerBase, pair_up
from bert4keras3.tokenizers.errors import VocabularyError


class RWKV_TOKENIZER(TokenizerBase):
    """RWKV's 'world' tokenizer: no special tokens, every text comes back as it was.

    A vocabulary such as `rwkv_vocab_v20230424.txt` has a line for each token: its id, the
    token as a Python literal (a str or bytes) and its number of bytes. Id 0 is in no file: it
    pads, and ends texts.

    A token as a str has in place of bytes that are no UTF-8 what Python's 'surrogateescape'
    puts there.

    Source: https://github.com/BlinkDL/ChatRWKV

    Args:
        dict_path: path of the vocabulary.

    Attributes:
        idx2token: `{id: bytes}`.
        token2idx: `{bytes: id}`.

    Raises:
        FileNotFoundError: there is no such file.
        VocabularyError: a line is not of that form.
    """

    def __init__(self, dict_path):
        super().__init__(token_start=None, token_end=None)
        self._token_pad = self._token_unk = self._token_mask = None
        self.idx2token = read_vocabulary(dict_path)
        self.token2idx = {token: i for i, token in self.idx2token.items()}
        self._vocab_size = max(self.idx2token) + 1
        self._ids = list(self.token2idx.values())
        self._automaton = _automaton(list(self.token2idx))

    def encode(self, text):
        """Turn texts into ids.

        Args:
            text: a text, or several; one is a batch of one.

        Returns:
            A list of ids for each text.

        Raises:
            TypeError: something that is no str.
            VocabularyError: the vocabulary lacks a byte.
        """
        texts = [text] if isinstance(text, str) else list(text)
        return [self._encode(text) for text in texts]

    def encode_batch(self, texts, second_texts=None):
        """Encode many texts, or pairs one after the other, with segments as others have them.

        Returns:
            List of (token_ids, segment_ids).
        """
        rows = []
        for first, second in pair_up(texts, second_texts):
            first, second = self._encode(first), self._encode(second or "")
            rows.append((first + second, [0] * len(first) + [1] * len(second)))
        return rows

    def decode(self, ids):
        """The text of ids, or the texts of several lists.

        Ids that are not in the vocabulary (0 among them) are left out; bytes that are no
        UTF-8, as of a character that is not complete yet, turn into U+FFFD.

        Args:
            ids: a list or array of ids, or of such.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if ids and hasattr(ids[0], "__iter__"):
            return [self.decode(row) for row in ids]
        return b"".join(self.idx2token.get(i, b"") for i in ids).decode("utf-8", "replace")

    def token_to_id(self, token):
        """The id of a token; VocabularyError for others."""
        data = token if isinstance(token, bytes) else token.encode("utf-8", "surrogateescape")
        if data not in self.token2idx:
            raise VocabularyError(f"the vocabulary has no token {token!r}")
        return self.token2idx[data]

    def id_to_token(self, i):
        """The token of an id, '' for one that is not in the vocabulary."""
        return self.idx2token.get(i, b"").decode("utf-8", "surrogateescape")

    def tokens_to_ids(self, tokens):
        return [self.token_to_id(token) for token in tokens]

    def _tokenize(self, text):
        return [self.id_to_token(i) for i in self._encode(text)]

    def _encode(self, text):
        if not isinstance(text, str):
            raise TypeError(f"expected a str, found {type(text).__name__}")
        data = text.encode("utf-8")
        found = self._automaton.find_matches_as_indexes(data)
        ids, place = self._ids, 0
        for _, start, end in found:
            if start != place:
                break
            place = end
        if place != len(data):
            raise VocabularyError(
                f"the vocabulary has no token that begins with the byte {data[place : place + 1]!r}"
            )
        return [ids[number] for number, _, _ in found]


def read_vocabulary(dict_path):
    """`{id: bytes}` of a vocabulary file; raises as `RWKV_TOKENIZER`."""
    path = os.fspath(dict_path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no vocabulary {path!r}")
    tokens = {}
    with open(path, encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                i, token = _read_line(line)
            except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
                raise VocabularyError(
                    f"{path}, line {number}: expected an id, a Python literal of a token and its "
                    f"number of bytes, found {line.strip()!r}: {error}"
                ) from None
            if i in tokens:
                raise VocabularyError(f"{path}, line {number}: the id {i} is there already")
            tokens[i] = token
    if not tokens:
        raise VocabularyError(f"{path}: expected tokens, found none")
    return tokens


def _read_line(line):
    first, last = line.index(" "), line.rindex(" ")
    token = ast.literal_eval(line[first:last].strip())
    token = token.encode("utf-8") if isinstance(token, str) else token
    if not isinstance(token, bytes) or not token:
        raise ValueError("no str or bytes")
    if len(token) != int(line[last:]):
        raise ValueError(f"the token has {len(token)} bytes")
    return int(line[:first]), token


def _automaton(tokens):
    """Finds, in a text from the left, the longest token at each place."""
    from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

    return BytesAhoCorasick(
        tokens, matchkind=MatchKind.LeftmostLongest, implementation=Implementation.ContiguousNFA
    )
