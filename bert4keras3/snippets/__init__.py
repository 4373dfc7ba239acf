"""Helpers of the documents for text and data."""

from bert4keras3.snippets.data import DataGenerator
from bert4keras3.snippets.padding import sequence_padding
from bert4keras3.tokenizers.characters import lowercase_and_normalize
from bert4keras3.weights.resize import orthogonally_resize

__all__ = ["DataGenerator", "lowercase_and_normalize", "orthogonally_resize", "sequence_padding"]
