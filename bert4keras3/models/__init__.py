"""The models: `build_transformer_model`, the families, and what subclasses need."""

from bert4keras3.layers import *  # noqa: F403
from bert4keras3.layers import K, keras, np, ops
from bert4keras3.models.albert import ALBERT, ALBERT_Unshared
from bert4keras3.models.bert import BERT, RoBERTa
from bert4keras3.models.build import build_transformer_model
from bert4keras3.models.deberta import Deberta
from bert4keras3.models.distilbert import DistilBERT
from bert4keras3.models.electra import ELECTRA
from bert4keras3.models.gau import GAU_alpha
from bert4keras3.models.gemma import Gemma, Gemma2, Gemma3
from bert4keras3.models.gpt import GPT, GPT2, GPT2_ML
from bert4keras3.models.llama import Llama, Qwen3
from bert4keras3.models.masks import (
    LM_Mask,
    UniLM_Mask,
    extend_with_language_model,
    extend_with_unified_language_model,
)
from bert4keras3.models.nezha import NEZHA
from bert4keras3.models.recurrent import RecurrentModel
from bert4keras3.models.registry import family
from bert4keras3.models.roformer import RoFormer, RoFormerV2
from bert4keras3.models.rwkv6 import RWKV6
from bert4keras3.models.rwkv7 import RWKV7
from bert4keras3.models.t5 import T5, MisakaT5
from bert4keras3.models.t5_halves import T5_Base, T5_Decoder, T5_Encoder
from bert4keras3.models.transformer import POST, PRE, SANDWICH, Transformer

__all__ = [name for name in dir() if not name.startswith("_")]
