"""Configurations of Llama, Gemma and their kin."""

from bert4keras3.models.huggingface.activations import read_activation, write_activation
from bert4keras3.models.huggingface.classic import (
    class_of_outputs,
    read_keys,
    read_outputs,
    write_labels,
)
from bert4keras3.models.huggingface.kinds import TASKS, Kind
from bert4keras3.weights.errors import CheckpointError

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "query_head": "num_attention_heads",
    "num_attention_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "hidden_act": "hidden_act",
    "attention_dropout_rate": "attention_dropout",
    "max_position": "max_position_embeddings",
    "layer_norm_epsilon": "rms_norm_eps",
    "pad_token_id": "pad_token_id",
    "end_token_id": "eos_token_id",
    "start_token_id": "bos_token_id",
    "share_embedding": "tie_word_embeddings",
}
DEFAULTS = {
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "rms_norm_eps": 1e-6,
    "pad_token_id": None,
    "eos_token_id": None,
    "bos_token_id": None,
    "tie_word_embeddings": False,
    "max_position_embeddings": 32768,
}
OUTPUTS = {
    "Model": {"with_lm": False},
    "ForCausalLM": {"with_lm": "linear"},
    **{end: {**outputs, "with_lm": False} for end, outputs in TASKS.items()},
}
LLAMA = Kind("llama", "Llama", KEYS, DEFAULTS, outputs=OUTPUTS, causal=True)
GEMMA = Kind(
    "gemma",
    "Gemma",
    KEYS,
    {
        **DEFAULTS,
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "max_position_embeddings": 8192,
        "head_dim": 256,
    },
    demands={
        "hidden_act": ("gelu_pytorch_tanh", "gelu", None),
        "hidden_activation": ("gelu_pytorch_tanh", None),
        "use_bidirectional_attention": (False, None),
    },
    # Plain kernels are what compilers multiply best.
    fixed={"use_EinsumDense": False},
    outputs=OUTPUTS,
    causal=True,
)
GEMMA2 = GEMMA._replace(
    family="gemma2",
    name="Gemma2",
    keys={
        **{ours: theirs for ours, theirs in KEYS.items() if ours != "hidden_act"},
        "logit_soft_cap": "attn_logit_softcapping",
        "final_logit_soft_cap": "final_logit_softcapping",
        "sliding_window": "sliding_window",
        "layer_types": "layer_types",
    },
    defaults={
        **GEMMA.defaults,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "layer_types": None,
    },
    fixed={
        **GEMMA.fixed,
        "use_post_attention_norm": True,
        "use_post_ffw_norm": True,
        "use_sliding_window_attention": False,
    },
)
DECODERS = {
    "llama": LLAMA._replace(
        defaults={**DEFAULTS, "max_position_embeddings": 2048, "eos_token_id": 2}
    ),
    "mistral": LLAMA._replace(
        name="Mistral",
        keys={**KEYS, "sliding_window": "sliding_window"},
        defaults={
            **DEFAULTS,
            "sliding_window": 4096,
            "max_position_embeddings": 131072,
            "eos_token_id": 2,
        },
    ),
    "qwen2": LLAMA._replace(name="Qwen2", fixed={"use_bias": True, "o_bias": False}),
    "qwen3": LLAMA._replace(family="qwen3", name="Qwen3", defaults={**DEFAULTS, "head_dim": 128}),
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2._replace(
        family="gemma3",
        name="Gemma3",
        defaults={
            **GEMMA2.defaults,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "max_position_embeddings": 131072,
        },
    ),
}
# Kinds whose windows are switched on by `use_sliding_window`.
SWITCHED = ("qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")


