"""Configurations of T5, mT5 and UMT5."""

from bert4keras3.models.huggingface.activations import (
    ACTIVATIONS,
    read_activation,
    write_activation,
)
from bert4keras3.models.huggingface.classic import read_keys, read_outputs
from bert4keras3.models.huggingface.kinds import Kind
from bert4keras3.weights.errors import CheckpointError

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
    "num_attention_heads": "num_heads",
    "attention_head_size": "d_kv",
    "intermediate_size": "d_ff",
    "hidden_act": "feed_forward_proj",
    "dropout_rate": "dropout_rate",
    "layer_norm_epsilon": "layer_norm_epsilon",
    "position_buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "pad_token_id": "pad_token_id",
    "end_token_id": "eos_token_id",
    "start_token_id": "decoder_start_token_id",
}
DEFAULTS = {
    "vocab_size": 32128,
    "d_kv": 64,
    "num_decoder_layers": None,
    "feed_forward_proj": "relu",
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
GATED_DEFAULTS = {**DEFAULTS, "vocab_size": 250112, "feed_forward_proj": "gated-gelu"}
OUTPUTS = {
    "ForConditionalGeneration": {"with_lm": "linear"},
    "Model": {"with_lm": False},
    "EncoderModel": {},
}
SEQ2SEQ = {
    "t5": Kind("t5", "T5", KEYS, DEFAULTS, outputs=OUTPUTS),
    "mt5": Kind("mt5.1.1", "MT5", KEYS, GATED_DEFAULTS, outputs=OUTPUTS),
    "umt5": Kind("mt5.1.1", "UMT5", KEYS, GATED_DEFAULTS, outputs=OUTPUTS),
}
FAMILIES = ("t5", "mt5.1.1", "t5_encoder")
GATED = "gated-"
# The gate of this name is not what it is elsewhere.
GATES = {**ACTIVATIONS, "gelu": "gelu_tanh"}


def read(config, path):
    """Constructor arguments of a `config.json`; `family` where it is of the encoder alone."""
    model_type = config["model_type"]
    kind = SEQ2SEQ[model_type]
    config, arguments = read_keys(kind, config, path)
    outputs = read_outputs(kind, config, path)
    name = arguments["hidden_act"]
    gated = name.startswith(GATED)
    names = GATES if gated else ACTIVATIONS
    activation = read_activation(name.removeprefix(GATED), names, "feed_forward_proj", path)
    # "Tied" has come to mean that the decoder's output is scaled; whether the projection is the
    # token table is seen in the file.
    scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
    scaled = bool(scaled) and model_type != "mt5"
    arguments |= {
        "hidden_act": [activation, "linear"] if gated else activation,
        "attention_dropout_rate": arguments["dropout_rate"],
        "version": "t5.1.0" if model_type == "t5" and scaled else "t5.1.1",
        "share_embedding": scaled,
        "logit_scale": scaled and outputs.get("with_lm") is not False,
        "cross_position_bias": False,
        "share_position_bias": model_type != "umt5",
    }
    if kind.family == "mt5.1.1":
        arguments["version"] = "mt5.1.1"
    if (config.get("architectures") or [""])[0].endswith("EncoderModel"):
        arguments["family"] = "t5_encoder"
    return arguments | outputs


def write(transformer, key):
    """The `config.json` of a model; CheckpointError where Hugging Face's has no such thing."""
    t = transformer
    model_type = "mt5" if t.version == "mt5.1.1" else "t5"
    model_type = model_type if t.share_position_bias else "umt5"
    kind = SEQ2SEQ[model_type]
    encoder = key == "t5_encoder"
    _check_exportable(t, model_type, encoder)
    end = "EncoderModel" if encoder else "ForConditionalGeneration" if t.with_lm else "Model"
    config = {theirs: getattr(t, ours, None) for ours, theirs in kind.keys.items()}
    scaled = not encoder and bool(t.logit_scale)
    return config | {
        "architectures": [kind.name + end],
        "model_type": model_type,
        "num_decoder_layers": t.num_hidden_layers if encoder else t.num_decoder_layers,
        "feed_forward_proj": _feed_forward(t.hidden_act),
        "layer_norm_epsilon": t.norm_epsilon,
        "decoder_start_token_id": t.decoder_start_id,
        "is_encoder_decoder": not encoder,
        "tie_word_embeddings": scaled,
        "scale_decoder_outputs": scaled,
    }


def _feed_forward(activation):
    if not isinstance(activation, (list, tuple)):
        return write_activation(activation, ACTIVATIONS)
    if len(activation) != 2 or activation[1] != "linear":
        raise CheckpointError(f"Hugging Face's T5 has no feed-forward layer {activation!r}")
    return GATED + write_activation(activation[0], GATES)


def _check_exportable(t, model_type, encoder):
    reasons = {
        "embedding_size other than hidden_size": t.embedding_size != t.hidden_size,
        "key heads of another size than value heads": t.attention_key_size != t.attention_head_size,
        "query heads of another number": t.query_head not in (None, t.num_attention_heads),
        "output biases": t.o_bias,
        "segments": t.segment_size,
        "residual_attention_scores": t.residual_attention_scores,
        "conditional layer norms": t.layer_norm_conds[0] is not None,
    }
    if not encoder:
        reasons |= {
            "relative positions in cross attention": t.cross_position_bias,
            "share_embedding other than logit_scale": t.with_lm
            and bool(t.share_embedding) != bool(t.logit_scale),
            "logit_scale": t.logit_scale and (model_type == "mt5" or not t.with_lm),
        }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise CheckpointError(f"Hugging Face's {type(t).__name__} has no such thing: {found}")
