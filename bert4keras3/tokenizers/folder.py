"""The tokenizer of a Hugging Face folder, whatever its kind."""

import os

from bert4keras3.tokenizers.byte_level import load_byte_level
from bert4keras3.tokenizers.configuration import named, read_configuration
from bert4keras3.tokenizers.huggingface import HuggingFaceTokenizer
from bert4keras3.tokenizers.sentencepiece_folder import SentencePieceFolderTokenizer
from bert4keras3.tokenizers.sentencepiece_kinds import SAVE_WHOLE
from bert4keras3.tokenizers.wordpiece import Tokenizer

BERT_KEYS = {"start": "cls_token", "end": "sep_token"}

# where `tokenizer_config.json` switches one of these off, our `Tokenizer` would read differently
NEEDED_SETTINGS = ("tokenize_chinese_chars", "do_basic_tokenize", "do_subword_tokenize")


def load_tokenizer(folder):
    """Read the tokenizer of a Hugging Face folder; `from_folder` is another name of this.

    The first of these that is there is read:

    - `tokenizer.json`: a `HuggingFaceTokenizer`;
    - a SentencePiece model (`tokenizer.model`, `spiece.model`, `spm.model` or
      `sentencepiece.bpe.model`) of Llama, Gemma, T5, ALBERT or DeBERTa-v2: a `SpTokenizer` that
      knows the folder's special tokens;
    - `vocab.txt`: BERT's `Tokenizer`, with the letter case of `tokenizer_config.json`;
    - `vocab.json` with `merges.txt` of GPT-2: a `HuggingFaceTokenizer`.

    Args:
        folder: path of the folder.

    Returns:
        The tokenizer; all kinds have encode, encode_batch, decode, tokenize and so on.

    Raises:
        FileNotFoundError: the folder has none of these files.
        ValueError: a file is damaged, or asks for what is not done here.
    """
    folder = os.fspath(folder)
    configuration = read_configuration(folder)
    for name, load in READERS.items():
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return load(path, configuration)
    raise FileNotFoundError(
        f"no tokenizer in {folder!r}: looked for tokenizer.json and vocab.txt, and for "
        + ", ".join(name for name in READERS if name not in ("tokenizer.json", "vocab.txt"))
    )


from_folder = load_tokenizer


def _load_bert(path, configuration):
    lower = configuration.get("do_lower_case", True)
    strip = configuration.get("strip_accents")
    foreign = [name for name in NEEDED_SETTINGS if configuration.get(name) is False]
    if strip is not None and strip is not lower:
        foreign.append("strip_accents")
    if foreign:
        raise ValueError(
            f"{os.path.dirname(path)!r}: tokenizer_config.json sets {', '.join(foreign)} to what "
            f"Tokenizer does not do; {SAVE_WHOLE}"
        )
    names = {role: named(configuration, key) for role, key in BERT_KEYS.items()}
    ends = {f"token_{role}": name for role, name in names.items() if name is not None}
    return Tokenizer(path, do_lower_case=lower, word_maxlen=100, **ends)


# in this order
READERS = {
    "tokenizer.json": HuggingFaceTokenizer,
    "tokenizer.model": SentencePieceFolderTokenizer,
    "spiece.model": SentencePieceFolderTokenizer,
    "spm.model": SentencePieceFolderTokenizer,
    "sentencepiece.bpe.model": SentencePieceFolderTokenizer,
    "vocab.txt": _load_bert,
    "vocab.json": load_byte_level,
}