def read(config, path):
    """Constructor arguments of a decoder's `config.json`."""
    model_type = config["model_type"]
    kind = DECODERS[model_type]
    config, arguments = read_keys(kind, config, path)
    if arguments["num_attention_heads"] is None:
        arguments["num_attention_heads"] = arguments["query_head"]
    if "hidden_act" in arguments:
        names = kind.activations
        arguments["hidden_act"] = read_activation(config["hidden_act"], names, "hidden_act", path)
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    arguments |= {
        "attention_head_size": head_size,
        "first_is_token": False,
        "segment_vocab_size": 0,
        "use_bias": bool(config.get("attention_bias")),
        "o_bias": bool(config.get("attention_bias")),
        "use_dense_bias": bool(config.get("mlp_bias")),
        **kind.fixed,
    }
    if "query_pre_attn_scalar" in config:
        arguments["query_scale"] = config["query_pre_attn_scalar"] ** -0.5
    if model_type in SWITCHED and config.get("use_sliding_window"):
        arguments |= _read_windows(config)
    if model_type == "gemma3_text" and config.get("layer_types") is None:
        pattern, blocks = config.get("sliding_window_pattern") or 6, config["num_hidden_layers"]
        arguments["layer_types"] = [
            "sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(blocks)
        ]
    return arguments | _read_ropes(config, path) | read_outputs(kind, config, path)


def _read_windows(config):
    """Qwen slides in the blocks from `max_window_layers` on."""
    blocks, first = config["num_hidden_layers"], config.get("max_window_layers", 28)
    kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(blocks)]
    window = config.get("sliding_window", 4096)
    if window is None:
        return {}
    return {"sliding_window": window, "layer_types": config.get("layer_types") or kinds}


def _read_ropes(config, path):
    """The rotary positions; Gemma3 has others in its sliding blocks."""
    if config["model_type"] != "gemma3_text":
        base, scaling = _read_rope(config, config, 10000.0, path)
        return {"max_wavelength": base, "rope_scaling": scaling}
    ropes = config.get("rope_parameters") or {}
    if "rope_type" in ropes or not ropes:  # transformers 4
        ropes = {"full_attention": config.get("rope_scaling") or ropes}
    whole = {"rope_parameters": ropes.get("full_attention"), "rope_theta": config.get("rope_theta")}
    local = {"rope_parameters": ropes.get("sliding_attention")}
    local["rope_theta"] = config.get("rope_local_base_freq")
    base, scaling = _read_rope(whole, config, 1e6, path)
    local_base, local_scaling = _read_rope(local, config, 1e4, path)
    return {
        "max_wavelength": base,
        "rope_scaling": scaling,
        "local_max_wavelength": local_base,
        "local_rope_scaling": local_scaling,
    }


def _read_rope(source, config, default, path):
    """Base and scaling; transformers 5 put them into one dictionary."""
    rope = dict(source.get("rope_parameters") or source.get("rope_scaling") or {})
    base = rope.pop("rope_theta", None) or source.get("rope_theta") or default
    rope["rope_type"] = kind = rope.pop("type", None) or rope.get("rope_type") or "default"
    if kind not in ROPE_TYPES:
        raise ValueError(f"{path}: rope_type: expected one of {list(ROPE_TYPES)}, found {kind!r}")
    if kind == "default":
        return base, None
    longest = config["max_position_embeddings"]
    if kind == "dynamic":
        rope["original_max_position_embeddings"] = longest
    rope.setdefault("original_max_position_embeddings", longest)
    if rope.get("factor") is None:
        rope["factor"] = longest / rope["original_max_position_embeddings"]
    return base, rope


