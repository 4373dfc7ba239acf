"""A SentencePiece model with all that a Hugging Face folder says about it."""

import os

from bert4keras3.tokenizers.added import AddedToken, Splitter, describe
from bert4keras3.tokenizers.configuration import further_special, read_json, special_names
from bert4keras3.tokenizers.sentencepiece import SpTokenizer, read_model
from bert4keras3.tokenizers.sentencepiece_kinds import find_kind

# appended to a model file, where the later value counts: normalizer_spec.add_dummy_prefix = false
WITHOUT_PREFIX = b"\x1a\x02\x18\x00"


class SentencePieceFolderTokenizer(SpTokenizer):
    """A folder's SentencePiece model, reading and writing special tokens as transformers does.

    Plain text gets the ids that SentencePiece itself gives. Llama and Gemma put their start token
    before it unless `tokenizer_config.json` has "add_bos_token": false.

    Args:
        sp_model_path: path of the model file in the folder.
        configuration: dictionary of the folder's `tokenizer_config.json`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged, or the model alone does not make the ids of this kind.
    """

    def __init__(self, sp_model_path, configuration):
        self._kind = kind = find_kind(sp_model_path, configuration)
        self._configuration = configuration
        self._added, self._added_inv = {}, {}
        names = special_names(configuration, kind.tokens)
        ends = {"start": kind.start, "end": kind.end}
        ends = {role: key if self._is_on(role) else None for role, key in ends.items()}
        super().__init__(
            sp_model_path, **{f"token_{role}": names.get(key) for role, key in ends.items()}
        )
        self._add_tokens(names, os.path.dirname(sp_model_path))
        self._splitter = Splitter(self._added)
        for role in ("pad", "unk", "mask"):
            setattr(self, f"_token_{role}", names[f"{role}_token"])
        self._number_roles()
        self._inner_model = self.sp_model
        if kind.one_beginning and not configuration.get("legacy", False):
            data = self.sp_model.serialized_model_proto() + WITHOUT_PREFIX
            self._inner_model = read_model(sp_model_path, data)

    def token_to_id(self, token):
        """The id of a token, that of the unknown token for others."""
        added = self._added.get(token)
        return super().token_to_id(token) if added is None else added.id

    def id_to_token(self, i):
        """The token of an id, '' for one that has none; VocabularyError below 0."""
        return self._added_inv.get(i) or super().id_to_token(i)

    def _is_on(self, role):
        key, default = self._kind.switches.get(role, (None, True))
        found = self._configuration.get(key)
        return default if found is None else found

    def _is_written(self, i):
        added = self._added.get(self._added_inv.get(i))
        return super()._is_written(i) and (added is None or not added.special)

    def _tokenize(self, text):
        tokens, model = [], self.sp_model
        for part, is_added in self._splitter.split(text):
            if is_added:
                tokens.append(part)
            else:
                tokens += self._pieces(model, self._kind.normalize(part, self._configuration))
            model = self._inner_model
        return tokens

    def _add_tokens(self, names, folder):
        """Number what is cut out of texts: as the folder says, else after the model's own."""
        model = self.sp_model
        for i in filter(model.is_control, range(model.get_piece_size())):
            self._add(model.id_to_piece(i), AddedToken(i))
        for i, token in (self._configuration.get("added_tokens_decoder") or {}).items():
            self._add(*describe(i, token, os.path.join(folder, "tokenizer_config.json")))
        special = self._extra_ids() + [*names.values(), *further_special(self._configuration)]
        for token, i in read_json(folder, "added_tokens.json").items():
            path = os.path.join(folder, "added_tokens.json")
            self._add(*describe(i, {"content": token, "special": token in special}, path))
        for token in special:
            if token is not None and token not in self._added:
                known = self.token_to_id(token)
                own = self.id_to_token(known) == token
                self._add(token, AddedToken(known if own else self._vocab_size))

    def _add(self, token, added):
        self._added[token] = added
        self._added_inv[added.id] = token
        self._vocab_size = max(self._vocab_size, added.id + 1)

    def _extra_ids(self):
        count = self._configuration.get("extra_ids")
        count = self._kind.extra_ids if count is None else count
        return [f"<extra_id_{i}>" for i in reversed(range(count))]
