"""Configurations of the classic families: read and written by the table of `kinds`."""

import warnings

from bert4keras3.models.huggingface.activations import read_activation, write_activation
from bert4keras3.models.huggingface.kinds import KINDS
from bert4keras3.ops import keras
from bert4keras3.weights.errors import CheckpointError

# Heads whose classes have names.
CLASSIFICATION = ("sequence_classification", "token_classification")


def read(config, path):
    """Constructor arguments of a `config.json`.

    `is_decoder` is among them, and `outputs`: the arguments that give the output
    of the class the folder was saved from.
    """
    kind = KINDS[config["model_type"]]
    config, arguments = read_keys(kind, config, path)
    arguments |= kind.fixed
    key = kind.keys["hidden_act"]
    arguments["hidden_act"] = read_activation(config[key], kind.activations, key, path)
    arguments["first_is_token"] = False
    if arguments.get("intermediate_size") is None:
        arguments["intermediate_size"] = 4 * arguments["hidden_size"]
    if kind.family == "roberta" and arguments["pad_token_id"] is not None:
        offset = arguments["pad_token_id"] + 1
        arguments |= {"position_offset": offset, "position_skips_padding": True}
    if kind.family == "deberta" and config["max_relative_positions"] > 0:
        arguments["max_position"] = config["max_relative_positions"]
    outputs = read_outputs(kind, config, path)
    arguments["is_decoder"] = kind.decodes and bool(config.get("is_decoder"))
    if arguments["is_decoder"]:
        arguments |= {k: v for k, v in outputs["outputs"].items() if k == "with_mlm"}
    return arguments | outputs


def read_keys(kind, config, path):
    """A configuration with its defaults, and our arguments of the same meaning.

    Raises:
        ValueError: it asks for what we do not compute, or lacks a key.
    """
    config = {**kind.defaults, **config}
    for key, allowed in kind.demands.items():
        if config.get(key) not in allowed:
            known = " or ".join(repr(value) for value in allowed if value is not None)
            found = repr(config[key]) if key in config else "nothing"
            raise ValueError(f"{path}: {key}: expected {known or 'none'}, found {found}")
    missing = [name for name in kind.keys.values() if name not in config]
    if missing:
        raise ValueError(f"{path}: needs the keys {missing}")
    if "embedding_size" not in kind.keys:
        sizes = (None, config[kind.keys["hidden_size"]])
        if config.get("embedding_size") not in sizes:
            found = config["embedding_size"]
            raise ValueError(f"{path}: embedding_size: expected {sizes[1]}, found {found}")
    return config, {ours: config[theirs] for ours, theirs in kind.keys.items()}


def read_outputs(kind, config, path):
    """Arguments for the output of the class the folder was saved from.

    A language model is one without being asked for; `outputs` has what a model gets
    by `head='auto'`, None where we do not have such outputs.
    """
    ends = {kind.name + end: outputs for end, outputs in kind.outputs.items()}
    name = (config.get("architectures") or [kind.name + kind.usual])[0]
    outputs = dict(ends.get(name, {}))
    if outputs.get("head") in CLASSIFICATION:
        labels = config.get("id2label")
        if labels:
            outputs["labels"] = [labels[i] for i in sorted(labels, key=int)]
        elif config.get("num_labels"):
            outputs["num_labels"] = config["num_labels"]
    always = {k: outputs.pop(k) for k in ("final_activation", "with_lm") if k in outputs}
    return {**always, "outputs": outputs if name in ends else {"head": name}}


def write(transformer, key):
    """The `config.json` of a model; CheckpointError where Hugging Face's has no such thing."""
    t = transformer
    model_type = next(name for name, kind in KINDS.items() if kind.family == key)
    kind = KINDS[model_type]
    _check_exportable(t, kind)
    config = {theirs: getattr(t, ours, None) for ours, theirs in kind.keys.items()}
    config |= {
        "architectures": [kind.name + class_of_outputs(t, kind)],
        "model_type": model_type,
        kind.keys["hidden_act"]: write_activation(t.hidden_act, kind.activations),
        "tie_word_embeddings": True,
    }
    if "layer_norm_epsilon" in kind.keys:
        config[kind.keys["layer_norm_epsilon"]] = _epsilon(t)
    if kind.decodes:
        config["is_decoder"] = t.attention_kind == "causal"
    # What the type demands is what we compute; the first value is the plain one.
    config |= {k: allowed[0] for k, allowed in kind.demands.items() if allowed[0] is not None}
    return config | write_labels(t)


