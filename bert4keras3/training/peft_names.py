"""PEFT's adapter folders: `adapter_config.json` and `adapter_model.safetensors`.

The tensors are called after the modules of Hugging Face's model, which the tables of
`models` have for our weights: `base_model.model.<module>.lora_A.weight` is `(rank, in)`,
`lora_B.weight` `(out, rank)`; of tables of embeddings `lora_embedding_A` `(rank, rows)` and
`lora_embedding_B` `(size, rank)`; DoRA has a `lora_magnitude_vector` `(out,)`.

Source: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from bert4keras3.models.checkpoints import checkpoint_weights
from bert4keras3.models.config import read_config, write_json
from bert4keras3.models.huggingface import to_huggingface
from bert4keras3.ops import keras
from bert4keras3.training.lora import keras_model, lora_targets
from bert4keras3.weights import CheckpointError, open_source
from bert4keras3.weights.table import Tensor, part_number, stored_name

ROOT = "base_model.model."
CONFIG = "adapter_config.json"
TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
# Options of PEFT's LoRA that compute something else.
UNSUPPORTED = (
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "use_qalora",
)
MATRICES = re.compile(r"(.+)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight)?")


OURS = {"A": "a", "B": "b", "embedding_A": "a", "embedding_B": "b", "magnitude_vector": "magnitude"}


class Place(NamedTuple):
    """A weight of ours and its tensor in Hugging Face's files."""

    variable: object
    tensor: Tensor


def places(model):
    """The transformer a model's layers are of, and all `Place`s of its weights.

    Raises:
        CheckpointError: it is of no family that Hugging Face has.
    """
    layers = keras_model(model).layers
    transformer = next((x.origin for x in layers if hasattr(x, "origin")), None)
    if transformer is None or "hf" not in transformer.tables:
        what = "a model" if transformer is None else type(transformer).__name__
        raise CheckpointError(
            f"{what} has no Hugging Face names: save_lora to a file that ends with .safetensors"
        )
    found = []
    for name, row in transformer.table("hf").items():
        layer = transformer.layers.get(transformer.prefixed(name))
        if layer is not None:
            found += map(Place, checkpoint_weights(layer), row)
    return transformer, found


# ------------------------------------------------------------------------ writing


def export(model, adapters, beside):
    """The configuration and the arrays of a folder.

    Args:
        model: the model.
        adapters: `{name of a layer: LowRank}`.
        beside: `{name: variable}` of what was trained beside them.
    """
    transformer, known = places(model)
    tensors = {id(place.variable): place.tensor for place in known}
    architecture = to_huggingface(transformer)["architectures"][0]
    bare = architecture.endswith("Model") and not architecture.endswith("LMHeadModel")
    prefix = transformer.huggingface_prefix if bare else ""
    modules, straight = _by_module(lora_targets(model), adapters, tensors, prefix)
    arrays, settings = {}, {}
    for module, parts in modules.items():
        settings[module], own = _module(sorted(parts, key=lambda x: part_number(x[0].name)))
        arrays |= {f"{ROOT}{module}.{key}": value for key, value in own.items()}
    for module, adapter in _add_ends(transformer, modules, prefix).items():
        settings[module] = (adapter.rank, adapter.alpha)
        arrays[f"{ROOT}{module}.lora_A.weight"] = adapter.b.numpy()
        arrays[f"{ROOT}{module}.lora_B.weight"] = adapter.a.numpy()
    saved = _whole(beside, tensors, prefix)
    arrays |= {ROOT + name: value for name, value in saved.items()}
    names = [tensor.name for row in transformer.table("hf").values() for tensor in row]
    all_modules = {stored_name(n).removeprefix(prefix).rpartition(".")[0] for n in names}
    config = _config(settings, all_modules, saved, next(iter(adapters.values())))
    config["fan_in_fan_out"] = straight
    config["task_type"] = next((t for end, t in TASKS.items() if architecture.endswith(end)), None)
    return config, arrays


def _by_module(targets, adapters, tensors, prefix):
    """`{module: [(Tensor, LowRank, whether it is a table of embeddings), ...]}`.

    And whether kernels are stored as they multiply, not transposed.
    """
    modules, straight = {}, False
    for path, adapter in adapters.items():
        tensor = tensors.get(id(targets[path].kernel_variable))
        if tensor is None or ":stack" in tensor.name:
            raise CheckpointError(f"Hugging Face files have no place for the layer {path!r}")
        module = stored_name(tensor.name).removeprefix(prefix).removesuffix(".weight")
        is_table = isinstance(targets[path], keras.layers.Embedding)
        straight |= not is_table and ("T", "") not in tensor.transforms
        modules.setdefault(module, []).append((tensor, adapter, is_table))
    return modules, straight


