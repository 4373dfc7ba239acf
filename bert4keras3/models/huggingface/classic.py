"""Configurations of the classic families: read and written by the table of `kinds`."""

from bert4keras3.backend import gelu_erf, gelu_tanh, get_activation
from bert4keras3.models.huggingface.kinds import KINDS
from bert4keras3.weights.errors import CheckpointError

# transformers' names of activations that are other forms, or other names, with us.
ACTIVATIONS = {"gelu": "gelu_erf", "gelu_python": "gelu_erf", "silu": "swish"}
EXPORTED_ACTIVATIONS = {gelu_erf: "gelu", gelu_tanh: "gelu_new"}


def read(config, path):
    """Constructor arguments of a `config.json`.

    `is_decoder` is among them, and `outputs`: the arguments that give the output
    of the class the folder was saved from.
    """
    kind = KINDS[config["model_type"]]
    for key, allowed in kind.demands.items():
        if key in config and config[key] not in allowed:
            known = " or ".join(repr(value) for value in allowed if value is not None)
            raise ValueError(f"{path}: {key}: expected {known or 'none'}, found {config[key]!r}")
    config = {**kind.defaults, **config}
    missing = [name for name in kind.keys.values() if name not in config]
    if missing:
        raise ValueError(f"{path}: needs the keys {missing}")
    arguments = {ours: config[theirs] for ours, theirs in kind.keys.items()} | kind.fixed
    activation = arguments["hidden_act"]
    names = {**ACTIVATIONS, **kind.activations}
    arguments["hidden_act"] = names.get(activation, activation)
    arguments["first_is_token"] = False
    if arguments.get("intermediate_size") is None:
        arguments["intermediate_size"] = 4 * arguments["hidden_size"]
    if kind.family == "roberta" and arguments["pad_token_id"] is not None:
        offset = arguments["pad_token_id"] + 1
        arguments |= {"position_offset": offset, "position_skips_padding": True}
    if kind.family == "deberta" and config.get("max_relative_positions", -1) > 0:
        arguments["max_position"] = config["max_relative_positions"]
    arguments["is_decoder"] = bool(config.get("is_decoder"))
    outputs = _read_outputs(kind, config)
    # A language model is one without being asked for a head.
    always = {k: outputs.pop(k) for k in ("final_activation",) if k in outputs}
    return arguments | always | {"outputs": outputs}


def _read_outputs(kind, config):
    """Arguments for the output of the class the folder was saved from."""
    name = (config.get("architectures") or [""])[0]
    # The longest: 'LMHeadModel' ends like 'Model'.
    found = max((end for end in kind.outputs if name.endswith(end)), key=len, default="Model")
    outputs = dict(kind.outputs[found])
    if kind.family == "electra" and "with_mlm" in outputs:
        outputs = {"head": "masked_lm"}
    elif "head" in outputs:
        labels = config.get("id2label")
        if labels:
            outputs["labels"] = [labels[i] for i in sorted(labels, key=int)]
        elif config.get("num_labels"):
            outputs["num_labels"] = config["num_labels"]
    return outputs


def write(transformer, key):
    """The `config.json` of a model; CheckpointError where Hugging Face's has no such thing."""
    model_type = next(name for name, kind in KINDS.items() if kind.family == key)
    kind = KINDS[model_type]
    _check_exportable(transformer, kind)
    config = {theirs: getattr(transformer, ours, None) for ours, theirs in kind.keys.items()}
    activation = get_activation(transformer.hidden_act)
    exported = {get_activation(ours): theirs for theirs, ours in kind.activations.items()}
    names = {**EXPORTED_ACTIVATIONS, get_activation("swish"): "silu", **exported}
    config |= {
        "architectures": [kind.name + _class_of_outputs(transformer, kind)],
        "model_type": model_type,
        kind.keys["hidden_act"]: names.get(activation, transformer.hidden_act),
        "tie_word_embeddings": True,
    }
    if "layer_norm_epsilon" in kind.keys:
        config[kind.keys["layer_norm_epsilon"]] = transformer.norm_epsilon
    if kind.family not in ("gpt", "gpt2"):
        config["is_decoder"] = transformer.attention_kind == "causal"
    # What the type demands is what we compute; the first value is the plain one.
    config |= {k: allowed[0] for k, allowed in kind.demands.items() if allowed[0] is not None}
    if transformer.head and not transformer.heads[transformer.head].num_labels:
        labels = transformer.labels or [f"LABEL_{i}" for i in range(transformer.num_labels)]
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
    return config


def _class_of_outputs(t, kind):
    """The end of the name of transformers' class with the model's outputs."""
    names = ("with_mlm", "with_nsp", "with_discriminator", "final_activation")
    if t.head:
        ours = {"head": t.head} if t.head != "masked_lm" else {"with_mlm": True}
    else:
        ours = {name: True for name in names if getattr(t, name, False)}
    for end, outputs in kind.outputs.items():
        wanted = {k: v if k == "head" else True for k, v in outputs.items() if v}
        if ours == wanted:
            return end
    raise CheckpointError(
        f"Hugging Face has a class for {list(kind.outputs)}, not for a model with {ours}"
    )


def _check_exportable(t, kind):
    head_sizes = {t.attention_head_size, t.attention_key_size}
    fixed_size = "embedding_size" not in kind.keys
    reasons = {
        "embedding_size other than hidden_size": fixed_size and t.embedding_size != t.hidden_size,
        "head sizes other than hidden_size / heads": head_sizes
        != {t.hidden_size // t.num_attention_heads},
        "hierarchical_position": t.hierarchical_position,
        "custom_position_ids": t.custom_position_ids,
        "shared_segment_embeddings": t.shared_segment_embeddings,
        "no segments": "segment_vocab_size" in kind.keys
        and not t.segment_vocab_size
        and kind.family != "deberta",
        "segments": "segment_vocab_size" not in kind.keys and t.segment_vocab_size,
        "residual_attention_scores": t.residual_attention_scores,
        "UniLM's attention mask": t.attention_kind == "unilm",
        f"with_pool={t.with_pool!r}": t.with_pool not in (True, False, "tanh"),
        "conditional layer norms": t.layer_norm_conds[0] is not None,
        "an inner size other than 4 x hidden_size": "intermediate_size" not in kind.keys
        and t.intermediate_size != 4 * t.hidden_size,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise CheckpointError(f"Hugging Face's {type(t).__name__} has no such thing: {found}")
