"""Text to ids and back.

`Tokenizer` is BERT's WordPiece; `load_tokenizer` reads the tokenizer of a Hugging Face folder.
"""

from bert4keras3.tokenizers.base import TokenizerBase
from bert4keras3.tokenizers.characters import lowercase_and_normalize
from bert4keras3.tokenizers.errors import VocabularyError
from bert4keras3.tokenizers.huggingface import HuggingFaceTokenizer, load_tokenizer
from bert4keras3.tokenizers.vocab import load_vocab, save_vocab
from bert4keras3.tokenizers.wordpiece import Tokenizer

__all__ = [
    "HuggingFaceTokenizer",
    "Tokenizer",
    "TokenizerBase",
    "VocabularyError",
    "load_tokenizer",
    "load_vocab",
    "lowercase_and_normalize",
    "save_vocab",
]