def _whole(beside, tensors, prefix):
    """`{name: array}` of the weights that were trained as they are."""
    saved = {}
    for name, variable in beside.items():
        tensor = tensors.get(id(variable))
        if tensor is None or ":" in tensor.name:
            raise CheckpointError(
                f"Hugging Face files have no place for {name}, which was trained too: "
                "save_lora to a file that ends with .safetensors"
            )
        value = tensor.write(variable.numpy())
        saved[tensor.name.removeprefix(prefix)] = np.ascontiguousarray(value)
    return saved


def _ties(transformer):
    """`{module of an output projection: module of the table it is tied to}`."""
    if not transformer.tied_embeddings:
        return {}
    ties = transformer.huggingface_ties.items()
    return {a.removesuffix(".weight"): b.removesuffix(".weight") for a, b in ties}


def _add_ends(transformer, modules, prefix):
    """The other ends of tied tables: there the matrices change places."""
    ends = {}
    for head, table in _ties(transformer).items():
        parts = modules.get(table.removeprefix(prefix))
        if parts is not None:
            _, adapter, _ = parts[0]
            if adapter.use_dora or len(transformer.huggingface_ties) > 1:
                raise CheckpointError(
                    f"an adapter of the tied table {table} of this kind has no form in PEFT: "
                    "save_lora to a file that ends with .safetensors"
                )
            ends[head.removeprefix(prefix)] = adapter
    return ends


def _module(parts):
    """Rank and alpha of a module, and its arrays; of fused projections, of all together."""
    tensor, first, is_table = parts[0]
    if is_table:
        arrays = {"lora_embedding_A": first.a.numpy().T, "lora_embedding_B": first.b.numpy().T}
        rank = first.rank
    else:
        count = int(tensor.name.rpartition("of")[2]) if ":part" in tensor.name else 1
        out = first.b.shape[1]
        rank = sum(adapter.rank for _, adapter, _ in parts)
        # The parts' matrices B stand on a diagonal: each has its own rows and columns.
        down, up, start = [], np.zeros((count * out, rank), "float32"), 0
        for part, adapter, _ in parts:
            row, end = part_number(part.name) * out, start + adapter.rank
            down.append(adapter.a.numpy().T)
            up[row : row + out, start:end] = adapter.b.numpy().T * (adapter.scale / first.scale)
            start = end
        arrays = {"lora_A.weight": np.concatenate(down), "lora_B.weight": up}
        if first.use_dora and len(parts) < count:
            raise CheckpointError(
                f"DoRA in {len(parts)} of the {count} parts of {stored_name(tensor.name)}: "
                "PEFT has it in all or none"
            )
    if first.use_dora:
        lengths = [adapter.magnitude.numpy() for _, adapter, _ in parts]
        arrays["lora_magnitude_vector"] = np.concatenate(lengths)
    alpha = first.scale * (rank**0.5 if first.use_rslora else rank)
    return (rank, alpha), {key: np.ascontiguousarray(value) for key, value in arrays.items()}


def _config(settings, all_modules, saved, adapter):
    """`adapter_config.json`: the usual rank and alpha, and modules that have others."""
    (rank, alpha), _ = Counter(settings.values()).most_common(1)[0]
    whole = sorted({name.rpartition(".")[0] for name in saved})
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _short(alpha),
        "lora_dropout": adapter.dropout_rate,
        "target_modules": _endings(set(settings), all_modules),
        "modules_to_save": whole or None,
        "rank_pattern": {m: r for m, (r, _) in settings.items() if r != rank},
        "alpha_pattern": {m: _short(a) for m, (_, a) in settings.items() if a != alpha},
        "use_dora": adapter.use_dora,
        "use_rslora": adapter.use_rslora,
        "bias": "none",
        "init_lora_weights": True,
    }


def _short(number):
    return int(round(number)) if abs(number - round(number)) < 1e-9 * abs(number) else number


def _endings(modules, all_modules):
    """The modules' last names, where no other module of the model ends so; else whole names."""
    others = {name.rpartition(".")[2] for name in all_modules - modules}
    last = {name: name.rpartition(".")[2] for name in modules}
    return sorted({name if end in others else end for name, end in last.items()})


def write_config(folder, config):
    """Write `adapter_config.json`."""
    write_json(folder / CONFIG, config)


# ------------------------------------------------------------------------ reading


