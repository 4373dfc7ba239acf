"""Text to ids and back.

`Tokenizer` is BERT's WordPiece, `SpTokenizer` a SentencePiece model, `RWKV_TOKENIZER` RWKV's
vocabulary of bytes; `from_folder` (also named
`load_tokenizer`) reads the tokenizer of a Hugging Face folder, `ChatTemplate` how it writes chats.
"""

from bert4keras3.tokenizers.base import TokenizerBase
from bert4keras3.tokenizers.characters import lowercase_and_normalize
from bert4keras3.tokenizers.chat import ChatTemplate
from bert4keras3.tokenizers.errors import VocabularyError
from bert4keras3.tokenizers.folder import from_folder, load_tokenizer
from bert4keras3.tokenizers.huggingface import HuggingFaceTokenizer
from bert4keras3.tokenizers.rwkv import RWKV_TOKENIZER
from bert4keras3.tokenizers.sentencepiece import SpTokenizer
from bert4keras3.tokenizers.vocab import load_vocab, save_vocab
from bert4keras3.tokenizers.wordpiece import Tokenizer

__all__ = [
    "ChatTemplate",
    "HuggingFaceTokenizer",
    "RWKV_TOKENIZER",
    "SpTokenizer",
    "Tokenizer",
    "TokenizerBase",
    "VocabularyError",
    "from_folder",
    "load_tokenizer",
    "load_vocab",
    "lowercase_and_normalize",
    "save_vocab",
]
