"""Configurations of BERT, RoBERTa and their kin."""

from bert4keras3.backend import gelu_erf, gelu_tanh, get_activation
from bert4keras3.weights.errors import CheckpointError

# Our constructor argument: their key. Read both ways.
ENCODER_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "dropout_rate": "hidden_dropout_prob",
    "attention_dropout_rate": "attention_probs_dropout_prob",
    "max_position": "max_position_embeddings",
    "segment_vocab_size": "type_vocab_size",
    "norm_epsilon": "layer_norm_eps",
    "pad_token_id": "pad_token_id",
}
# What transformers takes for a key that the file leaves out.
ENCODER_DEFAULTS = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
DEFAULT_PAD = {"bert": 0, "roberta": 1}

# transformers' names of activations that are other forms, or other names, with us.
ACTIVATIONS = {"gelu": "gelu_erf", "gelu_python": "gelu_erf", "silu": "swish"}
EXPORTED_ACTIVATIONS = {gelu_erf: "gelu", gelu_tanh: "gelu_new"}


def read(key, config, path):
    """Constructor arguments of an encoder's `config.json`; `is_decoder` among them."""
    kind = config.get("position_embedding_type") or "absolute"
    if kind != "absolute":
        raise ValueError(f"{path}: position_embedding_type: expected 'absolute', found {kind!r}")
    if config.get("add_cross_attention"):
        raise ValueError(f"{path}: add_cross_attention is not supported")
    config = {**ENCODER_DEFAULTS, "pad_token_id": DEFAULT_PAD[key], **config}
    missing = [name for name in ENCODER_KEYS.values() if name not in config]
    if missing:
        raise ValueError(f"{path}: needs the keys {missing}")
    arguments = {ours: config[theirs] for ours, theirs in ENCODER_KEYS.items()}
    arguments["hidden_act"] = ACTIVATIONS.get(config["hidden_act"], config["hidden_act"])
    arguments["layer_norm_epsilon"] = arguments.pop("norm_epsilon")
    arguments["first_is_token"] = False
    pad = arguments["pad_token_id"]
    if key == "roberta" and pad is not None:
        arguments |= {"position_offset": pad + 1, "position_skips_padding": True}
    arguments["is_decoder"] = bool(config.get("is_decoder"))
    return arguments


def write(transformer):
    """The `config.json` of an encoder; CheckpointError where Hugging Face's has no such thing."""
    _check_exportable(transformer)
    heads = tuple(name for name in ("with_mlm", "with_nsp") if getattr(transformer, name))
    classes = transformer.huggingface_heads
    if heads not in classes:
        raise CheckpointError(f"Hugging Face has a class for {list(classes)}, not for {heads}")
    config = {theirs: getattr(transformer, ours) for ours, theirs in ENCODER_KEYS.items()}
    activation = EXPORTED_ACTIVATIONS.get(get_activation(transformer.hidden_act))
    return {
        "architectures": [classes[heads]],
        "model_type": transformer.huggingface_prefix.rstrip("."),
        **config,
        "hidden_act": activation
        or {"swish": "silu"}.get(config["hidden_act"], config["hidden_act"]),
        "is_decoder": transformer.attention_kind == "causal",
        "tie_word_embeddings": True,
    }


def _check_exportable(t):
    head_sizes = {t.attention_head_size, t.attention_key_size}
    reasons = {
        "embedding_size other than hidden_size": t.embedding_size != t.hidden_size,
        "head sizes other than hidden_size / heads": head_sizes
        != {t.hidden_size // t.num_attention_heads},
        "hierarchical_position": t.hierarchical_position,
        "shared_segment_embeddings": t.shared_segment_embeddings,
        "no segments": not t.segment_vocab_size,
        "residual_attention_scores": t.residual_attention_scores,
        "UniLM's attention mask": t.attention_kind == "unilm",
        f"with_pool={t.with_pool!r}": t.with_pool not in (True, False, "tanh"),
        "conditional layer norms": t.layer_norm_conds[0] is not None,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise CheckpointError(f"Hugging Face's {type(t).__name__} has no such thing: {found}")
