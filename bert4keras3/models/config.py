"""Configuration files, and the names arguments have in them."""

import json
from pathlib import Path

from bert4keras3.weights.atomic import atomic_path

# Constructor argument: other names it has in configurations, used where it is absent.
ALIASES = {
    "max_position": ("max_position_embeddings",),
    "dropout_rate": ("hidden_dropout_prob",),
    "attention_dropout_rate": ("attention_probs_dropout_prob",),
    "segment_vocab_size": ("type_vocab_size",),
    "layer_norm_epsilon": ("layer_norm_eps", "rms_norm_eps"),
    "share_embedding": ("share_emebding",),
}
# What the documents take for an argument that a family needs and nobody gives.
DEFAULTS = {"max_position": 512}


def read_config(config_path):
    """The dictionary of a JSON file, or of the `config.json` of a folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object.
    """
    path = Path(config_path)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON object: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(config).__name__}")
    return config


def with_aliases(config):
    """Fill in arguments that are given under another name."""
    config = dict(config)
    for name, others in ALIASES.items():
        for other in others:
            if config.get(name) is None and other in config:
                config[name] = config[other]
    return config


def without_silence(config):
    """Leave out the sizes that a configuration names but sets to null."""
    sizes = ("max_position", "segment_vocab_size")
    return {k: v for k, v in config.items() if v is not None or k not in sizes}


def with_flags(config):
    """Options that take True, False or an activation, where a file says 1 and 0."""
    flags = [k for k in config if k.startswith("with_") or k == "final_activation"]
    return {**config, **{k: bool(config[k]) for k in flags if config[k] in (0, 1)}}


def write_json(path, content):
    """Write a JSON file, whole or not at all."""
    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
