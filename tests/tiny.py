"""Tiny models of every family, and what tests do with them."""

import contextlib

import numpy as np
import pytest

from bert4keras3.models import build_transformer_model
from bert4keras3.ops import keras

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "max_position": 32,
}
# name: arguments of build_transformer_model
ENCODERS = {
    "bert": {"model": "bert"},
    "bert_heads": {"model": "bert", "with_nsp": True, "with_mlm": "linear"},
    "bert_small_embedding": {"model": "bert", "embedding_size": 8, "with_mlm": True},
    "bert_no_segments": {"model": "bert", "segment_vocab_size": 0, "with_pool": True},
    "bert_realformer": {"model": "bert", "residual_attention_scores": True},
    "bert_wide_keys": {"model": "bert", "attention_key_size": 12, "attention_head_size": 10},
    "roberta": {"model": "roberta", "position_offset": 2, "position_skips_padding": True},
    "distilbert": {"model": "distilbert", "with_mlm": "linear"},
    "bert_classifier": {"model": "bert", "head": "sequence_classification", "num_labels": 3},
    "albert": {"model": "albert", "embedding_size": 8, "with_pool": True, "with_mlm": "linear"},
    "albert_unshared": {"model": "albert_unshared"},
    "nezha": {"model": "nezha", "with_nsp": True},
    "electra": {"model": "electra", "embedding_size": 8, "with_discriminator": True},
    "electra_generator": {"model": "electra", "head": "masked_lm"},
    "roformer": {"model": "roformer", "with_pool": "linear", "with_mlm": "linear"},
    "roformer_positions": {"model": "roformer", "custom_position_ids": True},
    "roformer_v2": {"model": "roformer_v2", "embedding_size": 8, "with_mlm": "linear"},
    "roformer_v2_tagger": {"model": "roformer_v2", "head": "token_classification"},
    "gau": {"model": "gau", "attention_key_size": 8, "hidden_act": "swish", "with_mlm": "linear"},
    "deberta": {
        "model": "deberta",
        "bucket_size": 4,
        "with_mlm": "linear",
        "segment_vocab_size": 0,
    },
    "deberta_segments": {"model": "deberta", "bucket_size": 4},
    "gpt2_classifier": {"model": "gpt2", "head": "sequence_classification"},
    "t5_encoder": {"model": "t5_encoder"},
}
GATED = {"hidden_act": ["gelu", "linear"], "cross_position_bias": False, "logit_scale": False}
DECODERS = {
    "bert_lm": {"model": "bert", "application": "lm", "with_mlm": "linear"},
    "bert_unilm": {"model": "bert", "application": "unilm", "with_mlm": "linear"},
    "bert_blocks": {
        "model": "bert",
        "application": "unilm",
        "with_mlm": "linear",
        "segment_attention": True,
        "segment_vocab_size": 16,
    },
    "bert_lm_realformer": {
        "model": "bert",
        "application": "lm",
        "with_mlm": "linear",
        "residual_attention_scores": True,
    },
    "llama": {
        "model": "llama",
        "with_lm": "linear",
        "query_head": 4,
        "attention_head_size": 8,
        "hidden_act": "silu",
    },
    "llama_window": {
        "model": "llama",
        "with_lm": "linear",
        "sliding_window": 3,
        "layer_types": ["full_attention", "sliding_attention"],
        "share_embedding": True,
    },
    "gemma": {
        "model": "gemma",
        "with_lm": "linear",
        "query_head": 4,
        "attention_head_size": 8,
    },
    "gemma2": {
        "model": "gemma2",
        "with_lm": "linear",
        "query_head": 4,
        "attention_head_size": 8,
        "logit_soft_cap": 5.0,
        "final_logit_soft_cap": 4.0,
        "use_sliding_window_attention": True,
        "sliding_window_size": 3,
        "use_post_ffw_norm": True,
        "use_post_attention_norm": True,
    },
    "gemma3": {
        "model": "gemma3",
        "with_lm": "linear",
        "query_head": 4,
        "attention_head_size": 8,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen3": {
        "model": "qwen3",
        "with_lm": "linear",
        "query_head": 4,
        "attention_head_size": 8,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 3.0,
            "original_max_position_embeddings": 4,
        },
    },
    "albert_lm": {"model": "albert", "application": "lm", "with_mlm": "linear"},
    "albert_unilm": {"model": "albert", "application": "unilm", "with_mlm": "linear"},
    "albert_unshared_lm": {
        "model": "albert_unshared",
        "application": "lm",
        "with_mlm": "linear",
        "residual_attention_scores": True,
    },
    "nezha_lm": {"model": "nezha", "application": "lm", "with_mlm": "linear"},
    "nezha_unilm": {"model": "nezha", "application": "unilm", "with_mlm": "linear"},
    "roformer_lm": {"model": "roformer", "application": "lm", "with_mlm": "linear"},
    "roformer_unilm": {
        "model": "roformer",
        "application": "unilm",
        "with_pool": "linear",
        "with_mlm": "linear",
    },
    "roformer_v2_lm": {"model": "roformer_v2", "application": "lm", "with_mlm": True},
    "roformer_v2_unilm": {"model": "roformer_v2", "application": "unilm", "with_mlm": "linear"},
    "gau_lm": {"model": "gau", "application": "lm", "with_mlm": "linear", "hidden_act": "swish"},
    "gau_unilm": {"model": "gau", "application": "unilm", "with_mlm": "linear"},
    "deberta_lm": {
        "model": "deberta",
        "application": "lm",
        "with_mlm": "linear",
        "bucket_size": 4,
        "max_position": 12,
    },
    "deberta_unilm": {
        "model": "deberta",
        "application": "unilm",
        "with_mlm": "linear",
        "bucket_size": 4,
        "segment_vocab_size": 2,
    },
    "distilbert_lm": {"model": "distilbert", "application": "lm", "with_mlm": "linear"},
    "gpt": {"model": "gpt", "final_activation": "linear"},
    "gpt_unilm": {"model": "gpt", "application": "unilm"},
    "gpt2": {"model": "gpt2", "final_activation": "linear"},
    "gpt2_realformer": {
        "model": "gpt2",
        "final_activation": "linear",
        "residual_attention_scores": True,
    },
    "gpt2_ml": {"model": "gpt2_ml", "final_activation": "linear"},
    "rwkv6": {
        "model": "rwkv6",
        "with_lm": "linear",
        "decomposer_size": 4,
        "time_decay_size": 6,
    },
    "rwkv7": {
        "model": "rwkv7",
        "with_lm": "linear",
        "time_decay_size": 6,
        "rate_size": 5,
        "value_mix_size": 3,
        "gate_size": 4,
    },
    "qwen": {
        "model": "qwen",
        "with_lm": True,
        "query_head": 4,
        "attention_head_size": 6,
        "use_bias": True,
        "o_bias": False,
        "hidden_act": "silu",
    },
    "t5": {"model": "t5", "with_lm": "linear", "max_distance": 6, "position_buckets": 8},
    "t5_1_1": {
        "model": "t5.1.1",
        "with_lm": True,
        "num_decoder_layers": 1,
        "attention_head_size": 6,
    }
    | GATED,
    "mt5_decoder": {"model": "mt5.1.1_decoder", "with_lm": "linear", **GATED},
    "umt5": {
        "model": "mt5.1.1",
        "with_lm": "linear",
        "share_position_bias": False,
        "start_token_id": 1,
        **GATED,
    },
    "misakat5": {"model": "misakat5", "with_lm": "linear", "attention_key_size": 6},
}
ALL = {**ENCODERS, **DECODERS}
QUICK = ("bert_heads", "bert_unilm", "roberta", "llama", "gau_unilm", "deberta", "gpt2", "t5")


