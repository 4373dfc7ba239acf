"""Configurations of Llama, Qwen2 and their kin."""

from bert4keras3.backend import get_activation, swish
from bert4keras3.models.huggingface.classic import ACTIVATIONS, EXPORTED_ACTIVATIONS
from bert4keras3.weights.errors import CheckpointError

# Our constructor argument: their key. Read both ways.
DECODER_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "query_head": "num_attention_heads",
    "num_attention_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "attention_dropout_rate": "attention_dropout",
    "max_position": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
    "pad_token_id": "pad_token_id",
    "end_token_id": "eos_token_id",
    "share_embedding": "tie_word_embeddings",
}
# What transformers takes for a key that the file leaves out.
DECODER_DEFAULTS = {
    "attention_dropout": 0.0,
    "rms_norm_eps": 1e-6,
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
}
MODEL_DEFAULTS = {
    "llama": {"max_position_embeddings": 2048, "eos_token_id": 2},
    "qwen2": {"max_position_embeddings": 32768, "eos_token_id": None},
}


def read(config, path):
    """Constructor arguments of a decoder's `config.json`."""
    kind = config["model_type"]
    config = {**DECODER_DEFAULTS, **MODEL_DEFAULTS[kind], **config}
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = config.get("num_attention_heads")
    missing = [name for name in DECODER_KEYS.values() if name not in config]
    if missing:
        raise ValueError(f"{path}: needs the keys {missing}")
    arguments = {ours: config[theirs] for ours, theirs in DECODER_KEYS.items()}
    arguments["layer_norm_epsilon"] = arguments.pop("norm_epsilon")
    arguments["hidden_act"] = ACTIVATIONS.get(config["hidden_act"], config["hidden_act"])
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    arguments["attention_head_size"] = head_size
    bare = any(name.endswith("Model") for name in config.get("architectures") or ())
    arguments["with_lm"] = False if bare else "linear"
    arguments["first_is_token"] = False
    arguments["segment_vocab_size"] = 0
    qwen = kind == "qwen2"
    arguments["use_bias"] = qwen or bool(config.get("attention_bias"))
    arguments["o_bias"] = not qwen and arguments["use_bias"]
    arguments["use_dense_bias"] = bool(config.get("mlp_bias"))
    if qwen and config.get("use_sliding_window"):
        arguments |= _read_windows(config)
    return arguments | _read_rope(config, path)


def _read_windows(config):
    """Qwen2 slides in the blocks from `max_window_layers` on."""
    blocks, first = config["num_hidden_layers"], config.get("max_window_layers", 28)
    kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(blocks)]
    window = config.get("sliding_window", 4096)
    if window is None:
        return {}
    return {"sliding_window": window, "layer_types": config.get("layer_types") or kinds}


def _read_rope(config, path):
    """Base and scaling of the rotary positions; transformers 5 put them into one dictionary."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    base = rope.pop("rope_theta", config.get("rope_theta", 10000.0))
    kind = rope.setdefault("rope_type", rope.pop("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(
            f"{path}: rope_type: expected 'default', 'linear' or 'llama3', found {kind!r}"
        )
    return {"max_wavelength": base, "rope_scaling": None if kind == "default" else rope}


def write(transformer, key):
    """The `config.json` of a decoder; CheckpointError where Hugging Face's has no such thing."""
    t = transformer
    o_bias = t.use_bias if t.o_bias is None else bool(t.o_bias)
    qwen = t.use_bias and not o_bias
    _check_exportable(t, qwen, o_bias)
    config = {theirs: getattr(t, ours) for ours, theirs in DECODER_KEYS.items()}
    activation = get_activation(t.hidden_act)
    names = {**EXPORTED_ACTIVATIONS, swish: "silu"}
    rope = t.rope_scaling or {"rope_type": "default"}
    if t.scaling_factor != 1:
        rope = {"rope_type": "linear", "factor": t.scaling_factor}
    config |= {
        "architectures": ["Qwen2ForCausalLM" if qwen else "LlamaForCausalLM"],
        "model_type": "qwen2" if qwen else "llama",
        "num_attention_heads": t.query_head or t.num_attention_heads,
        "head_dim": t.attention_head_size,
        "hidden_act": names.get(activation, t.hidden_act),
        "max_position_embeddings": t.max_position or 2048,
        "rope_theta": t.max_wavelength,
        "rope_scaling": None if rope["rope_type"] == "default" else rope,
        "rope_parameters": {"rope_theta": t.max_wavelength, **rope},
        "attention_dropout": float(t.attention_dropout_rate),
        "bos_token_id": None,
    }
    if not qwen:
        return {**config, "attention_bias": t.use_bias, "mlp_bias": bool(t.use_dense_bias)}
    sliding = "sliding_attention" in t.layer_types and t.sliding_window is not None
    return {
        **config,
        "use_sliding_window": sliding,
        "sliding_window": t.sliding_window,
        "layer_types": t.layer_types if sliding else None,
    }


def _check_exportable(t, qwen, o_bias):
    sliding = t.sliding_window is not None and "sliding_attention" in t.layer_types
    reasons = {
        "embedding_size other than hidden_size": t.embedding_size != t.hidden_size,
        "key heads of another size than value heads": t.attention_key_size != t.attention_head_size,
        "scaled inputs": t.input_scale,
        "segments": t.segment_vocab_size,
        "rope_mode other than 'keras'": t.rope_mode != "keras",
        "a sliding window without Qwen's biases": sliding and not qwen,
        "o_bias without use_bias": o_bias and not t.use_bias,
        "feed-forward biases with Qwen's": qwen and t.use_dense_bias,
        "head sizes other than hidden_size / heads": qwen
        and t.attention_head_size * (t.query_head or t.num_attention_heads) != t.hidden_size,
        "residual_attention_scores": t.residual_attention_scores,
        "no LM head": not t.with_lm,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise CheckpointError(f"Hugging Face's {type(t).__name__} has no such thing: {found}")