def write(transformer, key):
    """The `config.json` of a decoder; CheckpointError where Hugging Face's has no such thing."""
    t = transformer
    model_type = _model_type(t, key)
    kind = DECODERS[model_type]
    _check_exportable(t, model_type)
    config = {theirs: getattr(t, ours) for ours, theirs in kind.keys.items() if ours in vars(t)}
    config |= {k: allowed[0] for k, allowed in kind.demands.items()}
    if "hidden_act" in kind.keys and "hidden_act" not in kind.demands:
        config["hidden_act"] = write_activation(t.hidden_act, kind.activations)
    config |= {
        "architectures": [kind.name + class_of_outputs(t, kind)],
        "model_type": model_type,
        "num_attention_heads": t.query_head or t.num_attention_heads,
        "head_dim": t.attention_head_size,
        "rms_norm_eps": t.norm_epsilon,
        "max_position_embeddings": t.max_position or kind.defaults["max_position_embeddings"],
        "attention_dropout": float(t.attention_dropout_rate),
        "attention_bias": t.use_bias and model_type not in SWITCHED[:1],
        "mlp_bias": bool(t.use_dense_bias),
    }
    if "query_pre_attn_scalar" in kind.defaults:
        config["query_pre_attn_scalar"] = _whole(t.query_scale**-2)
    if model_type in SWITCHED:
        sliding = _slides(t)
        config |= {
            "use_sliding_window": sliding,
            "sliding_window": t.sliding_window,
            "layer_types": t.layer_types if sliding else None,
        }
    return config | _write_ropes(t, model_type) | write_labels(t)


def _whole(number):
    """An int, where a number is one but for rounding."""
    return round(number) if abs(number - round(number)) < 1e-6 * number else number


def _model_type(t, key):
    """Of the types of a family the one that can say what the model is."""
    if key != "llama":
        return next(name for name, kind in DECODERS.items() if kind.family == key)
    if t.use_bias and not _o_bias(t):
        return "qwen2"
    return "mistral" if _slides(t) and not t.use_bias else "llama"


def _o_bias(t):
    return t.use_bias if t.o_bias is None else bool(t.o_bias)


def _slides(t):
    return t.sliding_window is not None and "sliding_attention" in t.layer_types


def _write_ropes(t, model_type):
    rope = t.rope_scaling or {"rope_type": "default"}
    if t.scaling_factor != 1:
        rope = {"rope_type": "linear", "factor": t.scaling_factor}
    whole = {"rope_theta": t.max_wavelength, **rope}
    if model_type != "gemma3_text":
        return {
            "rope_theta": t.max_wavelength,
            "rope_scaling": None if rope["rope_type"] == "default" else rope,
            "rope_parameters": whole,
        }
    local = {"rope_theta": t.local_max_wavelength, "rope_type": "default"}
    local |= t.local_rope_scaling or {}
    return {"rope_parameters": {"full_attention": whole, "sliding_attention": local}}


def _check_exportable(t, model_type):
    qwen2 = model_type == "qwen2"
    gemma = model_type.startswith("gemma")
    heads = t.query_head or t.num_attention_heads
    partly = "full_attention" in t.layer_types
    sandwich = gemma and model_type != "gemma"
    reasons = {
        "embedding_size other than hidden_size": t.embedding_size != t.hidden_size,
        "key heads of another size than value heads": t.attention_key_size != t.attention_head_size,
        "scaled inputs": bool(t.input_scale) != gemma,
        "segments": t.segment_vocab_size,
        "rope_mode other than 'keras'": t.rope_mode != "keras",
        "this sliding window": _slides(t)
        and (model_type in ("llama", "gemma") or (model_type == "mistral" and partly)),
        "o_bias other than use_bias": _o_bias(t) != t.use_bias and not qwen2,
        "feed-forward biases": t.use_dense_bias and model_type != "llama",
        "head sizes other than hidden_size / heads": qwen2
        and t.attention_head_size * heads != t.hidden_size,
        "residual_attention_scores": t.residual_attention_scores,
        "soft caps": not sandwich and (t.logit_soft_cap or t.final_logit_soft_cap),
        "query_scale": not sandwich and t.query_scale,
        "no norms after the layers": sandwich
        and not (t.use_post_attention_norm and t.use_post_ffw_norm),
        f"qk_norm={t.qk_norm!r}": t.qk_norm
        != {"qwen3": "llama", "gemma3_text": "gemma"}.get(model_type),
        "other rotary positions in sliding blocks": t.local_max_wavelength is not None
        and model_type != "gemma3_text",
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise CheckpointError(f"Hugging Face's {type(t).__name__} has no such thing: {found}")