def each(names, quick=QUICK):
    """The names as test parameters; the quick tier, and backends that compile, take a few."""
    further = (pytest.mark.slow, pytest.mark.further)
    return [pytest.param(n, marks=() if n in quick else further) for n in names]


def build(name, **kwargs):
    """The transformer of a tiny model, with weights far from their initial values."""
    arguments = {**SIZES, **ALL[name], "return_keras_model": False, **kwargs}
    transformer = build_transformer_model(**arguments)
    randomize(transformer.model)
    return transformer


def randomize(model, seed=0):
    """Draw every trained weight anew: zeros and ones hide mistakes."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_weights:
        variable.assign(rng.normal(0.0, 0.3, variable.shape).astype("float32"))


def enliven(transformer):
    """Let an RWKV of random weights say more than one token."""
    for layer in transformer.model.layers:
        if isinstance(layer, keras.layers.LayerNormalization):
            gamma, beta = layer.get_weights()
            layer.set_weights([1 + gamma, beta / 9])
    embedding = transformer.layers["Embedding-Token"]
    embedding.set_weights([3 * embedding.get_weights()[0]])
    return transformer


def inputs_for(transformer, rows=3, length=9, seed=1):
    """Random inputs without padding: one array an input."""
    rng = np.random.default_rng(seed)
    arrays = []
    for tensor in transformer.inputs:
        if "Context" in tensor.name:
            arrays.append(draw(rows, length, transformer.hidden_size, seed=seed))
            continue
        segments, tokens = "Segment" in tensor.name, tensor.name.endswith("Input-Token")
        high = 2 if segments else transformer.vocab_size if tokens else transformer.max_position
        array = rng.integers(3 if tokens and not segments else 0, high, (rows, length))
        arrays.append((np.sort(array, axis=1) if segments else array).astype("int32"))
    return arrays


def split(transformer, arrays, lengths):
    """Of the inputs of a whole model: those of a step, and the source of a seq2seq model.

    Args:
        transformer: the model.
        arrays: one an input.
        lengths: tokens of each source; what lies beyond becomes padding in the arrays.
    """
    names = [tensor.name for tensor in transformer.source_inputs]
    if not names:
        return arrays, None
    for row, length in enumerate(lengths):
        arrays[0][row, length:] = 0
    source = dict(zip(names, map(tensor, arrays), strict=False))
    return arrays[len(names) :], {**source, "lengths": tensor(np.array(lengths, "int32"))}


def predict(model, arrays):
    """The outputs as a list of numpy arrays; not compiled, which is ten times as fast here."""
    tensors = [tensor(array) for array in arrays]
    with torch_without_gradients():
        outputs = model(tensors if len(tensors) > 1 else tensors[0], training=False)
    return _as_arrays(outputs)


def compiled(model, arrays):
    """As `predict`, by the compiled function of Keras."""
    return _as_arrays(model.predict_on_batch(list(arrays) if len(arrays) > 1 else arrays[0]))


def _as_arrays(outputs):
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [np.array(keras.ops.convert_to_numpy(x), dtype="float32") for x in outputs]


def torch_without_gradients():
    """On torch no graph is kept."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def tensor(x):
    """An array as a tensor of the backend."""
    return keras.ops.convert_to_tensor(x)


def numpy(x):
    """A tensor as a numpy array."""
    return keras.ops.convert_to_numpy(x)


def draw(*shape, seed=0):
    """A float32 array of standard normal numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def assert_close(found, expected, tolerance=1e-5):
    """Max abs difference within tolerance x max(1, largest value)."""
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    assert found.shape == expected.shape, f"{found.shape} against {expected.shape}"
    assert np.isfinite(found).all()
    difference = np.abs(found - expected).max(initial=0)
    assert difference <= tolerance * max(1.0, np.abs(expected).max(initial=0)), difference
