"""The tokenizers of the Rust package `tokenizers`, with our interface."""

import os

from bert4keras3.tokenizers.base import TokenizerBase, pair_up
from bert4keras3.tokenizers.configuration import named
from bert4keras3.tokenizers.errors import VocabularyError, explain
from bert4keras3.tokenizers.truncation import check_maxlen, share

# role -> the keys of the folder's configuration, then the usual names where it has none
ROLES = {
    "pad": (("pad_token",), ("[PAD]", "<pad>")),
    "unk": (("unk_token",), ("[UNK]", "<unk>")),
    "mask": (("mask_token",), ("[MASK]", "<mask>")),
    "start": (("bos_token", "cls_token"), ("[CLS]", "<s>", "<bos>")),
    "end": (("eos_token", "sep_token"), ("[SEP]", "</s>", "<eos>", "<|endoftext|>")),
}


class HuggingFaceTokenizer(TokenizerBase):
    """A `tokenizer.json`, read by the Rust package `tokenizers`, with our interface.

    Texts get the special tokens that the file prescribes; there is no padding, and truncation
    only where `maxlen` asks for it.

    Args:
        path: path of the `tokenizer.json`, or a `tokenizers.Tokenizer`.
        configuration: dictionary that names the special tokens and the side of truncation, as
            `tokenizer_config.json` does.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a `tokenizer.json`.
    """

    def __init__(self, path, configuration=None):
        self._configuration = configuration or {}
        self._rust = _read_rust(path) if isinstance(path, (str, os.PathLike)) else path
        self._vocab_size = self._rust.get_vocab_size()
        for role, (keys, usual) in ROLES.items():
            token = self._special_token(keys, usual)
            setattr(self, f"_token_{role}", token)
            number = None if token is None else self._rust.token_to_id(token)
            if number is not None:
                setattr(self, f"_token_{role}_id", number)
        super().__init__(self._token_start, self._token_end)

    def tokenize(self, text, maxlen=None):
        """The tokens of a text, special ones included, as a list of at most `maxlen`."""
        return self._encoding(text, None, maxlen).tokens

    def encode(self, first_text, second_text=None, maxlen=None, truncate_from=None):
        """Turn a text or a pair of texts into ids.

        Args:
            first_text: a text.
            second_text: None or another one.
            maxlen: ids to return at most. The longer text loses tokens first.
            truncate_from: 'right' or 'left'; None takes the side that the folder prescribes.

        Returns:
            (token_ids, segment_ids), two lists.

        Raises:
            ValueError: `maxlen` leaves no room for the special tokens, or a text holds half of
                a surrogate pair.
        """
        return self._ids(self._encoding(first_text, second_text, maxlen, truncate_from))

    def encode_batch(self, texts, second_texts=None, maxlen=None, truncate_from=None):
        """Encode many texts or pairs on all cores, each as `encode` does.

        Args:
            texts: the texts.
            second_texts: None, or as many second texts (each may be None).
            maxlen, truncate_from: as for `encode`.

        Returns:
            List of (token_ids, segment_ids).
        """
        check_maxlen(maxlen)
        rows = pair_up(texts, second_texts)
        inputs = [first if second is None else (first, second) for first, second in rows]
        try:
            encodings = self._rust.encode_batch_fast(inputs)
        except TypeError:
            # one of them is no text; `encode` says which and why
            return [self.encode(*row, maxlen, truncate_from) for row in rows]
        return [
            self._ids(self._fitted(encoding, *row, maxlen, truncate_from))
            for encoding, row in zip(encodings, rows, strict=True)
        ]

    def decode(self, ids):
        """The text of some ids, without special tokens.

        Ids outside the vocabulary are left out: embeddings are often padded to a round size.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        return self._rust.decode([int(i) for i in ids if i >= 0], skip_special_tokens=True)

    def encode_written(self, text):
        """The ids of a text that has its special tokens already, as a chat template writes it."""
        return self._rust.encode(text, add_special_tokens=False).ids

    def token_to_id(self, token):
        """The id of a token, that of the unknown token for others; VocabularyError if none."""
        number = self._rust.token_to_id(token)
        if number is None:
            number = self.__dict__.get("_token_unk_id")
        if number is None:
            raise VocabularyError(f"token {token!r} is not in the vocabulary")
        return number

    def id_to_token(self, i):
        """The token of an id; VocabularyError if it has none."""
        token = self._rust.id_to_token(int(i)) if i >= 0 else None
        if token is None:
            raise VocabularyError(
                f"id {i!r} is outside the vocabulary of {self._vocab_size} tokens"
            )
        return token

    def _ids(self, encoding):
        # without a post-processor nothing sets the segments of a truncated pair
        plain = self._rust.post_processor is None
        return encoding.ids, encoding.sequence_ids if plain else encoding.type_ids

    def _special_token(self, keys, usual):
        given = (named(self._configuration, key) for key in keys)
        present = (name for name in usual if self._rust.token_to_id(name) is not None)
        return next((token for token in (*given, *present) if token is not None), None)

    def _encoding(self, first, second, maxlen, truncate_from=None):
        check_maxlen(maxlen)
        try:
            encoding = self._rust.encode(first, second)
        except TypeError as error:
            explain(first, "first_text", error)
            if second is not None:
                explain(second, "second_text", error)
            raise
        return self._fitted(encoding, first, second, maxlen, truncate_from)

    def _fitted(self, encoding, first, second, maxlen, truncate_from):
        """The encoding, or if it is too long one that is cut before special tokens are added.

        The Rust tokenizer can truncate by itself, but only after a change of its settings, which
        would make it unsafe to share between threads.
        """
        if maxlen is None or len(encoding) <= maxlen:
            return encoding
        room = maxlen - self._rust.num_special_tokens_to_add(second is not None)
        if room < 0:
            raise ValueError(
                f"maxlen={maxlen} leaves no room: the special tokens alone are {maxlen - room}"
            )
        side = truncate_from or self._configuration.get("truncation_side") or "right"
        parts = [first] if second is None else [first, second]
        parts = [self._rust.encode(part, add_special_tokens=False) for part in parts]
        for part, length in zip(parts, _lengths(parts, room), strict=True):
            part.truncate(length, direction=side)
        return self._rust.post_process(*parts)


def _lengths(parts, room):
    """What truncation leaves of each; unlike in ours, the odd token goes to the longer text."""
    sizes = [len(part) for part in parts]
    if len(sizes) == 1:
        return [min(sizes[0], room)]
    if sizes[0] > sizes[1]:
        return share(*sizes[::-1], room)[::-1]
    return share(*sizes, room)


def _read_rust(path):
    from tokenizers import Tokenizer as RustTokenizer

    with open(path, "rb") as file:
        data = file.read()
    try:
        rust = RustTokenizer.from_buffer(data)
    except Exception as error:  # the package raises bare `Exception`
        raise ValueError(f"{os.fspath(path)!r} is not a tokenizer.json: {error}") from error
    rust.no_padding()
    rust.no_truncation()
    return rust
