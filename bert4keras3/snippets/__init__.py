"""Helpers of the documents for text and data."""

import importlib
from types import ModuleType

from bert4keras3.snippets import uniout
from bert4keras3.snippets.arguments import delete_arguments, insert_arguments
from bert4keras3.snippets.arrays import is_one_of, softmax, to_array
from bert4keras3.snippets.common_parts import (
    longest_common_subsequence,
    longest_common_substring,
    truncate_sequences,
)
from bert4keras3.snippets.data import DataGenerator
from bert4keras3.snippets.files import _open_, open
from bert4keras3.snippets.masking import mask_words, word_numbers
from bert4keras3.snippets.packing import PackedRows, pack_sequences
from bert4keras3.snippets.padding import sequence_padding
from bert4keras3.snippets.parallel import WorkerError, parallel_apply, parallel_apply_generator
from bert4keras3.snippets.strings import (
    convert_to_str,
    convert_to_unicode,
    is_string,
    string_matching,
    strQ2B,
    text_segmentate,
)
from bert4keras3.snippets.viterbi import ViterbiDecoder, tag_rules
from bert4keras3.tokenizers.characters import lowercase_and_normalize
from bert4keras3.weights.resize import orthogonally_resize

# Names of scripts that ran on Python 2 as well.
basestring = str
is_py2 = False

# What needs Keras or a web server, which the others do without.
_LAZY = {
    "AutoRegressiveDecoder": "generation.autoregressive",
    "BatchLoader": "snippets.loading",
    "WebServing": "serving",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(f"bert4keras3.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["uniout", *_LAZY] + [
    name
    for name, value in list(globals().items())
    # `open` would take the place of Python's own.
    if not name.startswith("_") and name != "open" and not isinstance(value, ModuleType)
]
