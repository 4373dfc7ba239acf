"""Presets of keras-hub's Gemma models, read as the Hugging Face folders they correspond to.

A preset is a folder: `config.json` names the backbone's class and its arguments, the weights are
in `model.weights.h5` or, of large models, in several files that `model.weights.json` lists.
keras-hub itself is not needed.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert4keras3.models.huggingface import from_huggingface
from bert4keras3.weights import CheckpointError
from bert4keras3.weights.h5 import KerasWeights
from bert4keras3.weights.sources import Entry, Source
from bert4keras3.weights.table import expand_table

WEIGHTS, SHARDS = "model.weights.h5", "model.weights.json"
TOKENIZER = {"assets/tokenizer/vocabulary.spm": "tokenizer.model"}
# Hugging Face's key: keras-hub's.
KEYS = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_query_heads",
    "num_key_value_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_dim",
    "head_dim": "head_dim",
    "rms_norm_eps": "layer_norm_epsilon",
}
LATER_KEYS = {
    **KEYS,
    "attn_logit_softcapping": "attention_logit_soft_cap",
    "final_logit_softcapping": "final_logit_soft_cap",
    "sliding_window": "sliding_window_size",
}
NORMS = {"use_post_ffw_norm": (True,), "use_post_attention_norm": (True,)}
# Place in a block of the file: Hugging Face's tensor, and how keras-hub has it from there.
BLOCK = {
    "pre_attention_norm": "input_layernorm.weight",
    "attention/query_dense": "self_attn.q_proj.weight:T:heads:swap",
    "attention/key_dense": "self_attn.k_proj.weight:T:heads:swap",
    "attention/value_dense": "self_attn.v_proj.weight:T:heads:swap",
    "attention/output_dense": "self_attn.o_proj.weight:T:rows",
    "gating_ffw": "mlp.gate_proj.weight:T",
    "gating_ffw_2": "mlp.up_proj.weight:T",
    "ffw_linear": "mlp.down_proj.weight:T",
}
SANDWICH = {
    "post_attention_norm": "post_attention_layernorm.weight",
    "pre_ffw_norm": "pre_feedforward_layernorm.weight",
    "post_ffw_norm": "post_feedforward_layernorm.weight",
}


class Preset(NamedTuple):
    """One kind of preset.

    Args:
        model_type: Hugging Face's.
        stem: what the file calls a block.
        block: the tensors of a block, as in `BLOCK`.
        keys: Hugging Face's key: keras-hub's.
        demands: keras-hub's key: the values that mean what is computed here.
        halves: whether `intermediate_dim` counts gates and values together.
        period: every so many blocks one sees everything, where there is a window.
    """

    model_type: str
    stem: str
    block: dict
    keys: dict = LATER_KEYS
    demands: dict = {}
    halves: bool = False
    period: int = None


GEMMA2 = Preset(
    "gemma2",
    "gemma_decoder_block",
    {**BLOCK, **SANDWICH},
    demands=NORMS,
    halves=True,
    period=2,
)
GEMMA = GEMMA2._replace(
    model_type="gemma",
    block={**BLOCK, "pre_ffw_norm": "post_attention_layernorm.weight"},
    keys=KEYS,
    demands={
        "use_post_ffw_norm": (False,),
        "use_post_attention_norm": (False,),
        "attention_logit_soft_cap": (None,),
        "final_logit_soft_cap": (None,),
        "use_sliding_window_attention": (False,),
        "query_head_dim_normalize": (True,),
    },
    period=None,
)
GEMMA3 = Preset(
    "gemma3_text",
    "gemma3_decoder_block",
    {
        **BLOCK,
        **SANDWICH,
        "attention/query_norm": "self_attn.q_norm.weight",
        "attention/key_norm": "self_attn.k_norm.weight",
    },
    demands={
        **NORMS,
        "use_query_key_norm": (True,),
        "vision_encoder": (None,),
        "use_bidirectional_attention": (False,),
        "is_embedding_model": (False,),
    },
    period=6,
)


def is_preset(config):
    """Whether a `config.json` is one of keras-hub."""
    return "registered_name" in config


def read_preset(folder, config):
    """The arguments and weights of a preset.

    Args:
        folder: the folder.
        config: the dictionary of its `config.json`.

    Returns:
        The model key, arguments of `build_transformer_model`, and the weights: an open
        `Source` under Hugging Face's names.

    Raises:
        ValueError: it is of a class, or has an option, that is not supported.
        FileNotFoundError: there are no weights.
        CheckpointError: they cannot be read.
    """
    path = Path(folder) / "config.json"
    preset, arguments = _find_preset(config, path)
    key, arguments = from_huggingface(_to_huggingface(preset, arguments, path), path)
    arguments.pop("outputs")
    return key, arguments, PresetWeights(folder, preset, arguments["num_hidden_layers"])


def _find_preset(config, path):
    # keras-hub leaves out what is as in its first versions.
    defaults = {"use_post_ffw_norm": False, "use_query_key_norm": True}
    arguments = {**defaults, **config.get("config", {})}
    gemma = GEMMA2 if arguments["use_post_ffw_norm"] else GEMMA
    presets = {"GemmaBackbone": gemma, "Gemma3Backbone": GEMMA3}
    preset = presets.get(config.get("class_name"))
    if preset is None:
        raise ValueError(
            f"{path}: class_name: expected one of {sorted(presets)}, "
            f"found {config.get('class_name')!r}"
        )
    for key, allowed in preset.demands.items():
        if arguments.get(key, allowed[0]) not in allowed:
            raise ValueError(f"{path}: {key}: expected {allowed[0]}, found {arguments[key]!r}")
    missing = [name for name in preset.keys.values() if name not in arguments]
    if missing:
        raise ValueError(f"{path}: needs the keys {missing}")
    return preset, arguments


def _to_huggingface(preset, arguments, path):
    """The `config.json` of a Hugging Face folder with the same model."""
    config = {theirs: arguments[name] for theirs, name in preset.keys.items()}
    config["model_type"] = preset.model_type
    config["intermediate_size"] //= 1 + preset.halves
    if preset.period:
        heads = arguments["num_query_heads"]
        per_head = arguments.get("query_head_dim_normalize", True)
        slides = arguments.get("use_sliding_window_attention", False)
        config["query_pre_attn_scalar"] = (
            arguments["head_dim"] if per_head else arguments["hidden_dim"] // heads
        )
        config["layer_types"] = [
            "sliding_attention" if slides and (i + 1) % preset.period else "full_attention"
            for i in range(arguments["num_layers"])
        ]
    if preset is GEMMA3:
        config["rope_parameters"] = {
            "full_attention": _rope(1e6, arguments.get("global_rope_scaling_factor", 1.0)),
            "sliding_attention": _rope(1e4, arguments.get("local_rope_scaling_factor", 1.0)),
        }
    return config


def _rope(base, factor):
    if factor == 1:
        return {"rope_type": "default", "rope_theta": base}
    return {"rope_type": "linear", "rope_theta": base, "factor": factor}


class PresetWeights(Source):
    """The weights of a preset under Hugging Face's names, and in Hugging Face's form.

    What the preset has beyond them keeps its own name.

    Args:
        folder: the preset.
        preset: its kind.
        num_hidden_layers: the number of its blocks.

    Raises:
        FileNotFoundError: there are no weights, or a file of several is missing.
        CheckpointError: a file is damaged.
    """

    def __init__(self, folder, preset, num_hidden_layers):
        super().__init__(Path(folder))
        self._files = []
        try:
            self._files += [KerasWeights(path) for path in _weight_files(self.path)]
            places = {place: file for file in self._files for place in file}
            tensors = _tensors(preset, num_hidden_layers)
            for place, file in places.items():
                self._add(place, file, tensors.get(place))
        except BaseException:
            self.close()
            raise

    def _add(self, place, file, tensor):
        dtype, shape = file.dtype(place), file.shape(place)
        if tensor is None:
            self._entries[place] = Entry(dtype, shape, place=place, file=file, tensor=None)
            return
        shape = tensor.write(np.broadcast_to(np.int8(0), shape)).shape
        self._entries[tensor.name] = Entry(dtype, shape, place=place, file=file, tensor=tensor)

    def _read(self, name, entry):
        value = entry.file[entry.place]
        if entry.tensor is not None:
            value = entry.tensor.write(value)
        return np.ascontiguousarray(value)

    def close(self):
        for file in self._files:
            file.close()


def _weight_files(folder):
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / SHARDS
    if not index.is_file():
        raise FileNotFoundError(f"no {WEIGHTS} or {SHARDS} in {folder}")
    try:
        found = json.loads(index.read_bytes())["weight_map"].values()
        names = {name for value in found for name in ([value] if type(value) is str else value)}
        if any(Path(name).name != name for name in names):
            raise ValueError("a file elsewhere")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        message = f"expected JSON with an object 'weight_map' of file names, found: {error!r}"
        raise CheckpointError(message, index) from None
    return [folder / name for name in sorted(names)]


def _tensors(preset, num_hidden_layers):
    """`{place in the file: Tensor of Hugging Face}`; Keras numbers blocks from the second on."""
    table = {
        "layers/reversible_embedding": "model.embed_tokens.weight",
        "layers/rms_normalization": "model.norm.weight",
    }
    table |= {f"{{i}}/{place}": f"model.layers.{{i}}.{row}" for place, row in preset.block.items()}
    found = {}
    for place, (tensor,) in expand_table(table, num_hidden_layers).items():
        number, _, rest = place.partition("/")
        if number != "layers":
            stem = preset.stem if number == "0" else f"{preset.stem}_{number}"
            place = f"layers/{stem}/{rest}"
        found[f"{place}/vars/0"] = tensor
    return found
