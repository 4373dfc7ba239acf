"""What all tokenizers share: start and end tokens, pairs, truncation."""

from bert4keras3.tokenizers.truncation import check_maxlen, drop_index, share, shorten


class TokenizerBase:
    """Base of the tokenizers; a subclass says how to cut a text and number its tokens.

    Args:
        token_start: token put before every text, or None.
        token_end: token put after every text, or None.
        pre_tokenize: function text -> pieces that is applied first (a word segmenter, say).
        token_translate: dictionary {token: token to put in its place}.
    """

    _token_pad = "[PAD]"
    _token_unk = "[UNK]"
    _token_mask = "[MASK]"

    def __init__(
        self, token_start="[CLS]", token_end="[SEP]", pre_tokenize=None, token_translate=None
    ):
        self._token_start = token_start
        self._token_end = token_end
        self._pre_tokenize = pre_tokenize
        self._token_translate = dict(token_translate or {})
        self._token_translate_inv = {new: old for old, new in self._token_translate.items()}

    def __getattr__(self, name):
        # called for what is missing only: a special token that the vocabulary does not hold
        role = name.removeprefix("_token_").removesuffix("_id")
        if name == f"_token_{role}_id" and role in ("pad", "unk", "mask", "start", "end"):
            token = getattr(self, f"_token_{role}", None)
            reason = "there is none" if token is None else f"{token!r} is not in the vocabulary"
            raise AttributeError(f"no {name}, the id of the {role} token: {reason}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def tokenize(self, text, maxlen=None):
        """Cut a text into tokens, with start and end token.

        Args:
            text: the text.
            maxlen: tokens to return at most; those before the end token go first.

        Returns:
            List of tokens.
        """
        check_maxlen(maxlen)
        tokens = self._translated(self._tokenize(text))
        if self._token_start is not None:
            tokens.insert(0, self._token_start)
        if self._token_end is not None:
            tokens.append(self._token_end)
        if maxlen is None:
            return tokens
        return shorten(tokens, maxlen, self._drop_index("right"))

    def encode(
        self,
        first_text,
        second_text=None,
        maxlen=None,
        pattern="S*E*E",
        truncate_from="right",
    ):
        """Turn a text or a pair of texts into ids.

        Args:
            first_text: a text; or its tokens, complete with start and end token.
            second_text: None or another one.
            maxlen: ids to return at most. The longer text loses tokens first.
            pattern: 'S*E*E' drops the start token of the second text, 'S*ES*E' keeps it.
            truncate_from: 'right' drops tokens before the end token, 'left' after the start
                token; an integer names the index at which they are dropped.

        Returns:
            (token_ids, segment_ids), two lists; segment 0 is the first text, 1 the second.

        Raises:
            VocabularyError: an unknown token, and the vocabulary has no [UNK].
            TypeError, ValueError: arguments of a wrong kind.
        """
        first = self._tokens_of(first_text, "first_text")
        second = None if second_text is None else self._tokens_of(second_text, "second_text")
        first, second = self._join(first, second, maxlen, pattern, truncate_from)
        token_ids = self.tokens_to_ids(first) + self.tokens_to_ids(second)
        return token_ids, [0] * len(first) + [1] * len(second)

    def encode_batch(
        self, texts, second_texts=None, maxlen=None, pattern="S*E*E", truncate_from="right"
    ):
        """Encode many texts or pairs, each as `encode` does.

        Args:
            texts: the texts (or lists of tokens).
            second_texts: None, or as many second texts (each may be None).
            maxlen, pattern, truncate_from: as for `encode`.

        Returns:
            List of (token_ids, segment_ids).
        """
        rows = pair_up(texts, second_texts)
        return [self.encode(*row, maxlen, pattern, truncate_from) for row in rows]

    def encode_written(self, text):
        """The ids of a text that has its special tokens already, as a chat template writes it."""
        return self.tokens_to_ids(self._tokenize(text))

    def token_to_id(self, token):
        """The id of a token."""
        raise NotImplementedError

    def id_to_token(self, i):
        """The token of an id."""
        raise NotImplementedError

    def decode(self, ids):
        """The text of some ids."""
        raise NotImplementedError

    def tokens_to_ids(self, tokens):
        """The ids of some tokens, as a list."""
        return [self.token_to_id(token) for token in tokens]

    def ids_to_tokens(self, ids):
        """The tokens of some ids, as a list."""
        return [self.id_to_token(i) for i in ids]

    def _tokenize(self, text):
        """The tokens of a text, without start and end."""
        raise NotImplementedError

    def _translated(self, tokens):
        return [self._token_translate.get(token) or token for token in tokens]

    def _drop_index(self, truncate_from):
        return drop_index(truncate_from, self._token_start is not None, self._token_end is not None)

    def _tokens_of(self, text, argument):
        if isinstance(text, str):
            return self.tokenize(text)
        return token_list(text, argument)

    def _join(self, first, second, maxlen, pattern, truncate_from):
        """Fit one or two lists (of tokens or of ids) into `maxlen`; the second may be None."""
        check_maxlen(maxlen)
        # only a start token that is there can go, and make room for another one
        dropped = 1 if second and pattern == "S*E*E" and self._token_start else 0
        second = second or []
        if maxlen is not None:
            index = self._drop_index(truncate_from)
            lengths = share(len(first), len(second), maxlen + dropped)
            first, second = shorten(first, lengths[0], index), shorten(second, lengths[1], index)
        return first, second[dropped:]


def token_list(tokens, argument):
    """A list of the given tokens (the caller's own is left alone); TypeError if it is none."""
    try:
        copied = None if isinstance(tokens, (bytes, bytearray, dict)) else list(tokens)
    except TypeError:
        copied = None
    if copied is None:
        raise TypeError(
            f"{argument} must be a str or a sequence of tokens, found {type(tokens).__name__}"
        )
    for token in copied:
        if not isinstance(token, str):
            raise TypeError(f"{argument} must hold tokens (str), found {token!r}")
    return copied


def pair_up(texts, second_texts):
    """List of (text, second text or None); raises where the two do not match."""
    for name, value in (("texts", texts), ("second_texts", second_texts)):
        if isinstance(value, (str, bytes)):
            raise TypeError(
                f"{name} must be a list of texts, found a single {type(value).__name__}"
            )
    texts = list(texts)
    seconds = [None] * len(texts) if second_texts is None else list(second_texts)
    if len(seconds) != len(texts):
        raise ValueError(f"{len(texts)} texts, but {len(seconds)} second_texts")
    return list(zip(texts, seconds, strict=True))
