"""GPT-2's tokenizer from its two old files, `vocab.json` and `merges.txt`."""

import os

from bert4keras3.tokenizers.added import describe
from bert4keras3.tokenizers.configuration import further_special, read_json, special_names
from bert4keras3.tokenizers.huggingface import HuggingFaceTokenizer
from bert4keras3.tokenizers.sentencepiece_kinds import SAVE_WHOLE

KNOWN = ("GPT2Tokenizer", "GPT2TokenizerFast", "gpt2")
END = "<|endoftext|>"


def load_byte_level(vocab_path, configuration):
    """Read the tokenizer of a folder with `vocab.json` and `merges.txt`.

    Args:
        vocab_path: path of the `vocab.json`.
        configuration: dictionary of the folder's `tokenizer_config.json`.

    Returns:
        `HuggingFaceTokenizer`.

    Raises:
        FileNotFoundError: there is no `merges.txt`.
        ValueError: a damaged file, or the folder of another tokenizer than GPT-2's.
    """
    folder = os.path.dirname(vocab_path)
    merges_path = os.path.join(folder, "merges.txt")
    if not os.path.isfile(merges_path):
        raise FileNotFoundError(f"{folder!r} has a vocab.json, but no merges.txt")
    name = configuration.get("tokenizer_class")
    name = name or read_json(folder, "config.json").get("model_type")
    if name not in KNOWN:
        raise ValueError(
            f"{folder!r}: vocab.json and merges.txt make the ids of GPT-2's tokenizer only, found "
            f"{name!r}; {SAVE_WHOLE}"
        )
    rust = _read(vocab_path, merges_path, configuration.get("add_prefix_space", False))
    names = special_names(configuration, dict.fromkeys(("bos_token", "eos_token"), END))
    _add_tokens(rust, [*names.values(), *further_special(configuration)], folder, configuration)
    rust.post_processor = _around(rust, names, configuration)
    return HuggingFaceTokenizer(rust, configuration | names)


def _read(vocab_path, merges_path, add_prefix_space):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    try:
        model = models.BPE.from_file(vocab_path, merges_path)
    except Exception as error:  # the package raises bare `Exception`
        raise ValueError(f"{vocab_path!r} and its merges.txt are no vocabulary: {error}") from error
    rust = Tokenizer(model)
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    rust.decoder = decoders.ByteLevel()
    return rust


def _add_tokens(rust, special, folder, configuration):
    from tokenizers import AddedToken

    path = os.path.join(folder, "tokenizer_config.json")
    listed = configuration.get("added_tokens_decoder") or {}
    described = [describe(i, token, path) for i, token in listed.items()]
    path = os.path.join(folder, "added_tokens.json")
    for token, i in read_json(folder, "added_tokens.json").items():
        described.append(describe(i, {"content": token, "special": token in special}, path))
    for token, added in sorted(described, key=lambda pair: pair[1].id):
        options = {key: getattr(added, key) for key in ("special", "lstrip", "rstrip")}
        rust.add_tokens([AddedToken(token, normalized=not added.special, **options)])
        if rust.token_to_id(token) != added.id:
            raise ValueError(
                f"{folder!r}: the added token {token!r} cannot have the id {added.id}: "
                f"expected {rust.token_to_id(token)}"
            )
    rust.add_special_tokens([token for token in special if token is not None])


def _around(rust, names, configuration):
    """The post-processor: tokens around a text, where the folder asks for them."""
    from tokenizers.processors import TemplateProcessing

    start, end = (
        [names[f"{key}_token"]] if configuration.get(f"add_{key}_token") else []
        for key in ("bos", "eos")
    )
    first, second = (
        [f"{part}:{segment}" for part in (*start, text, *end)]
        for segment, text in enumerate(("$A", "$B"))
    )
    tokens = [(token, rust.token_to_id(token)) for token in start + end]
    return TemplateProcessing(single=first, pair=first + second, special_tokens=tokens)
