"""What the JSON files of a Hugging Face folder say about its tokenizer."""

import json
import os

SPECIAL_TOKENS = tuple(f"{name}_token" for name in "bos eos unk sep pad cls mask".split())


def read_configuration(folder):
    """What the folder says about special tokens and the like; later files count more.

    Args:
        folder: path of the folder.

    Returns:
        Dictionary, an empty one where there are no such files.

    Raises:
        ValueError: a file that is damaged.
    """
    merged = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        merged.update(read_json(folder, name))
    return merged


def read_json(folder, name):
    """The dictionary in a file of the folder, an empty one if there is no such file."""
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path!r} must hold a dictionary, found {type(content).__name__}")
    return content


def named(configuration, key):
    """A token of the configuration; some files write {"content": "[PAD]", "lstrip": ...}."""
    token = configuration.get(key)
    return token.get("content") if isinstance(token, dict) else token


def special_names(configuration, defaults):
    """Dictionary {'bos_token': its name or None, ...}; what is not configured is the default."""
    return {key: named(configuration, key) or defaults.get(key) for key in SPECIAL_TOKENS}


def further_special(configuration):
    """The special tokens without a role, as a list."""
    found = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        tokens = configuration.get(key) or []
        tokens = tokens.values() if isinstance(tokens, dict) else tokens
        found += [token["content"] if isinstance(token, dict) else token for token in tokens]
    return found
