"""Hugging Face configurations become constructor arguments, and back."""

import difflib

from bert4keras3.models.huggingface import classic, decoders, seq2seq
from bert4keras3.models.huggingface.kinds import KINDS
from bert4keras3.models.registry import FAMILIES, HUGGING_FACE
from bert4keras3.weights.errors import CheckpointError

# model key: the module that translates its configurations, by `read(config, path)`
# and `write(transformer, key)`
TRANSLATORS = {kind.family: classic for kind in KINDS.values()}
TRANSLATORS |= {kind.family: decoders for kind in decoders.DECODERS.values()}
TRANSLATORS |= dict.fromkeys(seq2seq.FAMILIES, seq2seq)


def from_huggingface(config, path):
    """Constructor arguments of a Hugging Face configuration.

    Args:
        config: the dictionary of its `config.json`.
        path: where it came from, for messages.

    Returns:
        The model key of the family, and the arguments.

    Raises:
        ValueError: a model type or option that is not supported, or a missing key.
    """
    found = config.get("model_type")
    key = HUGGING_FACE.get(found)
    if key is None:
        near = difflib.get_close_matches(str(found), HUGGING_FACE, n=1)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise ValueError(
            f"{path}: model_type: expected one of {sorted(HUGGING_FACE)}, found {found!r}{hint}"
        )
    quantized = config.get("quantization_config")
    if quantized:
        raise ValueError(
            f"{path}: quantization_config: weights quantised by {quantized.get('quant_method')!r} "
            "are not read: take the folder of the unquantised model"
        )
    arguments = TRANSLATORS[key].read(config, path)
    return arguments.pop("family", key), arguments


def to_huggingface(transformer):
    """The `config.json` with which transformers computes what the model computes.

    Raises:
        CheckpointError: the model has something transformers' does not.
    """
    keys = {cls: key for key, cls in reversed(FAMILIES.items())}
    key = next(keys[cls] for cls in type(transformer).__mro__ if cls in keys)
    if key not in TRANSLATORS:
        raise CheckpointError(f"{type(transformer).__name__} has no Hugging Face form")
    return TRANSLATORS[key].write(transformer, key)
