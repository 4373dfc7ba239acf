"""Helpers of the documents for text and data."""

import importlib

from bert4keras3.snippets.data import DataGenerator
from bert4keras3.snippets.padding import sequence_padding
from bert4keras3.snippets.viterbi import ViterbiDecoder, tag_rules
from bert4keras3.tokenizers.characters import lowercase_and_normalize
from bert4keras3.weights.resize import orthogonally_resize

__all__ = [
    "AutoRegressiveDecoder",
    "DataGenerator",
    "ViterbiDecoder",
    "lowercase_and_normalize",
    "orthogonally_resize",
    "sequence_padding",
    "tag_rules",
]


def __getattr__(name):
    # The decoder alone needs Keras, which the others do without.
    if name == "AutoRegressiveDecoder":
        module = importlib.import_module("bert4keras3.generation.autoregressive")
        return module.AutoRegressiveDecoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
