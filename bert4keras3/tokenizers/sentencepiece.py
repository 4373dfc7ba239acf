"""The tokenizer of T5, Llama and Gemma: a model file of Google's SentencePiece."""

import os

from bert4keras3.tokenizers.base import TokenizerBase
from bert4keras3.tokenizers.errors import VocabularyError, explain


class SpTokenizer(TokenizerBase):
    """A SentencePiece model (`spiece.model`, `tokenizer.model` ...) with our interface.

    Which start and end token a text gets is not in the file: T5 has None and '</s>', Llama '<s>'
    and None, Gemma '<bos>' and '<eos>', DeBERTa the default. A start or end token that the model
    lacks is unknown, as any other token would be.

    Special tokens that a text spells out are read as plain text; the tokenizer that
    `load_tokenizer` makes of a whole folder knows them.

    Source: Kudo and Richardson, "SentencePiece: A simple and language independent subword
    tokenizer and detokenizer for Neural Text Processing", 2018.

    Args:
        sp_model_path: path of the model file.
        **kwargs: token_start, token_end, pre_tokenize, token_translate of `TokenizerBase`. What
            pre_tokenize cuts is joined with blanks; decoding takes token_translate back.

    Attributes:
        sp_model: the `sentencepiece.SentencePieceProcessor`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no SentencePiece model.
    """

    def __init__(self, sp_model_path, **kwargs):
        super().__init__(**kwargs)
        self.sp_model = read_model(sp_model_path)
        self._vocab_size = self.sp_model.get_piece_size()
        for role in ("pad", "unk"):
            number = getattr(self.sp_model, f"{role}_id")()
            setattr(self, f"_token_{role}", self.id_to_token(number) if number >= 0 else None)
        self._number_roles()

    def token_to_id(self, token):
        """The id of a token, that of the unknown token for others."""
        return self.sp_model.piece_to_id(token)

    def id_to_token(self, i):
        """The token of an id, '' for one beyond the vocabulary; VocabularyError below 0."""
        if i < 0:
            raise VocabularyError(f"ids count from 0, found {i!r}")
        return self.sp_model.id_to_piece(int(i)) if i < self.sp_model.get_piece_size() else ""

    def decode(self, ids):
        """The text of some ids, without control tokens (start, end, padding).

        Ids outside the vocabulary are left out: embeddings are often padded to a round size.

        Args:
            ids: sequence of ids; numbers of any kind will do.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        tokens = [self.id_to_token(i) for i in ids if self._is_written(i)]
        return self.sp_model.decode_pieces(
            [self._token_translate_inv.get(token) or token for token in tokens]
        )

    def _number_roles(self):
        for role in ("pad", "unk", "mask", "start", "end"):
            token = getattr(self, f"_token_{role}")
            number = None if token is None else self.token_to_id(token)
            # for a token that it lacks, the model gives the id of the unknown one
            if token and self.id_to_token(number) == token:
                setattr(self, f"_token_{role}_id", number)

    def _tokenize(self, text):
        if self._pre_tokenize is not None:
            text = " ".join(self._pre_tokenize(text))
        return self._pieces(self.sp_model, text)

    def _pieces(self, model, text):
        try:
            return model.encode_as_pieces(text)
        except (RuntimeError, TypeError) as error:
            explain(text, "text", error)
            raise

    def _is_written(self, i):
        return 0 <= i < self._vocab_size

    def _is_special(self, i):
        """Whether no text has this id: a control token, the unknown one, or an unused one."""
        model = self.sp_model
        return model.is_control(i) or model.is_unknown(i) or model.is_unused(i)

    def _is_decodable(self, i):
        """Whether the id is one of the model's that a text can have."""
        return i < self.sp_model.get_piece_size() and not self._is_special(i)


def read_model(path=None, data=None):
    """The processor of a model file, or of what one holds.

    Args:
        path: path of the file, or what to call it in errors.
        data: None, or the bytes of a model file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no SentencePiece model.
    """
    # takes some 50 ms, which other tokenizers need not wait for
    from sentencepiece import SentencePieceProcessor

    name = os.fspath(path)
    if data is None:
        if not os.path.isfile(name):
            raise FileNotFoundError(f"there is no SentencePiece model {name!r}")
        with open(name, "rb") as file:
            data = file.read()
    try:
        model = SentencePieceProcessor(model_proto=data)
        size = model.get_piece_size()
    except RuntimeError as error:
        raise ValueError(f"{name!r} is not a SentencePiece model: {error}") from error
    if not size:
        raise ValueError(f"{name!r} is not a SentencePiece model: it holds no pieces")
    return model
