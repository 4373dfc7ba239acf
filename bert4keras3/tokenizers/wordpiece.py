"""BERT's tokenizer: basic tokenization, then the longest WordPieces that fit."""

import os
from collections.abc import Mapping

from bert4keras3.tokenizers.base import TokenizerBase, pair_up
from bert4keras3.tokenizers.characters import lowercase_and_normalize, spaced
from bert4keras3.tokenizers.errors import VocabularyError
from bert4keras3.tokenizers.matching import match
from bert4keras3.tokenizers.spacing import join_tokens
from bert4keras3.tokenizers.vocab import check_vocabulary, load_vocab

# a subclass that changes any of these is not served by the fast `encode_batch`
ENCODING = (
    "encode",
    "tokenize",
    "token_to_id",
    "tokens_to_ids",
    "_tokenize",
    "_tokens_of",
    "_translated",
    "_word_piece_tokenize",
)


class Tokenizer(TokenizerBase):
    """WordPiece tokenizer of BERT and its relatives.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", 2018; Wu et al., "Google's Neural Machine Translation System", 2016.

    Args:
        token_dict: path of a vocabulary file, or a dictionary {token: id}.
        do_lower_case: lower the case and remove accents.
        word_maxlen: longer words are not cut; they are unknown.
        **kwargs: token_start, token_end, pre_tokenize, token_translate of `TokenizerBase`.

    Raises:
        TypeError, ValueError: the vocabulary is none.
        FileNotFoundError: there is no such vocabulary file.
    """

    def __init__(self, token_dict, do_lower_case=False, word_maxlen=200, **kwargs):
        super().__init__(**kwargs)
        if isinstance(token_dict, (str, os.PathLike)):
            token_dict = load_vocab(token_dict)
        elif not isinstance(token_dict, Mapping):
            raise TypeError(
                "token_dict must be the path of a vocabulary file or a dictionary "
                f"{{token: id}}, found {type(token_dict).__name__}"
            )
        check_vocabulary(token_dict)
        self._token_dict = dict(token_dict)
        self._token_dict_inv = {number: token for token, number in token_dict.items()}
        # lines, not names: a line that a later one repeats has an id all the same
        self._vocab_size = max(self._token_dict_inv, default=-1) + 1
        self._do_lower_case = do_lower_case
        self._word_maxlen = word_maxlen
        for role in ("pad", "unk", "mask", "start", "end"):
            token = getattr(self, f"_token_{role}")
            if token in token_dict:
                setattr(self, f"_token_{role}_id", token_dict[token])

    def token_to_id(self, token):
        """The id of a token, that of [UNK] for an unknown one.

        Raises:
            VocabularyError: the token is unknown and so is [UNK].
        """
        number = self._token_dict.get(token)
        if number is not None:
            return number
        if not hasattr(self, "_token_unk_id"):
            raise VocabularyError(
                f"token {token!r} is not in the vocabulary of {len(self._token_dict)} tokens, "
                f"and neither is {self._token_unk!r} to stand for it"
            )
        return self._token_unk_id

    def id_to_token(self, i):
        """The token of an id; [UNK] for a line of the vocabulary that names no token.

        Raises:
            VocabularyError: the id is outside the vocabulary.
        """
        try:
            return self._token_dict_inv[i]
        except (KeyError, TypeError):
            if hasattr(i, "__index__") and 0 <= i < self._vocab_size:
                return self._token_dict_inv.get(int(i), self._token_unk)
        raise VocabularyError(
            f"id {i!r} is outside the vocabulary: expected an integer from 0 to "
            f"{self._vocab_size - 1}"
        )

    def decode(self, ids, tokens=None):
        """The text of some ids, without special tokens, spaced as one would write it.

        Args:
            ids: sequence of ids.
            tokens: their tokens, if they are known already (then `ids` is not looked at).

        Raises:
            VocabularyError: an id is outside the vocabulary.
        """
        if not tokens:
            tokens = self.ids_to_tokens(ids.tolist() if hasattr(ids, "tolist") else ids)
        return join_tokens([token for token in tokens if not self._is_special(token)])

    def rematch(self, text, tokens):
        """Find the characters of the text that each token came from.

        Args:
            text: the text.
            tokens: its tokens, as `tokenize` returns them.

        Returns:
            For each token the list of its characters' indices in the text. It is empty for
            special tokens ([UNK] included) and for tokens that the rest of the text does not
            hold. A translated token is looked for in its original form, too.
        """
        originals = {}
        for old, new in self._token_translate.items():
            originals.setdefault(new, []).append(old)
        forms = []
        for token in tokens:
            strings = () if self._is_special(token) else (token, *originals.get(token, ()))
            forms.append([self.stem(string) for string in strings])
        return match(text, forms, self._do_lower_case)

    def encode_batch(
        self, texts, second_texts=None, maxlen=None, pattern="S*E*E", truncate_from="right"
    ):
        """Encode many texts or pairs: the same as `encode` for each, and much faster.

        Args:
            texts: the texts (or lists of tokens).
            second_texts: None, or as many second texts (each may be None).
            maxlen, pattern, truncate_from: as for `encode`.

        Returns:
            List of (token_ids, segment_ids).
        """
        if not self._is_as_written():
            return super().encode_batch(texts, second_texts, maxlen, pattern, truncate_from)
        rows = pair_up(texts, second_texts)
        read = self._id_reader().read
        firsts = read([first for first, _ in rows], "first_text")
        seconds = read([second for _, second in rows if second is not None], "second_text")
        encoded = []
        for (_, second), first in zip(rows, firsts, strict=True):
            second = None if second is None else next(seconds)
            first, second = self._join(first, second, maxlen, pattern, truncate_from)
            encoded.append((first + second, [0] * len(first) + [1] * len(second)))
        return encoded

    def _is_as_written(self):
        """Whether encoding is what this file says; a subclass may have changed it."""
        changed = any(
            getattr(type(self), name) is not getattr(Tokenizer, name) or name in self.__dict__
            for name in ENCODING
        )
        # without [UNK] an unknown token is an error, unless truncation drops it first
        return not changed and self._pre_tokenize is None and hasattr(self, "_token_unk_id")

    def _id_reader(self):
        reader = self.__dict__.get("_reader")
        if reader is None or not reader.is_current():
            # imported here because it takes numpy, which all else does without
            from bert4keras3.tokenizers.batch import IdReader

            reader = self._reader = IdReader(self)
        return reader

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_reader"}

    def _tokenize(self, text, pre_tokenize=True):
        """The tokens of a text, without start and end."""
        if self._do_lower_case:
            text = lowercase_and_normalize(text)
        if pre_tokenize and self._pre_tokenize is not None:
            return self._tokenize_pieces(self._pre_tokenize(text))
        words = "".join(map(spaced, text)).split()
        return [token for word in words for token in self._word_piece_tokenize(word)]

    def _tokenize_pieces(self, pieces):
        tokens = []
        for piece in pieces:
            if piece in self._token_dict:
                tokens.append(piece)
            else:
                tokens.extend(self._tokenize(piece, pre_tokenize=False))
        return tokens

    def _word_piece_tokenize(self, word):
        """The longest tokens that make up a word; the word itself where that cannot be done."""
        if len(word) > self._word_maxlen:
            return [word]
        known, tokens, rest = self._token_dict, [], word
        while rest:
            piece, stop, least = rest, len(rest), 2 if tokens else 0
            while piece not in known:
                stop -= 1
                if stop <= least:
                    return [word]
                piece = rest[:stop]
            tokens.append(piece)
            rest = rest[stop:] and "##" + rest[stop:]
        return tokens

    @staticmethod
    def stem(token):
        """The token without a leading `##`."""
        return token.removeprefix("##")

    @staticmethod
    def _is_special(token):
        return bool(token) and token[0] == "[" and token[-1] == "]"
