"""Building blocks: all of `keras.layers`, and the layers of this library."""

import typing as _typing

import numpy as np

from bert4keras3 import _aliases
from bert4keras3.backend import K, keras, ops
from bert4keras3.layers.attention import Gemma2Attention, MultiHeadAttention
from bert4keras3.layers.base import Layer
from bert4keras3.layers.batches import BatchConcat, BatchSplit
from bert4keras3.layers.dense import Dense, EinsumDense
from bert4keras3.layers.disentangled import (
    DebertaRelativeEmbedding,
    DisentangledSelfAttention,
    MaskedLMHead,
)
from bert4keras3.layers.embeddings import Embedding
from bert4keras3.layers.feed_forward import FeedForward, GemmaFeedForward, LLamaFeedForward
from bert4keras3.layers.gated_attention import GatedAttentionUnit
from bert4keras3.layers.global_pointer import EfficientGlobalPointer, GlobalPointer
from bert4keras3.layers.glue import (
    Add,
    ClearPadding,
    Concatenate1D,
    FirstToken,
    LastToken,
    SoftCap,
)
from bert4keras3.layers.labelling import ConditionalRandomField, MaximumEntropyMarkovModel
from bert4keras3.layers.loss import Loss
from bert4keras3.layers.masks import AttentionBias, CausalMask, SegmentMask
from bert4keras3.layers.norms import (
    GroupNorm,
    LayerNormalization,
    LlamaLayerNorm,
    RMSNormalization,
    ScaleOffset,
)
from bert4keras3.layers.positions import (
    PositionEmbedding,
    RelativePositionEmbedding,
    RelativePositionEmbeddingT5,
    RotaryEmbedding,
    SinusoidalPositionEmbedding,
)
from bert4keras3.layers.recurrent import (
    DecomposerDense,
    RecurrentLayer,
    ScaledOrthogonal,
    TimeShift,
    freeze,
)
from bert4keras3.layers.rwkv6 import ChannelMix, TimeMix
from bert4keras3.layers.rwkv7 import RWKV7ChannelMix, RWKV7TimeMix
from bert4keras3.layers.wkv6 import RWKVKernelOperator

activations, initializers, random = keras.activations, keras.initializers, keras.random

# What the blocks of models are made of, beside norms.
BLOCK_LAYERS = (
    DisentangledSelfAttention,
    FeedForward,
    GatedAttentionUnit,
    MultiHeadAttention,
    RecurrentLayer,
)

# Those of the Keras in use that are not written anew here.
globals().update(
    (name, value)
    for name, value in vars(keras.layers).items()
    if not name.startswith("_") and name not in globals()
)
if _typing.TYPE_CHECKING:
    from keras.layers import *  # noqa: F403

globals().update(_aliases.child_aliases("bert4keras3", "layers"))

__all__ = [name for name in dir() if not name.startswith("_")]