def _epsilon(t):
    """The one epsilon that these files have for all norms."""
    epsilon = keras.config.epsilon() if t.norm_epsilon is None else t.norm_epsilon
    others = {name: value for name, value in t.norm_epsilons.items() if value != epsilon}
    others = {name: value for name, value in others.items() if t.prefixed(name) in t.layers}
    if others:
        warnings.warn(
            f"Hugging Face's {type(t).__name__} has one epsilon for all norms: {others} become "
            f"{epsilon}",
            stacklevel=5,
        )
    return epsilon


def write_labels(transformer):
    """The names of a head's classes."""
    if transformer.head not in CLASSIFICATION:
        return {}
    labels = transformer.labels or [f"LABEL_{i}" for i in range(transformer.num_labels)]
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }


def class_of_outputs(t, kind):
    """The end of the name of transformers' class with the model's outputs."""
    names = ("with_mlm", "with_nsp", "with_discriminator", "final_activation", "with_lm")
    ours = [{name: True for name in names if getattr(t, name, False)}]
    if t.head:
        ours = [{"head": t.head}] + [{"with_mlm": True}] * (t.head == "masked_lm")
    for end, outputs in kind.outputs.items():
        if {k: v if k == "head" else True for k, v in outputs.items() if v} in ours:
            return end
    raise CheckpointError(
        f"Hugging Face has a class for {list(kind.outputs)}, not for a model with {ours[0]}"
    )


def _check_exportable(t, kind):
    head_sizes = {t.attention_head_size, t.attention_key_size}
    offset = t.pad_token_id + 1 if kind.family == "roberta" and t.pad_token_id is not None else 0
    reasons = {
        "embedding_size other than hidden_size": "embedding_size" not in kind.keys
        and t.embedding_size != t.hidden_size,
        "no layer between embeddings and blocks": "always_map_embeddings" in kind.fixed
        and t.embedding_size == t.hidden_size
        and not t.always_map_embeddings,
        "head sizes other than hidden_size / heads": head_sizes
        != {t.hidden_size // t.num_attention_heads},
        "query heads of another number": t.query_head not in (None, t.num_attention_heads),
        "no output bias": t.o_bias is not None and not t.o_bias,
        "hierarchical_position": t.hierarchical_position,
        "custom_position_ids": t.custom_position_ids,
        f"position_offset={t.position_offset}": t.position_offset != offset
        or bool(t.position_skips_padding) != bool(offset),
        "shared_segment_embeddings": t.shared_segment_embeddings,
        "no segments": "segment_vocab_size" in kind.keys
        and not t.segment_vocab_size
        and kind.family != "deberta",
        "segments": "segment_vocab_size" not in kind.keys and t.segment_vocab_size,
        "residual_attention_scores": t.residual_attention_scores,
        "UniLM's attention mask": t.attention_kind == "unilm",
        "a causal mask": t.attention_kind == "causal" and not (kind.decodes or kind.causal),
        f"with_pool={t.with_pool!r}": t.with_pool not in (True, False, "tanh"),
        "conditional layer norms": t.layer_norm_conds[0] is not None,
        "an inner size other than 4 x hidden_size": "intermediate_size" not in kind.keys
        and t.intermediate_size != 4 * t.hidden_size,
        f"layer_norm_epsilon={t.norm_epsilon}": "layer_norm_epsilon" not in kind.keys
        and t.norm_epsilon != type(t).norm_epsilon,
        f"hidden_act={t.hidden_act!r}": isinstance(t.hidden_act, (list, tuple)),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise CheckpointError(f"Hugging Face's {type(t).__name__} has no such thing: {found}")