def read(model, folder):
    """`{layer: (options, arrays)}` and `[(variable, value)]` of a folder of PEFT's.

    Raises:
        FileNotFoundError: it lacks a file.
        CheckpointError: it is damaged, of a kind that is not supported, or does not fit.
    """
    config = _read_config(folder / CONFIG)
    names = [folder / f"adapter_model.{end}" for end in ("safetensors", "bin")]
    path = next((name for name in names if name.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: no adapter_model.safetensors, nor .bin")
    transformer, known = places(model)
    targets = {id(layer.kernel_variable): (p, layer) for p, layer in lora_targets(model).items()}
    by_name = _by_name(known, transformer.huggingface_prefix)
    ends = _ties(transformer)
    matrices, whole = _tensors(path, by_name, ends, targets)
    _drop_ends(ends, matrices, path)
    select, layers = transformer._select_tokens, {}
    for module, arrays in matrices.items():
        ours = {OURS[key]: array for key, array in arrays.items()}
        expected = {"a", "b", "magnitude"} if config.get("use_dora") else {"a", "b"}
        if set(ours) != expected or not all(0 < array.ndim <= 2 for array in ours.values()):
            raise CheckpointError(f"{module}: expected two matrices, found {list(arrays)}", path)
        for place in by_name[f"{module}.weight"]:
            name, layer = targets[id(place.variable)]
            own = _of_layer(layer, place.tensor, dict(ours), select)
            layers[name] = (_options(config, module, own["a"].shape[-1]), own)
    values = [(p.variable, p.tensor.read(x, select)) for n, x in whole.items() for p in by_name[n]]
    return layers, values


def _tensors(path, by_name, ends, targets):
    """`{module: {kind of matrix: array}}`, and `{name: array}` of what was trained whole."""
    matrices, whole = {}, {}
    with open_source(path) as source:
        for name in source:
            short = name.removeprefix(ROOT).replace(".modules_to_save.", ".")
            if ".base_layer." in short:
                continue  # what was not trained
            match = MATRICES.fullmatch(short)
            own = by_name.get(f"{match[1]}.weight" if match else short)
            if match and (match[1] in ends or (own and all(id(p[0]) in targets for p in own))):
                matrices.setdefault(match[1], {})[match[2]] = np.asarray(source[name], "float32")
            elif own is not None and not match:
                whole[short] = source[name]
            else:
                raise CheckpointError("the model has no such layer", path, name)
    return matrices, whole


def _drop_ends(ends, matrices, path):
    """Leave out what a tied table's adapter is at the other end; both must be the same."""
    for head, table in ends.items():
        at_head, at_table = matrices.pop(head, {}), matrices.get(table, {})
        turned = {"A": at_table.get("embedding_B"), "B": at_table.get("embedding_A")}
        if (at_head or at_table) and not (
            set(at_head) == set(turned)
            and all(np.array_equal(at_head[k], v.T) for k, v in turned.items() if v is not None)
            and len(at_table) == 2
        ):
            raise CheckpointError(
                f"{table} and {head} are one table in this model: an adapter has to be the same "
                "at both ends",
                path,
            )


def _read_config(path):
    """The configuration, which must be one of a LoRA of the plain kind."""
    config = read_config(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"peft_type: expected 'LORA', found {kind!r}", path)
    for name in UNSUPPORTED:
        if config.get(name):
            raise CheckpointError(f"{name}: {config[name]!r} is not supported", path)
    return config


def _by_name(known, prefix):
    """`{name in files: [Place, ...]}`; those of the bare model leave out the prefix."""
    found = {}
    for place in known:
        found.setdefault(stored_name(place.tensor.name), []).append(place)
    if prefix:
        bare = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
        found = {**bare, **found}
    return found


def _of_layer(layer, tensor, arrays, select):
    """A module's arrays in our form, and of a fused module those of one of our layers."""
    arrays["a"], arrays["b"] = arrays["a"].T, arrays["b"].T
    if ":part" in tensor.name:
        index, count = part_number(tensor.name), int(tensor.name.rpartition("of")[2])
        for key in arrays.keys() - {"a"}:
            size = arrays[key].shape[-1] // count
            arrays[key] = arrays[key][..., index * size : (index + 1) * size]
    if tensor.is_vocabulary:
        for key in ("a",) if isinstance(layer, keras.layers.Embedding) else arrays.keys() - {"a"}:
            turned = arrays[key] if key == "a" else arrays[key].T
            arrays[key] = select(turned) if key == "a" else select(turned).T
    return arrays


def _options(config, module, rank):
    """The constructor arguments of a `LowRank`."""
    patterns = (config.get("alpha_pattern") or {}).items()
    # As PEFT looks it up: a key is a regular expression for the end of a module's name.
    alphas = [value for key, value in patterns if re.match(rf"(.*\.)?({key})$", module)]
    return {
        "rank": rank,
        "alpha": alphas[0] if alphas else config.get("lora_alpha", 8),
        "dropout": config.get("lora_dropout") or 0.0,
        "use_rslora": bool(config.get("use_rslora")),
        "use_dora": bool(config.get("use_dora")),
    }
