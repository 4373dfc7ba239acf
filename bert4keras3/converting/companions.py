"""The files of a model's folder that are no weights: tokenizer, generation, pooling."""

import filecmp
import shutil
from pathlib import Path

from bert4keras3.models.config import read_config
from bert4keras3.models.keras_hub import TOKENIZER, is_preset
from bert4keras3.weights.atomic import atomic_path

PATTERNS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "generation_config.json",
    "chat_template.*",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)


def find_companions(folder):
    """`{name at the target: path}` of the files of a model's folder to take along."""
    folder = Path(folder)
    # keras-hub's files have other names, and its tokenizer.json is something else.
    if (folder / "config.json").is_file() and is_preset(read_config(folder)):
        found = {name: folder / place for place, name in TOKENIZER.items()}
        return {name: path for name, path in found.items() if path.is_file()}
    paths = [path for pattern in PATTERNS for path in sorted(folder.glob(pattern))]
    return {str(path.relative_to(folder)): path for path in paths if path.is_file()}


def check_companions(companions, folder, force):
    """Raise where another file of the same name is in the way.

    Raises:
        FileExistsError: there is one, and `force` is False.
    """
    for name, path in companions.items():
        there = Path(folder) / name
        if there.exists() and not force and not filecmp.cmp(path, there, shallow=False):
            raise FileExistsError(f"{there}: differs from {path}, --force replaces it")


def copy_companions(companions, folder):
    """Copy the files, each whole or not at all."""
    for name, path in companions.items():
        there = Path(folder) / name
        if there.exists() and there.samefile(path):
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(there) as temporary:
            shutil.copyfile(path, temporary)
